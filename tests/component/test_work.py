"""The worker's own bookkeeping (I11): deaths are counted, nothing unfinished is forgotten, nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dicom_node.durable import MemoryEngine, Put
from dicom_node.record import actions, runs, tables, workers
from dicom_node.stages.context import ChildDied
from dicom_node.words import RunState
from dicom_node.work import bury_the_dead, reconcile, say_stopping, warm_up
from tests.fixtures_packages import make_tiny_package
from tests.support import slices
from tests.support.node import Node
from tests.support.quick import FLAIR, Quick
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


# reading


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Quick]:
    """An installation whose model answers at once."""
    made = Quick(tmp_path / "quick")
    yield made
    made.close()


def arrive(quick: Quick, tmp_path: Path) -> slices.SeriesFiles:
    files = slices.series(tmp_path / "flair", 6, **FLAIR)
    quick.receive(files.files)
    quick.close_series(files.series_uid)
    return files


def die_reading(quick: Quick, study_uid: str, worker: str) -> None:
    with quick.database.write() as connection:
        workers.begin_reading(connection, study_uid, worker)


def test_a_study_that_kills_whoever_reads_it_ends_with_a_person(quick: Quick, tmp_path: Path) -> None:
    study_uid = arrive(quick, tmp_path).study_uid
    limit = quick.settings.work.max_worker_deaths
    for number in range(limit - 1):
        die_reading(quick, study_uid, f"dead-{number}")
        bury_the_dead(quick.tools)
        bury_the_dead(quick.tools)
    assert quick.held() == []
    die_reading(quick, study_uid, "the-last")
    bury_the_dead(quick.tools)
    assert [item.split("-")[0] for item in quick.held()] == ["study"] and quick.state() == "held"
    assert f"{limit} times" in quick.rows(tables.studies)[0]["held"]["message"]
    assert len(quick.events("study.reader-died")) == limit
    quick.engine.run()
    assert quick.rows(tables.runs) == [] and quick.model.asked == [], "it is not read again"
    quick.act(actions.release, quick.held()[0])
    assert quick.states(tables.runs) == ["built"] and quick.rows(tables.studies)[0]["reader_deaths"] == 0


def test_deaths_are_counted_although_nobody_lives_to_bury_them(quick: Quick, tmp_path: Path) -> None:
    """The engine takes a job up as soon as it is started: the next reader counts the one before."""
    study_uid = arrive(quick, tmp_path).study_uid
    for number in range(quick.settings.work.max_worker_deaths):
        die_reading(quick, study_uid, f"dead-{number}")
    quick.engine.run()
    assert [item.split("-")[0] for item in quick.held()] == ["study"] and quick.rows(tables.runs) == []


def test_a_study_that_was_read_has_no_deaths_any_more(quick: Quick, tmp_path: Path) -> None:
    study_uid = arrive(quick, tmp_path).study_uid
    die_reading(quick, study_uid, "dead")
    bury_the_dead(quick.tools)
    assert quick.rows(tables.studies)[0]["reader_deaths"] == 1
    quick.engine.run()
    study = quick.rows(tables.studies)[0]
    assert (study["reader"], study["reader_deaths"]) == (None, 0) and quick.states(tables.runs) == ["built"]


def test_a_worker_that_was_told_to_stop_has_not_died(quick: Quick, tmp_path: Path) -> None:
    from dicom_node.stages.infer import start as start_run

    study_uid = arrive(quick, tmp_path).study_uid
    quick.engine.jobs["read"](*quick.engine._heap[0][3].args)
    stopped = replace(quick.tools, worker="stopped", stopping=type(quick.tools.stopping)())
    assert start_run(stopped, 1, "infer") is not None
    die_reading(quick, study_uid, "stopped")
    say_stopping(stopped)
    bury_the_dead(quick.tools)
    run, study = quick.rows(tables.runs)[0], quick.rows(tables.studies)[0]
    assert (run["state"], run["worker_deaths"], study["reader_deaths"]) == ("running", 0, 0)
    assert [row["outcome"] for row in quick.rows(tables.attempts)] == ["worker-stopped"]
    assert quick.events("study.reader-died") == []
    quick.reconcile()
    assert quick.states(tables.runs) == ["built"]


@pytest.mark.parametrize("fault", [ChildDied("child-died"), OSError("the pipe is closed")])
def test_a_model_that_ends_with_its_worker_counts_for_nothing(
    quick: Quick, tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(quick, tmp_path)

    def told_to_stop(*_: Any) -> Any:
        say_stopping(quick.tools)
        raise fault

    monkeypatch.setattr(quick.model, "predict", told_to_stop)
    quick.engine.run()
    run = quick.rows(tables.runs)[0]
    assert (run["state"], run["child_deaths"], run["worker_deaths"]) == ("running", 0, 0)
    assert [row["outcome"] for row in quick.rows(tables.attempts)] == ["worker-stopped"]
    monkeypatch.undo()
    quick.tools.stopping.clear()
    quick.forget_jobs()
    quick.reconcile()
    assert quick.states(tables.runs) == ["built"]


# warming up


def warm_site(tmp_path: Path, budget_mb: int) -> Node:
    for name, version in (("tiny-bright", "1.0.0"), ("tiny-asked", "1.0.0"), ("tiny-asked", "2.0.0")):
        make_tiny_package(tmp_path / "models", name=name, version=version)
    aliases = {"nnUNet": {"model": "tiny-asked"}, "tensorflow": {"model": "not-installed"}}
    engine = {"models": tmp_path / "models", "precision": "f32", "threads": 1, "warm_memory_mb": budget_mb}
    return Node(tmp_path / "node", tmp_path / "models", api={"aliases": aliases}, engine=engine)


@pytest.mark.parametrize(("budget_mb", "warm"), [(100_000, ["tiny-bright", "tiny-asked"]), (500, ["tiny-bright"])])
def test_models_of_routes_and_of_aliases_are_loaded_at_the_start_as_far_as_there_is_room(
    tmp_path: Path, budget_mb: int, warm: list[str]
) -> None:
    made = warm_site(tmp_path, budget_mb)
    try:
        warm_up(made.tools)
        loaded = made.tools.models.warm()  # type: ignore[attr-defined]
        assert [reference.partition("@")[0] for reference in loaded] == warm
    finally:
        made.close()
