"""What keeps results from being published, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from routing_studies import series

from dicom_node.routing.gate import HOLDS, Channel, is_placeholder, publication_gate

pytestmark = pytest.mark.unit

BOTH, FHIR = {Channel.PACS, Channel.FHIR}, {Channel.FHIR}


def codes(issuer: str | None = "HOSPITAL", **attributes: Any) -> set[str]:
    return {hold.code for hold in publication_gate(series(1, 1, **attributes), default_issuer=issuer)}


@pytest.mark.parametrize(
    ("attributes", "code", "closes"),
    [
        ({"QualityControlSubject": "YES"}, "quality-control-subject", BOTH),
        ({"PatientName": "PHANTOM^ACR"}, "phantom", BOTH),
        ({"StudyDescription": "Daily QA"}, "phantom", BOTH),
        ({"SeriesDescription": "fantoma_t1"}, "phantom", BOTH),
        ({"PatientSpeciesDescription": "Canine species"}, "animal", BOTH),
        ({"BurnedInAnnotation": "YES"}, "burned-in-annotation", FHIR),
        ({"PatientIdentityRemoved": "YES"}, "de-identified", FHIR),
        ({"PatientID": ""}, "patient-id-empty", FHIR),
        ({"PatientID": None}, "patient-id-empty", FHIR),
        ({"PatientID": "UNKNOWN"}, "patient-id-placeholder", FHIR),
        ({"PatientID": "000000"}, "patient-id-placeholder", FHIR),
        ({"PatientID": "0"}, "patient-id-placeholder", FHIR),
    ],
)
def test_holds(attributes: dict[str, Any], code: str, closes: set[Channel]) -> None:
    found = publication_gate(series(1, 1, **attributes), default_issuer="HOSPITAL")
    assert [(hold.code, set(hold.closes)) for hold in found] == [(code, closes)]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"QualityControlSubject": "NO"},
        {"PatientIdentityRemoved": "NO"},
        {"PatientName": "Quade^Anna"},
        {"PatientSpeciesDescription": "Homo sapiens"},
        {"PatientID": "0000123"},
        {"PatientID": "H-1"},
        {"StudyDescription": "aqua therapy"},
    ],
)
def test_an_ordinary_patient_is_held_by_nothing(attributes: dict[str, Any]) -> None:
    assert codes(**attributes) == set()


def test_an_unknown_issuer_is_held_unless_the_sender_has_a_default() -> None:
    assert codes(issuer=None) == {"issuer-unknown"}
    assert codes(issuer=None, IssuerOfPatientID="HOSPITAL") == set()
    assert codes(issuer="HOSPITAL") == set()


def test_reasons_are_fixed_words() -> None:
    hold = publication_gate(series(1, 1, PatientID="UNKNOWN", PatientName="MARKER^PHANTOM"), default_issuer="H")
    assert "MARKER" not in str(hold)
    assert {h.reason for h in hold} <= {reason for _, reason in HOLDS.values()}


@pytest.mark.parametrize("text", ["?", "---", "Anonymous", "1111", "xxxx", "none", "123456", "N/A"])
def test_placeholders(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["12", "TUM-0001", "A1", "1234567", "Nonesuch"])
def test_identifiers(text: str) -> None:
    assert not is_placeholder(text)
