"""The desk for people: signing in and out, passwords, sessions, accounts.

What the portal, the LUNA routes and the command line do with accounts, they do here; rows are `dicom_node.record`'s,
passwords `dicom_node.passwords`, patience `dicom_node.desks.backoff`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import structlog
from sqlalchemy import Connection

from dicom_node import passwords
from dicom_node.desks import backoff
from dicom_node.desks.codes import Codes
from dicom_node.desks.signing_in import Asked, SecondFactorNeeded, SignedIn, SignInRefused
from dicom_node.metrics import METRICS
from dicom_node.permissions import Person
from dicom_node.record import Database, audit, now, people, sessions
from dicom_node.record.people import User
from dicom_node.record.sessions import LUNA, PORTAL, SessionRow
from dicom_node.record.sites import PeopleRefused
from dicom_node.web_settings import PeopleSection

__all__ = ["LUNA", "PORTAL", "Asked", "People", "PeopleRefused", "SecondFactorNeeded", "SignInRefused", "SignedIn"]

_log = structlog.get_logger("people")
_DEVICE = re.compile(r"^[A-Za-z0-9_-]{43}$")


class People:
    """Accounts and sessions of this installation.

    Parameters
    ----------
    codes
        Second factors; without them nobody who has one signs in.
    """

    def __init__(self, settings: PeopleSection, database: Database, codes: Codes | None = None) -> None:
        self._settings = settings
        self._database = database
        self.codes = codes
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
        SecondFactorNeeded
            When the password is right and `asked` has no code of the second factor that the account has, or needs.
        """
        email = asked.email.strip().lower()
        attempt = self._counted(email, asked)
        with self._database.read() as connection:
            user = people.user_of_email(connection, email)
        is_right = passwords.is_right(user.password_hash if user else None, asked.password)
        if user is None or not is_right or not user.is_active:
            self._note_failure(attempt, user, kind)
            raise SignInRefused
        if user.second_factor_at is None:
            if kind == LUNA and self._needs_factor(user):
                raise SecondFactorNeeded(is_set_up=False)
            return self._begin(user, attempt, asked, kind, life)
        half = secrets.token_urlsafe(32) if kind == PORTAL and not asked.code else ""
        with self._database.write() as connection:
            backoff.set_aside(connection, attempt)
            if half:
                sessions.open_half(connection, user, half)
        if not asked.code:
            raise SecondFactorNeeded(half)
        return self._by_code(user, asked, kind, life)

    def second_step(self, half: str, asked: Asked) -> SignedIn | None:
        """Begin the session for which the password was right a moment ago, with a code; None: it was too long ago.

        Parameters
        ----------
        asked
            Its address and password are not looked at any more.

        Raises
        ------
        SignInRefused
        """
        with self._database.read() as connection:
            user = sessions.user_of_half(connection, half)
        if user is None:
            return None
        made = self._by_code(user, asked, PORTAL, None)
        with self._database.write() as connection:
            sessions.spend_half(connection, half)
        return made

    def _by_code(self, user: User, asked: Asked, kind: str, life: timedelta | None) -> SignedIn:
        attempt = self._counted(user.email, asked, is_code=True)
        if not self._takes(user, asked.code):
            self._note_failure(attempt, user, kind, "second-factor")
            raise SignInRefused
        return self._begin(user, attempt, asked, kind, life)

    def _takes(self, user: User, code: str) -> bool:
        if self.codes is None:
            return False
        with self._database.write() as connection:
            return self.codes.take(connection, user, code)

    def _counted(self, email: str, asked: Asked, *, is_code: bool = False) -> backoff.Attempt:
        try:
            with self._database.write() as connection:
                return backoff.begin(connection, email, asked.address, asked.device, is_code=is_code)
        except backoff.TooSoon as soon:
            METRICS.count("auth_failures_total", kind="back-off")
            raise SignInRefused(soon.wait_s) from None

    def _begin(self, user: User, attempt: backoff.Attempt, asked: Asked, kind: str, life: timedelta | None) -> SignedIn:
        """Open the session, unless the account is not the one any more that was proved."""
        device = ""
        if kind == PORTAL:
            device = asked.device if _DEVICE.fullmatch(asked.device) else secrets.token_urlsafe(32)
        with self._database.write() as connection:
            now_is = people.user_of_id(connection, user.id)
            if now_is != replace(user, signed_in_at=None if now_is is None else now_is.signed_in_at):
                raise SignInRefused  # disabled, or another password, role or second factor, since it was looked at
            backoff.succeeded(connection, attempt, user.email, device)
            person, secret = self._opened(connection, user, kind, life, asked.agent)
        if asked.password and passwords.is_outdated(user.password_hash):
            newer = passwords.hash_of(asked.password)
            with self._database.write() as connection:
                people.rehash(connection, user, newer)
        return SignedIn(person, secret, device)

    def _needs_factor(self, of: User | Person) -> bool:
        has = of.has_second_factor if isinstance(of, Person) else of.second_factor_at is not None
        return self.codes is not None and not has and self.codes.is_required(of.roles)

    def open_session(self, user: User, kind: str, life: timedelta | None = None, agent: str = "") -> tuple[Person, str]:
        """Begin a session of somebody who has proved who she is; its secret is new, always."""
        with self._database.write() as connection:
            return self._opened(connection, user, kind, life, agent)

    def _opened(
        self, connection: Connection, user: User, kind: str, life: timedelta | None, agent: str
    ) -> tuple[Person, str]:
        secret = secrets.token_urlsafe(32)
        chosen = life or timedelta(hours=self._settings.session_h)
        person = sessions.open_session(connection, user, secret, kind=kind, life=chosen, agent=agent)
        return self._held(person), secret

    def _held(self, person: Person) -> Person:
        """Somebody who has to set up a second factor first is held to that."""
        return replace(person, must_add_second_factor=True) if self._needs_factor(person) else person

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
        return self._held(person)

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
        attempt, user = self._proved(person, old)
        passwords.check(new, user.email, user.name)
        made = passwords.hash_of(new)
        with self._database.write() as connection:
            if self._user(connection, person).password_hash != user.password_hash:
                raise SignInRefused  # set by a link meanwhile, by whoever is not sure of this session any more
            backoff.succeeded(connection, attempt, person.email, "")
            people.set_password(connection, person.actor, user, made, keep_session=person.session_id)

    def prove(self, person: Person, password: str, code: str) -> None:
        """Somebody who is signed in shows once more that it is she: by her password and, where she has one, a code.

        Raises
        ------
        SignInRefused
        """
        attempt, user = self._proved(person, password)
        if user.second_factor_at is not None and not self._takes(user, code):
            self._note_failure(attempt, user, PORTAL, "second-factor")
            raise SignInRefused
        with self._database.write() as connection:
            backoff.succeeded(connection, attempt, person.email, "")

    def _proved(self, person: Person, password: str) -> tuple[backoff.Attempt, User]:
        try:
            with self._database.write() as connection:
                attempt = backoff.begin(connection, person.email, "", f"session {person.session_id}", is_known=True)
                user = self._user(connection, person)
        except backoff.TooSoon as soon:
            raise SignInRefused(soon.wait_s) from None
        if not passwords.is_right(user.password_hash, password):
            self._note_failure(attempt, user, PORTAL)
            raise SignInRefused
        return attempt, user

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

    def _note_failure(self, attempt: backoff.Attempt, user: User | None, kind: str, what: str = "password") -> None:
        """An audit entry and a line in the log, the same whether the account exists or not."""
        METRICS.count("auth_failures_total", kind=what)
        _log.warning("sign-in.refused", kind=kind)
        with self._database.write() as connection:
            who = user.public_id if user else ""
            more = {} if what == "password" else {"wrong": what}
            audit.append(connection, "nobody", "sign-in-refused", user=who, account=attempt.account, kind=kind, **more)

    @staticmethod
    def _user(connection: Connection, person: Person) -> User:
        found = people.user_of_id(connection, person.user_id)
        if found is None or not found.is_active:
            raise SignInRefused
        return found
