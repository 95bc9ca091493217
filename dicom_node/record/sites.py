"""Sites: posts and hospitals whose studies, analyses and users are kept apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from dicom_node.record import audit
from dicom_node.record.database import now
from dicom_node.record.tables import analyses, sites

CHECKS = ("", "rut", "cedula-ec")
"""How the check digit of an identifier is verified; empty: it has none."""

_KEY = re.compile(r"^[a-z][a-z0-9-]{0,62}$")
_TYPE_KEYS = frozenset({"key", "title", "system", "issuer", "check"})


class PeopleRefused(ValueError):
    """What was asked of an account or a site cannot be.

    The text says why and what to do, and names no person; `reason` is its key, by which pages find their own words.
    """

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class Site:
    """A post or hospital; `identifier_types` as in the table."""

    id: int
    key: str
    title: str
    identifier_types: tuple[Mapping[str, str], ...]
    created_at: str
    closed_at: str | None


def add_site(
    connection: Connection, actor: str, *, key: str, title: str, identifier_types: Iterable[Mapping[str, str]] = ()
) -> Site:
    """Make a site.

    Raises
    ------
    PeopleRefused
        If its key is no short lower-case word or taken, or an identifier type is not described as it must be.
    """
    if not _KEY.fullmatch(key):
        raise PeopleRefused(
            "site-key-invalid", "a site's key has 1 to 63 characters of a-z, 0-9 and dash, and begins with a letter"
        )
    if site_of(connection, key) is not None:
        raise PeopleRefused("site-key-taken", f"there is a site {key} already, or there was: choose another key")
    types = [_identifier_type(given) for given in identifier_types]
    if len({kind["key"] for kind in types}) != len(types):
        raise PeopleRefused("identifier-key-twice", "two types of identifier have the same key: give each its own")
    values = {"key": key, "title": named(title), "identifier_types": types, "created_at": now()}
    connection.execute(insert(sites).values(**values))
    audit.append(connection, actor, "site-created", site=key)
    made = site_of(connection, key)
    assert made is not None
    return made


def site_of(connection: Connection, key: str) -> Site | None:
    """The site with this key, closed or not."""
    row = connection.execute(select(sites).where(sites.c.key == key)).first()
    return None if row is None else _site(row)


def all_sites(connection: Connection, *, only_open: bool = False) -> list[Site]:
    """Sites in the order in which they were made."""
    wanted = select(sites).order_by(sites.c.id)
    if only_open:
        wanted = wanted.where(sites.c.closed_at.is_(None))
    return [_site(row) for row in connection.execute(wanted)]


def only_site(connection: Connection) -> str | None:
    """The key of the site when there is exactly one that is open: then everything without a name of its own is its."""
    found = all_sites(connection, only_open=True)
    return found[0].key if len(found) == 1 else None


def of_study(connection: Connection, study_uid: str, of_sender: str | None) -> str | None:
    """Whose a new study is: of the site that asked for its analysis, of its sender's, or of the only one there is."""
    asked = connection.execute(select(analyses.c.site).where(analyses.c.study_uid == study_uid).limit(1)).scalar()
    return asked or of_sender or only_site(connection)


def close_site(connection: Connection, actor: str, key: str) -> None:
    """Close a site: nobody new is added and nothing new is its; what is there stays.

    Raises
    ------
    PeopleRefused
        If there is no open site with this key.
    """
    living = update(sites).where(sites.c.key == key, sites.c.closed_at.is_(None))
    if connection.execute(living.values(closed_at=now())).rowcount == 0:
        raise PeopleRefused("site-unknown", "no open site has this key: `ai-node sites list` shows them")
    audit.append(connection, actor, "site-closed", site=key)


def named(name: str) -> str:
    """A name of somebody or something, its spaces put in order.

    Raises
    ------
    PeopleRefused
    """
    called = " ".join(name.split())
    if not called or len(called) > 128 or not called.isprintable():
        raise PeopleRefused("name-invalid", "a name has 1 to 128 printable characters")
    return called


def _identifier_type(given: Mapping[str, str]) -> dict[str, str]:
    found = {key: str(given.get(key) or "") for key in sorted(_TYPE_KEYS)}
    if not set(given) <= _TYPE_KEYS or not _KEY.fullmatch(found["key"]) or found["check"] not in CHECKS:
        raise PeopleRefused(
            "identifier-type-invalid",
            "a type of identifier has key (a-z, 0-9, dash), title, system (URI), issuer and check, which is one of: "
            f"{', '.join(check or 'none' for check in CHECKS)}",
        )
    if not found["issuer"].strip():
        # whose number it is goes into every image: without it nobody could be identified by this type
        raise PeopleRefused(
            "identifier-issuer-missing", "a type of identifier has an issuer (Issuer of Patient ID, 0010,0021)"
        )
    found["title"] = named(found["title"] or found["key"])
    return found


def _site(row: Row[Any]) -> Site:
    values = dict(row._mapping)
    values["identifier_types"] = tuple(values["identifier_types"])
    return Site(**values)
