"""The web process follows the audit log as it grows: what is changed behind its back is told (I21)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from dicom_node.cli import readiness
from dicom_node.cli.readiness import Readiness
from dicom_node.metrics import METRICS
from dicom_node.record import Database, audit, tables
from dicom_node.settings import Settings

pytestmark = pytest.mark.component
LOG = tables.audit


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    yield made
    made.close()


def append(database: Database, count: int) -> None:
    with database.write() as connection:
        for number in range(count):
            audit.append(connection, "ana", "look", None, number=number)


def verified_at() -> float:
    lines = METRICS.render().decode().splitlines()
    name = "ainode_audit_chain_last_verified_timestamp "
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def test_what_is_added_is_followed_and_nothing_twice(database: Database) -> None:
    append(database, 3)
    with database.read() as connection:
        first, broken = audit.follow(connection, audit.START, 2)
        assert (first[0], broken) == (2, None)
        second, broken = audit.follow(connection, first)
        assert (second, broken) == (audit.head(connection), None)
        assert audit.follow(connection, second) == (second, None)


@pytest.mark.parametrize("damage", ["changed before", "changed after", "cut", "dropped", "rewritten"])
def test_readiness_tells_and_turns_nothing_away(
    database: Database, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Readiness(Settings(), database)
    append(database, 4)
    METRICS.gauge("audit_chain_last_verified_timestamp", 0.0)
    assert watch.audit().reason == "" and verified_at() > 0
    METRICS.gauge("audit_chain_last_verified_timestamp", 0.0)
    append(database, 2)
    with database.write() as connection:
        if damage == "changed before":
            connection.execute(update(LOG).where(LOG.c.id == 4).values(sha256="0" * 64))
        elif damage == "changed after":
            connection.execute(update(LOG).where(LOG.c.id == 5).values(actor="eva"))
        elif damage == "cut":
            connection.execute(delete(LOG).where(LOG.c.id >= 4))
        elif damage == "dropped":
            connection.execute(delete(LOG).where(LOG.c.id == 5))
        else:
            # the whole log anew, whole in itself: only who saw the old one can tell
            connection.execute(delete(LOG))
    if damage == "rewritten":
        append(database, 6)
    for _ in range(2):
        told = watch.audit()
        assert told.ok and told.reason.startswith("the audit log is broken: entry ") and told.advice
    assert verified_at() == 0.0


def test_a_long_log_is_followed_a_part_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "AUDITED_AT_ONCE", 3)
    append(database, 7)
    METRICS.gauge("audit_chain_last_verified_timestamp", 0.0)
    watch = Readiness(Settings(), database)
    seen = []
    for _ in range(3):
        assert watch.audit().reason == ""
        seen.append(verified_at() > 0)
    assert seen == [False, False, True]
