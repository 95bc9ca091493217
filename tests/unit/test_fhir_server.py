"""The node's own FHIR endpoint: read, search, paging, abilities, errors (standards 4.7)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from peers.reports import ORDER_SYSTEM, PATIENT_SYSTEM, SITE, attributes, region, report

from fhir_bridge import bundle
from fhir_bridge import schema as gate
from fhir_bridge.search import PARAMETERS, SearchError, parse, parse_token
from fhir_bridge.server import PAGE_LIFE_S, Access, Pages, router
from fhir_bridge.store import MemoryReportStore, Query, TokenClause

pytestmark = pytest.mark.unit

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class Hour:
    """A clock that moves on by an hour with each look."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


@pytest.fixture
def store() -> MemoryReportStore:
    """Five studies of one patient and one of another; the first report was superseded without a finding."""
    made = MemoryReportStore(clock=lambda: START)
    clock = Hour()
    for number in range(5):
        made.clock = (lambda moment: lambda: moment)(clock())
        made.publish(_bundle(number))
    made.clock = (lambda moment: lambda: moment)(clock())
    made.publish(_bundle(5, PatientID="MR-9999", AccessionNumber="OTHER"))
    return made


def _bundle(number: int, **changes: Any) -> dict[str, Any]:
    header = attributes(AccessionNumber=f"ACC{number}") | changes
    return bundle(report(study_uid=f"1.2.3.{number}", run_key=f"{number:02}" * 32, header=header))


@pytest.fixture
def seen() -> list[Access]:
    return []


@pytest.fixture
def client(store: MemoryReportStore, seen: list[Access]) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router(store, version="1.2.3", on_access=lambda _request, access: seen.append(access)))
    with TestClient(app, base_url="http://127.0.0.1:8080") as made:
        yield made


def _found(client: TestClient, kind: str, **query: str) -> list[dict[str, Any]]:
    answer = client.get(f"/fhir/{kind}", params=query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    importlib.import_module("fhir.resources.R4B.bundle").Bundle.model_validate(body)
    assert list(gate.faults(body)) == []
    return [entry["resource"] for entry in body.get("entry", []) if entry["search"]["mode"] == "match"]


def test_read_gives_the_resource_its_version_and_nothing_again_when_unchanged(
    client: TestClient, store: MemoryReportStore, seen: list[Access]
) -> None:
    shown = _found(client, "DiagnosticReport")[0]
    answer = client.get(f"/fhir/DiagnosticReport/{shown['id']}")
    assert answer.json() == shown
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.headers["etag"] == 'W/"1"'
    assert answer.headers["last-modified"].endswith("GMT")
    same = client.get(f"/fhir/DiagnosticReport/{shown['id']}", headers={"If-None-Match": 'W/"1"'})
    assert same.status_code == 304
    assert not same.content
    again = bundle(report(study_uid="1.2.3.5", run_key="77" * 32, regions=(region(voxels=0),)))
    store.publish(again)
    newer = client.get(f"/fhir/DiagnosticReport/{shown['id']}", headers={"If-None-Match": 'W/"1"'})
    assert newer.status_code == 200
    assert newer.json()["meta"]["versionId"] == "2"
    assert [access.action for access in seen] == ["search", "read", "read"]


def test_publishing_the_same_bundle_again_changes_nothing(store: MemoryReportStore, client: TestClient) -> None:
    before = _found(client, "Observation", _count="200")
    store.publish(_bundle(2))
    assert _found(client, "Observation", _count="200") == before


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ({}, 6),
        ({"patient.identifier": f"{PATIENT_SYSTEM}|MR-0042"}, 5),
        ({"patient:identifier": f"{PATIENT_SYSTEM}|MR-0042"}, 5),
        ({"patient.identifier": "MR-0042"}, 5),
        ({"patient.identifier": f"{PATIENT_SYSTEM}|"}, 6),
        ({"patient.identifier": "|MR-0042"}, 0),
        ({"patient.identifier": "urn:oid:9.9|MR-0042"}, 0),
        ({"patient.identifier": f"{PATIENT_SYSTEM}|MR-0042,{PATIENT_SYSTEM}|MR-9999"}, 6),
        ({"based-on:identifier": f"{ORDER_SYSTEM}|ACC3"}, 1),
        ({"based-on.identifier": "ACC3"}, 1),
        ({"based-on:identifier": "ACC"}, 0),
        ({"study": "urn:oid:1.2.3.4"}, 1),
        ({"study": "urn:dicom:uid|urn:oid:1.2.3.4"}, 1),
        ({"category": "RAD"}, 6),
        ({"category": "urn:ainode:codes|ai-result"}, 6),
        ({"category": "http://loinc.org|ai-result"}, 0),
        ({"code": "http://loinc.org|18748-4"}, 6),
        ({"status": "preliminary"}, 6),
        ({"status": "final"}, 0),
        ({"status": "preliminary,final", "study": "urn:oid:1.2.3.4"}, 1),
        ({"identifier": f"urn:uuid:{SITE}|"}, 6),
        ({"identifier": "urn:ainode:run|" + "03" * 32}, 1),
        ({"_lastUpdated": "ge2026-11-22T12:00:00Z"}, 4),
        ({"_lastUpdated": "gt2026-11-22T12:00:00Z"}, 3),
        ({"_lastUpdated": "lt2026-11-22T12:00:00Z"}, 2),
        ({"_lastUpdated": "le2026-11-22T12:00:00Z"}, 3),
        ({"_lastUpdated": "2026-11-22"}, 6),
        ({"_lastUpdated": "2026-11-21"}, 0),
        ({"_lastUpdated": "ge2026-11-22T13:00:00+01:00"}, 4),
        ({"_sort": "-_lastUpdated"}, 6),
        ({"_format": "json"}, 6),
    ],
)
def test_reports_are_found(client: TestClient, query: dict[str, str], number: int) -> None:
    assert len(_found(client, "DiagnosticReport", **query)) == number


@pytest.mark.parametrize(
    ("kind", "query", "number"),
    [
        ("Observation", {"study": "urn:oid:1.2.3.4"}, 2),
        ("Observation", {"code": "http://snomed.info/sct|118565006"}, 6),
        ("Observation", {"category": "imaging"}, 12),
        ("ImagingStudy", {"identifier": "urn:dicom:uid|urn:oid:1.2.3.4"}, 1),
        ("ImagingStudy", {"basedon:identifier": "ACC3"}, 1),
        ("Device", {}, 1),
    ],
)
def test_the_other_types_are_found(client: TestClient, kind: str, query: dict[str, str], number: int) -> None:
    assert len(_found(client, kind, **query)) == number


def test_a_recall_finds_every_number_of_a_device_and_every_trail_of_a_report(client: TestClient) -> None:
    device = _found(client, "Device")[0]
    assert len(_found(client, "Observation", device=f"Device/{device['id']}")) == 12
    shown = _found(client, "DiagnosticReport")[0]
    assert len(_found(client, "Provenance", target=f"DiagnosticReport/{shown['id']}")) == 1


def test_include_brings_the_numbers_along(client: TestClient) -> None:
    query = {"study": "urn:oid:1.2.3.4", "_include": "DiagnosticReport:result"}
    body = client.get("/fhir/DiagnosticReport", params=query).json()
    modes = [(entry["resource"]["resourceType"], entry["search"]["mode"]) for entry in body["entry"]]
    assert modes == [("DiagnosticReport", "match"), ("Observation", "include"), ("Observation", "include")]
    assert body["total"] == 1
    named = {reference["reference"] for reference in body["entry"][0]["resource"]["result"]}
    assert {f"Observation/{entry['resource']['id']}" for entry in body["entry"][1:]} == named
    assert body["entry"][1]["fullUrl"].startswith("http://127.0.0.1:8080/fhir/Observation/")


def test_pages_are_followed_to_the_end_without_gap_or_repeat(client: TestClient, store: MemoryReportStore) -> None:
    query = {"patient.identifier": f"{PATIENT_SYSTEM}|MR-0042", "_count": "2"}
    body = client.get("/fhir/DiagnosticReport", params=query).json()
    found, pages = [entry["resource"]["id"] for entry in body["entry"]], 1
    store.clock = lambda: START + timedelta(days=1)
    store.publish(_bundle(77))
    while following := [link["url"] for link in body["link"] if link["relation"] == "next"]:
        assert "MR-0042" not in following[0]
        body = client.get(following[0]).json()
        found += [entry["resource"]["id"] for entry in body["entry"]]
        pages += 1
    assert pages == 3
    assert len(found) == len(set(found)) == 5


def test_an_old_or_foreign_page_is_gone(client: TestClient) -> None:
    body = client.get("/fhir/DiagnosticReport", params={"_count": "2"}).json()
    following = next(link["url"] for link in body["link"] if link["relation"] == "next")
    assert client.get(following.replace("DiagnosticReport", "Observation")).status_code == 410
    assert client.get("/fhir/DiagnosticReport?_page=x").status_code == 410
    assert client.get(following + "&status=final").status_code == 410
    moments = [0.0]
    pages = Pages(clock=lambda: moments[0])
    word = pages.keep(parse("Device", []))
    assert pages.find(word) is not None
    moments[0] = PAGE_LIFE_S
    assert pages.find(word) is None


def test_a_count_of_nought_counts_only(client: TestClient) -> None:
    body = client.get("/fhir/DiagnosticReport", params={"_count": "0"}).json()
    assert body["total"] == 6
    assert "entry" not in body


def test_a_search_may_come_as_a_form(client: TestClient) -> None:
    form = {"patient.identifier": f"{PATIENT_SYSTEM}|MR-0042"}
    assert client.post("/fhir/DiagnosticReport/_search", data=form).json()["total"] == 5
    wrong = client.post("/fhir/DiagnosticReport/_search", json=form)
    assert wrong.status_code == 415
    big = {"patient.identifier": "x" * 20_000}
    assert client.post("/fhir/DiagnosticReport/_search", data=big).status_code == 413


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/fhir/DiagnosticReport?patient=Patient/1", 400),
        ("/fhir/DiagnosticReport?unknown=1", 400),
        ("/fhir/DiagnosticReport?status:not=final", 400),
        ("/fhir/DiagnosticReport?_lastUpdated=yesterday", 400),
        ("/fhir/DiagnosticReport?_lastUpdated=ap2026-11-22", 400),
        ("/fhir/DiagnosticReport?_count=-1", 400),
        ("/fhir/DiagnosticReport?_count=1&_count=2", 400),
        ("/fhir/DiagnosticReport?_sort=date", 400),
        ("/fhir/DiagnosticReport?_include=DiagnosticReport:subject", 400),
        ("/fhir/Observation?_include=DiagnosticReport:result", 400),
        ("/fhir/DiagnosticReport?identifier=a|b|c", 400),
        ("/fhir/DiagnosticReport?identifier=", 400),
        ("/fhir/DiagnosticReport?identifier=" + ",".join("abcdefghij" * 6), 400),
        ("/fhir/DiagnosticReport?_format=xml", 406),
        ("/fhir/Patient", 404),
        ("/fhir/Patient/1", 404),
        ("/fhir/DiagnosticReport/none", 404),
    ],
)
def test_what_is_not_understood_is_an_operation_outcome(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    assert list(gate.faults(body)) == []
    importlib.import_module("fhir.resources.R4B.operationoutcome").OperationOutcome.model_validate(body)


def test_errors_do_not_repeat_what_was_sent(client: TestClient) -> None:
    for query in ("Marker Mary=1", "_lastUpdated=Marker", "_count=Marker", "_sort=Marker", "_include=Marker"):
        assert "Marker" not in client.get(f"/fhir/DiagnosticReport?{query}").text


def test_xml_is_not_spoken(client: TestClient) -> None:
    asked = {"Accept": "application/fhir+xml"}
    assert client.get("/fhir/DiagnosticReport", headers=asked).status_code == 406
    both = {"Accept": "application/fhir+xml, application/fhir+json;q=0.9"}
    assert client.get("/fhir/DiagnosticReport", headers=both).status_code == 200


def test_the_capability_statement_says_what_is_done_and_no_more(client: TestClient) -> None:
    body = client.get("/fhir/metadata").json()
    assert body["fhirVersion"] == "4.0.1"
    assert list(gate.faults(body)) == []
    importlib.import_module("fhir.resources.R4B.capabilitystatement").CapabilityStatement.model_validate(body)
    (rest,) = body["rest"]
    assert {item["type"] for item in rest["resource"]} == set(PARAMETERS)
    for item in rest["resource"]:
        assert [interaction["code"] for interaction in item["interaction"]] == ["read", "search-type"]
        for parameter in item["searchParam"]:
            spellings = [p.spellings[0] for p in PARAMETERS[item["type"]] if p.name == parameter["name"]]
            name = (spellings or [parameter["name"]])[0]
            value = "2026-11-22" if parameter["type"] == "date" else "x"
            assert client.get(f"/fhir/{item['type']}", params={name: value}).status_code == 200, name


# -- grammar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a|b", ("a", "b")),
        ("|b", ("", "b")),
        ("a|", ("a", None)),
        ("b", (None, "b")),
        (r"a\|b", (None, "a|b")),
        (r"a|b\,c\$d\\", ("a", "b,c$d\\")),
        (r"a\\|b", ("a\\", "b")),
    ],
)
def test_tokens(value: str, expected: tuple[str | None, str | None]) -> None:
    assert parse_token(value) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=30)), max_size=6))
def test_no_query_breaks_the_grammar(pairs: list[tuple[str, str]]) -> None:
    try:
        search = parse("DiagnosticReport", pairs)
    except SearchError:
        return
    assert all(name in {"_count", "_sort", "_include", "_format", "_lastUpdated"} for name, _ in pairs) or (
        search.query.clauses
    )


def test_a_clause_never_holds_for_a_resource_without_the_parameter(store: MemoryReportStore) -> None:
    clause = TokenClause("patient:identifier", ((None, None),))
    assert store.select(Query("Device", (clause,))) == []
