"""Accounts for tests: one of every role, at two sites, without the price of a real hash for each."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from dicom_node import passwords
from dicom_node.permissions import Role
from dicom_node.record import Database, people, sites
from dicom_node.record.people import User

PASSWORD = "cuatro gatos miran el volcan"
HERE, THERE = "osorno", "valdivia"


@cache
def password_hash() -> str:
    """The hash of `PASSWORD`, computed once."""
    return passwords.hash_of(PASSWORD)


def make_sites(database: Database) -> None:
    """Two sites."""
    with database.write() as connection:
        sites.add_site(
            connection,
            "test",
            key=HERE,
            title="Osorno",
            identifier_types=[{"key": "rut", "check": "rut", "issuer": "RUT-CL"}],
        )
        sites.add_site(connection, "test", key=THERE, title="Valdivia")


def make_user(
    database: Database, name: str, roles: Iterable[str], at: Iterable[str] = (HERE,), *, language: str = "en"
) -> User:
    """An account whose password is `PASSWORD` and whose address is made of its name."""
    with database.write() as connection:
        return people.add_user(
            connection,
            "test",
            email=f"{name}@hospital.example",
            name=name.title(),
            password_hash=password_hash(),
            roles=list(roles),
            sites=list(at),
            language=language,
        )


def make_everybody(database: Database) -> dict[str, User]:
    """An account of every role at the first site, by role; and a clinician and a specialist at the other one."""
    made = {role.value: make_user(database, role.value, [role]) for role in Role}
    for role in (Role.CLINICIAN, Role.SPECIALIST):
        made[f"{role}-there"] = make_user(database, f"{role}-there", [role], [THERE])
    return made
