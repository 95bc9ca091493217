"""Second factors of people (table `second_factors`): rows, and the audit entry of every change.

What codes are made of comes sealed, recovery codes come as digests: making and checking them is the business of
`dicom_node.desks.codes`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from dicom_node.record import audit, people
from dicom_node.record.database import now
from dicom_node.record.people import User
from dicom_node.record.sites import PeopleRefused
from dicom_node.record.tables import second_factors, users


@dataclass(frozen=True)
class Factor:
    """What is kept of somebody's second factor; `secret` is empty until a device was confirmed."""

    secret: str = field(repr=False)
    pending: str = field(repr=False)
    pending_session: int | None
    last_step: int
    recovery: tuple[str, ...] = field(repr=False)


def of(connection: Connection, user_id: int) -> Factor | None:
    """The second factor of an account, or the beginning of one."""
    row = connection.execute(select(second_factors).where(second_factors.c.user_id == user_id)).first()
    if row is None:
        return None
    return Factor(row.secret or "", row.pending or "", row.pending_session, row.last_step, tuple(row.recovery))


def set_pending(connection: Connection, user: User, sealed: str, session_id: int | None) -> None:
    """A device that is to be confirmed by a code; what is in force stays in force until then."""
    values = {"pending": sealed, "pending_session": session_id}
    mine = second_factors.c.user_id == user.id
    if connection.execute(update(second_factors).where(mine).values(**values)).rowcount == 0:
        connection.execute(insert(second_factors).values(user_id=user.id, last_step=0, recovery=[], **values))
    audit.append(connection, user.actor, "second-factor-begun", user=user.public_id)


def confirm(connection: Connection, user: User, step: int, recovery: Sequence[str], keep_session: int | None) -> None:
    """The pending device counts from now on, with its recovery codes; every session but `keep_session` ends."""
    mine = second_factors.c.user_id == user.id
    values = {"secret": second_factors.c.pending, "last_step": step, "recovery": list(recovery)}
    connection.execute(update(second_factors).where(mine).values(**values, pending=None, pending_session=None))
    connection.execute(update(users).where(users.c.id == user.id).values(second_factor_at=now()))
    people.end_sessions(connection, user.id, keep_session)
    audit.append(connection, user.actor, "second-factor-set", user=user.public_id)


def spend_step(connection: Connection, user_id: int, step: int) -> bool:
    """Take the code of a step of time; False when it, or one after it, was taken before."""
    mine = (second_factors.c.user_id == user_id) & (second_factors.c.last_step < step)
    return bool(connection.execute(update(second_factors).where(mine).values(last_step=step)).rowcount)


def spend_recovery(connection: Connection, user: User, digest: str) -> bool:
    """Take a recovery code, once; False when it is none of those that are left."""
    found = of(connection, user.id)
    known = () if found is None else found.recovery
    left = [one for one in known if not hmac.compare_digest(one, digest)]
    if len(left) == len(known):
        return False
    mine = second_factors.c.user_id == user.id
    connection.execute(update(second_factors).where(mine).values(recovery=left))
    audit.append(connection, user.actor, "recovery-code-used", user=user.public_id, left=len(left))
    return True


def reset(connection: Connection, actor: str, user: User) -> None:
    """Take somebody's second factor away, whose device is lost; her sessions end.

    Raises
    ------
    PeopleRefused
        If there is none, or it is that of the account that asks: a session that somebody left open shall not do without
        the device.
    """
    if user.actor == actor:
        raise PeopleRefused("second-factor-own", "one's own second factor is changed on the account page")
    if user.second_factor_at is None:
        raise PeopleRefused("second-factor-none", "this account has no second factor")
    remove(connection, actor, user)


def remove(connection: Connection, actor: str, user: User, *, keep_session: int | None = None) -> None:
    """No code is asked for any more; every session but `keep_session` ends."""
    connection.execute(delete(second_factors).where(second_factors.c.user_id == user.id))
    connection.execute(update(users).where(users.c.id == user.id).values(second_factor_at=None))
    people.end_sessions(connection, user.id, keep_session)
    action = "second-factor-removed" if actor == user.actor else "second-factor-reset"
    audit.append(connection, actor, action, user=user.public_id)
