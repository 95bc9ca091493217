"""API keys: made once, shown once, kept as a digest.

A key is 256 random bits, so a plain sha256 is enough to keep it by: there is nothing to guess, and a slow password
hash would only slow every request (hardening S7 is about passwords).  It reads ``ain_<prefix>_<secret>``; the prefix
is public, names the key in lists and finds its row.  Comparing is in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Row, insert, select, update

from dicom_node.record import audit
from dicom_node.record.database import Database, now
from dicom_node.record.tables import api_keys

SCOPES: dict[str, str] = {
    "fhir:read": "read published reports by FHIR",
    "health:read": "read /readyz and /livez from another machine",
    "metrics:read": "read /metrics from another machine",
    "docs:read": "read the API's own description",
    "predict:run": "ask for predictions by HTTP and fetch what came of one's own",
    "viewer:read": "open studies in the viewer and read them by DICOMweb",
}
"""What a key may be allowed to do."""

USE_RESOLUTION = timedelta(minutes=1)
"""`last_used_at` is written at most this often, so that reading does not become writing."""

_TOKEN = re.compile(r"^ain_([0-9a-f]{8})_([A-Za-z0-9_-]{43})$")
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class KeyIdentity:
    """Who a key belongs to and what it may do."""

    name: str
    prefix: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class KeyRow:
    """A key as lists show it: never the key itself."""

    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: str
    revoked_at: str | None
    last_used_at: str | None


class KeyRefused(ValueError):
    """The key cannot be made or revoked as asked; the text says why."""


def create(database: Database, name: str, scopes: Iterable[str], *, actor: str = "cli") -> str:
    """Make a key and return it.  This is the only time that it can be seen.

    Raises
    ------
    KeyRefused
        If the name is not a short lower-case word, is in use, or a scope is unknown.
    """
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise KeyRefused(f"a key needs one or more scopes of: {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise KeyRefused("a key's name has 1 to 64 characters of a-z, 0-9, dot, dash and underscore")
    prefix = secrets.token_hex(4)
    token = f"ain_{prefix}_{secrets.token_urlsafe(32)}"
    with database.write() as connection:
        used = select(api_keys.c.id).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        if connection.execute(used).first() is not None:
            raise KeyRefused(f"a key named {name} is in use: revoke it first or choose another name")
        row = {"name": name, "prefix": prefix, "sha256": _digest(token), "scopes": wanted, "created_at": now()}
        connection.execute(insert(api_keys).values(**row))
        audit.append(connection, actor, "key-created", key=name, prefix=prefix, scopes=wanted)
    return token


def verify(database: Database, token: str) -> KeyIdentity | None:
    """Who sends this key, or None when it is unknown or revoked."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    with database.read() as connection:
        rows = connection.execute(select(api_keys).where(api_keys.c.prefix == match[1])).all()
    digest = _digest(token)
    # Every candidate is compared, so that the time taken does not say which one it was.
    found = [row for row in rows if hmac.compare_digest(row.sha256, digest)]
    if not found or found[0].revoked_at is not None:
        return None
    _note_use(database, found[0])
    return KeyIdentity(found[0].name, found[0].prefix, frozenset(found[0].scopes))


def revoke(database: Database, name: str, *, actor: str = "cli") -> None:
    """End a key at once.

    Raises
    ------
    KeyRefused
        If there is no living key of that name.
    """
    with database.write() as connection:
        living = update(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        if connection.execute(living.values(revoked_at=now())).rowcount == 0:
            raise KeyRefused("no living key has this name: `ai-node keys list` shows them")
        audit.append(connection, actor, "key-revoked", key=name)


def rows(database: Database) -> list[KeyRow]:
    """All keys, the newest last."""
    with database.read() as connection:
        found = connection.execute(select(api_keys).order_by(api_keys.c.id)).all()
    return [
        KeyRow(row.name, row.prefix, tuple(row.scopes), row.created_at, row.revoked_at, row.last_used_at)
        for row in found
    ]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _note_use(database: Database, row: Row[tuple[object, ...]]) -> None:
    moment = datetime.now(UTC)
    if row.last_used_at is not None and moment - datetime.fromisoformat(row.last_used_at) < USE_RESOLUTION:
        return
    with database.write() as connection:
        connection.execute(update(api_keys).where(api_keys.c.id == row.id).values(last_used_at=now()))
