"""The audit log as FHIR: valid AuditEvents, searched by time, actor, action, study, patient; readers are entries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fhir.resources.R4B.auditevent import AuditEvent
from sqlalchemy import update

from dicom_node.cli import web
from dicom_node.desks.people import PORTAL, People
from dicom_node.permissions import Role
from dicom_node.record import Database, audit, keys, tables
from dicom_node.settings import Settings
from fhir_bridge.audit_event import audit_event
from fhir_bridge.schema import faults
from tests.support.people import make_sites, make_user
from tests.support.rows import add_row

pytestmark = pytest.mark.component

HERS, HIS = "1.2.3.1", "1.2.3.2"
PATIENTS = {HERS: ("7001", "SITE"), HIS: ("7001", "OTHER")}
ACTIONS = (
    "sign-in", "sign-in-refused", "session-ended", "user-created", "password-changed", "key-revoked", "site-closed",
    "audit-exported", "search-DiagnosticReport", "read-Observation", "search-AuditEvent", "dicomweb-ImagingStudy",
    "analysis-made", "analysis-revealed", "analysis-result-seen", "prediction-asked", "archive.searched",
    "analysis-results-listed", "analysis-exported", "cases-exported", "export-prediction-file",
    "archive.study-fetched", "held.released", "review.written", "model.shadow-started", "patient-looked-up",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "records.sqlite"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    make_sites(made)
    make_user(made, "root", [Role.ADMINISTRATOR], [])
    make_user(made, "eva", [Role.CLINICIAN])
    with made.write() as connection:
        for number, (study, (patient, issuer)) in enumerate(PATIENTS.items()):
            identity = {"PatientID": patient, "IssuerOfPatientID": issuer}
            add_row(connection, tables.studies, uid=study, public_id=f"{number:016x}", identity=identity)
            audit.append(connection, "user:eva", "analysis-revealed", study, ids=[f"{number:032x}"])
        for number in range(5):
            audit.append(connection, "key:ehr", "search-DiagnosticReport", None, ids=[str(number)])
    made.close()
    return path


@pytest.fixture
def database(tmp_path: Path, prepared: Path) -> Iterator[Database]:
    shutil.copy(prepared, tmp_path / "records.sqlite")
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def client(tmp_path: Path, database: Database) -> TestClient:
    settings = Settings(data={"folder": tmp_path}, report={"issuers": {"SITE": "urn:oid:2.16.152"}})
    key = keys.create(database, "auditor", ["audit:read"], account="root@hospital.example")
    app = web.make_app(settings, database, put=lambda job: None)
    headers = {"Authorization": f"Bearer {key}"}
    return TestClient(app, base_url="http://127.0.0.1", headers=headers, client=("203.0.113.9", 40000))


def found(client: TestClient, **asked: str) -> list[dict[str, Any]]:
    answer = client.get("/fhir/AuditEvent", params={name.replace("__", "."): value for name, value in asked.items()})
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in answer.json().get("entry", [])]


def actions(events: list[dict[str, Any]]) -> list[str]:
    return [event["subtype"][-1]["code"] for event in events]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("study", [None, HERS])
def test_every_kind_of_entry_is_a_valid_resource(action: str, study: str | None) -> None:
    """By HL7's schema and by an independent model of it (I17)."""
    entry = {
        "id": 7, "at": "2026-03-01T12:00:00.123456+00:00", "actor": "user:eva", "action": action, "study_uid": study,
        "detail": {"ids": ["a" * 32], "user": "b" * 32, "reason": "x"}, "sha256": "c" * 64,
    }  # fmt: skip
    made = audit_event(entry)
    assert list(faults(made)) == []
    AuditEvent.model_validate(made)
    assert (made["outcome"] == "4") == action.endswith("-refused")
    assert actions([made]) == [action]


def test_the_newest_come_first_and_reading_them_is_an_entry(client: TestClient, database: Database) -> None:
    events = found(client)
    ids = [int(event["id"]) for event in events]
    assert ids == sorted(ids, reverse=True) and len(ids) > 8
    assert all(not list(faults(event)) for event in events)
    latest = found(client, _count="1")[0]
    assert actions([latest]) == ["search-AuditEvent"]
    who = latest["agent"][0]
    assert who["who"]["identifier"]["value"] == "key:auditor"
    assert who["network"] == {"address": "203.0.113.9", "type": "2"}
    one = client.get(f"/fhir/AuditEvent/{ids[0]}")
    assert one.json() == events[0]
    assert client.get("/fhir/AuditEvent/999999").status_code == client.get("/fhir/AuditEvent/x").status_code == 404


def test_it_is_searched_by_who_what_and_when(client: TestClient, database: Database) -> None:
    assert set(actions(found(client, agent__identifier="urn:ainode:actor|key:ehr"))) == {"search-DiagnosticReport"}
    assert len(found(client, agent__identifier="key:ehr", subtype="search-DiagnosticReport")) == 5
    assert found(client, agent__identifier="key:nobody") == []
    with database.write() as connection:
        connection.execute(
            update(tables.audit).where(tables.audit.c.id <= 3).values(at="2020-05-05T05:05:05.000000+00:00")
        )
    assert {int(event["id"]) for event in found(client, date="le2020-05-05")} == {1, 2, 3}
    assert {int(event["id"]) for event in found(client, date="eq2020-05-05")} == {1, 2, 3}
    assert found(client, date="lt2020-05-05") == []
    both = client.get("/fhir/AuditEvent", params=[("date", "ge2020-05-05"), ("date", "lt2020-05-06")])
    assert len(both.json()["entry"]) == 3


def test_it_is_searched_by_study_and_by_patient_without_saying_who_that_is(client: TestClient) -> None:
    of_study = found(client, entity__identifier=f"urn:dicom:uid|urn:oid:{HERS}")
    assert actions(of_study) == ["analysis-revealed"]
    of_her = found(client, patient__identifier="urn:oid:2.16.152|7001")
    assert of_her == of_study
    assert len(found(client, patient__identifier="7001")) == 2
    assert found(client, patient__identifier="urn:oid:9.9|7001") == []
    assert found(client, patient__identifier="7002") == []
    assert "7001" not in str(of_her)
    form = client.post("/fhir/AuditEvent/_search", data={"patient:identifier": "urn:oid:2.16.152|7001"})
    assert [entry["resource"] for entry in form.json()["entry"]] == of_her


def test_pages_follow_each_other_and_their_links_name_nobody(client: TestClient) -> None:
    asked = {"agent.identifier": "key:ehr", "_count": "2"}
    answer, ids = client.post("/fhir/AuditEvent/_search", data=asked).json(), []
    while True:
        ids += [int(entry["resource"]["id"]) for entry in answer["entry"]]
        if "link" not in answer:
            break
        (link,) = answer["link"]
        assert "ehr" not in link["url"] and "_page=" in link["url"]
        answer = client.get(link["url"]).json()
    assert len(ids) == 5 and ids == sorted(ids, reverse=True)
    assert client.get("/fhir/AuditEvent?_page=unknown").status_code == 410


@pytest.mark.parametrize(
    "asked",
    [
        {"colour": "red"},
        {"agent.identifier": ""},
        {"agent.identifier": "urn:other|key:ehr"},
        {"subtype": "a,b"},
        {"date": "yesterday"},
        {"date": "ne2020-01-01"},
        {"entity.identifier": "1.2.3"},
        {"patient.identifier": "urn:x|"},
        {"patient.name": "Eva"},
        {"_count": "0"},
        {"_count": "x"},
    ],
)
def test_what_is_not_understood_is_refused_and_not_repeated(client: TestClient, asked: dict[str, str]) -> None:
    answer = client.get("/fhir/AuditEvent", params=asked)
    assert answer.status_code == 400
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert "red" not in answer.text and "Eva" not in answer.text and "key:ehr" not in answer.text


def test_only_who_may_read_the_log_reads_it(tmp_path: Path, database: Database, client: TestClient) -> None:
    reports = keys.create(database, "ehr", ["fhir:read"])
    assert client.get("/fhir/AuditEvent", headers={"Authorization": f"Bearer {reports}"}).status_code == 403
    with database.read() as connection:
        from dicom_node.record import people

        eva, root = (people.account(connection, f"{name}@hospital.example") for name in ("eva", "root"))
    desk = People(Settings().people, database)
    app = client.app
    for user, status in ((eva, 403), (root, 200)):
        browser = TestClient(app, base_url="https://127.0.0.1", client=("203.0.113.9", 40000))
        browser.cookies.set("__Host-session", desk.open_session(user, PORTAL)[1])
        assert browser.get("/fhir/AuditEvent", headers={"Accept": "application/json"}).status_code == status
