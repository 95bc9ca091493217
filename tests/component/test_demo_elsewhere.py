"""`ai-node demo --only-send`: the sender of the container profile `demo`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.demo import elsewhere
from dicom_node.demo.protocol import FLAIR_NUMBER
from dicom_node.demo.study import DemoStudy, Fate, make_study

pytestmark = pytest.mark.component


@pytest.fixture
def archive() -> Iterator[tuple[str, list[str]]]:
    kept: list[str] = []

    def on_store(event: evt.Event) -> int:
        kept.append(f"{event.assoc.requestor.ae_title} {event.dataset.StudyInstanceUID}")
        return 0

    entity = AE(ae_title="ARCHIVE")
    entity.require_called_aet = True
    entity.add_supported_context(MRImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    yield f"ARCHIVE@127.0.0.1:{server.socket.getsockname()[1]}", kept
    server.shutdown()


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """One series of each study is enough here."""

    def make(folder: Path, fate: Fate, *, seed: int) -> DemoStudy:
        return make_study(folder, fate, seed=seed, only={FLAIR_NUMBER})

    monkeypatch.setattr(elsewhere, "make_study", make)


def run(*options: str) -> tuple[int, Any, str]:
    done = CliRunner().invoke(app, ["demo", "--json", *options])
    return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_three_studies_arrive_and_nothing_is_started(archive: tuple[str, list[str]], tmp_path: Path) -> None:
    to, kept = archive
    code, said, told = run("--only-send", to, "--out", str(tmp_path / "out"))
    assert code == 0, told
    assert {fate: row["stored"] for fate, row in said.items()} == {"lesion": 28, "no-lesion": 28, "slice-removed": 27}
    assert len(kept) == 83 and len(set(kept)) == 3
    assert {line.split()[0] for line in kept} == {"DEMO"}
    assert not (tmp_path / "out").exists()


def test_wrong_usage_and_no_archive_have_their_exit_codes(free_port: int) -> None:
    assert run("--only-send", "nonsense")[0] == 2
    assert run("--only-send", f"ARCHIVE@127.0.0.1:{free_port}")[0] == 4
