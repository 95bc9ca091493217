"""Pauses: destinations that a person has told the node to leave alone (table `pauses`).

Unlike a circuit, which the node opens and closes by itself, a pause ends only when a person ends it, and nothing that
waits behind it grows too old meanwhile: the span of retries is not counted against a destination that nobody may try.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from dicom_node.record import circuits, deliveries, transfers
from dicom_node.record.acts import Job, UnknownItem, write_down
from dicom_node.record.database import now
from dicom_node.record.tables import deliveries as delivery_rows
from dicom_node.record.tables import pauses
from dicom_node.words import DeliveryState


def pause(connection: Connection, name: str, actor: str, reason: str) -> None:
    """Leave a destination alone from now on; what is being sent this moment is finished.

    Raises
    ------
    UnknownItem
        If it is paused already.
    """
    if is_paused(connection, name):
        raise UnknownItem(f"{name}: paused already")
    connection.execute(insert(pauses).values(destination=name, since=now(), actor=actor, reason=reason))
    write_down(connection, "destination.paused", actor, reason, f"destination-{name}", None)


def resume(connection: Connection, name: str, actor: str, reason: str) -> list[Job]:
    """Send to a destination again; the jobs of everything that waits for it.

    Raises
    ------
    UnknownItem
        If it is not paused.
    """
    if not is_paused(connection, name):
        raise UnknownItem(f"{name}: not paused")
    connection.execute(delete(pauses).where(pauses.c.destination == name))
    # the time that it was left alone does not count against what waited
    connection.execute(
        update(delivery_rows)
        .where(delivery_rows.c.destination == name, delivery_rows.c.state == DeliveryState.PENDING.value)
        .values(first_tried_at=None, next_try_at=None, reason=None)
    )
    circuits.probe_now(connection, name)
    number = write_down(connection, "destination.resumed", actor, reason, f"destination-{name}", None)
    runs = [run for run, destination in deliveries.open_pairs(connection) if destination == name]
    jobs: list[Job] = [(f"out-{name}", "deliver", f"deliver/{run}/{name}/act-{number}", (run, name, 0)) for run in runs]
    for waiting in transfers.in_state(connection, transfers.PENDING):
        if waiting.destination == name:
            transfers.decide(connection, waiting, transfers.PENDING)
            key = f"predict/{waiting.number}/send-{name}/act-{number}"
            jobs.append((f"out-{name}", "predict", key, (waiting.number, "send", name)))
    return jobs


def is_paused(connection: Connection, name: str) -> bool:
    """Whether a person has told the node to leave this destination alone."""
    return connection.execute(select(pauses.c.since).where(pauses.c.destination == name)).first() is not None


def rows(connection: Connection) -> list[RowMapping]:
    """The pauses in force, by name of the destination."""
    return list(connection.execute(select(pauses).order_by(pauses.c.destination)).mappings())
