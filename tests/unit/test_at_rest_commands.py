"""ai-node at-rest: a key file, a rotation, old files brought along; and no start without the keys that are needed."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from dicom_node.cli import app
from dicom_node.sealing import at_rest

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    at_rest.use(None, seals=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "artefacts" / "aa").mkdir(parents=True)
    (tmp_path / "data" / "artefacts" / "aa" / "one").write_bytes(b"PHIMARKER" * 100)
    return tmp_path


def run(folder: Path, *words: str, encrypt: bool = True, key_file: bool = True) -> Result:
    data = {
        "folder": str(folder / "data"),
        "encrypt": encrypt,
        **({"key_file": str(folder / "keys")} if key_file else {}),
    }
    (folder / "node.yaml").write_text(yaml.safe_dump({"data": data}), encoding="utf-8")
    return CliRunner().invoke(app, ["--config", str(folder / "node.yaml"), *words])


def state(folder: Path) -> dict[str, object]:
    return dict(json.loads(run(folder, "at-rest", "status", "--json").stdout))


def test_from_plain_to_sealed_to_another_key_and_back(folder: Path) -> None:
    stored = folder / "data" / "artefacts" / "aa" / "one"
    refused = run(folder, "at-rest", "status")
    assert refused.exit_code == 5 and "at-rest init" in refused.output.replace("\n", " ")
    assert run(folder, "at-rest", "init", str(folder / "keys")).exit_code == 0
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o600
    assert run(folder, "at-rest", "init", str(folder / "keys")).exit_code == 5, "a key file is never overwritten"
    assert state(folder)["files"] == {"plain": 1}

    assert "1 changed" in run(folder, "at-rest", "apply").output
    (first,) = state(folder)["keys"]  # type: ignore[misc]
    assert state(folder)["files"] == {first: 1} and b"PHIMARKER" not in stored.read_bytes()

    assert run(folder, "at-rest", "rotate").exit_code == 0
    second, old = state(folder)["keys"]  # type: ignore[misc]
    assert old == first and state(folder)["files"] == {first: 1}
    told = run(folder, "at-rest", "apply").output.replace("\n", " ")
    assert state(folder)["files"] == {second: 1} and first in told and "may go" in told

    assert run(folder, "at-rest", "apply", encrypt=False).exit_code == 0
    assert stored.read_bytes() == b"PHIMARKER" * 100


def test_without_the_keys_that_are_needed_nothing_starts(folder: Path) -> None:
    run(folder, "at-rest", "init", str(folder / "keys"))
    assert run(folder, "at-rest", "apply").exit_code == 0
    for process in ("serve", "listen", "work", "web"):
        refused = run(folder, process, encrypt=False, key_file=False)
        assert refused.exit_code == 5 and "data.key_file" in refused.output, process
    (folder / "keys").rename(folder / "lost")
    run(folder, "at-rest", "init", str(folder / "keys"))
    refused = run(folder, "web")
    assert refused.exit_code == 5 and "sealed by" in refused.output
    assert run(folder, "at-rest", "status").exit_code == 1, "the files that cannot be opened are told"
    assert run(folder, "at-rest", "apply").exit_code == 1
