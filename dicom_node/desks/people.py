"""The desk for people: signing in and out, passwords, sessions, accounts.

What the portal, the LUNA routes and the command line do with accounts, they do here; rows are `dicom_node.record`'s,
passwords `dicom_node.passwords`, patience `dicom_node.desks.backoff`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import Connection

from dicom_node import passwords
from dicom_node.desks import backoff
from dicom_node.metrics import METRICS
from dicom_node.permissions import Person
from dicom_node.record import Database, audit, now, people, sessions
from dicom_node.record.people import User
from dicom_node.record.sessions import LUNA, PORTAL, SessionRow
from dicom_node.record.sites import PeopleRefused
from dicom_node.settings import PeopleSection

__all__ = ["LUNA", "PORTAL", "Asked", "People", "PeopleRefused", "SignInRefused", "SignedIn"]

_log = structlog.get_logger("people")
_DEVICE = re.compile(r"^[A-Za-z0-9_-]{43}$")


class SignInRefused(Exception):
    """No session: address or password is wrong (nobody is told which), or it is too soon to try again.

    Attributes
    ----------
    wait_s
        Seconds until the next attempt is looked at; 0 when it was looked at and was wrong.
    """

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__("signing in was refused")


@dataclass(frozen=True)
class Asked:
    """Somebody asks to be signed in.

    Attributes
    ----------
    address, agent
        From where, and with what program, as it says itself.
    device
        What this browser keeps from an earlier success, if anything.
    """

    email: str
    password: str
    address: str = ""
    agent: str = ""
    device: str = ""


@dataclass(frozen=True)
class SignedIn:
    """Who was signed in; the secret of her session, and what her browser keeps to be known by (portal only)."""

    person: Person
    secret: str
    device: str = ""


class People:
    """Accounts and sessions of this installation."""

    def __init__(self, settings: PeopleSection, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._idle = timedelta(minutes=settings.idle_min)

    # -- sessions

    def sign_in(self, asked: Asked, kind: str = PORTAL, life: timedelta | None = None) -> SignedIn:
        """Begin a session with address and password.

        Parameters
        ----------
        life
            How long it lasts at most; default ``people.session_h``.

        Raises
        ------
        SignInRefused
        """
        email = asked.email.strip().lower()
        try:
            with self._database.write() as connection:
                attempt = backoff.begin(connection, email, asked.address, asked.device)
                user = people.user_of_email(connection, email)
        except backoff.TooSoon as soon:
            METRICS.count("auth_failures_total", kind="back-off")
            raise SignInRefused(soon.wait_s) from None
        is_right = passwords.is_right(user.password_hash if user else None, asked.password)
        if user is None or not is_right or not user.is_active:
            self._note_failure(attempt, user, kind)
            raise SignInRefused
        device = ""
        if kind == PORTAL:
            device = asked.device if _DEVICE.fullmatch(asked.device) else secrets.token_urlsafe(32)
        with self._database.write() as connection:
            backoff.succeeded(connection, attempt, email, device)
        if passwords.is_outdated(user.password_hash):
            newer = passwords.hash_of(asked.password)
            with self._database.write() as connection:
                people.rehash(connection, user, newer)
        person, secret = self.open_session(user, kind, life, asked.agent)
        return SignedIn(person, secret, device)

    def open_session(self, user: User, kind: str, life: timedelta | None = None, agent: str = "") -> tuple[Person, str]:
        """Begin a session of somebody who has proved who she is; its secret is new, always."""
        secret = secrets.token_urlsafe(32)
        chosen = life or timedelta(hours=self._settings.session_h)
        with self._database.write() as connection:
            person = sessions.open_session(connection, user, secret, kind=kind, life=chosen, agent=agent)
        return person, secret

    def identify(self, secret: str, kind: str = PORTAL, *, is_background: bool = False) -> Person | None:
        """Whose living session this is; using it keeps it from ending for want of use.

        Parameters
        ----------
        is_background
            The page asks by itself, nobody touched anything: that is no use.
        """
        idle = self._idle if kind == PORTAL else None
        with self._database.read() as connection:
            found = sessions.find(connection, secret, kind=kind, idle=idle)
        if found is None:
            return None
        person, is_due = found
        if is_due and not is_background and person.session_id is not None:
            with self._database.write() as connection:
                sessions.touch(connection, person.session_id)
        return person

    def sign_out(self, person: Person) -> None:
        """End the session that somebody is known by."""
        if person.session_id is not None:
            self.end_session(person, person.session_id)

    def end_session(self, person: Person, session_id: int) -> bool:
        """End one of somebody's own sessions; False when it is not hers, or over."""
        with self._database.write() as connection:
            return sessions.end(connection, person.actor, person.user_id, session_id)

    def sessions_of(self, person: Person) -> list[SessionRow]:
        """Where somebody is signed in."""
        with self._database.read() as connection:
            return sessions.living(connection, person.user_id, self._idle)

    # -- passwords

    def change_password(self, person: Person, old: str, new: str) -> None:
        """Somebody changes her own password; her other sessions end.

        Raises
        ------
        SignInRefused
            If the old one is wrong: counted like any other wrong one.
        PasswordRefused
        """
        try:
            with self._database.write() as connection:
                attempt = backoff.begin(connection, person.email, "", f"session {person.session_id}", is_known=True)
                user = self._user(connection, person)
        except backoff.TooSoon as soon:
            raise SignInRefused(soon.wait_s) from None
        if not passwords.is_right(user.password_hash, old):
            self._note_failure(attempt, user, PORTAL)
            raise SignInRefused
        passwords.check(new, user.email, user.name)
        made = passwords.hash_of(new)
        with self._database.write() as connection:
            backoff.succeeded(connection, attempt, person.email, "")
            people.set_password(connection, person.actor, user, made, keep_session=person.session_id)

    def password_token(self, actor: str, email: str) -> str:
        """A one-time token with which the password of an account can be set; shown this once.

        Raises
        ------
        PeopleRefused
            If there is no such active account.
        """
        token = secrets.token_urlsafe(32)
        with self._database.write() as connection:
            user = people.user_of_email(connection, people.normal_email(email))
            if user is None or not user.is_active:
                raise PeopleRefused("account-unknown", "no such active account: `ai-node users list` shows them")
            until = sessions.later(now(), timedelta(hours=self._settings.password_token_h))
            people.add_password_token(connection, actor, user, sessions.digest(token), until)
        return token

    def set_password(self, token: str, new: str) -> User:
        """Set a password with a one-time token.

        Raises
        ------
        SignInRefused
            If the token is not good: unknown, spent, or too old.
        PasswordRefused
            The token is not spent then.
        """
        spent = sessions.digest(token)
        with self._database.read() as connection:
            user = people.user_of_token(connection, spent)
        if user is not None:  # before the hash, so that strangers cannot make the node compute any
            passwords.check(new, user.email, user.name)
            made = passwords.hash_of(new)
            with self._database.write() as connection:
                user = people.spend_password_token(connection, spent)
                if user is not None:
                    people.set_password(connection, user.actor, user, made)
        if user is None:
            METRICS.count("auth_failures_total", kind="password")
            raise SignInRefused
        return user

    # -- accounts

    def create(
        self,
        actor: str,
        *,
        email: str,
        name: str,
        roles: Iterable[str],
        sites: Iterable[str] = (),
        language: str = "en",
        password: str | None = None,
        must_change_password: bool = False,
    ) -> User:
        """Make an account; without a password nobody signs in with it before one was set by `password_token`.

        Raises
        ------
        PeopleRefused, PasswordRefused
        """
        if password is not None:
            passwords.check(password, email, name)
        made = passwords.hash_of(password or secrets.token_urlsafe(32))
        with self._database.write() as connection:
            return people.add_user(
                connection, actor, email=email, name=name, password_hash=made, roles=roles, sites=sites,
                language=language, must_change_password=must_change_password,
            )  # fmt: skip

    def set_profile(self, person: Person, *, name: str, language: str) -> None:
        """Somebody changes her own name or language.

        Raises
        ------
        PeopleRefused
        """
        with self._database.write() as connection:
            user = self._user(connection, person)
            people.set_profile(connection, person.actor, user, name=name, language=language)

    def _note_failure(self, attempt: backoff.Attempt, user: User | None, kind: str) -> None:
        """An audit entry and a line in the log, the same whether the account exists or not."""
        METRICS.count("auth_failures_total", kind="password")
        _log.warning("sign-in.refused", kind=kind)
        with self._database.write() as connection:
            who = user.public_id if user else ""
            audit.append(connection, "nobody", "sign-in-refused", user=who, account=attempt.account, kind=kind)

    @staticmethod
    def _user(connection: Connection, person: Person) -> User:
        found = people.user_of_id(connection, person.user_id)
        if found is None or not found.is_active:
            raise SignInRefused
        return found
