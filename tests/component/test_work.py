"""The worker's own bookkeeping (I11): deaths are counted, nothing unfinished is forgotten, nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from dicom_node.durable import MemoryEngine, Put
from dicom_node.record import runs, tables
from dicom_node.words import RunState
from dicom_node.work import bury_the_dead, reconcile
from tests.support.node import Node
from tests.support.rows import add_row, add_run

pytestmark = pytest.mark.component

STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """An installation whose models are never asked for."""
    made = Node(tmp_path / "node", tmp_path / "models")
    yield made
    made.close()


def running(node: Node, worker: str) -> int:
    with node.database.write() as connection:
        run = add_run(connection, 1, study_uid=STUDY)
        start(connection, run, worker)
    return run


def start(connection: Connection, run: int, worker: str) -> None:
    runs.begin_attempt(connection, run, "infer", worker)
    runs.move(connection, "run", run, RunState.RUNNING)


def the_run(node: Node) -> dict[str, object]:
    return node.rows(tables.runs)[0]


def test_a_death_of_the_worker_is_counted_and_the_run_goes_on(node: Node) -> None:
    running(node, "the-one-before")
    bury_the_dead(node.tools)
    bury_the_dead(node.tools)
    assert (the_run(node)["state"], the_run(node)["worker_deaths"]) == ("running", 1)
    assert [row["outcome"] for row in node.rows(tables.attempts)] == ["worker-died"]


def test_what_this_worker_has_begun_is_not_dead(node: Node) -> None:
    running(node, node.tools.worker)
    bury_the_dead(node.tools)
    assert the_run(node)["worker_deaths"] == 0
    assert node.rows(tables.attempts)[0]["ended_at"] is None


def test_a_run_that_kills_its_worker_again_and_again_ends_visibly(node: Node) -> None:
    limit = node.settings.work.max_worker_deaths
    run = running(node, "worker-1")
    for number in range(2, limit + 1):
        bury_the_dead(node.tools)
        with node.database.write() as connection:
            start(connection, run, f"worker-{number}")
    assert the_run(node)["state"] == "running"
    bury_the_dead(node.tools)
    assert (the_run(node)["state"], the_run(node)["worker_deaths"]) == ("failed", limit)
    assert f"{limit} times" in str(the_run(node)["error"])
    assert [event["run_id"] for event in node.events("run.failed")] == [run]
    assert reconcile(node.tools, MemoryEngine(), is_start=True) == 0


def test_unfinished_work_without_a_job_is_submitted_again_once(node: Node) -> None:
    run = running(node, "the-one-before")
    engine = MemoryEngine()
    assert reconcile(node.tools, engine, is_start=True) == 1
    (key,) = engine.live()
    assert key.startswith(f"infer/{run}/again-")
    assert reconcile(node.tools, engine, is_start=False) == 0, "its job is alive"
    said = node.events("work.submitted-again")
    assert [(event["study_uid"], event["detail"]["what"]) for event in said] == [(STUDY, "run")]


@pytest.mark.parametrize("key", ["infer/1", "infer/1/death-2", "write/1", "write/1/again-x"])
def test_a_live_job_of_the_run_is_enough(node: Node, key: str) -> None:
    running(node, node.tools.worker)
    engine = MemoryEngine()
    engine.put(Put("model", "infer", key, (1,)))
    assert reconcile(node.tools, engine, is_start=False) == 0


def test_the_job_of_another_run_is_not(node: Node) -> None:
    running(node, node.tools.worker)
    engine = MemoryEngine()
    engine.put(Put("model", "infer", "infer/11", (11,)))
    assert reconcile(node.tools, engine, is_start=False) == 1


@pytest.mark.parametrize(("destination", "expected"), [("archive", "pending"), ("gone", "held")])
def test_a_delivery_is_sent_or_waits_for_a_person(node: Node, destination: str, expected: str) -> None:
    """`gone` is no destination any more: the delivery is held with its reason, not retried for ever."""
    with node.database.write() as connection:
        run = add_run(connection, 1, study_uid=STUDY, state="built")
        seg = add_row(connection, tables.artefacts, run_id=run, kind="seg")
        add_row(connection, tables.deliveries, run_id=run, artefact_id=seg, destination=destination, state="pending")
    engine = MemoryEngine()
    submitted = reconcile(node.tools, engine, is_start=False)
    row = node.rows(tables.deliveries)[0]
    assert row["state"] == expected
    if expected == "pending":
        assert submitted == 1 and engine.live()[0].startswith(f"deliver/{run}/archive/again-")
    else:
        assert submitted == 0 and "gone" in str(row["reason"])
        assert len(node.events("delivery.held")) == 1
