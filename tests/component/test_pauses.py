"""A destination that a person pauses is left alone until she says otherwise; what waits neither ages nor is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.durable import Put
from dicom_node.record import Database, audit, pauses, views
from dicom_node.record.actions import UnknownItem
from dicom_node.record.tables import deliveries
from dicom_node.stages.peers import PAUSED, WORKS, standing
from tests.support import slices
from tests.support.quick import FLAIR, Quick

pytestmark = pytest.mark.component


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node")
    yield made
    made.close()


def stands(node: Quick, name: str) -> tuple[str, int]:
    with node.database.read() as connection:
        return next((one.state, one.waiting) for one in standing(node.settings, connection) if one.name == name)


def test_a_paused_destination_gets_nothing_until_it_is_resumed_and_then_everything(
    node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stands(node, "archive") == (WORKS, 0)
    with node.database.write() as connection:
        pauses.pause(connection, "archive", "user:night", "archive migrates")
    files = slices.series(tmp_path / "flair", 8, **FLAIR)
    node.receive(files.files)
    node.close_series(files.series_uid)
    node.engine.run(until_s=3600.0)
    rows = [row for row in node.rows(deliveries) if row["destination"] == "archive"]
    assert rows and {(row["state"], row["attempts"]) for row in rows} == {("pending", 0)}
    assert rows[0]["reason"]["circuit"] == "paused"
    assert stands(node, "archive") == (PAUSED, len(rows))
    with node.database.read() as connection:
        assert views.list_studies(connection)[0]["waits_for"] == ["archive"]
        assert views.jobs(connection)[0]["state"] == "paused"
    # the time it was paused for does not count: however long ago the first look was, nothing is held
    node.change(deliveries, first_tried_at="2020-01-01T00:00:00.000000+00:00")
    node.engine.run(until_s=7200.0)
    assert "held" not in node.states()
    with node.database.write() as connection:
        jobs = pauses.resume(connection, "archive", "user:night", "migrated")
    assert jobs
    for queue, job, key, args in jobs:
        node.engine.put(Put(queue, job, key, args))
    node.engine.run(until_s=7201.0)
    assert set(node.states()) == {"confirmed"}, "at once, not at the next look of what waited"
    assert stands(node, "archive") == (WORKS, 0)
    assert len(node.model.asked) == 1
    with node.database.read() as connection:
        assert audit.verify(connection) is None


def test_pausing_twice_and_resuming_what_runs_is_told(node: Quick) -> None:
    with node.database.write() as connection:
        pauses.pause(connection, "archive", "user:night", "once")
        with pytest.raises(UnknownItem, match="paused already"):
            pauses.pause(connection, "archive", "user:night", "twice")
        pauses.resume(connection, "archive", "user:night", "done")
        with pytest.raises(UnknownItem, match="not paused"):
            pauses.resume(connection, "archive", "user:night", "again")


def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        f"data: {{folder: {tmp_path}/data}}\ndestinations: {{files: {{kind: folder, path: '{tmp_path}/out'}}}}\n"
    )
    database = Database(f"sqlite:///{tmp_path}/data/records.sqlite")
    database.migrate()
    database.close()

    def call(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["--config", str(config), *words])
        return found.exit_code, found.stdout

    assert call("destinations", "pause", "unheard-of", "--reason", "x")[0] == 2
    assert call("destinations", "pause", "files", "--reason", "moved") == (0, "files: paused\n")
    assert call("destinations", "pause", "files", "--reason", "moved")[0] == 3
    told = {row["name"]: row for row in json.loads(call("destinations", "list", "--json")[1])}
    assert (told["files"]["state"], told["files"]["why"], told["own-fhir"]["state"]) == ("paused", "moved", "works")
    said = json.loads(call("doctor", "--json")[1])
    assert any(row["check"] == "destination files" and "paused since" in row["found"] for row in said)
    assert call("destinations", "resume", "files", "--reason", "there") == (0, "files: goes on\n")
    assert call("destinations", "resume", "files", "--reason", "there")[0] == 3
