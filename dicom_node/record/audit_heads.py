"""Signed heads of the audit log, and how far each way out of this machine has come (I21)."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from dicom_node.record.database import now
from dicom_node.record.tables import audit, audit_exports, audit_heads

FOLDER, SYSLOG, SYSLOG_HEADS = "folder", "syslog", "syslog-heads"
"""Heads into the folder; entries, and heads, to the repository."""


def newest(connection: Connection) -> RowMapping | None:
    """The newest head."""
    query = select(audit_heads).order_by(audit_heads.c.id.desc()).limit(1)
    return connection.execute(query).mappings().first()


def after(connection: Connection, head_id: int, limit: int | None = None) -> list[RowMapping]:
    """Heads after one of them, the oldest first."""
    query = select(audit_heads).where(audit_heads.c.id > head_id).order_by(audit_heads.c.id).limit(limit)
    return list(connection.execute(query).mappings())


def add(connection: Connection, *, entries: int, sha256: str, made_at: str, key: str, signature: str) -> None:
    """Keep a head."""
    connection.execute(
        insert(audit_heads).values(entries=entries, sha256=sha256, made_at=made_at, key=key, signature=signature)
    )


def digest_at(connection: Connection, entry: int) -> str | None:
    """The digest of an entry; None when there is no such entry."""
    found = connection.execute(select(audit.c.sha256).where(audit.c.id == entry)).scalar()
    return None if found is None else str(found)


def entries_after(connection: Connection, entry: int, limit: int) -> list[RowMapping]:
    """Entries after one of them, the oldest first."""
    query = select(audit).where(audit.c.id > entry).order_by(audit.c.id).limit(limit)
    return list(connection.execute(query).mappings())


def sent(connection: Connection, way: str) -> int:
    """The last head, or entry, that has left by this way; 0: none."""
    found = connection.execute(select(audit_exports.c.upto).where(audit_exports.c.way == way)).scalar()
    return 0 if found is None else int(found)


def mark_sent(connection: Connection, way: str, upto: int) -> None:
    """All up to this one have left."""
    values = {"upto": upto, "at": now()}
    done = connection.execute(update(audit_exports).where(audit_exports.c.way == way).values(**values))
    if done.rowcount == 0:
        connection.execute(insert(audit_exports).values(way=way, **values))


def waiting(connection: Connection, way: str) -> tuple[int, str | None]:
    """How many entries (heads, for the ways of heads) have not left by this way, and when the oldest was made."""
    table, moment = (audit, audit.c.at) if way == SYSLOG else (audit_heads, audit_heads.c.made_at)
    query = select(func.count(), func.min(moment)).select_from(table).where(table.c.id > sent(connection, way))
    count, oldest = connection.execute(query).one()
    return int(count), None if oldest is None else str(oldest)
