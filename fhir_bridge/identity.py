"""Who the report is about: the one Patient of the server, found by identifier and issuer, contradicted by nothing.

Standards 4.3 and 7.1.  A name never finds a patient; it can only contradict.  Nothing is created.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from dicom_node.refusals import RefusalCode, Refused
from fhir_bridge import codes
from fhir_bridge.resources import accession_identifier, has_order
from fhir_bridge.transport import Transport
from fhir_bridge.words import ReportInput

PLACEHOLDERS = frozenset({"0", "anon", "anonymous", "anonymized", "anonymised", "na", "none", "unknown", "xxx"})
_GENDER = {"M": "male", "F": "female"}
_PATIENT_REFERENCE = re.compile(r"^(?:.*/)?(Patient/[A-Za-z0-9.-]{1,64})$")


def check_publishable(report: ReportInput) -> None:
    """Refuse what may never be published by FHIR: de-identified studies and quality control subjects (standards 7).

    Raises
    ------
    Refused
        `publication-barred`.
    """
    for keyword, found in (("PatientIdentityRemoved", "de-identified"), ("QualityControlSubject", "a phantom")):
        if codes.text(report.attributes, keyword).upper() == "YES":
            raise Refused(RefusalCode.PUBLICATION_BARRED, expected="a patient's own images", found=found)


def patient_key(report: ReportInput) -> tuple[str, str]:
    """System and value of the patient identifier.

    Raises
    ------
    Refused
        `patient-unidentified` without a usable Patient ID, `issuer-unmapped` without a system for its issuer.
    """
    value = codes.text(report.attributes, "PatientID")
    if not value or re.sub(r"[^a-z0-9]", "", value.lower()) in PLACEHOLDERS:
        raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, "a patient identifier", "none, or a placeholder")
    issuer = codes.text(report.attributes, "IssuerOfPatientID")
    system = report.issuer_systems.get(issuer, "")
    if not system:
        found = "an issuer without one" if issuer else "no issuer in the images, and no default one"
        raise Refused(RefusalCode.ISSUER_UNMAPPED, "a FHIR system for the issuer of the patient identifier", found)
    return system, value


def find_patient(server: Transport, report: ReportInput) -> str:
    """Literal reference of the Patient.

    Raises
    ------
    Refused
        `patient-not-found`, `patient-ambiguous`, `patient-contradicted`, or as `patient_key`.
    """
    system, value = patient_key(report)
    found = server.search("Patient", system, value)
    if not found:
        raise Refused(RefusalCode.PATIENT_NOT_FOUND, expected="one Patient", found="0")
    if len(found) > 1:
        raise Refused(RefusalCode.PATIENT_AMBIGUOUS, expected="one Patient", found=str(len(found)))
    patient = living(server, found[0])
    found_contradictions = contradictions(report.attributes, patient)
    if found_contradictions:
        raise Refused(
            RefusalCode.PATIENT_CONTRADICTED,
            expected="agreement of images and Patient",
            found=f"a difference in {', '.join(found_contradictions)}",
        )
    return f"Patient/{patient['id']}"


def _replacements(patient: Mapping[str, Any]) -> list[str]:
    links = [link for link in patient.get("link", []) if link.get("type") == "replaced-by"]
    return [str(link.get("other", {}).get("reference", "")) for link in links]


def living(server: Transport, patient: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Patient itself, or the one that replaced it: followed once, never further."""
    targets = _replacements(patient)
    if not targets:
        if patient.get("active") is False:
            raise Refused(RefusalCode.PATIENT_NOT_FOUND, expected="an active Patient", found="an inactive one")
        return patient
    match = _PATIENT_REFERENCE.fullmatch(targets[0])
    if len(targets) > 1 or match is None:
        raise Refused(RefusalCode.PATIENT_AMBIGUOUS, "one Patient as replacement", f"{len(targets)}")
    other = server.read(match[1])
    if other is None or other.get("active") is False or _replacements(other):
        raise Refused(RefusalCode.PATIENT_NOT_FOUND, "an active Patient as replacement", "none")
    return other


def contradictions(attributes: Mapping[str, Any], patient: Mapping[str, Any]) -> list[str]:
    """Which of birth date, sex and family name are known on both sides and differ."""
    found = []
    born, known = codes.date(codes.text(attributes, "PatientBirthDate")), str(patient.get("birthDate", ""))
    # A FHIR date may be a year or a month only.
    if born and known and not born.startswith(known):
        found.append("birth date")
    sex, gender = _GENDER.get(codes.text(attributes, "PatientSex").upper()), patient.get("gender")
    if sex and gender in _GENDER.values() and sex != gender:
        found.append("sex")
    family = _plain(codes.text(attributes, "PatientName").split("=")[0].split("^")[0])
    others = {_plain(str(name.get("family", ""))) for name in patient.get("name", [])} - {""}
    if family and others and family not in others:
        found.append("family name")
    return found


def _plain(name: str) -> str:
    """A family name without case, accents, spaces and marks; empty when it is not in Latin letters."""
    letters = unicodedata.normalize("NFKD", name.replace("ß", "ss")).casefold()
    kept = "".join(character for character in letters if character.isalnum())
    return kept if kept.isascii() else ""


def find_order(server: Transport, report: ReportInput, patient: str) -> str:
    """Literal reference of the ServiceRequest with the accession number, or "" for a logical one.

    Raises
    ------
    Refused
        `patient-contradicted` when the order is for another Patient.
    """
    if not has_order(report):
        return ""
    identifier = accession_identifier(report)
    if "system" not in identifier:
        return ""
    try:
        found = server.search("ServiceRequest", identifier["system"], identifier["value"])
    except Refused:
        return ""  # a server without orders is no reason to keep the report back
    if len(found) != 1:
        return ""
    check_subject(found[0], patient, "order")
    return f"ServiceRequest/{found[0]['id']}"


def check_subject(resource: Mapping[str, Any], patient: str, what: str) -> None:
    """Refuse a resource of another Patient under an identifier of this study.

    Raises
    ------
    Refused
        `patient-contradicted`.
    """
    reference = str(resource.get("subject", {}).get("reference", ""))
    match = _PATIENT_REFERENCE.fullmatch(reference)
    if match and match[1] != patient:
        raise Refused(RefusalCode.PATIENT_CONTRADICTED, f"the same Patient in the {what}", "another one")
