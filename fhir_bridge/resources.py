"""One function per resource of a report but its Observations: Device, ImagingStudy, DiagnosticReport, Provenance.

FHIR R4 (4.0.1).  Mapping of a DICOM structured report follows the HL7 DICOM-SR guide where R4 allows it: `partOf` is
the ImagingStudy, `basedOn` the order by accession number.  `conclusionCode` and `resultsInterpreter` stay empty: a
machine's output is neither on the problem list nor read by anybody yet.  Wording: "no region above threshold" is the
strongest thing said about absence.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from html import escape
from typing import Any

from ai_engine.findings import Code, Measurement
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.words import ObjectKind
from fhir_bridge import codes
from fhir_bridge.words import AI_CATEGORY, CODES_SYSTEM, RUN_SYSTEM, Links, ReportInput

UNREVIEWED = "Software output for review by a qualified professional; not reviewed yet."
RESEARCH_ONLY = "For research use only. Not for use in diagnostic procedures."
NOTHING_ABOVE_THRESHOLD = "No region above threshold."
ESTIMATE = "An estimate from one picture, not a diagnosis."

STUDY_UID_TYPE = Code("110180", "DCM", "Study Instance UID")
ACCESSION_TYPE = Code("ACSN", "http://terminology.hl7.org/CodeSystem/v2-0203", "Accession ID")
WADO_RS = Code("dicom-wado-rs", "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "DICOM WADO-RS")
TEST_LABEL = Code("HTEST", "http://terminology.hl7.org/CodeSystem/v3-ActReason", "test health data")
PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
DATA_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"


Resource = dict[str, Any]


def dicom_uid(uid: str) -> Resource:
    """Identifier of a DICOM object (FHIR ImagingStudy.identifier, DICOM UID as ``urn:oid:``)."""
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}


def result_id(report: ReportInput, links: Links) -> str:
    """Our result id; a new one for every time a person's edit has closed the one before."""
    if not links.generation:
        return report.result_id
    return str(uuid.uuid5(uuid.UUID(report.result_id), f"generation/{links.generation}"))


def device_uid(report: ReportInput) -> str:
    """Device UID of the model version: from site and package digest, unless the caller gives the SR's own."""
    name = uuid.uuid5(uuid.UUID(report.run.site_namespace), f"device/{report.findings.model.digest_sha256}")
    return report.device_uid or f"2.25.{name.int}"


def subject(report: ReportInput, links: Links) -> Resource:
    """The Patient: literal when a server resolved it, else by identifier alone.

    Raises
    ------
    Refused
        With `patient-unidentified` when the images carry no patient identifier.
    """
    identifier = patient_identifier(report)
    return {**({"reference": links.patient} if links.patient else {}), "type": "Patient", "identifier": identifier}


def patient_identifier(report: ReportInput) -> Resource:
    """Patient ID with the configured system of its issuer; an unmapped issuer is named as assigner."""
    value = codes.text(report.attributes, "PatientID")
    if not value:
        raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, expected="a patient identifier", found="none")
    if not codes.is_carried(value):
        # Changing the character would make it another identifier.
        raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, "an identifier that FHIR can carry", "other white space in it")
    issuer = codes.text(report.attributes, "IssuerOfPatientID")
    system = report.issuer_systems.get(issuer, "")
    if system:
        return {"system": system, "value": value}
    return {"value": value, **({"assigner": {"display": " ".join(issuer.split())}} if issuer else {})}


def order(report: ReportInput, links: Links) -> list[Resource]:
    """The ServiceRequest by accession number; empty when there is none.  Never created."""
    if not has_order(report):
        return []
    identifier = accession_identifier(report)
    literal = {"reference": links.service_request} if links.service_request else {}
    return [{**literal, "type": "ServiceRequest", "identifier": identifier}]


def has_order(report: ReportInput) -> bool:
    """Whether the images name an order by a number that FHIR can carry."""
    accession = codes.text(report.attributes, "AccessionNumber")
    return bool(accession) and codes.is_carried(accession)


def accession_identifier(report: ReportInput) -> Resource:
    """Accession number as identifier of type ACSN."""
    issuer = codes.text(report.attributes, "IssuerOfAccessionNumber")
    system = report.accession_systems.get(issuer, "")
    value = codes.text(report.attributes, "AccessionNumber")
    return {"type": codes.concept(ACCESSION_TYPE), **({"system": system} if system else {}), "value": value}


def meta(report: ReportInput) -> Resource:
    return {"meta": {"security": [codes.coding(TEST_LABEL)]}} if report.options.test_data else {}


def performer(report: ReportInput) -> list[Resource]:
    who = report.organisation
    identifier = {"system": who.identifier_system, "value": who.identifier_value}
    known = {"identifier": identifier} if who.identifier_system and who.identifier_value else {}
    return [{"type": "Organization", **known, "display": who.name}]


def study_reference(report: ReportInput, url: str) -> Resource:
    return {"reference": url, "type": "ImagingStudy", "identifier": dicom_uid(report.run.study_uid)}


def with_order_and_time(body: Resource, report: ReportInput, links: Links) -> Resource:
    based_on = order(report, links)
    if based_on:
        body["basedOn"] = based_on
    when = codes.acquired(report.attributes, report.zone)
    if when:
        body["effectiveDateTime"] = when
    return body


def device(report: ReportInput) -> Resource:
    """Device: one model version, immutable."""
    model = report.findings.model
    body: Resource = {
        "resourceType": "Device",
        **meta(report),
        "identifier": [dicom_uid(device_uid(report))],
        "status": "active",
        "manufacturer": model.manufacturer,
        "deviceName": [{"name": report.told(model.title) or model.name, "type": "model-name"}],
        "modelNumber": model.name,
        "version": [
            {"type": {"text": "model version"}, "value": model.version},
            {"type": {"text": "package sha256"}, "value": model.digest_sha256},
        ],
        "type": {"text": report.told("Image analysis software")},
    }
    if report.options.research_use_only:
        body["safety"] = [{"text": report.told(RESEARCH_ONLY)}]
    if report.organisation.contact:
        system = "email" if "@" in report.organisation.contact else "phone"
        body["contact"] = [{"system": system, "value": report.organisation.contact}]
    return body


def imaging_study(report: ReportInput, links: Links) -> Resource:
    """ImagingStudy: the study by its UID, with the series that were read.  Counts of the whole study are not ours."""
    identifiers = [{"type": codes.concept(STUDY_UID_TYPE), **dicom_uid(report.run.study_uid)}]
    if has_order(report):
        identifiers.append(accession_identifier(report))
    body: Resource = {
        "resourceType": "ImagingStudy",
        **meta(report),
        "identifier": identifiers,
        "status": "available",
        "subject": subject(report, links),
    }
    zone = codes.zone_of(report.attributes, report.zone)
    day, time = codes.text(report.attributes, "StudyDate"), codes.text(report.attributes, "StudyTime")
    started = codes.date_time(day, time, zone)
    if started:
        body["started"] = started
    if report.options.wado_root:
        body["contained"] = [_endpoint(report.options.wado_root)]
        body["endpoint"] = [{"reference": "#wado"}]
    based_on = order(report, links)
    if based_on:
        body["basedOn"] = based_on
    if report.series:
        modalities = sorted({used.modality for used in report.series})
        body["modality"] = [codes.coding(Code(m, "DCM", m)) for m in modalities]
        body["series"] = [_series(report, index) for index in range(len(report.series))]
    return body


def _series(report: ReportInput, index: int) -> Resource:
    used = report.series[index]
    body: Resource = {"uid": used.series_uid, "modality": codes.coding(Code(used.modality, "DCM", used.modality))}
    if used.role:
        body["description"] = report.told(f"read as {used.role}")
    if used.number_of_instances > 0:
        body["numberOfInstances"] = used.number_of_instances
    return body


def _endpoint(address: str) -> Resource:
    return {
        "resourceType": "Endpoint",
        "id": "wado",
        "status": "active",
        "connectionType": codes.coding(WADO_RS),
        "payloadType": [{"text": "DICOM"}],
        "address": address,
    }


# -- report and provenance --------------------------------------------------------------------------------------------


def conclusion(report: ReportInput) -> str:
    """What was found, and that nobody has reviewed it."""
    model, told = report.findings.model, report.told
    if report.withdrawn:
        return told(f"Withdrawn: {report.withdrawn}")
    found = []
    for region in report.findings.regions:
        volume = region.measure("volume")
        if region.present and volume:
            number = f"{codes.quantity(volume.value, volume.unit)['value']:.1f} mL"
            found.append(f"{told(region.name)} {told(number)}")
    for item in report.findings.observations:
        side = "" if item.category is None else f" ({told(item.category.meaning).lower()})"
        found.extend(f"{told(item.name.meaning)} {told(_number(m))}{side}" for m in item.measurements)
    sentences = [f"{'; '.join(found)}." if found else told(NOTHING_ABOVE_THRESHOLD)]
    if report.findings.observations:
        sentences.append(told(ESTIMATE))
    sentences += [f"{told(model.title) or model.name} {model.version}.", told(UNREVIEWED)]
    if report.options.research_use_only:
        sentences.append(told(RESEARCH_ONLY))
    return " ".join(sentences)


def _number(measurement: Measurement) -> str:
    """A share to 1 %, below 10 % to 0.1 %; a number without unit, such as an uncalibrated score, to two digits."""
    if measurement.unit.value != "%":
        return f"{measurement.value:.2f}"
    return f"{measurement.value:.{1 if measurement.value < 9.95 else 0}f} %"


def diagnostic_report(report: ReportInput, links: Links, study_url: str, observation_urls: list[str]) -> Resource:
    """DiagnosticReport: preliminary (or partial), never final; the PDF rides in `presentedForm`."""
    options = report.options
    words = conclusion(report)
    lang = f' lang="{options.language}" xml:lang="{options.language}"'
    body: Resource = {
        "resourceType": "DiagnosticReport",
        **meta(report),
        "language": options.language,
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml"{lang}><p>{escape(words)}</p></div>',
        },
        "identifier": _report_identifiers(report, links),
        "status": "entered-in-error" if report.withdrawn else options.status,
        "category": [
            codes.concept(options.category, overrides=options.code_systems),
            codes.concept(Code(AI_CATEGORY, CODES_SYSTEM, "AI result")),
        ],
        "code": codes.concept(options.code, report.told(options.title), options.code_systems),
        "subject": subject(report, links),
        "issued": codes.instant(report.run.created),
        "performer": performer(report),
        "result": [{"reference": url} for url in observation_urls],
        "imagingStudy": [study_reference(report, study_url)],
        "conclusion": words,
    }
    if links.replaces:
        body["extension"] = [{"url": REPLACES, "valueReference": {"reference": links.replaces}}]
    if report.pdf and not report.withdrawn:
        body["presentedForm"] = [_pdf(report)]
    return with_order_and_time(body, report, links)


def _report_identifiers(report: ReportInput, links: Links) -> list[Resource]:
    ours: Resource = {"use": "official", "system": report.identifier_system, "value": result_id(report, links)}
    # The period tells a late resend of an old run from a newer one; a person's edit leaves it alone.
    made = {"start": codes.instant(report.run.created)}
    identifiers: list[Resource] = [
        ours,
        {"use": "secondary", "system": RUN_SYSTEM, "value": report.run.run_key, "period": made},
    ]
    sr = [item for item in report.objects if item.kind is ObjectKind.SR]
    return [*identifiers, *({"use": "secondary", **dicom_uid(item.sop_instance_uid)} for item in sr)]


def _pdf(report: ReportInput) -> Resource:
    # SHA-1 is what FHIR R4 Attachment.hash prescribes; it is a checksum here, not a protection.
    digest = hashlib.sha1(report.pdf, usedforsecurity=False).digest()
    return {
        "contentType": "application/pdf",
        "data": base64.b64encode(report.pdf).decode(),
        "size": len(report.pdf),
        "hash": base64.b64encode(digest).decode(),
        "language": report.options.language,
        "title": report.told(f"{report.options.title} (unreviewed)"),
        "creation": codes.instant(report.run.created),
    }


def provenance(report: ReportInput, targets: list[str], study_url: str, device_url: str) -> Resource:
    """Provenance: who made what from what, one per accepted change."""
    operation = "NULLIFY" if report.withdrawn else "UPDATE" if report.run.predecessor else "CREATE"
    moment = codes.instant(report.run.created)
    organisation = performer(report)[0]
    node = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{report.run.site_namespace}"}
    body: Resource = {
        "resourceType": "Provenance",
        **meta(report),
        "target": [{"reference": url} for url in targets],
        "occurredDateTime": moment,
        "recorded": moment,
        "activity": {"coding": [{"system": DATA_OPERATION, "code": operation}]},
        "agent": [
            {"type": _participant("assembler"), "who": {"reference": device_url}, "onBehalfOf": organisation},
            {
                "type": _participant("performer"),
                "who": {"type": "Device", "identifier": node, "display": "dicom-ai-node"},
                "onBehalfOf": organisation,
            },
        ],
        "entity": _entities(report, study_url),
    }
    if report.options.intended_use_uri:
        body["policy"] = [report.options.intended_use_uri]
    if report.withdrawn:
        body["reason"] = [{"text": report.told(report.withdrawn)}]
    return body


def _participant(code: str) -> Resource:
    return {"coding": [{"system": PARTICIPANT, "code": code}]}


def _entities(report: ReportInput, study_url: str) -> list[Resource]:
    entities: list[Resource] = [{"role": "source", "what": study_reference(report, study_url)}]
    for item in report.objects:
        what = {"identifier": dicom_uid(item.sop_instance_uid), "display": f"DICOM {item.kind.value.upper()}"}
        entities.append({"role": "derivation", "what": what})
    entities.append({"role": "derivation", "what": {"identifier": {"system": RUN_SYSTEM, "value": report.run.run_key}}})
    for old in (report.run.predecessor or {}).get("objects", []):
        what = {"identifier": dicom_uid(str(old["sop_instance_uid"])), "display": f"DICOM {str(old['kind']).upper()}"}
        entities.append({"role": "revision", "what": what})
    return entities
