"""Who is signed in, and how often signing in failed: rows of `sessions` and `sign_in_failures`.

Only digests are kept: of the secret that a browser or a client holds, and of what a counter counts (an account, an
address, a browser that is known).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from dicom_node.permissions import Person
from dicom_node.record import audit, people
from dicom_node.record.database import now
from dicom_node.record.tables import sessions, sign_in_failures

PORTAL, LUNA, HALF = "portal", "luna", "half"
HALF_LIFE = timedelta(minutes=5)
"""So long a right password waits for its code."""
SEEN_RESOLUTION = timedelta(minutes=1)
"""`seen_at` is written at most this often, so that reading does not become writing."""
KEPT_AFTER_END = timedelta(days=30)


@dataclass(frozen=True)
class SessionRow:
    """A session as its owner is shown it."""

    id: int
    kind: str
    created_at: str
    seen_at: str
    expires_at: str
    agent: str


@dataclass(frozen=True)
class Counted:
    """A counter of failures: how many in a row, the last one, and until when no attempt is looked at."""

    count: int
    last_at: str
    not_before: str | None


def digest(secret: str) -> str:
    """By what a secret of 256 random bits is found again; nobody can guess one, so it needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def later(moment: str, by: timedelta) -> str:
    """A time of the record, moved."""
    return (datetime.fromisoformat(moment) + by).astimezone(UTC).isoformat(timespec="microseconds")


# -- sessions


def open_session(
    connection: Connection, user: people.User, secret: str, *, kind: str, life: timedelta, agent: str
) -> Person:
    """Begin a session of an account; `secret` is what its holder will show."""
    number = _add(connection, user, secret, kind, life, agent)
    people.note_sign_in(connection, user)
    audit.append(connection, user.actor, "sign-in", user=user.public_id, kind=kind)
    return user.person(number, kind)


def open_half(connection: Connection, user: people.User, secret: str) -> None:
    """A password was right: what a browser shows with the code that is asked for next.  It opens nothing."""
    _add(connection, user, secret, HALF, HALF_LIFE, "")


def user_of_half(connection: Connection, secret: str) -> people.User | None:
    """Whose password was right a moment ago; None when that was too long ago, or ended."""
    found = find(connection, secret, kind=HALF)
    return None if found is None else people.user_of_id(connection, found[0].user_id)


def spend_half(connection: Connection, secret: str) -> None:
    """Its code was right: it is worth nothing any more."""
    connection.execute(update(sessions).where(sessions.c.token_sha256 == digest(secret)).values(revoked_at=now()))


def _add(connection: Connection, user: people.User, secret: str, kind: str, life: timedelta, agent: str) -> int:
    moment = now()
    connection.execute(delete(sessions).where(sessions.c.expires_at < later(moment, -KEPT_AFTER_END)))
    made = connection.execute(
        insert(sessions).values(
            token_sha256=digest(secret),
            kind=kind,
            user_id=user.id,
            created_at=moment,
            seen_at=moment,
            expires_at=later(moment, life),
            agent=agent[:255],
        )
    )
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def find(
    connection: Connection, secret: str, *, kind: str, idle: timedelta | None = None
) -> tuple[Person, bool] | None:
    """Who shows this secret, and whether `seen_at` is due to be written; None when the session is over.

    Parameters
    ----------
    idle
        A session that was not used for so long is over.
    """
    row = connection.execute(select(sessions).where(sessions.c.token_sha256 == digest(secret))).first()
    moment = now()
    if row is None or row.kind != kind or row.revoked_at is not None or row.expires_at <= moment:
        return None
    if idle is not None and later(row.seen_at, idle) <= moment:
        return None
    user = people.user_of_id(connection, row.user_id)
    if user is None or not user.is_active:
        return None
    return user.person(int(row.id), kind), later(row.seen_at, SEEN_RESOLUTION) <= moment


def touch(connection: Connection, session_id: int) -> None:
    """Note that a session is used."""
    living = (sessions.c.id == session_id) & sessions.c.revoked_at.is_(None)
    connection.execute(update(sessions).where(living).values(seen_at=now()))


def end(connection: Connection, actor: str, user_id: int, session_id: int) -> bool:
    """End one session of an account; False when this account has no such living session."""
    mine = (sessions.c.id == session_id) & (sessions.c.user_id == user_id) & sessions.c.revoked_at.is_(None)
    if connection.execute(update(sessions).where(mine).values(revoked_at=now())).rowcount == 0:
        return False
    audit.append(connection, actor, "session-ended", session=session_id)
    return True


def living(connection: Connection, user_id: int, idle: timedelta) -> list[SessionRow]:
    """The sessions of an account that are not over, the newest first."""
    moment = now()
    mine = (sessions.c.user_id == user_id) & sessions.c.revoked_at.is_(None) & (sessions.c.expires_at > moment)
    mine &= sessions.c.kind != HALF
    found = connection.execute(select(sessions).where(mine).order_by(sessions.c.id.desc()))
    return [
        SessionRow(row.id, row.kind, row.created_at, row.seen_at, row.expires_at, row.agent)
        for row in found
        if row.kind != PORTAL or later(row.seen_at, idle) > moment
    ]


# -- failures


def counted(connection: Connection, subject: str) -> Counted | None:
    """The counter of a subject."""
    row = connection.execute(select(sign_in_failures).where(sign_in_failures.c.subject == subject)).first()
    return None if row is None else Counted(int(row._mapping["count"]), row.last_at, row.not_before)


def set_counter(connection: Connection, subject: str, count: int, not_before: str | None) -> None:
    """Write a counter, new or not."""
    values = {"count": count, "last_at": now(), "not_before": not_before}
    found = update(sign_in_failures).where(sign_in_failures.c.subject == subject)
    if connection.execute(found.values(**values)).rowcount == 0:
        connection.execute(insert(sign_in_failures).values(subject=subject, **values))


def drop_counter(connection: Connection, subject: str) -> None:
    """Forget a counter."""
    connection.execute(delete(sign_in_failures).where(sign_in_failures.c.subject == subject))


def forget_counters(connection: Connection, prefix: str, before: str) -> None:
    """Forget the counters of one kind that were not touched since `before`."""
    old = sign_in_failures.c.subject.startswith(prefix, autoescape=True) & (sign_in_failures.c.last_at < before)
    connection.execute(delete(sign_in_failures).where(old))
