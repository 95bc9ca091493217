"""`ai-node backup` of a node at work, brought back into an empty folder: nothing missing, nothing sent twice (I24)."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.cli import backup as room
from dicom_node.record import Database, actions, arrivals, audit, tables
from dicom_node.work import bury_the_dead, reconcile
from tests.support import slices
from tests.support.quick import FLAIR, Quick, Trouble, down

pytestmark = pytest.mark.component


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "quick")
    yield made
    made.close()


def run(node: Quick, *words: str, code: int = 0) -> str:
    config = node.archive.parent / "node.yaml"
    config.write_text(json.dumps({"data": {"folder": str(node.settings.data.folder)}}), encoding="utf-8")
    done = CliRunner().invoke(app, ["--config", str(config), "backup", *words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def told(node: Quick, target: Path) -> dict[str, Any]:
    return dict(json.loads(run(node, str(target), "--json").splitlines()[-1]))


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def study(folder: Path, number: int) -> slices.SeriesFiles:
    return slices.series(folder / f"study-{number}", 6, **{**FLAIR, "PatientID": f"ID-{number}"})


def restored(backup: Path, folder: Path, of: Quick) -> Quick:
    """A node in an empty folder, over a copy of the back-up; the world outside is the same."""
    folder.mkdir()
    shutil.copytree(backup, folder / "data")
    return Quick(folder, destinations={"archive": {"kind": "folder", "path": of.archive, "circuit_failures": 1000}})


def test_a_restored_node_goes_on_and_sends_nothing_twice(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    quick.bring(study(tmp_path, 1))
    trouble.queue["archive"] = down(1)
    two = study(tmp_path, 2)
    quick.receive(two.files)
    quick.close_series(two.series_uid)
    quick.engine.run(until_s=quick.engine.now_s)
    three = study(tmp_path, 3)
    quick.receive(three.files)
    quick.close_series(three.series_uid)
    assert "pending" in quick.states() and len(quick.rows(tables.runs)) == 2
    target = tmp_path / "backup"
    assert told(quick, target)["copied"] > 18
    quick.engine.run()  # after it: the second study is delivered, the third is read and delivered
    assert set(quick.states()) == {"confirmed"} and len(quick.rows(tables.runs)) == 3
    there, sent = files_of(quick.archive), len(trouble.sent)

    again = restored(target, tmp_path / "again", quick)
    assert set(again.states()) == {"confirmed", "pending"} and len(again.rows(tables.runs)) == 2
    with again.database.read() as connection:
        assert audit.verify(connection) is None and arrivals.missing_files(connection) == 0
    bury_the_dead(again.tools)
    reconcile(again.tools, again.engine, is_start=True)
    again.engine.run()
    assert again.engine.errors == {}
    assert files_of(quick.archive) == there, "not one file was written again"
    assert len(trouble.sent) > sent, "the second study's objects, the same bytes as before, were looked for and found"
    deliveries = again.rows(tables.deliveries)
    by_study = {
        run["study_uid"]: {row["state"] for row in deliveries if row["run_id"] == run["id"]}
        for run in again.rows(tables.runs)
    }
    # read anew, so built at another time: whether the archive's result stands is for a person to say (docs/runbook.md)
    assert by_study.pop(three.study_uid) == {"held", "pending"}
    assert set().union(*by_study.values()) == {"confirmed"}
    conflicts = [row for row in deliveries if row["state"] == "held"]
    assert [row["reason"]["code"] for row in conflicts] == ["delivery-conflict"]
    again.act(actions.reject, f"delivery-{conflicts[0]['id']}")
    assert files_of(quick.archive) == there and again.held() == []
    again.close()


def test_every_row_of_the_copy_has_its_file(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes between the files and the records is copied after them, what goes between them before."""
    quick.bring(study(tmp_path, 1))
    late, real = study(tmp_path, 2), room._bring_records

    def records(source: Path, target: Path) -> None:
        quick.receive(late.files)
        real(source, target)

    monkeypatch.setattr(room, "_bring_records", records)
    target = tmp_path / "backup"
    run(quick, str(target))
    copy = Database(f"sqlite:///{target}/records.sqlite")
    with copy.read() as connection:
        paths = [row.path for row in connection.execute(tables.instances.select())]
    copy.close()
    assert len(paths) == 12 and all((target / path).is_file() for path in paths)


def test_again_takes_what_is_new_and_loses_what_was_deleted(quick: Quick, tmp_path: Path) -> None:
    quick.bring(study(tmp_path, 1))
    target = tmp_path / "backup"
    first = told(quick, target)
    assert told(quick, target)["copied"] == 0
    one_of_the_first = next(quick.settings.vault_folder.glob("*.dcm"))
    quick.bring(study(tmp_path, 2))
    one_of_the_first.unlink()
    second = told(quick, target)
    assert second["deleted"] == 1 and 0 < second["copied"] < first["copied"] + 6
    (target / ".records.sqlite.part").write_bytes(b"of a run that was killed")
    run(quick, str(target))
    assert sqlite3.connect(target / "records.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [row["action"] for row in quick.rows(tables.audit)].count("backed-up") == 4


def test_nobody_else_can_read_it_and_caches_are_not_in_it(quick: Quick, tmp_path: Path) -> None:
    quick.bring(study(tmp_path, 1))
    for name in ("cache/volumes/x", "engine.sqlite", "vault/.lock", "vault/y.part"):
        path = quick.settings.data.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    target = tmp_path / "backup"
    run(quick, str(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert stat.S_IMODE((target / "records.sqlite").stat().st_mode) == 0o600
    assert not [
        name for name in files_of(target) if name.startswith(("cache", "engine")) or "lock" in name or "y" in name
    ]


def test_only_an_empty_folder_or_its_own_back_up_is_written_into(quick: Quick, tmp_path: Path) -> None:
    data = quick.settings.data.folder
    for wrong in (data, data / "inside", data.parent):
        assert "outside the data folder" in run(quick, str(wrong), code=2)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.odt").write_text("mine", encoding="utf-8")
    assert "found other files" in " ".join(run(quick, str(strange), code=2).split())
    other = Quick(tmp_path / "other")
    target = tmp_path / "backup"
    run(other, str(target))
    before = files_of(target)
    assert "of this node" in " ".join(run(quick, str(target), code=2).split())
    assert files_of(target) == before and (strange / "thesis.odt").exists()
    other.close()
