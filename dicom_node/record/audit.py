"""The audit log: who did what to which study and when, as a hash chain (invariant I21).

Each entry's digest covers the previous digest, so a changed, dropped or reordered entry is found by `verify`; a cut
tail is found by comparing with a head kept elsewhere (`head`).  From where somebody called is part of the entry
(`called_from`).  The web process follows the chain as it grows.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, insert, select

from dicom_node.record.database import canonical_json, now
from dicom_node.record.tables import audit

GENESIS = "0" * 64
START = (0, GENESIS)
"""The head of a log without entries."""


_CALLED_FROM: ContextVar[str] = ContextVar("called_from", default="")


@contextmanager
def called_from(host: str) -> Iterator[None]:
    """What is appended meanwhile was asked for from there: its `detail` says ``address``; only an IP address is kept.

    A property of the request and not of each act, so that no act can forget it, and none has to carry it.
    """
    try:
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        told = str(mapped or address)
    except ValueError:
        told = ""
    token = _CALLED_FROM.set(told)
    try:
        yield
    finally:
        _CALLED_FROM.reset(token)


def append(connection: Connection, actor: str, action: str, study_uid: str | None = None, **detail: Any) -> None:
    """Add one entry; the caller's transaction must be a writing one, so that the chain cannot fork."""
    if address := _CALLED_FROM.get():
        detail["address"] = address
    entry = {"at": now(), "actor": actor, "action": action, "study_uid": study_uid, "detail": detail}
    previous = head(connection)[1]
    connection.execute(insert(audit).values(**entry, previous_sha256=previous, sha256=_link(previous, entry)))


def head(connection: Connection) -> tuple[int, str]:
    """Number of entries and the digest of the newest one."""
    row = connection.execute(select(audit.c.id, audit.c.sha256).order_by(audit.c.id.desc()).limit(1)).first()
    return START if row is None else (int(row.id), str(row.sha256))


def verify(connection: Connection, expected_head: tuple[int, str] | None = None) -> str | None:
    """Walk the chain.

    Returns
    -------
    str or None
        None when whole; otherwise which entry is the first that does not fit.
    """
    reached, broken = follow(connection, START)
    if broken is None and expected_head is not None and reached != expected_head:
        return f"the newest entry is {reached[0]}; the head kept elsewhere names entry {expected_head[0]}"
    return broken


def follow(
    connection: Connection, known: tuple[int, str], limit: int | None = None
) -> tuple[tuple[int, str], str | None]:
    """Walk the chain onwards from an entry that is known to fit.

    Parameters
    ----------
    limit
        Most entries to look at; None: all there are.

    Returns
    -------
    reached, broken
        The last entry that fits, and which one does not, if any.
    """
    number, previous = known
    if known != START:
        kept = connection.execute(select(audit.c.sha256).where(audit.c.id == number)).scalar()
        if kept != previous:
            return known, f"entry {number} is gone or another one"
    query = select(audit).where(audit.c.id > number).order_by(audit.c.id).limit(limit)
    for row in connection.execute(query).mappings():
        entry = {key: row[key] for key in ("at", "actor", "action", "study_uid", "detail")}
        if row["id"] != number + 1:
            return (number, previous), f"entry {number + 1} is missing"
        if row["previous_sha256"] != previous or row["sha256"] != _link(previous, entry):
            return (number, previous), f"entry {row['id']} was changed or moved"
        number, previous = int(row["id"]), str(row["sha256"])
    return (number, previous), None


def _link(previous: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256(f"{previous}\n{canonical_json(entry)}".encode()).hexdigest()
