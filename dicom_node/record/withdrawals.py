"""Withdrawals: what was published of a run and is taken back outside (tables `artefacts`, `deliveries`).

A withdrawal is a *notice*: an artefact of the withdrawn run that says why and since when, with one delivery row per
destination that was told of the result, behind the run's own objects.  So it is sent, counted, seen, tried again and
held exactly as an object is.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, RowMapping, insert, select, update

from dicom_node.record.database import now
from dicom_node.record.runs import artefact, move, run_row
from dicom_node.record.tables import artefacts, cases, deliveries, runs
from dicom_node.words import DeliveryState, RunState

NOTICE = "withdrawal"
"""Kind of the artefact, and of its deliveries."""

_LAST = 1000
"""Position of a notice: behind every object of its run."""


def notice_of(connection: Connection, run_id: int) -> RowMapping | None:
    """The notice by which a run was withdrawn; None when it was not."""
    return artefact(connection, run_id, NOTICE)


def is_withdrawn(connection: Connection, run_id: int) -> bool:
    """Whether what was published of a run is taken back outside."""
    return notice_of(connection, run_id) is not None


def add_notice(connection: Connection, run_id: int, sha256: str, path: str, destinations: Iterable[str]) -> bool:
    """Insert the notice of a run that is out of force, and one delivery of it per destination; once.

    Returns
    -------
    bool
        False when the run is in force, or was withdrawn before: nothing was changed.
    """
    run = run_row(connection, run_id)
    if run["state"] != RunState.SUPERSEDED.value or is_withdrawn(connection, run_id):
        return False
    notice_id = add_built(connection, run_id, NOTICE, sha256, path)
    for name in destinations:
        connection.execute(
            insert(deliveries).values(
                run_id=run_id,
                artefact_id=notice_id,
                destination=name,
                position=_LAST,
                state=DeliveryState.PENDING.value,
            )
        )
    return True


def add_built(connection: Connection, run_id: int, kind: str, sha256: str, path: str, **columns: str) -> int:
    """Insert what a withdrawal is made of, unless an artefact of its kind is there; its id."""
    known = artefact(connection, run_id, kind)
    if known is not None:
        return int(known["id"])
    attempt = run_row(connection, run_id)["current_attempt"]
    values = {"run_id": run_id, "attempt": attempt, "kind": kind, "sha256": sha256, "path": path, **columns}
    added = connection.execute(insert(artefacts).values(created_at=now(), **values).returning(artefacts.c.id))
    return int(added.scalar_one())


def hold_notice(connection: Connection, run_id: int, destination: str, reason: dict[str, str]) -> None:
    """Let the notice for a destination that is not configured any more wait for a person."""
    query = (
        select(deliveries.c.id)
        .join(artefacts, artefacts.c.id == deliveries.c.artefact_id)
        .where(
            deliveries.c.run_id == run_id,
            deliveries.c.destination == destination,
            deliveries.c.state.in_([DeliveryState.PENDING.value, DeliveryState.SENDING.value]),
            artefacts.c.kind == NOTICE,
        )
    )
    for found in connection.execute(query).scalars():
        move(connection, "delivery", int(found), DeliveryState.HELD, reason=reason)


def families(connection: Connection, study_uid: str) -> list[str]:
    """The result families of which a study has runs."""
    query = select(runs.c.result_family).where(runs.c.study_uid == study_uid).distinct()
    return sorted(str(name) for name in connection.execute(query).scalars())


def set_supersedes(connection: Connection, case_id: int, older: int) -> None:
    """A case that refuses takes the case of the withdrawn run out of force."""
    connection.execute(update(cases).where(cases.c.id == case_id).values(supersedes_case=older))
