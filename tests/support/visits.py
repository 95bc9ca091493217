"""Somebody who is signed in, for tests of pages: an account, a session, and an HTTP client that is her browser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.testclient import TestClient

from dicom_node.desks.people import People
from dicom_node.permissions import Person, Role
from dicom_node.record import Database, people
from dicom_node.record.sessions import PORTAL
from dicom_node.record.sites import add_site, site_of
from dicom_node.settings import Settings
from portal import sessions

ORIGIN = "http://localhost"


@dataclass
class Visit:
    """One browser with one session."""

    client: httpx.Client
    person: Person
    secret: str
    origin: str = ORIGIN

    @property
    def csrf(self) -> str:
        return sessions.csrf_of(self.secret)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, headers={"Accept": "text/html"}, follow_redirects=False, **options)

    def post(self, path: str, *, guarded: bool = True, **fields: str) -> Any:
        data = {**fields, **({"csrf": self.csrf} if guarded else {})}
        headers = {"Accept": "text/html", "Origin": self.origin}
        return self.client.post(path, data=data, headers=headers, follow_redirects=False)

    def follow(self, answer: Any) -> Any:
        """The page that an answer leads to."""
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"])


def visit(
    app: Any,
    settings: Settings,
    database: Database,
    *roles: Role,
    sites: Iterable[str] = (),
    language: str = "en",
    name: str = "Ana Soto",
    address: str = "",
) -> Visit:
    """Somebody new with these roles (sites are made where they are missing), signed in.

    Parameters
    ----------
    address
        Where the application is served; empty: in this process.
    """
    desk = People(settings.people, database)
    with database.write() as connection:
        for key in sites:
            if site_of(connection, key) is None:
                add_site(connection, "test", key=key, title=key.title())
        number = len(people.all_users(connection))
        user = people.add_user(
            connection,
            "test",
            email=f"u{number}@clinic.example",
            name=name,
            password_hash="none",
            roles=[role.value for role in roles],
            sites=list(sites),
            language=language,
        )
    person, secret = desk.open_session(user, PORTAL)
    client = httpx.Client(base_url=address, timeout=60.0) if address else TestClient(app, base_url=ORIGIN)
    client.cookies.set(sessions.SESSION, secret)
    return Visit(client, person, secret, address or ORIGIN)


def words(html: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())
