"""The record's database: pragmas, migrations, newer schemas, audit chain, attempts (I12, I15, I21, I24)."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text, update

from dicom_node.record import Database, DatabaseRefused, audit, now, runs
from dicom_node.record.runs import IllegalMove
from dicom_node.record.tables import artefacts, cases, metadata, studies
from dicom_node.record.tables import audit as audit_table
from dicom_node.record.tables import runs as run_table
from dicom_node.words import RunState

pytestmark = pytest.mark.component


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path}/records.sqlite")
    made.migrate()
    return made


def a_run(database: Database, key: str = "k1") -> int:
    with database.write() as connection:
        connection.execute(
            insert(studies).values(
                uid=key, public_id=key, identity={}, first_seen_at=now(), last_activity_at=now(), cancelled=False
            )
        )
        case_id, _ = runs.add_case(
            connection, study_uid=key, route="r", result_family="f", model="m", rank=0, state="ready", revisions={},
            publish="nothing", destinations=[], priority=5, reasons=[], case_key=key,
        )  # fmt: skip
        run_id, is_new = runs.add_run(
            connection, run_key=key, case_id=case_id, study_uid=key, result_family="f", identity={},
            model_digest="d", settings_digest="s",
        )  # fmt: skip
    assert is_new
    return run_id


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert database.is_migrated()
    database.migrate()


def test_pragmas_are_read_back(database: Database, tmp_path: Path) -> None:
    database.check()
    other = sqlite3.connect(tmp_path / "records.sqlite")
    assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseRefused, match="newer"):
        database.migrate()


def test_site_facts_are_made_once(database: Database) -> None:
    first = database.site_fact("site_namespace")
    database.migrate()
    assert database.site_fact("site_namespace") == first


def test_two_writers_wait_for_each_other(database: Database) -> None:
    """BEGIN IMMEDIATE: a read that turns into a write never fails for being late."""

    def add() -> None:
        for _ in range(20):
            with database.write() as connection:
                audit.append(connection, "t", "x")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert audit.head(connection)[0] == 80 and audit.verify(connection) is None


@pytest.mark.parametrize("damage", ["change", "drop", "reorder", "cut"])
def test_damage_to_the_audit_log_is_found(database: Database, damage: str) -> None:
    with database.write() as connection:
        for number in range(4):
            audit.append(connection, "ana", "look", None, number=number)
        head = audit.head(connection)
    with database.write() as connection:
        if damage == "change":
            connection.execute(update(audit_table).where(audit_table.c.id == 2).values(actor="eva"))
        elif damage == "drop":
            connection.execute(audit_table.delete().where(audit_table.c.id == 2))
        elif damage == "reorder":
            for old, new in ((2, 99), (3, 2), (99, 3)):
                connection.execute(update(audit_table).where(audit_table.c.id == old).values(id=new))
        else:
            connection.execute(audit_table.delete().where(audit_table.c.id == 4))
    with database.read() as connection:
        found = audit.verify(connection, head)
        assert found is not None
        if damage == "cut":
            assert audit.verify(connection) is None and "head kept elsewhere" in found


def test_a_stale_attempt_keeps_nothing(database: Database) -> None:
    """I12: a worker that was stopped past a take-over changes nothing."""
    run_id = a_run(database)
    with database.write() as connection:
        slow = runs.begin_attempt(connection, run_id, "infer", "w1")
        runs.move(connection, "run", run_id, RunState.RUNNING)
    with database.write() as connection:
        fast = runs.begin_attempt(connection, run_id, "infer", "w2")
    with database.write() as connection:
        assert not runs.is_current(connection, slow) and runs.is_current(connection, fast)
        assert not runs.add_artefact(connection, slow, "mask", "a" * 64, "a")
        assert runs.add_artefact(connection, fast, "mask", "b" * 64, "b")
        assert runs.add_artefact(connection, fast, "mask", "b" * 64, "b")
    with database.read() as connection:
        kept = runs.artefacts_of(connection, run_id)
        assert [row["sha256"] for row in kept] == ["b" * 64]


@pytest.mark.parametrize("change", [{"cancel": True}, {"state": "superseded"}])
def test_a_cancelled_or_superseded_run_keeps_nothing(database: Database, change: dict[str, object]) -> None:
    run_id = a_run(database)
    with database.write() as connection:
        attempt = runs.begin_attempt(connection, run_id, "infer", "w1")
        runs.move(connection, "run", run_id, RunState.RUNNING)
        connection.execute(update(run_table).values(**change))
    with database.write() as connection:
        assert not runs.add_artefact(connection, attempt, "mask", "a" * 64, "a")
        assert connection.execute(artefacts.select()).first() is None


def test_moves_outside_the_table_are_faults(database: Database) -> None:
    run_id = a_run(database)
    with pytest.raises(IllegalMove), database.write() as connection:
        runs.move(connection, "run", run_id, RunState.BUILT)
    with database.read() as connection:
        assert runs.run_row(connection, run_id)["state"] == "queued"


def test_a_run_and_a_case_are_unique_by_their_keys(database: Database) -> None:
    run_id = a_run(database)
    with database.write() as connection:
        case = connection.execute(cases.select()).mappings().one()
        again, is_new = runs.add_run(
            connection, run_key="k1", case_id=case["id"], study_uid="k1", result_family="f", identity={},
            model_digest="d", settings_digest="s",
        )  # fmt: skip
    assert (again, is_new) == (run_id, False)
