"""A destination that is down is left alone but for probes; it holds only its own queue; nothing is inferred twice: I26.

The road from records to delivery, in virtual time; the circuits' clock is the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from peers.file_servers import Web
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.record import Database, actions, circuits, views
from dicom_node.record import deliveries as record_deliveries
from dicom_node.record.circuits import CLOSED, HALF_OPEN, OPEN, Rule
from dicom_node.record.tables import deliveries, runs
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.stages import circuit as circuit_stage
from dicom_node.stages import deliver as deliver_stage
from dicom_node.work import reconcile
from tests.support import slices
from tests.support.node import ROUTES
from tests.support.quick import FLAIR, Quick, Trouble, down

pytestmark = pytest.mark.component

RULE = Rule(failures=3, pause_s=30.0, cap_s=100.0, probe_s=60.0)
BEGIN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    """The records' clock, in the hands of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        for module in (circuits, record_deliveries, circuit_stage, deliver_stage):
            monkeypatch.setattr(module, "now", self.now)

    def now(self) -> str:
        return (BEGIN + timedelta(seconds=self.seconds)).isoformat(timespec="microseconds")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# -- the circuit alone


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/records.sqlite")
    made.migrate()
    yield made
    made.close()


def fail(database: Database, *, retry_after_s: float | None = None) -> bool:
    with database.write() as connection:
        return circuits.failed(connection, "pacs", RULE, "no answer", retry_after_s=retry_after_s)


def wait_s(database: Database, clock: Clock) -> float | None:
    """Seconds until the next try; None: now, and as the probe where the circuit is open."""
    with database.write() as connection:
        found = circuits.may_try(connection, "pacs", RULE)
    return None if found is None else (found - datetime.fromisoformat(clock.now())).total_seconds()


def state(database: Database) -> str | None:
    with database.read() as connection:
        return circuits.states(connection).get("pacs")


def test_it_opens_after_so_many_failures_in_a_row_and_lets_one_probe_through(database: Database, clock: Clock) -> None:
    assert [fail(database) for _ in range(3)] == [False, False, True]
    assert state(database) == OPEN and wait_s(database, clock) == 30.0
    clock.seconds = 29.0
    assert wait_s(database, clock) == 1.0
    clock.seconds = 30.0
    assert state(database) == HALF_OPEN
    assert wait_s(database, clock) is None, "the probe"
    assert wait_s(database, clock) == 60.0, "one probe at a time; the next when that one has died"
    assert fail(database) is False
    assert wait_s(database, clock) == 60.0, "twice the pause"
    clock.seconds = 90.0
    assert wait_s(database, clock) is None
    fail(database)
    assert wait_s(database, clock) == 100.0, "and no more than the longest pause"
    with database.write() as connection:
        assert circuits.succeeded(connection, "pacs") is True
        assert circuits.succeeded(connection, "pacs") is False
    assert wait_s(database, clock) is None and state(database) is None


def test_a_success_in_between_begins_the_count_anew(database: Database, clock: Clock) -> None:
    for _ in range(5):
        fail(database)
        fail(database)
        assert state(database) == CLOSED
        with database.write() as connection:
            assert circuits.succeeded(connection, "pacs") is False


def test_what_the_destination_asks_for_is_waited_for_up_to_the_cap(database: Database, clock: Clock) -> None:
    for _ in range(3):
        fail(database, retry_after_s=77.0)
    assert wait_s(database, clock) == 77.0
    clock.seconds = 77.0
    assert wait_s(database, clock) is None
    fail(database, retry_after_s=1e9)
    assert wait_s(database, clock) == 100.0


def test_a_clock_that_was_set_back_does_not_close_a_destination_for_hours(database: Database, clock: Clock) -> None:
    for _ in range(3):
        fail(database)
    clock.seconds = -7200.0
    assert wait_s(database, clock) is None


def test_somebody_who_mended_it_need_not_wait(database: Database, clock: Clock) -> None:
    for _ in range(3):
        fail(database)
    with database.write() as connection:
        circuits.probe_now(connection, "pacs")
        circuits.probe_now(connection, "unheard-of")
    assert wait_s(database, clock) is None


def test_a_restart_changes_nothing(database: Database, clock: Clock) -> None:
    for _ in range(3):
        fail(database)
    again = Database(database.url)
    assert wait_s(again, clock) == 30.0
    again.close()


# -- on the road

OTHERS = ROUTES.replace("destinations: [archive]", "destinations: [archive, web]")


class Timed(Quick):
    """A node whose circuits run on the engine's time."""

    clock: Clock

    def run(self, until_s: float) -> None:
        """Virtual time, step by step, for the engine and for the circuits alike."""
        at = self.engine.now_s
        while at < until_s:
            at = min(until_s, at + 1.0)
            self.clock.seconds = at
            self.engine.run(until_s=at)


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[Timed]:
    folder = tmp_path / "node"
    web = {"kind": "http", "url": "http://127.0.0.1:9/in", "timeout_s": 1.0, "objects": ["mask", "result"],
           "circuit_failures": 3, "circuit_pause_s": 30.0, "retry_first_s": 1.0, "retry_cap_s": 100.0}  # fmt: skip
    archive = {"kind": "folder", "path": folder / "archive", "circuit_failures": 1000}
    made = Timed(folder, routes=OTHERS, destinations={"archive": archive, "web": web})
    made.clock = clock
    yield made
    made.close()


def study(tmp_path: Path, number: int) -> slices.SeriesFiles:
    return slices.series(tmp_path / f"flair-{number}", 8, **{**FLAIR, "PatientID": f"ID-{number}"})


def test_a_destination_that_is_down_holds_only_its_own_queue(
    node: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    studies = [study(tmp_path, n) for n in range(6)]
    trouble.queue["web"] = down(1000)
    for one in studies:
        node.receive(one.files)
        node.close_series(one.series_uid)
    node.run(until_s=29.0)
    assert node.engine.errors == {}
    by_name = {name: [d["state"] for d in node.rows(deliveries) if d["destination"] == name]
               for name in ("archive", "own-fhir", "web")}  # fmt: skip
    assert set(by_name["archive"]) == set(by_name["own-fhir"]) == {"confirmed"}, "reports wait for archives, not for it"
    assert set(by_name["web"]) == {"pending"}
    assert 1000 - len(trouble.queue["web"]) == 3, "after three failures nothing more is tried"
    assert len(node.events("delivery.postponed")) >= 3
    assert reconcile(node.tools, node.engine, is_start=False) == 0, "everything that waits has its job"
    with node.database.read() as connection:
        first, *others = views.jobs(connection)
        listed = views.list_studies(connection)
    assert (first["id"], first["state"]) == ("destination-web", "left-alone") and first["error"]["peer"] == "down"
    assert all(row["destination"] == "web" for row in others)
    assert {tuple(row["waits_for"]) for row in listed} == {("web",)}
    node.run(until_s=600.0)
    tried = 1000 - len(trouble.queue["web"])
    assert 8 <= tried <= 11, "probes after 30, 60, 100, 100 … seconds, one at a time, for all six studies together"
    trouble.queue["web"] = []
    node.run(until_s=760.0)
    assert set(node.states()) == {"confirmed"} or _send_for_real(node)
    assert len(node.model.asked) == len(studies) == len(node.rows(runs)), "nothing was inferred again"


def _send_for_real(node: Timed) -> bool:
    """Nobody listens at the discard port: what is left is trouble of the wire, which is what opened the circuit."""
    return all(d["state"] in ("confirmed", "pending") for d in node.rows(deliveries))


def test_it_comes_back_and_everything_is_delivered_once(
    node: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    trouble.queue["web"] = down(4)
    with Web() as web:
        node.settings.destinations["web"].__dict__["url"] = web.url
        for one in (study(tmp_path, 1), study(tmp_path, 2)):
            node.receive(one.files)
            node.close_series(one.series_uid)
        node.run(until_s=200.0)
        node.nothing_is_left()
        assert set(node.states()) == {"confirmed"}
        assert len(node.model.asked) == 2
        names = sorted(name.removeprefix("/in/") for name in web.files)
        assert len(names) == 4 and {n.partition("-")[2] for n in names} == {"mask.nii.gz", "result.json"}
        stored = [path for verb, path, _ in web.requests if verb == "PUT"]
        assert len(stored) == len(set(stored)) == 4
        assert stored[0].endswith("mask.nii.gz"), "result.json comes last"
        for name, data in web.files.items():
            assert b"ROE" not in data and b"ID-1" not in data
            if name.endswith(".json"):
                assert json.loads(data)["schema_version"] == "1"
    with node.database.read() as connection:
        assert circuits.rows(connection) == []
    sent = next(d for d in node.rows(deliveries) if d["destination"] == "web")
    assert sent["confirmation"]["seen"] == "content"
    assert sent["confirmation"]["file"] in names


def test_a_refusal_of_one_object_is_no_trouble_of_the_destination(
    node: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    mixed: list[Exception] = [PeerTrouble("down"), PeerTrouble("down"), PeerTrouble("not this one", is_down=False)]
    trouble.queue["web"] = [*mixed, *mixed, Refused(RefusalCode.DELIVERY_CONFLICT, "ours", "theirs")]
    one = study(tmp_path, 1)
    node.receive(one.files)
    node.close_series(one.series_uid)
    node.run(until_s=200.0)
    with node.database.read() as connection:
        assert circuits.rows(connection) == []
    assert next(d["state"] for d in node.rows(deliveries) if d["destination"] == "web") == "held"


def test_what_waits_longer_than_the_span_is_held_although_nothing_was_tried(
    node: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    trouble.queue["web"] = down(1000)
    node.settings.destinations["web"].__dict__["retry_span_h"] = 0.02
    for number in range(8):
        one = study(tmp_path, number)
        node.receive(one.files)
        node.close_series(one.series_uid)
    node.run(until_s=300.0)
    first = [row for row in node.rows(deliveries) if row["destination"] == "web" and row["state"] == "held"]
    assert len(first) == 8 and node.state() == "held"
    assert any(row["attempts"] == 0 for row in first)
    trouble.queue["web"] = []
    with Web() as web:
        node.settings.destinations["web"].__dict__["url"] = web.url
        for row in first:
            with node.database.write() as connection:
                for queue, job, key, args in actions.release(connection, f"delivery-{row['id']}", "me", "mended"):
                    node.engine.put(deliver_stage.Put(queue, job, key, args))
            node.run(until_s=node.engine.now_s + 2.0)
        assert len(web.files) == 16


def test_doctor_and_jobs_tell_which_destination_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    with Web() as web:
        config.write_text(
            f"data: {{folder: {tmp_path}/data}}\n"
            f"destinations:\n  web: {{kind: http, url: '{web.url}'}}\n"
            f"  gone: {{kind: http, url: 'http://127.0.0.1:9/in'}}\n"
        )
        database = Database(f"sqlite:///{tmp_path}/data/records.sqlite")
        database.migrate()
        with database.write() as connection:
            for _ in range(3):
                circuits.failed(connection, "gone", RULE, "the destination did not answer (ConnectError)")
        database.close()
        found = CliRunner().invoke(app, ["--config", str(config), "doctor", "--json"])
    said = {(row["check"], row["level"]): row["found"] for row in json.loads(found.stdout)}
    assert "answers" in said["destination web", "ok"]
    assert "did not answer" in said["destination gone", "bad"]
    assert "after 3 failures" in said["destination gone", "warning"]
    listed = CliRunner().invoke(app, ["--config", str(config), "jobs", "list", "--json"])
    assert [row["id"] for row in json.loads(listed.stdout)] == ["destination-gone"]


def test_the_metrics_show_it(tmp_path: Path, clock: Clock, database: Database) -> None:
    from dicom_node.cli.web import _refresh
    from dicom_node.metrics import METRICS
    from dicom_node.settings import Settings

    settings = Settings(data={"folder": tmp_path}, destinations={"pacs": {"kind": "folder", "path": tmp_path}})

    def shown() -> float:
        _refresh(settings, database)
        lines = METRICS.render().decode().splitlines()
        return float(next(x for x in lines if x.startswith('ainode_destination_circuit{target="pacs"}')).split()[1])

    assert shown() == 0.0
    for _ in range(3):
        fail(database)
    assert shown() == 1.0
    clock.seconds = 31.0
    assert shown() == 0.5
    with database.write() as connection:
        circuits.succeeded(connection, "pacs")
    assert shown() == 0.0
