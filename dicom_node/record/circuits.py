"""Circuits: a destination that fails again and again is left alone but for one probe at a time (table `circuits`).

*Closed*: everything is tried.  After `failures` failures of the destination in a row the circuit is *open*: nothing is
tried until its pause is over.  Then it is *half-open*: one delivery goes as a probe.  If it gets through, the circuit
is closed; if not, it is open again, for twice the pause.  The state is a row, so a restart changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from dicom_node.record.database import now
from dicom_node.record.tables import circuits

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


@dataclass(frozen=True)
class Rule:
    """When a circuit opens, and how long it stays so.

    Attributes
    ----------
    failures
        In a row, until it opens.
    pause_s, cap_s
        Until the first probe; the longest pause.
    probe_s
        How long a probe may be under way before another one is let go.
    """

    failures: int
    pause_s: float
    cap_s: float
    probe_s: float


def may_try(connection: Connection, destination: str, rule: Rule) -> datetime | None:
    """Whether a delivery may be tried now; whoever is let through an open circuit is its probe, and the only one.

    Returns
    -------
    datetime or None
        None: go.  Otherwise when to come again.
    """
    row = _row(connection, destination)
    if row is None or row["opened_at"] is None:
        return None
    moment, probe_at = datetime.fromisoformat(now()), datetime.fromisoformat(row["probe_at"])
    longest = timedelta(seconds=max(rule.cap_s, rule.probe_s))
    if moment < probe_at <= moment + longest:  # further away than any pause: the clock was set back
        return probe_at
    _set(connection, destination, probe_at=_text(moment + timedelta(seconds=rule.probe_s)))
    return None


def failed(
    connection: Connection, destination: str, rule: Rule, reason: str, *, retry_after_s: float | None = None
) -> bool:
    """Count a failure of the destination; whether the circuit was opened by it just now.

    `reason` is in fixed words; `retry_after_s` is what the destination asked for.
    """
    row = _row(connection, destination)
    count = 1 + (0 if row is None else int(row["failures"]))
    was_open = row is not None and row["opened_at"] is not None
    if row is None:
        connection.execute(insert(circuits).values(destination=destination, failures=count, pause_s=0.0, reason=reason))
    _set(connection, destination, failures=count, reason=reason)
    if count < rule.failures and not was_open:
        return False
    pause = min(rule.cap_s, 2 * float(row["pause_s"]) if was_open and row is not None else rule.pause_s)
    moment = datetime.fromisoformat(now())
    wait = max(pause, min(retry_after_s or 0.0, rule.cap_s))
    _set(connection, destination, pause_s=pause, probe_at=_text(moment + timedelta(seconds=wait)))
    if not was_open:
        _set(connection, destination, opened_at=_text(moment))
    return not was_open


def succeeded(connection: Connection, destination: str) -> bool:
    """The destination answered as one that works; whether an open circuit was closed by it just now."""
    row = _row(connection, destination)
    if row is None:
        return False
    connection.execute(delete(circuits).where(circuits.c.destination == destination))
    return row["opened_at"] is not None


def probe_now(connection: Connection, destination: str) -> None:
    """Somebody says that it was mended: the next delivery goes as a probe."""
    if _row(connection, destination) is not None:
        connection.execute(
            update(circuits)
            .where(circuits.c.destination == destination, circuits.c.opened_at.is_not(None))
            .values(probe_at=now())
        )


def states(connection: Connection) -> dict[str, str]:
    """Destinations that failed lately, each with the state of its circuit."""
    return {name: _state(row) for name, row in all_rows(connection).items()}


def all_rows(connection: Connection) -> dict[str, RowMapping]:
    """Every destination that failed lately, by name."""
    return {str(row["destination"]): row for row in connection.execute(select(circuits)).mappings()}


def rows(connection: Connection) -> list[RowMapping]:
    """The circuits that are not closed, by name."""
    query = select(circuits).where(circuits.c.opened_at.is_not(None)).order_by(circuits.c.destination)
    return list(connection.execute(query).mappings())


def _state(row: RowMapping) -> str:
    if row["opened_at"] is None:
        return CLOSED
    return OPEN if row["probe_at"] > now() else HALF_OPEN


def _row(connection: Connection, destination: str) -> RowMapping | None:
    return connection.execute(select(circuits).where(circuits.c.destination == destination)).mappings().first()


def _set(connection: Connection, destination: str, **values: object) -> None:
    connection.execute(update(circuits).where(circuits.c.destination == destination).values(**values))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
