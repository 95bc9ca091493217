"""Runs and their attempts: one attempt's effects count (I12), every death is counted, both ways lead (I15)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.record import Database, runs, tables
from dicom_node.words import CaseState, DeliveryState, RunState
from tests.support.rows import add_row, add_run

pytestmark = pytest.mark.component

STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def run(database: Database) -> int:
    with database.write() as connection:
        return add_run(connection, 1, study_uid=STUDY)


def begin(database: Database, run: int, worker: str) -> runs.Attempt:
    with database.write() as connection:
        attempt = runs.begin_attempt(connection, run, "infer", worker)
        runs.move(connection, "run", run, RunState.RUNNING)
        return attempt


def keep(database: Database, attempt: runs.Attempt, kind: str, sha256: str) -> bool:
    with database.write() as connection:
        return runs.add_artefact(connection, attempt, kind, sha256, f"{sha256}.bin")


def test_a_worker_that_was_taken_over_changes_nothing(database: Database, run: int) -> None:
    """A worker sleeps through its own take-over, wakes and wants to write what it found."""
    sleeper = begin(database, run, "one")
    successor = begin(database, run, "two")
    assert not keep(database, sleeper, "mask", "a")
    assert keep(database, successor, "mask", "b")
    assert not keep(database, sleeper, "mask", "c")
    with database.read() as connection:
        assert not runs.is_current(connection, sleeper) and runs.is_current(connection, successor)
        kept = runs.artefacts_of(connection, run)
    assert [(row["kind"], row["sha256"], row["attempt"]) for row in kept] == [("mask", "b", successor.number)]


@pytest.mark.parametrize("state", [RunState.CANCELLED, RunState.FAILED, RunState.REFUSED, RunState.SUPERSEDED])
def test_a_run_that_is_over_keeps_nothing_more(database: Database, run: int, state: RunState) -> None:
    attempt = begin(database, run, "one")
    with database.write() as connection:
        runs.move(connection, "run", run, state)
    assert not keep(database, attempt, "mask", "a")
    with database.read() as connection:
        assert runs.artefacts_of(connection, run) == []


def test_one_artefact_of_a_kind_and_the_first_one_stands(database: Database, run: int) -> None:
    attempt = begin(database, run, "one")
    assert keep(database, attempt, "seg", "a")
    assert keep(database, attempt, "seg", "b"), "said to be kept: the result of the same run is there"
    with database.read() as connection:
        found = runs.artefact(connection, run, "seg")
    assert found is not None and found["sha256"] == "a"


def test_the_same_key_is_the_same_run(database: Database, run: int) -> None:
    with database.write() as connection:
        again, is_new = runs.add_run(connection, run_key="run-1")
        assert (again, is_new) == (run, False)
        case, is_new = runs.add_case(connection, case_key="case-1")
        assert not is_new and case == runs.run_row(connection, run)["case_id"]
        assert connection.execute(select(func.count()).select_from(tables.runs)).scalar_one() == 1


def test_attempts_are_counted_before_and_closed_once(database: Database, run: int) -> None:
    first = begin(database, run, "one")
    with database.read() as connection:
        assert [row["number"] for row in runs.open_attempts(connection)] == [first.number]
    with database.write() as connection:
        runs.end_attempt(connection, first, "worker-died")
        runs.end_attempt(connection, first, "done")
        assert runs.count_death(connection, run, "worker_deaths") == 1
        assert runs.count_death(connection, run, "worker_deaths") == 2
        assert runs.open_attempts(connection) == []
        rows = list(connection.execute(select(tables.attempts)).mappings())
    assert [row["outcome"] for row in rows] == ["worker-died"]


def test_a_move_that_the_table_does_not_know_is_a_fault(database: Database, run: int) -> None:
    with pytest.raises(runs.IllegalMove, match="queued -> built"), database.write() as connection:
        runs.move(connection, "run", run, RunState.BUILT)
    with database.write() as connection:
        delivery = add_row(
            connection,
            tables.deliveries,
            run_id=run,
            artefact_id=add_row(connection, tables.artefacts, run_id=run, kind="seg"),
            destination="pacs",
            state=DeliveryState.CONFIRMED.value,
        )
    for what, row_id, new in (("delivery", delivery, DeliveryState.PENDING), ("case", 1, CaseState.WAITING)):
        with pytest.raises(runs.IllegalMove), database.write() as connection:
            runs.move(connection, what, row_id, new)


def test_unfinished_runs_leave_out_what_a_person_has_stopped(database: Database) -> None:
    with database.write() as connection:
        waiting = add_run(connection, 1, study_uid="1.1")
        add_run(connection, 2, study_uid="1.1", state="built")
        add_run(connection, 3, study_uid="1.2")
        connection.execute(tables.studies.update().where(tables.studies.c.uid == "1.2").values(cancelled=True))
        stopped = add_run(connection, 4, study_uid="1.1")
        connection.execute(tables.runs.update().where(tables.runs.c.id == stopped).values(cancel=True))
        assert [row["id"] for row in runs.unfinished_runs(connection)] == [waiting]


def test_from_an_object_to_its_images_and_back(database: Database, run: int) -> None:
    """I15 by the record's own rows: artefact -> run -> case -> revision -> instances, and the other way round."""
    with database.write() as connection:
        add_row(connection, tables.series, uid="1.9", public_id="s", study_uid=STUDY)
        revision = add_row(
            connection, tables.revisions, series_uid="1.9", study_uid=STUDY, number=1, instance_uids=["1.9.1", "1.9.2"]
        )
        case = runs.run_row(connection, run)["case_id"]
        connection.execute(tables.cases.update().where(tables.cases.c.id == case).values(revisions={"flair": revision}))
    assert keep(database, begin(database, run, "one"), "seg", "a")
    with database.read() as connection:
        made_by = connection.execute(select(tables.artefacts.c.run_id).where(tables.artefacts.c.sha256 == "a")).scalar()
        chosen = runs.row(connection, tables.cases, runs.run_row(connection, int(made_by or 0))["case_id"])["revisions"]
        used = runs.row(connection, tables.revisions, chosen["flair"])["instance_uids"]
        assert used == ["1.9.1", "1.9.2"]
        back = [row["id"] for row in runs.cases_of(connection, STUDY) if revision in row["revisions"].values()]
        assert [row["kind"] for row in runs.artefacts_of(connection, run)] == ["seg"] and back == [case]
