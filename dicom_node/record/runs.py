"""Cases, runs, attempts, artefacts: what was decided, what was tried, what came of it (design sections 4 and 5).

Every change of state goes through `move`, which consults the one table of legal transitions.  Attempts are counted
*before* the work starts, and an artefact is inserted only while its attempt is the current one of a running run (I12):
a worker that was stopped past a take-over changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, and_, func, insert, literal, select, update

from dicom_node.record.database import now
from dicom_node.record.tables import artefacts, attempts, cases, deliveries, revisions, runs, studies
from dicom_node.words import CaseState, DeliveryState, RevisionState, RunState, may_move

_STATES: dict[str, tuple[Table, type[Any]]] = {
    "revision": (revisions, RevisionState),
    "case": (cases, CaseState),
    "run": (runs, RunState),
    "delivery": (deliveries, DeliveryState),
}


class IllegalMove(Exception):
    """A state was asked to change in a way that the table of transitions does not know: a fault of ours."""


def move(connection: Connection, what: str, row_id: int, new: Any, **fields: Any) -> bool:
    """Change the state of one row, and other columns with it, in the caller's writing transaction.

    Returns
    -------
    bool
        False when the row already had that state and the table does not list staying as a move: nothing was changed.

    Raises
    ------
    IllegalMove
        If the transition is not in the table.
    """
    table, states = _STATES[what]
    old = states(connection.execute(select(table.c.state).where(table.c.id == row_id)).scalar_one())
    if old == new and not may_move(old, new):
        return False
    if not may_move(old, new):
        raise IllegalMove(f"{what}: {old.value} -> {new.value}")
    connection.execute(update(table).where(table.c.id == row_id).values(state=new.value, **fields))
    return True


def row(connection: Connection, table: Table, row_id: int) -> RowMapping:
    """One row by its id, as a mapping."""
    return connection.execute(select(table).where(table.c.id == row_id)).mappings().one()


def add_case(connection: Connection, **values: Any) -> tuple[int, bool]:
    """Insert a case unless one with its `case_key` exists; its id, and whether it is new."""
    found = connection.execute(select(cases.c.id).where(cases.c.case_key == values["case_key"])).scalar()
    if found is not None:
        return int(found), False
    added = connection.execute(insert(cases).values(created_at=now(), **values).returning(cases.c.id))
    return int(added.scalar_one()), True


def cases_of(connection: Connection, study_uid: str) -> list[RowMapping]:
    """The cases of a study, oldest first."""
    query = select(cases).where(cases.c.study_uid == study_uid).order_by(cases.c.id)
    return list(connection.execute(query).mappings())


def add_run(connection: Connection, **values: Any) -> tuple[int, bool]:
    """Insert a run unless one with its `run_key` exists; its id, and whether it is new."""
    found = connection.execute(select(runs.c.id).where(runs.c.run_key == values["run_key"])).scalar()
    if found is not None:
        return int(found), False
    row_values = {"created_at": now(), "state": RunState.QUEUED.value, **values}
    return int(connection.execute(insert(runs).values(row_values).returning(runs.c.id)).scalar_one()), True


def refusals_of(connection: Connection, study_uid: str) -> dict[int, dict[str, str]]:
    """How the models refused the images of a study's cases, by the case's id."""
    query = select(runs.c.case_id, runs.c.refusal).where(runs.c.study_uid == study_uid).order_by(runs.c.id)
    return {int(row.case_id): dict(row.refusal) for row in connection.execute(query) if row.refusal}


def current_run(connection: Connection, study_uid: str, result_family: str) -> RowMapping | None:
    """The run of this study and result family that is not superseded, whatever came of it; the newest if several."""
    return (
        connection.execute(
            select(runs)
            .where(
                runs.c.study_uid == study_uid,
                runs.c.result_family == result_family,
                runs.c.state != RunState.SUPERSEDED.value,
            )
            .order_by(runs.c.id.desc())
            .limit(1)
        )
        .mappings()
        .first()
    )


def unreplaced_run(connection: Connection, study_uid: str, result_family: str) -> RowMapping | None:
    """The run that went out of force without a successor, because the study was refused afterwards."""
    return (
        connection.execute(
            select(runs)
            .where(
                runs.c.study_uid == study_uid,
                runs.c.result_family == result_family,
                runs.c.state == RunState.SUPERSEDED.value,
                runs.c.superseded_by.is_(None),
            )
            .order_by(runs.c.id.desc())
            .limit(1)
        )
        .mappings()
        .first()
    )


def latest_run(connection: Connection, study_uid: str) -> RowMapping | None:
    """The newest run of a study that is in force, of whatever family: one that is built before one that is not."""
    in_force = select(runs).where(runs.c.study_uid == study_uid, runs.c.state != RunState.SUPERSEDED.value)
    is_built = runs.c.state == RunState.BUILT.value
    return connection.execute(in_force.order_by(is_built.desc(), runs.c.id.desc()).limit(1)).mappings().first()


def set_superseded_by(connection: Connection, run_id: int, successor: int) -> None:
    """Name the run that took the place of another."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(superseded_by=successor))


@dataclass(frozen=True)
class Attempt:
    """A numbered start of a run; the token without which nothing of it is kept."""

    run_id: int
    number: int


def waiting_like(connection: Connection, run_id: int, model: str, digest_sha256: str, count: int) -> list[RowMapping]:
    """Other runs that wait for the same model package, undisturbed so far: the most urgent first, then the oldest."""
    query = (
        select(runs)
        .join(cases, runs.c.case_id == cases.c.id)
        .where(
            runs.c.id != run_id,
            runs.c.state == RunState.QUEUED.value,
            runs.c.cancel.is_(False),
            runs.c.child_deaths == 0,
            runs.c.model_digest == digest_sha256,
            cases.c.model == model,
        )
        .order_by(cases.c.priority, runs.c.id)
        .limit(max(count, 0))
    )
    return list(connection.execute(query).mappings())


def last_infer_attempt(connection: Connection, run_id: int, outcome: str) -> int | None:
    """Number of a run's last attempt to infer, if it ended with this outcome."""
    query = select(attempts.c.number, attempts.c.outcome).where(
        attempts.c.run_id == run_id, attempts.c.stage == "infer"
    )
    last = connection.execute(query.order_by(attempts.c.number.desc()).limit(1)).mappings().first()
    return int(last["number"]) if last is not None and last["outcome"] == outcome else None


def begin_attempt(connection: Connection, run_id: int, stage: str, worker: str) -> Attempt:
    """Count a start before the work begins, and make it the current one."""
    number = 1 + int(connection.execute(select(runs.c.current_attempt).where(runs.c.id == run_id)).scalar_one())
    connection.execute(update(runs).where(runs.c.id == run_id).values(current_attempt=number))
    connection.execute(
        insert(attempts).values(run_id=run_id, number=number, stage=stage, worker=worker, started_at=now())
    )
    return Attempt(run_id, number)


def end_attempt(connection: Connection, attempt: Attempt, outcome: str, detail: str = "") -> None:
    """Close an attempt.

    `outcome`: done, refused, failed, child-died, worker-died, worker-stopped, unwanted or stale.
    """
    connection.execute(
        update(attempts)
        .where(attempts.c.run_id == attempt.run_id, attempts.c.number == attempt.number, attempts.c.ended_at.is_(None))
        .values(ended_at=now(), outcome=outcome, detail=detail)
    )


def is_current(connection: Connection, attempt: Attempt) -> bool:
    """Whether this attempt is still the one whose effects count."""
    found = connection.execute(
        select(runs.c.id).where(
            runs.c.id == attempt.run_id,
            runs.c.current_attempt == attempt.number,
            runs.c.state == RunState.RUNNING.value,
            runs.c.cancel.is_(False),
        )
    ).first()
    return found is not None


def add_artefact(connection: Connection, attempt: Attempt, kind: str, sha256: str, path: str, **columns: Any) -> bool:
    """Insert an artefact in one conditional statement: only while the attempt is current, only once per kind.

    Returns
    -------
    bool
        False when the attempt was stale and nothing was written.
    """
    values: dict[str, Any] = {"kind": kind, "sha256": sha256, "path": path, "created_at": now(), **columns}
    existing = artefact(connection, attempt.run_id, kind)
    if existing is not None:
        return is_current(connection, attempt)
    source = select(runs.c.id, literal(attempt.number), *(literal(v, artefacts.c[k].type) for k, v in values.items()))
    current = source.where(
        and_(
            runs.c.id == attempt.run_id,
            runs.c.current_attempt == attempt.number,
            runs.c.state == RunState.RUNNING.value,
            runs.c.cancel.is_(False),
        )
    )
    result = connection.execute(insert(artefacts).from_select(["run_id", "attempt", *values], current))
    return bool(result.rowcount)


def artefact(connection: Connection, run_id: int, kind: str) -> RowMapping | None:
    """The artefact of this kind of this run."""
    return (
        connection.execute(select(artefacts).where(artefacts.c.run_id == run_id, artefacts.c.kind == kind))
        .mappings()
        .first()
    )


def artefacts_of(connection: Connection, run_id: int) -> list[RowMapping]:
    """All artefacts of a run, in the order in which they were made."""
    return list(
        connection.execute(select(artefacts).where(artefacts.c.run_id == run_id).order_by(artefacts.c.id)).mappings()
    )


def count_death(connection: Connection, run_id: int, column: str) -> int:
    """Add one to `child_deaths` or `worker_deaths`; the new count."""
    counter = runs.c[column]
    connection.execute(update(runs).where(runs.c.id == run_id).values({column: counter + 1}))
    return int(connection.execute(select(counter).where(runs.c.id == run_id)).scalar_one())


def run_row(connection: Connection, run_id: int) -> RowMapping:
    """One run."""
    return row(connection, runs, run_id)


def set_cache_hit(connection: Connection, run_id: int) -> None:
    """Say that what this run says was said before, about the same arrays."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(cache_hit=True))


def open_attempts(connection: Connection, run_id: int | None = None) -> list[RowMapping]:
    """Attempts without an end (of one run): at the start of a worker, those that died with the one before."""
    query = select(attempts).where(attempts.c.ended_at.is_(None))
    if run_id is not None:
        query = query.where(attempts.c.run_id == run_id)
    return list(connection.execute(query).mappings())


def unfinished_runs(connection: Connection) -> list[RowMapping]:
    """Runs that have no final state: the reconciler asks for each whether a job is alive.

    Runs of a study that is held or rejected stand still and are left out.
    """
    live = (RunState.QUEUED.value, RunState.RUNNING.value)
    query = (
        select(runs)
        .join(studies, studies.c.uid == runs.c.study_uid)
        .where(
            runs.c.state.in_(live),
            runs.c.cancel.is_(False),
            studies.c.held.is_(None),
            studies.c.cancelled.is_(False),
        )
    )
    return list(connection.execute(query.order_by(runs.c.id)).mappings())


def counts(connection: Connection) -> dict[str, int]:
    """How many runs are in each state, for health and metrics."""
    found = connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state))
    return {str(state): int(number) for state, number in found}
