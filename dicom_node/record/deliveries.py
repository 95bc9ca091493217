"""Deliveries: one object to one destination, with its confirmation (table `deliveries`).

Rows are inserted in the same transaction that declares the run *built* (the outbox), and change state only through
`runs.move`.  Within one run and destination the objects go in `position` order: SEG, PDF, SC, then the SR that refers
to them (I3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, or_, select, update

from dicom_node.record.database import now
from dicom_node.record.runs import move
from dicom_node.record.tables import artefacts, deliveries, runs, studies
from dicom_node.record.withdrawals import NOTICE, is_withdrawn
from dicom_node.words import DeliveryState

OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)


def add_deliveries(connection: Connection, run_id: int, destination: str, artefact_ids: Sequence[int]) -> None:
    """Write the outbox of one destination, in sending order; a row taken back before it was tried is open again."""
    for position, artefact_id in enumerate(artefact_ids):
        known = connection.execute(
            select(deliveries.c.id, deliveries.c.state, deliveries.c.attempts).where(
                deliveries.c.artefact_id == artefact_id, deliveries.c.destination == destination
            )
        ).first()
        if known is not None and known.state == DeliveryState.CANCELLED.value and known.attempts == 0:
            move(connection, "delivery", int(known.id), DeliveryState.PENDING)
        if known is None:
            connection.execute(
                insert(deliveries).values(
                    run_id=run_id,
                    artefact_id=artefact_id,
                    destination=destination,
                    position=position,
                    state=DeliveryState.PENDING.value,
                )
            )


def of_run(connection: Connection, run_id: int, destination: str | None = None) -> list[RowMapping]:
    """Deliveries of a run (to one destination), in sending order, each with its artefact's kind, path and UIDs."""
    query = (
        select(
            deliveries,
            artefacts.c.kind,
            artefacts.c.path,
            artefacts.c.sha256,
            artefacts.c.removed_at,
            artefacts.c.sop_class_uid,
            artefacts.c.sop_instance_uid,
            artefacts.c.series_uid,
        )
        .join(artefacts, artefacts.c.id == deliveries.c.artefact_id)
        .where(deliveries.c.run_id == run_id)
        .order_by(deliveries.c.destination, deliveries.c.position)
    )
    if destination is not None:
        query = query.where(deliveries.c.destination == destination)
    return list(connection.execute(query).mappings())


def begin_try(connection: Connection, delivery_id: int) -> int | None:
    """Count a try before it is made; which try it is (1 for the first).

    None when the row is no longer open: somebody took it back after it was looked at.
    """
    state = connection.execute(select(deliveries.c.state).where(deliveries.c.id == delivery_id)).scalar_one()
    if state not in OPEN:
        return None
    move(connection, "delivery", delivery_id, DeliveryState.SENDING)
    at = now()
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(
            attempts=deliveries.c.attempts + 1,
            last_tried_at=at,
            first_tried_at=func.coalesce(deliveries.c.first_tried_at, at),
        )
    )
    return int(connection.execute(select(deliveries.c.attempts).where(deliveries.c.id == delivery_id)).scalar_one())


def postpone(connection: Connection, delivery_id: int, *, next_try_at: datetime, reason: dict[str, Any]) -> None:
    """Note that nothing was tried because the destination is left alone; its span of retries has begun all the same."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.state.in_(OPEN))
        .values(
            first_tried_at=func.coalesce(deliveries.c.first_tried_at, now()),
            next_try_at=next_try_at.isoformat(timespec="microseconds"),
            reason=reason,
        )
    )


def is_confirmed(connection: Connection, run_id: int, destination: str) -> bool:
    """Whether every object of the run for this destination was seen there."""
    states = connection.execute(
        select(deliveries.c.state).where(deliveries.c.run_id == run_id, deliveries.c.destination == destination)
    ).scalars()
    found = list(states)
    return bool(found) and all(state == DeliveryState.CONFIRMED.value for state in found)


def was_published(connection: Connection, run_id: int) -> bool:
    """Whether anything of the run may have left the node: from then on it can only be superseded, not forgotten."""
    found = connection.execute(
        select(deliveries.c.id).where(deliveries.c.run_id == run_id, deliveries.c.attempts > 0).limit(1)
    ).first()
    return found is not None


def objects_out(connection: Connection, run_id: int) -> set[str]:
    """SOP Instance UIDs of the run's objects that some destination has, or is still to get."""
    wanted = {DeliveryState.CONFIRMED.value, *OPEN}
    return {
        str(row["sop_instance_uid"])
        for row in of_run(connection, run_id)
        if row["sop_instance_uid"] and row["state"] in wanted
    }


def cancel_open(connection: Connection, run_id: int) -> None:
    """Take back what was never tried."""
    for found in connection.execute(
        select(deliveries.c.id).where(
            deliveries.c.run_id == run_id, deliveries.c.state == DeliveryState.PENDING.value, deliveries.c.attempts == 0
        )
    ).scalars():
        move(connection, "delivery", int(found), DeliveryState.CANCELLED)


def end_try(connection: Connection, delivery_id: int, new: DeliveryState, **fields: Any) -> bool:
    """Write what a try came to; False when the row was taken back while the try was made: nothing is changed then."""
    state = connection.execute(select(deliveries.c.state).where(deliveries.c.id == delivery_id)).scalar_one()
    return state == DeliveryState.SENDING.value and move(connection, "delivery", delivery_id, new, **fields)


def open_pairs(connection: Connection) -> list[tuple[int, str]]:
    """(run, destination) pairs whose next object can be sent, oldest first.

    Left out: cancelled runs, studies that are held or rejected, and pairs whose next object waits for a person.  What
    is withdrawn is taken back from a rejected study too.
    """
    withdrawn = set(connection.execute(select(artefacts.c.run_id).where(artefacts.c.kind == NOTICE)).scalars())
    query = (
        select(deliveries.c.run_id, deliveries.c.destination, deliveries.c.state)
        .join(runs, runs.c.id == deliveries.c.run_id)
        .join(studies, studies.c.uid == runs.c.study_uid)
        .where(
            deliveries.c.state != DeliveryState.CONFIRMED.value,
            runs.c.cancel.is_(False),
            studies.c.held.is_(None),
            or_(studies.c.cancelled.is_(False), runs.c.id.in_(withdrawn)),
        )
        .order_by(deliveries.c.run_id, deliveries.c.destination, deliveries.c.position)
    )
    next_state: dict[tuple[int, str], str] = {}
    for found in connection.execute(query):
        if found.run_id in withdrawn and found.state == DeliveryState.CANCELLED.value:
            continue  # what was never there is not taken back
        next_state.setdefault((int(found.run_id), str(found.destination)), str(found.state))
    return [pair for pair, state in next_state.items() if state in OPEN]


def is_open(connection: Connection, run_id: int, destination: str) -> bool:
    """Whether the next object of the run for this destination is on its way: neither confirmed nor with a person."""
    rows = of_run(connection, run_id, destination)
    over = {DeliveryState.CONFIRMED.value}
    over |= {DeliveryState.CANCELLED.value} if is_withdrawn(connection, run_id) else set()
    left = [str(found["state"]) for found in rows if found["state"] not in over]
    return bool(left) and left[0] in OPEN


def is_given_up(connection: Connection, run_id: int, destination: str) -> bool:
    """Whether somebody decided that this destination does not get all of the run, and nothing of it is on its way."""
    states = {str(found["state"]) for found in of_run(connection, run_id, destination)}
    return DeliveryState.CANCELLED.value in states and not states & {
        *OPEN,
        DeliveryState.FAILED.value,
        DeliveryState.HELD.value,
    }


def set_all(
    connection: Connection,
    run_id: int,
    old: Collection[DeliveryState],
    new: DeliveryState,
    destination: str | None = None,
    **fields: Any,
) -> int:
    """Move every object of a run (to one destination) that is in one of the `old` states; how many there were.

    The notice that withdraws a run is none of its objects: what is decided about them leaves it alone.
    """
    wanted = {state.value for state in old}
    rows = of_run(connection, run_id, destination)
    found = [row for row in rows if row["state"] in wanted and row["kind"] != NOTICE]
    for row in found:
        move(connection, "delivery", int(row["id"]), new, **fields)
    return len(found)


def counts(connection: Connection) -> Counter[tuple[str, str]]:
    """How many objects there are by destination and state."""
    query = select(deliveries.c.destination, deliveries.c.state, func.count())
    found = connection.execute(query.group_by(deliveries.c.destination, deliveries.c.state))
    return Counter({(str(name), str(state)): int(number) for name, state, number in found})


def oldest_open(connection: Connection) -> dict[str, str]:
    """Destination -> when the oldest object was built that is still on its way there."""
    query = (
        select(deliveries.c.destination, func.min(artefacts.c.created_at))
        .join(artefacts, artefacts.c.id == deliveries.c.artefact_id)
        .where(deliveries.c.state.in_(OPEN))
        .group_by(deliveries.c.destination)
    )
    return {str(name): str(at) for name, at in connection.execute(query)}


def study_of(connection: Connection, run_id: int) -> str:
    """The study of a run."""
    return str(connection.execute(select(runs.c.study_uid).where(runs.c.id == run_id)).scalar_one())


def in_state(connection: Connection, state: DeliveryState) -> list[RowMapping]:
    """All deliveries in one state, with their study."""
    query = (
        select(deliveries, runs.c.study_uid, artefacts.c.kind)
        .join(runs, runs.c.id == deliveries.c.run_id)
        .join(artefacts, artefacts.c.id == deliveries.c.artefact_id)
        .where(deliveries.c.state == state.value)
        .order_by(deliveries.c.id)
    )
    return list(connection.execute(query).mappings())
