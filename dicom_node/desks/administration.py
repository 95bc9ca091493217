"""The administrator's desk: accounts, sites, keys of programs, the audit log, and how long things are kept.

No administrator ever knows a password: an account is made without one, and a link that works once lets its owner set
it.  Pictures and patients are not to be had here; studies go by their opaque ids.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from dicom_node.desks.people import People
from dicom_node.desks.retention import RetentionDesk
from dicom_node.record import Database, audit, audit_search, keys, people, second_factors, sites
from dicom_node.record.audit_search import Wanted
from dicom_node.record.keys import KeyRow
from dicom_node.record.people import User
from dicom_node.record.sites import PeopleRefused, Site
from dicom_node.settings import Settings

PAGE = 100
EXPORTED = ("id", "at", "actor", "action", "study", "detail", "previous_sha256", "sha256")


@dataclass(frozen=True)
class AuditPage:
    """Some entries of the log, newest first, and the names of the accounts in them by public id."""

    entries: list[dict[str, Any]]
    names: Mapping[str, str]
    older: int | None
    """Where the next page begins; None at the end."""


@dataclass(frozen=True)
class Kept:
    """How long something is kept: `hours`, or None: as long as nobody deletes it; `setting` says where that is set."""

    what: str
    hours: float | None
    setting: str = ""


class Administration:
    """Accounts, sites and keys of this installation."""

    def __init__(self, settings: Settings, database: Database, desk: People) -> None:
        self._settings = settings
        self._database = database
        self._people = desk
        self.retention = RetentionDesk(settings, database)

    def names(self) -> dict[str, str]:
        """Names of accounts by their public ids."""
        return {user.public_id: user.name for user in self.users()}

    # -- accounts

    def users(self) -> list[User]:
        """Every account, the oldest first."""
        with self._database.read() as connection:
            return people.all_users(connection)

    def user(self, public_id: str) -> User | None:
        """One account."""
        with self._database.read() as connection:
            return people.user_of_public_id(connection, public_id)

    def add_user(
        self, actor: str, *, email: str, name: str, roles: Iterable[str], sites: Iterable[str], language: str
    ) -> tuple[User, str]:
        """Make an account, and the token with which its owner sets her password once.

        Raises
        ------
        PeopleRefused
        """
        made = self._people.create(actor, email=email, name=name, roles=roles, sites=sites, language=language)
        return made, self._people.password_token(actor, made.email)

    def password_token(self, actor: str, user: User) -> str:
        """Another token; those before it are worth nothing any more.

        Raises
        ------
        PeopleRefused
            If the account is disabled.
        """
        return self._people.password_token(actor, user.email)

    def reset_second_factor(self, actor: str, user: User) -> None:
        """Take somebody's second factor away, whose device is lost; her sessions end.

        Raises
        ------
        PeopleRefused
            If there is none, or it is her own.
        """
        with self._database.write() as connection:
            second_factors.reset(connection, actor, self._again(connection, user))

    def set_roles(self, actor: str, user: User, roles: Iterable[str], sites: Iterable[str]) -> None:
        """Give an account other roles and sites; whoever is signed in with it has to do so again.

        Raises
        ------
        PeopleRefused
        """
        with self._database.write() as connection:
            people.set_roles(connection, actor, self._again(connection, user), roles, sites)

    def set_active(self, actor: str, user: User, is_active: bool) -> None:
        """Enable an account, or disable it and end its sessions.

        Raises
        ------
        PeopleRefused
        """
        with self._database.write() as connection:
            state = people.ACTIVE if is_active else people.DISABLED
            people.set_state(connection, actor, self._again(connection, user), state)

    @staticmethod
    def _again(connection: Connection, user: User) -> User:
        """The account as it stands inside this transaction, so that two administrators do not undo each other."""
        found = people.user_of_id(connection, user.id)
        if found is None:
            raise PeopleRefused("account-unknown", "there is no such account any more")
        return found

    # -- sites

    def sites(self, *, only_open: bool = False) -> list[Site]:
        """Sites in the order in which they were made."""
        with self._database.read() as connection:
            return sites.all_sites(connection, only_open=only_open)

    def add_site(self, actor: str, key: str, title: str, identifier_types: Iterable[Mapping[str, str]]) -> None:
        """Make a site.

        Raises
        ------
        PeopleRefused
        """
        with self._database.write() as connection:
            sites.add_site(connection, actor, key=key, title=title, identifier_types=identifier_types)

    def close_site(self, actor: str, key: str) -> None:
        """Close a site; what is there stays.

        Raises
        ------
        PeopleRefused
        """
        with self._database.write() as connection:
            sites.close_site(connection, actor, key)

    # -- keys

    def keys(self) -> list[KeyRow]:
        """Keys, the newest last."""
        return keys.rows(self._database)

    def add_key(self, actor: str, name: str, scopes: Iterable[str], account: str) -> str:
        """Make a key; it can be seen this once.

        Raises
        ------
        KeyRefused
        """
        return keys.create(self._database, name, scopes, actor=actor, account=account)

    def revoke_key(self, actor: str, name: str) -> None:
        """End a key at once.

        Raises
        ------
        KeyRefused
        """
        keys.revoke(self._database, name, actor=actor)

    # -- audit

    def audit_page(self, actor: str, wanted: Wanted, before: int | None = None) -> AuditPage:
        """A page of the log; that somebody read it is an entry too, which the next page shows."""
        with self._database.read() as connection:  # a long search holds up nobody who stores an image
            rows = audit_search.page(connection, wanted, before, PAGE + 1)
            names = {user.public_id: user.name for user in people.all_users(connection)}
        with self._database.write() as connection:
            audit.append(connection, actor, "audit-read", filter=_given(wanted))
        shown = rows[:PAGE]
        return AuditPage(shown, names, int(shown[-1]["id"]) if len(rows) > PAGE else None)

    def audit_words(self) -> tuple[list[str], list[str]]:
        """Actors and actions that the log knows."""
        with self._database.read() as connection:
            return audit_search.words(connection)

    def audit_verdict(self) -> tuple[int, str, str | None]:
        """Entries, digest of the newest, and where the chain breaks (None: nowhere)."""
        with self._database.read() as connection:
            return (*audit.head(connection), audit.verify(connection))

    def audit_export(self, actor: str, wanted: Wanted, reason: str) -> Iterator[str]:
        """The wanted entries as CSV, a line at a time; that somebody took them stands in the log before the first.

        With the digests, so that what was taken can be held against the log later.
        """
        with self._database.write() as connection:
            audit.append(connection, actor, "audit-exported", reason=reason, filter=_given(wanted))
        return self._lines(wanted)

    def _lines(self, wanted: Wanted) -> Iterator[str]:
        yield _csv_line(EXPORTED)
        with self._database.read() as connection:
            for row in audit_search.each(connection, wanted):
                told = {**row, "detail": json.dumps(row["detail"], sort_keys=True, ensure_ascii=False)}
                yield _csv_line(told[key] for key in EXPORTED)

    # -- how long things are kept

    def kept(self) -> list[Kept]:
        """How long the node keeps what no rule of retention is about, as its settings say."""
        api, who = self._settings.api, self._settings.people
        return [
            Kept("request_uploads", api.keep_uploads_h, "api.keep_uploads_h"),
            Kept("request_results", api.keep_results_h, "api.keep_results_h"),
            Kept("sessions", who.session_h, "people.session_h"),
            Kept("password_tokens", who.password_token_h, "people.password_token_h"),
            Kept("records", None),
            Kept("audit", None),
        ]


def _given(wanted: Wanted) -> dict[str, Any]:
    """The filters that somebody chose."""
    return {key: value for key, value in asdict(wanted).items() if value}


def _csv_line(cells: Iterable[Any]) -> str:
    made = io.StringIO()
    csv.writer(made, lineterminator="\r\n").writerow(["" if cell is None else cell for cell in cells])
    return made.getvalue()
