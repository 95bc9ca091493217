"""What changes an account while a slow hash is computed counts: nobody gets in by what was true a moment before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node import passwords
from dicom_node.desks.people import LUNA, PORTAL, Asked, People, SignInRefused
from dicom_node.permissions import Role
from dicom_node.record import Database, people, tables
from dicom_node.web_settings import PeopleSection
from tests.support.people import HERE, PASSWORD, make_sites, make_user

pytestmark = pytest.mark.component

EVA, NEW, THIRD = "eva@hospital.example", "tres perros duermen junto al lago", "siete gatos cruzan el puente viejo"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    make_sites(made)
    make_user(made, "eva", [Role.CLINICIAN])
    make_user(made, "root", [Role.ADMINISTRATOR], [])
    yield made
    made.close()


@pytest.fixture
def desk(database: Database) -> People:
    return People(PeopleSection(), database)


def _disabled(desk: People, database: Database) -> None:
    with database.write() as connection:
        people.set_state(connection, "test", people.account(connection, EVA), people.DISABLED)


def _enabled(database: Database) -> None:
    with database.write() as connection:
        people.set_state(connection, "test", people.account(connection, EVA), people.ACTIVE)


def _other_password(desk: People, database: Database) -> None:
    desk.set_password(desk.password_token("test", EVA), NEW)


def _other_roles(desk: People, database: Database) -> None:
    with database.write() as connection:
        people.set_roles(connection, "test", people.account(connection, EVA), [Role.OPERATOR.value], [HERE])


def _in_between(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Let something happen once while a password is being looked at."""
    real, waiting = passwords.is_right, [change]

    def is_right(stored: str | None, given: str) -> bool:
        found = real(stored, given)
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(passwords, "is_right", is_right)


def _living(database: Database) -> list[Any]:
    with database.read() as connection:
        return [row for row in connection.execute(tables.sessions.select()).mappings() if row["revoked_at"] is None]


@pytest.mark.parametrize("kind", [PORTAL, LUNA])
@pytest.mark.parametrize("change", [_disabled, _other_password, _other_roles])
def test_who_was_looked_at_before_a_change_is_not_signed_in_after_it(
    desk: People, database: Database, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], kind: str
) -> None:
    _in_between(monkeypatch, lambda: change(desk, database))
    with pytest.raises(SignInRefused):
        desk.sign_in(Asked(EVA, PASSWORD), kind)
    _enabled(database)  # nor does a session lie there for when she may again
    assert _living(database) == []


def test_a_thief_in_her_session_does_not_undo_the_password_that_she_sets(
    desk: People, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = desk.sign_in(Asked(EVA, PASSWORD)).person
    _in_between(monkeypatch, lambda: _other_password(desk, database))
    with pytest.raises(SignInRefused):
        desk.change_password(thief, PASSWORD, THIRD)
    with pytest.raises(SignInRefused):
        desk.sign_in(Asked(EVA, THIRD))
    assert desk.sign_in(Asked(EVA, NEW)).person.email == EVA
