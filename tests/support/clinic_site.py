"""A clinic in processes of its own: `ai-node listen`, `work` and `web` on one data folder, on real ports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dicom_node import durable
from dicom_node.demo.site import free_ports
from dicom_node.permissions import Person
from dicom_node.record import keys
from tests.fixtures_classifier import make_tiny_classifier
from tests.support.clinic import ROUTES, Clinic, Warm

DEADLINE_S = 120.0
SCOPES = ("analysis:make", "analysis:own", "analysis:reveal")


class ClinicSite:
    """One data folder and its processes.

    Parameters
    ----------
    models
        Folder of packages; None: one with the tiny classifier.
    sections
        Of the settings.
    """

    def __init__(self, folder: Path, models: Path | None = None, routes: str = ROUTES, **sections: Any) -> None:
        (port,) = free_ports(1)
        if models is None:
            models = folder / "models"
            make_tiny_classifier(models)
        given = {"web": {"port": port}, "work": {"reconcile_s": 2}, **sections}
        self.clinic = Clinic(folder / "node", Warm(models), routes, **given)
        durable.migrate(self.clinic.settings.engine_url)
        self.config = folder / "node.yaml"
        self.config.write_text(yaml.safe_dump(self.clinic.settings.model_dump(mode="json", exclude_none=True)))
        self.url = f"http://127.0.0.1:{port}/api/v1"
        self.log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: list[httpx.Client] = []

    def start(self, process: str, point: str | None = None) -> subprocess.Popen[bytes]:
        """Start a process; with a point it is killed there."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AI_NODE_")} | {"OMP_NUM_THREADS": "1"}
        if point is not None:
            environment |= {"AI_NODE_FAILPOINT": point, "AI_NODE_TEST_BUILD": "failpoints-may-kill"}
        command = [sys.executable, "-m", "dicom_node.cli", "--config", str(self.config), process]
        with self.log.open("ab") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(started)
        return started

    def web(self, point: str | None = None) -> subprocess.Popen[bytes]:
        """Start the web process, and wait until it answers."""
        started = self.start("web", point)
        self.wait_for(self._answers)
        return started

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url.removesuffix('/api/v1')}/livez", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def client(self, who: Person, name: str) -> httpx.Client:
        """Somebody with a key of her account."""
        token = keys.create(self.clinic.database, name, SCOPES, account=who.email)
        made = httpx.Client(headers={"X-API-Key": token}, timeout=120.0, trust_env=False)
        self._clients.append(made)
        return made

    def wait_for(self, holds: Callable[[], Any], timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(self.log.read_text()[-4000:])
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for client in self._clients:
            client.close()
        self.clinic.close()
