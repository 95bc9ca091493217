"""Start and stop the FHIR peer (`fhir_server.mjs`), and speak to it as a test does."""

from __future__ import annotations

import select
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

HERE = Path(__file__).resolve().parent
MODULES = HERE.parent.parent / ".tools" / "fhir"


class FhirPeer:
    """A real FHIR R4 server on a free loopback port; stops with the context."""

    def __enter__(self) -> FhirPeer:
        node = shutil.which("node")
        if node is None or not (MODULES / "node_modules").is_dir():
            pytest.fail("the FHIR peer is not installed: run tests/peers/setup.sh fhir")
        self._process = subprocess.Popen(
            [node, str(HERE / "fhir_server.mjs"), str(MODULES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        line = self._process.stdout.readline() if ready else ""
        if not line.startswith("ready "):
            self._process.kill()
            pytest.fail("the FHIR peer did not start within 60 s")
        self.url = f"http://127.0.0.1:{int(line.split()[1])}"
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.http.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def create(self, resource: dict[str, Any]) -> dict[str, Any]:
        """POST a resource, as a hospital's own systems would."""
        answer = self.http.post(f"/{resource['resourceType']}", json=resource)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def update(self, resource: dict[str, Any]) -> dict[str, Any]:
        """PUT a resource, as a person's edit."""
        answer = self.http.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def all(self, kind: str, **query: str) -> list[dict[str, Any]]:
        """Every resource of a type, or those of a search."""
        answer = self.http.get(f"/{kind}", params={"_count": "1000", **query})
        assert answer.status_code == 200, answer.text
        return [entry["resource"] for entry in answer.json().get("entry", [])]

    def get(self, reference: str) -> dict[str, Any]:
        """One resource."""
        return dict(self.http.get(f"/{reference}").json())

    def fail(self, match: str, action: str, times: int = 1, **more: str) -> None:
        """Make the next requests that begin with ``METHOD path`` fail."""
        self.http.post("/__fault", json={"match": match, "action": action, "times": times, **more})

    def settings(self, **values: bool) -> None:
        """Change what the server can do."""
        self.http.post("/__settings", json=values)

    def seen(self) -> list[str]:
        """``METHOD path`` of every request so far."""
        return list(self.http.get("/__seen").json())
