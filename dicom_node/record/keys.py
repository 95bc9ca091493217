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

from sqlalchemy import Connection, Row, insert, select, update

from dicom_node.permissions import MAY, Person, roles_may
from dicom_node.record import audit, people
from dicom_node.record.database import Database, now
from dicom_node.record.tables import api_keys, users

SCOPES: dict[str, str] = {
    "fhir:read": "read published reports by FHIR",
    "health:read": "read /readyz and /livez from another machine",
    "metrics:read": "read /metrics from another machine",
    "docs:read": "read the API's own description",
    "predict:run": "ask for predictions by HTTP and fetch what came of one's own",
    "viewer:read": "open studies in the viewer and read them by DICOMweb",
}
"""What a key may be allowed to do."""

ACCOUNT_SCOPES: dict[str, str] = {
    "analysis:make": "ask for analyses of photographs in the name of its account",
    "analysis:own": "read the account's own analyses",
    "analysis:reveal": "fetch the pictures of analyses that the account may see",
    "analysis:site": "read and answer the analyses of the account's sites",
    "outcome:write": "write down what histology said",
    "audit:read": "read the audit log",
}
"""What besides a key may that belongs to an account: as long as the account's roles may, too."""

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
    person: Person | None = None
    """The account in whose name it acts, if any."""

    def may(self, permission: str) -> bool:
        """Whether the key has this scope and its account, where it has one, this permission."""
        if permission not in self.scopes:
            return False
        return permission not in MAY or self.person is None or self.person.may(permission)

    @property
    def actor(self) -> str:
        """Its name in the audit log."""
        return f"key:{self.name}"


@dataclass(frozen=True)
class KeyRow:
    """A key as lists show it: never the key itself."""

    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: str
    revoked_at: str | None
    last_used_at: str | None
    account: str = ""
    """E-mail address of the account in whose name it acts."""


class KeyRefused(ValueError):
    """The key cannot be made or revoked as asked; the text says why, `reason` is its key."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


def create(database: Database, name: str, scopes: Iterable[str], *, actor: str = "cli", account: str = "") -> str:
    """Make a key and return it.  This is the only time that it can be seen.

    Parameters
    ----------
    account
        E-mail address of the account in whose name it will act; empty: in nobody's.

    Raises
    ------
    KeyRefused
        If the name is not a short lower-case word, is in use, a scope is unknown, or the account is or may not do it.
    """
    wanted = sorted(set(scopes))
    known = {**SCOPES, **ACCOUNT_SCOPES} if account else SCOPES
    if not wanted or not set(wanted) <= set(known):
        more = "" if account else f"; and one that belongs to an account, of: {', '.join(ACCOUNT_SCOPES)}"
        raise KeyRefused("scope-unknown", f"a key needs one or more scopes of: {', '.join(known)}{more}")
    if not _NAME.fullmatch(name):
        raise KeyRefused("name-invalid", "a key's name has 1 to 64 characters of a-z, 0-9, dot, dash and underscore")
    prefix = secrets.token_hex(4)
    token = f"ain_{prefix}_{secrets.token_urlsafe(32)}"
    with database.write() as connection:
        used = select(api_keys.c.id).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        if connection.execute(used).first() is not None:
            raise KeyRefused("name-taken", f"a key named {name} is in use: revoke it first or choose another name")
        owner = _owner(connection, account, wanted) if account else None
        row = {"name": name, "prefix": prefix, "sha256": _digest(token), "scopes": wanted, "created_at": now()}
        connection.execute(insert(api_keys).values(**row, user_id=owner.id if owner else None))
        whose = {"user": owner.public_id} if owner else {}
        audit.append(connection, actor, "key-created", key=name, prefix=prefix, scopes=wanted, **whose)
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
        owner = people.user_of_id(connection, found[0].user_id) if found[0].user_id is not None else None
    if found[0].user_id is not None and (owner is None or not owner.is_active):
        return None
    _note_use(database, found[0])
    person = owner.person(None, "key") if owner else None
    return KeyIdentity(found[0].name, found[0].prefix, frozenset(found[0].scopes), person)


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
            raise KeyRefused("unknown", "no living key has this name: `ai-node keys list` shows them")
        audit.append(connection, actor, "key-revoked", key=name)


def rows(database: Database) -> list[KeyRow]:
    """All keys, the newest last."""
    with database.read() as connection:
        with_account = select(api_keys, users.c.email).outerjoin(users, users.c.id == api_keys.c.user_id)
        found = connection.execute(with_account.order_by(api_keys.c.id)).all()
    return [
        KeyRow(
            row.name, row.prefix, tuple(row.scopes), row.created_at, row.revoked_at, row.last_used_at, row.email or ""
        )
        for row in found
    ]


def _owner(connection: Connection, account: str, scopes: Iterable[str]) -> people.User:
    found = people.user_of_email(connection, account.strip().lower())
    if found is None or not found.is_active:
        raise KeyRefused(
            "account-unknown", "no active account has this e-mail address: `ai-node users list` shows them"
        )
    beyond = sorted(scope for scope in scopes if scope in MAY and not roles_may(found.roles, scope))
    if beyond:
        raise KeyRefused("scope-beyond-roles", f"the roles of this account do not allow: {', '.join(beyond)}")
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _note_use(database: Database, row: Row[tuple[object, ...]]) -> None:
    moment = datetime.now(UTC)
    if row.last_used_at is not None and moment - datetime.fromisoformat(row.last_used_at) < USE_RESOLUTION:
        return
    with database.write() as connection:
        connection.execute(update(api_keys).where(api_keys.c.id == row.id).values(last_used_at=now()))
