"""Publishing to a real FHIR server: identity, life cycle, idempotence, lost answers, refusals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from peers.fhir_peer import FhirPeer
from peers.reports import ORDER_SYSTEM, PATIENT_SYSTEM, attributes, region, report

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.words import Grade
from fhir_bridge import FhirClient, ReportInput, bundle

pytestmark = pytest.mark.component

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[FhirPeer]:
    with FhirPeer() as peer:
        yield peer


@pytest.fixture
def peer(server: FhirPeer) -> Iterator[FhirPeer]:
    server.settings(transactions=True, lenient=False)
    yield server
    server.settings(transactions=True, lenient=False)


@dataclasses.dataclass
class Person:
    """A patient of the hospital, with one study; every test has its own."""

    number: int
    patient: dict[str, Any]

    def report(self, run: int = 1, **changes: Any) -> ReportInput:
        header = changes.pop("header", None) or self.header()
        digits = f"{self.number:04}{run:04}"
        return report(
            run_key=digits * 8,
            created=changes.pop("created", f"2026-11-22T10:{run:02}:00.000+01:00"),
            study_uid=f"1.2.3.{self.number}",
            header=header,
            **changes,
        )

    def header(self, **changes: Any) -> dict[str, Any]:
        return attributes(**{"PatientID": f"P{self.number}", "AccessionNumber": f"A{self.number}", **changes})


@pytest.fixture
def person(peer: FhirPeer) -> Person:
    number = next(_numbers)
    return Person(number, peer.create(_patient(number)))


def _patient(number: int, **changes: Any) -> dict[str, Any]:
    base = {
        "resourceType": "Patient",
        "identifier": [{"system": PATIENT_SYSTEM, "value": f"P{number}"}],
        "name": [{"family": "Marker", "given": ["Mary"]}],
        "birthDate": "1970-01-02",
        "gender": "female",
    }
    return {**base, **changes}


@pytest.fixture
def client(peer: FhirPeer) -> Iterator[FhirClient]:
    with FhirClient(peer.url, timeout_s=10) as made:
        yield made


def _reports(peer: FhirPeer, person: Person) -> list[dict[str, Any]]:
    found = peer.all("DiagnosticReport", subject=f"Patient/{person.patient['id']}")
    return sorted(found, key=lambda item: item["meta"]["lastUpdated"])


def _observations(peer: FhirPeer, person: Person) -> list[dict[str, Any]]:
    return peer.all("Observation", subject=f"Patient/{person.patient['id']}")


def _code(error: pytest.ExceptionInfo[Refused]) -> RefusalCode:
    return error.value.refusal.code


@pytest.mark.parametrize("transactions", [True, False])
def test_a_report_is_published_once(peer: FhirPeer, person: Person, transactions: bool) -> None:
    peer.settings(transactions=transactions)
    order = peer.create(
        {
            "resourceType": "ServiceRequest",
            "status": "active",
            "intent": "order",
            "identifier": [{"system": ORDER_SYSTEM, "value": f"A{person.number}"}],
            "subject": {"reference": f"Patient/{person.patient['id']}"},
        }
    )
    with FhirClient(peer.url) as client:
        first = client.publish(person.report())
        second = client.publish(person.report())
    assert first.outcome == "created"
    assert second.outcome == "unchanged"
    assert second.report == first.report
    shown = _reports(peer, person)
    assert len(shown) == 1
    assert shown[0]["status"] == "preliminary"
    assert shown[0]["basedOn"][0]["reference"] == f"ServiceRequest/{order['id']}"
    assert shown[0]["imagingStudy"][0]["reference"].startswith("ImagingStudy/")
    assert "resultsInterpreter" not in shown[0]
    assert "conclusionCode" not in shown[0]
    numbers = _observations(peer, person)
    assert sorted(item["valueQuantity"]["value"] for item in numbers) == [24.5348, 41.2073]
    assert {reference["reference"] for reference in shown[0]["result"]} == {f"Observation/{o['id']}" for o in numbers}
    trail = peer.all("Provenance", target=f"DiagnosticReport/{shown[0]['id']}")
    assert len(trail) == 1
    assert len(peer.all("Patient", identifier=f"{PATIENT_SYSTEM}|P{person.number}")) == 1


def test_the_device_is_shared_between_studies(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    other = Person(next(_numbers), peer.create(_patient(0)))
    other = dataclasses.replace(other, patient=peer.create(_patient(other.number)))
    client.publish(person.report())
    client.publish(other.report())
    assert len(peer.all("Device")) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PatientID": "nobody"}, RefusalCode.PATIENT_NOT_FOUND),
        ({"PatientID": ""}, RefusalCode.PATIENT_UNIDENTIFIED),
        ({"PatientID": "ANONYMOUS"}, RefusalCode.PATIENT_UNIDENTIFIED),
        ({"IssuerOfPatientID": "ELSEWHERE"}, RefusalCode.ISSUER_UNMAPPED),
        ({"IssuerOfPatientID": None}, RefusalCode.ISSUER_UNMAPPED),
        ({"PatientBirthDate": "19700103"}, RefusalCode.PATIENT_CONTRADICTED),
        ({"PatientSex": "M"}, RefusalCode.PATIENT_CONTRADICTED),
        ({"PatientName": "Other^Mary"}, RefusalCode.PATIENT_CONTRADICTED),
        ({"PatientIdentityRemoved": "YES"}, RefusalCode.PUBLICATION_BARRED),
        ({"QualityControlSubject": "YES"}, RefusalCode.PUBLICATION_BARRED),
    ],
)
def test_identity_that_is_not_certain_is_held(
    peer: FhirPeer, person: Person, client: FhirClient, changes: dict[str, Any], code: RefusalCode
) -> None:
    before = len(peer.all("Patient"))
    with pytest.raises(Refused) as error:
        client.publish(person.report(header=person.header(**changes)))
    assert _code(error) is code
    assert "P" + str(person.number) not in str(error.value.refusal.to_json())
    assert _reports(peer, person) == []
    assert len(peer.all("Patient")) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientBirthDate": ""},
        {"PatientSex": "O"},
        {"PatientName": "MÄRKER^Mary"},
        {"PatientName": "山田^太郎"},
        {"AccessionNumber": None},
    ],
)
def test_what_is_silent_or_spelt_otherwise_is_no_contradiction(
    peer: FhirPeer, person: Person, client: FhirClient, changes: dict[str, Any]
) -> None:
    if changes.get("PatientName") == "MÄRKER^Mary":
        peer.update({**person.patient, "name": [{"family": "Marker"}, {"family": "märker"}]})
    assert client.publish(person.report(header=person.header(**changes))).outcome == "created"


def test_two_patients_under_one_identifier_are_held(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    peer.create(_patient(person.number))
    with pytest.raises(Refused) as error:
        client.publish(person.report())
    assert _code(error) is RefusalCode.PATIENT_AMBIGUOUS


def test_a_replaced_patient_is_followed_once(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    living = peer.create(_patient(0, identifier=[{"system": "urn:other", "value": str(person.number)}]))
    link = [{"type": "replaced-by", "other": {"reference": f"Patient/{living['id']}"}}]
    peer.update({**person.patient, "active": False, "link": link})
    client.publish(person.report())
    assert len(peer.all("DiagnosticReport", subject=f"Patient/{living['id']}")) == 1
    further = [{"type": "replaced-by", "other": {"reference": f"Patient/{person.patient['id']}"}}]
    peer.update({**living, "link": further})
    with pytest.raises(Refused) as error:
        client.publish(person.report(2))
    assert _code(error) is RefusalCode.PATIENT_NOT_FOUND


def test_an_order_or_study_of_another_patient_is_held(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    stranger = peer.create(_patient(0, identifier=[{"system": "urn:other", "value": f"s{person.number}"}]))
    subject = {"reference": f"Patient/{stranger['id']}"}
    study = {
        "resourceType": "ImagingStudy",
        "status": "available",
        "subject": subject,
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:1.2.3.{person.number}"}],
    }
    peer.create(study)
    with pytest.raises(Refused) as error:
        client.publish(person.report())
    assert _code(error) is RefusalCode.PATIENT_CONTRADICTED
    assert _reports(peer, person) == []


def test_a_later_revision_supersedes_under_the_same_ids(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    first = client.publish(person.report(1))
    old = {item["identifier"][0]["value"]: item for item in _observations(peer, person)}
    predecessor = {"objects": [{"kind": "sr", "sop_instance_uid": "2.25.99"}]}
    absent = (region(voxels=0),)
    second = client.publish(person.report(2, regions=absent, predecessor=predecessor))
    assert second.outcome == "updated"
    assert second.report.reference == first.report.reference
    assert second.report.version != first.report.version
    shown = _reports(peer, person)
    assert len(shown) == 1
    assert "No region above threshold" in shown[0]["conclusion"]
    new = {item["identifier"][0]["value"]: item for item in _observations(peer, person)}
    assert {value: item["id"] for value, item in new.items()} == {value: item["id"] for value, item in old.items()}
    by_measure = {value.rpartition("/")[2]: item for value, item in new.items()}
    assert by_measure["volume"]["valueQuantity"]["value"] == 0
    assert by_measure["volume"]["interpretation"][0]["coding"][0]["code"] == "ND"
    assert by_measure["long_axis"]["status"] == "entered-in-error"
    trail = peer.all("Provenance", target=shown[0]["resourceType"] + "/" + shown[0]["id"])
    assert sorted(item["activity"]["coding"][0]["code"] for item in trail) == ["CREATE", "UPDATE"]
    third = client.publish(person.report(3))
    assert third.outcome == "updated"
    assert {item["status"] for item in _observations(peer, person)} == {"preliminary"}


def test_an_older_run_never_comes_back_over_a_newer_one(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    client.publish(person.report(2))
    with pytest.raises(Refused) as error:
        client.publish(person.report(1))
    assert _code(error) is RefusalCode.DELIVERY_CONFLICT


@pytest.mark.parametrize(
    "edit",
    [
        {"status": "final"},
        {"conclusion": "Seen by a doctor."},
        {"resultsInterpreter": [{"display": "Dr. Who"}]},
        {"conclusionCode": [{"text": "x"}]},
    ],
)
def test_a_report_that_a_person_touched_is_never_written_over(
    peer: FhirPeer, person: Person, client: FhirClient, edit: dict[str, Any]
) -> None:
    client.publish(person.report(1))
    edited = peer.update({**_reports(peer, person)[0], **edit})
    assert client.publish(person.report(1)).outcome == "unchanged"
    done = client.publish(person.report(2))
    assert done.outcome == "replaced"
    assert client.publish(person.report(2)).outcome == "unchanged"
    assert peer.get(f"DiagnosticReport/{edited['id']}")["meta"]["versionId"] == edited["meta"]["versionId"]
    shown = _reports(peer, person)
    assert len(shown) == 2
    newer = next(item for item in shown if item["id"] != edited["id"])
    assert newer["extension"][0]["url"].endswith("/diagnosticReport-replaces")
    assert newer["extension"][0]["valueReference"]["reference"] == f"DiagnosticReport/{edited['id']}"
    assert newer["status"] == "preliminary"
    assert client.publish(person.report(3)).outcome == "updated"
    assert len(_reports(peer, person)) == 2


def test_an_observation_that_a_person_touched_is_never_written_over(
    peer: FhirPeer, person: Person, client: FhirClient
) -> None:
    client.publish(person.report(1))
    number = _observations(peer, person)[0]
    changed = {**number["valueQuantity"], "value": 23}
    edited = peer.update({**number, "valueQuantity": changed})
    assert client.publish(person.report(2)).outcome == "replaced"
    assert peer.get(f"Observation/{edited['id']}")["valueQuantity"]["value"] == 23


def test_withdrawing(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    assert client.publish(person.report(withdrawn="wrong patient")).report is None
    client.publish(person.report())
    assert client.publish(person.report(withdrawn="wrong series")).outcome == "withdrawn"
    assert _reports(peer, person)[0]["status"] == "entered-in-error"
    assert "presentedForm" not in _reports(peer, person)[0]
    assert {item["status"] for item in _observations(peer, person)} == {"entered-in-error"}
    assert client.publish(person.report(withdrawn="wrong series")).outcome == "unchanged"
    assert client.publish(person.report()).outcome == "unchanged"
    assert client.publish(person.report(2)).outcome == "replaced"
    finished = next(item for item in _reports(peer, person) if item["status"] == "preliminary")
    peer.update({**finished, "status": "final"})
    with pytest.raises(Refused) as error:
        client.publish(person.report(2, withdrawn="wrong series"))
    assert _code(error) is RefusalCode.DELIVERY_CONFLICT


@pytest.mark.parametrize("transactions", [True, False])
@pytest.mark.parametrize("action", ["drop-before", "drop-after", "status:503", "status:429", "status:500"])
def test_lost_answers_and_busy_servers_end_in_one_report(
    peer: FhirPeer, person: Person, action: str, transactions: bool
) -> None:
    peer.settings(transactions=transactions)
    path = "POST /" if transactions else "PUT /DiagnosticReport"
    with FhirClient(peer.url) as client:
        client.check()
        peer.fail(path, action, retryAfter="7")
        outcomes, waits = [], []
        for _ in range(3):
            try:
                outcomes.append(client.publish(person.report()).outcome)
            except PeerTrouble as trouble:
                outcomes.append("trouble")
                waits.append(trouble.retry_after_s)
    assert waits in ([], [7.0] if action.startswith("status:") else [None])
    assert outcomes[-1] == "unchanged"
    if action == "drop-after" and transactions:
        assert outcomes[0] == "created"
    else:
        assert outcomes[0] == "trouble"
    shown = _reports(peer, person)
    assert len(shown) == 1
    assert len(_observations(peer, person)) == 2
    assert len(peer.all("Provenance", target=f"DiagnosticReport/{shown[0]['id']}")) == 1


@pytest.mark.parametrize("step", ["POST /Device", "POST /ImagingStudy", "PUT /Observation", "POST /Provenance"])
@pytest.mark.parametrize("action", ["drop-before", "status:503"])
def test_single_requests_resume_at_every_step(peer: FhirPeer, person: Person, step: str, action: str) -> None:
    peer.settings(transactions=False)
    with FhirClient(peer.url) as client:
        peer.fail(step, action)
        with pytest.raises(PeerTrouble):
            client.publish(person.report())
        client.publish(person.report())
    shown = _reports(peer, person)
    assert len(shown) == 1
    assert len(peer.all("Provenance", target=f"DiagnosticReport/{shown[0]['id']}")) == 1


def test_a_version_that_changes_under_us_is_read_again(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    client.publish(person.report(1))
    peer.fail("POST /", "status:412", times=1)
    assert client.publish(person.report(2)).outcome == "updated"
    peer.fail("POST /", "status:409", times=3)
    with pytest.raises(PeerTrouble):
        client.publish(person.report(3))


def test_the_version_guard_is_in_the_request(peer: FhirPeer, person: Person, client: FhirClient) -> None:
    client.publish(person.report(1))
    shown = _reports(peer, person)[0]
    from fhir_bridge import Known, Links

    links = Links(f"Patient/{person.patient['id']}", report=Known(f"DiagnosticReport/{shown['id']}", "not-this-one"))
    answer = peer.http.post("/", json=bundle(person.report(2), links))
    statuses = [entry.get("response", {}).get("status") for entry in answer.json().get("entry", [])]
    assert answer.status_code == 412 or "412" in statuses
    assert _reports(peer, person)[0]["meta"]["versionId"] == shown["meta"]["versionId"]


@pytest.mark.parametrize("status", ["status:400", "status:422", "status:401", "status:302"])
def test_a_rejection_is_permanent_and_tells_no_patient_data(
    peer: FhirPeer, person: Person, client: FhirClient, status: str
) -> None:
    client.check()
    # twice: a 400 to the transaction makes the client try its entries, whose first is refused in the same way
    peer.fail("POST /", status, times=2, location="http://127.0.0.1:1/elsewhere")
    with pytest.raises(Refused) as error:
        client.publish(person.report())
    peer.http.delete("/__fault")
    assert _code(error) is RefusalCode.PEER_REJECTED
    assert status[-3:] in error.value.refusal.found


def test_a_transaction_declined_as_a_whole_is_sent_entry_by_entry(
    peer: FhirPeer, person: Person, client: FhirClient
) -> None:
    """Servers cap transactions: what one takes in one piece, another takes in order, with the same outcome."""
    client.check()
    peer.fail("POST /", "status:413")
    assert client.publish(person.report()).outcome == "created"
    assert len(_reports(peer, person)) == 1
    assert client.publish(person.report()).outcome == "unchanged"


def test_what_the_peer_validates_it_accepts_for_every_kind_of_report(
    peer: FhirPeer, person: Person, client: FhirClient
) -> None:
    from fhir_bridge import ReportOptions

    options = ReportOptions(
        status="partial",
        test_data=True,
        intended_use_uri="urn:ainode:use:1",
        wado_root="https://pacs.example/dicom-web",
    )
    rich = person.report(regions=(region(), region("oedema", 3.0, 0)), options=options)
    rich = dataclasses.replace(rich, run=dataclasses.replace(rich.run, grade=Grade.CONTRADICTING))
    assert client.publish(rich).outcome == "created"
    assert _reports(peer, person)[0]["status"] == "partial"
