"""Where the audit log cannot be written nobody is shown a patient's data (S18): a full disk, a read-only record."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from dicom_node.cli import web
from dicom_node.desks.analyses import Analyses
from dicom_node.record import Database, audit, keys, reports, tables
from dicom_node.settings import Settings
from fhir_bridge import tokens_of
from tests.support.listening import migrated
from tests.support.rows import add_row, add_run

pytestmark = pytest.mark.component
STUDY = "1.2.826.0.1.3680043.8.498.1"
MARKER = "PHIMARKER"
PATHS = (
    "/fhir/DiagnosticReport/report-1",
    "/fhir/DiagnosticReport?identifier=urn:ainode:result|r1",
    "/fhir/AuditEvent",
    "/fhir/AuditEvent/1",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data={"folder": tmp_path})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = migrated(settings)
    with made.write() as connection:
        add_run(connection, 1, study_uid=STUDY)
        resource = {
            "resourceType": "DiagnosticReport", "id": "report-1", "status": "preliminary", "conclusion": MARKER,
            "code": {"text": "FLAIR"}, "identifier": [{"system": "urn:ainode:result", "value": "r1"}],
        }  # fmt: skip
        reports.put_resources(connection, 1, STUDY, [resource], tokens_of)
        audit.append(connection, "user:eva", "look", STUDY, ids=[MARKER])
    yield made
    made.close()


def read_only(database: Database) -> None:
    def pragma(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    event.listen(database.engine, "connect", pragma)
    database.engine.dispose()


def full(database: Database) -> None:
    """Not one page can be added, and no entry fits into what is left of those there are."""
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def pragma(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(database.engine, "connect", pragma)
    database.engine.dispose()
    for size in (3000, 500, 100, 1):
        with pytest.raises(OperationalError, match="full"):
            _fill(database, size)


def _fill(database: Database, size: int) -> None:
    for _ in range(10_000):
        with database.write() as connection:
            audit.append(connection, "x", "y", None, note="z" * size)


@pytest.mark.parametrize("trouble", [None, read_only, full])
@pytest.mark.parametrize("path", PATHS)
def test_what_cannot_be_written_down_is_not_shown(
    settings: Settings, database: Database, path: str, trouble: Callable[[Database], None] | None
) -> None:
    with database.write() as connection:
        account = add_row(connection, tables.users, public_id="0" * 32, email="root@hospital.example", state="active",
                          roles=["administrator"])  # fmt: skip
    assert account
    scope = "audit:read" if "AuditEvent" in path else "fhir:read"
    key = keys.create(database, "ehr", [scope], account="root@hospital.example" if scope == "audit:read" else None)
    app = web.make_app(settings, database, put=lambda job: None)
    headers = {"Authorization": f"Bearer {key}"}
    client = TestClient(app, base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False)
    if trouble is not None:
        trouble(database)
    answer = client.get(path)
    assert (MARKER in answer.text) == (trouble is None), answer.text
    assert answer.status_code == 200 if trouble is None else answer.status_code >= 500


@pytest.mark.parametrize("trouble", [read_only, full])
def test_a_picture_is_not_revealed(settings: Settings, database: Database, trouble: Callable[[Database], None]) -> None:
    desk = Analyses(settings, database, lambda job: None)

    class Ana:
        actor = "user:ana"

    row: Any = {"id": 1, "public_id": "a" * 32, "study_uid": STUDY, "user_id": 1, "revealed_at": None}
    trouble(database)
    with pytest.raises(OperationalError):
        desk.reveal(Ana(), row)  # type: ignore[arg-type]
