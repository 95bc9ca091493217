"""Users and one-time password tokens: rows, and the audit entry of every change.

Every function takes a connection; what it changes and what is audited are one transaction.  Passwords come as hashes
and tokens as digests: what they are made of is the business of `dicom_node.desks.people`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from dicom_node.permissions import OF_A_SITE, Person, Role
from dicom_node.record import audit
from dicom_node.record import sites as sites_of_record
from dicom_node.record.database import now
from dicom_node.record.sites import PeopleRefused, named
from dicom_node.record.tables import password_tokens, sessions, users

ACTIVE, DISABLED = "active", "disabled"
LANGUAGES = ("en", "es")

_EMAIL = re.compile(r"^[^@\s\x00-\x1f]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,187}[a-z0-9])?$")


@dataclass(frozen=True)
class User:
    """An account."""

    id: int
    public_id: str
    email: str
    name: str
    password_hash: str = field(repr=False)
    roles: frozenset[Role]
    sites: tuple[str, ...]
    language: str
    state: str
    must_change_password: bool
    created_at: str
    password_changed_at: str
    signed_in_at: str | None
    second_factor_at: str | None

    @property
    def is_active(self) -> bool:
        return self.state == ACTIVE

    @property
    def actor(self) -> str:
        """Its name in the audit log."""
        return f"user:{self.public_id}"

    def person(self, session_id: int | None, kind: str) -> Person:
        """The account as somebody who is known by a session or a key."""
        return Person(
            user_id=self.id,
            public_id=self.public_id,
            name=self.name,
            email=self.email,
            roles=self.roles,
            sites=self.sites,
            language=self.language,
            session_id=session_id,
            kind=kind,
            must_change_password=self.must_change_password,
            has_second_factor=self.second_factor_at is not None,
        )


def normal_email(email: str) -> str:
    """An e-mail address as accounts are found by it.

    Raises
    ------
    PeopleRefused
        If it is none.
    """
    spelled = email.strip().lower()
    if not _EMAIL.fullmatch(spelled) or ".." in spelled:
        raise PeopleRefused("email-invalid", "expected an e-mail address such as name@hospital.example")
    return spelled


# -- users


def add_user(
    connection: Connection,
    actor: str,
    *,
    email: str,
    name: str,
    password_hash: str,
    roles: Iterable[str],
    sites: Iterable[str] = (),
    language: str = "en",
    must_change_password: bool = False,
) -> User:
    """Make an account.

    Raises
    ------
    PeopleRefused
        If the address is none or taken, the name is empty, or roles, sites and language do not fit.
    """
    address, called = normal_email(email), named(name)
    wanted, places = _fitting(connection, roles, sites)
    _check_language(language)
    if user_of_email(connection, address) is not None:
        raise PeopleRefused(
            "email-taken", "there is an account with this e-mail address already: `ai-node users list` shows it"
        )
    moment = now()
    public_id = secrets.token_hex(16)
    connection.execute(
        insert(users).values(
            public_id=public_id,
            email=address,
            name=called,
            password_hash=password_hash,
            roles=wanted,
            sites=places,
            language=language,
            state=ACTIVE,
            must_change_password=must_change_password,
            created_at=moment,
            password_changed_at=moment,
        )
    )
    audit.append(connection, actor, "user-created", user=public_id, roles=wanted, sites=places)
    made = user_of_public_id(connection, public_id)
    assert made is not None
    return made


def user_of_id(connection: Connection, user_id: int) -> User | None:
    """The account of this row."""
    return _one(connection.execute(select(users).where(users.c.id == user_id)).first())


def user_of_public_id(connection: Connection, public_id: str) -> User | None:
    """The account of this public id."""
    return _one(connection.execute(select(users).where(users.c.public_id == public_id)).first())


def user_of_email(connection: Connection, email: str) -> User | None:
    """The account of this address, in its normal spelling."""
    return _one(connection.execute(select(users).where(users.c.email == email)).first())


def account(connection: Connection, email: str) -> User:
    """The account of an address as somebody types it.

    Raises
    ------
    PeopleRefused
        If there is none.
    """
    found = user_of_email(connection, normal_email(email))
    if found is None:
        raise PeopleRefused("account-unknown", "no account has this e-mail address: `ai-node users list` shows them")
    return found


def all_users(connection: Connection) -> list[User]:
    """Every account, the oldest first."""
    return [_user(row) for row in connection.execute(select(users).order_by(users.c.id))]


def set_roles(
    connection: Connection, actor: str, user: User, roles: Iterable[str], sites: Iterable[str] | None = None
) -> None:
    """Give an account other roles, and other sites; whoever is signed in with it has to do so again.

    Raises
    ------
    PeopleRefused
        If they do not fit, or nobody would administrate the node any more.
    """
    wanted, places = _fitting(connection, roles, user.sites if sites is None else sites, user.sites)
    if Role.ADMINISTRATOR in user.roles and Role.ADMINISTRATOR not in wanted:
        _keep_an_administrator(connection, user)
    connection.execute(update(users).where(users.c.id == user.id).values(roles=wanted, sites=places))
    end_sessions(connection, user.id)
    audit.append(
        connection, actor, "user-roles-changed", user=user.public_id, roles=wanted, sites=places,
        before={"roles": sorted(user.roles), "sites": list(user.sites)},
    )  # fmt: skip


def set_state(connection: Connection, actor: str, user: User, state: str) -> None:
    """Disable an account, its sessions and its keys, or enable it again.

    Raises
    ------
    PeopleRefused
        If nobody would administrate the node any more.
    """
    if state == DISABLED:
        _keep_an_administrator(connection, user)
        end_sessions(connection, user.id)
        revoke_password_tokens(connection, user.id)
    connection.execute(update(users).where(users.c.id == user.id).values(state=state))
    audit.append(connection, actor, f"user-{'disabled' if state == DISABLED else 'enabled'}", user=user.public_id)


def set_password(
    connection: Connection,
    actor: str,
    user: User,
    password_hash: str,
    *,
    keep_session: int | None = None,
    must_change: bool = False,
) -> None:
    """Give an account another password; every session but `keep_session` ends, and every token for a password."""
    values = {
        "password_hash": password_hash,
        "password_changed_at": now(),
        "must_change_password": must_change,
    }
    connection.execute(update(users).where(users.c.id == user.id).values(**values))
    end_sessions(connection, user.id, keep_session)
    revoke_password_tokens(connection, user.id)
    audit.append(connection, actor, "password-changed", user=user.public_id)


def rehash(connection: Connection, user: User, password_hash: str) -> None:
    """Keep the same password by a newer hash; no event, because nothing changed for anybody."""
    still = (users.c.id == user.id) & (users.c.password_hash == user.password_hash)
    connection.execute(update(users).where(still).values(password_hash=password_hash))


def set_profile(connection: Connection, actor: str, user: User, *, name: str, language: str) -> None:
    """What somebody may change of her own account without being asked for the password.

    Raises
    ------
    PeopleRefused
    """
    _check_language(language)
    connection.execute(update(users).where(users.c.id == user.id).values(name=named(name), language=language))
    audit.append(connection, actor, "user-profile-changed", user=user.public_id)


def note_sign_in(connection: Connection, user: User) -> None:
    """Remember that somebody signed in."""
    connection.execute(update(users).where(users.c.id == user.id).values(signed_in_at=now()))


def end_sessions(connection: Connection, user_id: int, but: int | None = None) -> None:
    """End every session of an account, or every other one."""
    living = update(sessions).where(sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None))
    if but is not None:
        living = living.where(sessions.c.id != but)
    connection.execute(living.values(revoked_at=now()))


# -- one-time tokens for a password


def add_password_token(connection: Connection, actor: str, user: User, digest: str, expires_at: str) -> None:
    """A new token; those given before are worth nothing any more."""
    revoke_password_tokens(connection, user.id)
    connection.execute(
        insert(password_tokens).values(user_id=user.id, token_sha256=digest, created_at=now(), expires_at=expires_at)
    )
    audit.append(connection, actor, "password-token-made", user=user.public_id, expires_at=expires_at)


def user_of_token(connection: Connection, digest: str) -> User | None:
    """Whose password may be set with this token; None when it is not good."""
    row = connection.execute(select(password_tokens.c.user_id).where(_is_good(digest))).first()
    found = user_of_id(connection, row.user_id) if row is not None else None
    return found if found is not None and found.is_active else None


def spend_password_token(connection: Connection, digest: str) -> User | None:
    """The same, and the token is spent with the question."""
    found = user_of_token(connection, digest)
    spending = update(password_tokens).where(_is_good(digest)).values(used_at=now())
    return found if connection.execute(spending).rowcount == 1 else None


def _is_good(digest: str) -> ColumnElement[bool]:
    return (
        (password_tokens.c.token_sha256 == digest)
        & password_tokens.c.used_at.is_(None)
        & (password_tokens.c.expires_at > now())
    )


def revoke_password_tokens(connection: Connection, user_id: int) -> None:
    """Make every unspent token of an account worthless."""
    open_ones = (password_tokens.c.user_id == user_id) & password_tokens.c.used_at.is_(None)
    connection.execute(update(password_tokens).where(open_ones).values(used_at=now()))


# -- rules


def _fitting(
    connection: Connection, roles: Iterable[str], wanted: Iterable[str], had: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Roles and sites, sorted, when they exist and fit each other; a site that was closed since may be kept."""
    known = {role.value for role in Role}
    asked = sorted(set(roles))
    if not asked or not set(asked) <= known:
        raise PeopleRefused("roles-missing", f"an account needs one or more roles of: {', '.join(sorted(known))}")
    places = sorted(set(wanted))
    open_ones = {site.key for site in sites_of_record.all_sites(connection, only_open=True)}
    if not set(places) <= open_ones | set(had):
        raise PeopleRefused(
            "site-unknown", f"unknown or closed site; open ones: {', '.join(sorted(open_ones)) or 'none'}"
        )
    if not places and OF_A_SITE & {Role(role) for role in asked}:
        raise PeopleRefused(
            "site-needed",
            "clinicians and specialists belong to one or more sites: name one; `ai-node sites create` makes it",
        )
    return asked, places


def _keep_an_administrator(connection: Connection, user: User) -> None:
    others = (
        one for one in all_users(connection) if one.id != user.id and one.is_active and Role.ADMINISTRATOR in one.roles
    )
    if Role.ADMINISTRATOR in user.roles and next(others, None) is None:
        raise PeopleRefused("last-administrator", "this is the last active administrator: make another one first")


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise PeopleRefused("language-unknown", f"the language is one of: {', '.join(LANGUAGES)}")


def _one(row: Row[Any] | None) -> User | None:
    return None if row is None else _user(row)


def _user(row: Row[Any]) -> User:
    values = dict(row._mapping)
    values["roles"] = frozenset(Role(role) for role in values["roles"])
    values["sites"] = tuple(values["sites"])
    return User(**values)
