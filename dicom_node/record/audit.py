"""The audit log: who did what to which study and when, as a hash chain (invariant I21).

Each entry's digest covers the previous digest, so a changed, dropped or reordered entry is found by `verify`; a cut
tail is found by comparing with a head kept elsewhere (`head`).
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Connection, insert, select

from dicom_node.record.database import canonical_json, now
from dicom_node.record.tables import audit

GENESIS = "0" * 64


def append(connection: Connection, actor: str, action: str, study_uid: str | None = None, **detail: Any) -> None:
    """Add one entry; the caller's transaction must be a writing one, so that the chain cannot fork."""
    entry = {"at": now(), "actor": actor, "action": action, "study_uid": study_uid, "detail": detail}
    previous = head(connection)[1]
    connection.execute(insert(audit).values(**entry, previous_sha256=previous, sha256=_link(previous, entry)))


def head(connection: Connection) -> tuple[int, str]:
    """Number of entries and the digest of the newest one."""
    row = connection.execute(select(audit.c.id, audit.c.sha256).order_by(audit.c.id.desc()).limit(1)).first()
    return (0, GENESIS) if row is None else (int(row.id), str(row.sha256))


def verify(connection: Connection, expected_head: tuple[int, str] | None = None) -> str | None:
    """Walk the chain.

    Returns
    -------
    str or None
        None when whole; otherwise which entry is the first that does not fit.
    """
    previous, expected_id = GENESIS, 1
    for row in connection.execute(select(audit).order_by(audit.c.id)).mappings():
        entry = {key: row[key] for key in ("at", "actor", "action", "study_uid", "detail")}
        if row["id"] != expected_id:
            return f"entry {expected_id} is missing"
        if row["previous_sha256"] != previous or row["sha256"] != _link(previous, entry):
            return f"entry {row['id']} was changed or moved"
        previous, expected_id = row["sha256"], expected_id + 1
    if expected_head is not None and (expected_id - 1, previous) != expected_head:
        return f"the newest entry is {expected_id - 1}; the head kept elsewhere names entry {expected_head[0]}"
    return None


def _link(previous: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256(f"{previous}\n{canonical_json(entry)}".encode()).hexdigest()
