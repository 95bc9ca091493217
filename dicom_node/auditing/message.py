"""One entry of the audit log as a DICOM audit message (PS3.15 A.5.1, with the events of A.5.3).

What is not in an entry is not here: actors and results go by opaque ids, the study by its UID and, where the log can
tell, by its kinds of objects; who called over the network has her address.  The patient is named only where the site
says so.  The last object is the entry's own number and digest, so that a copy can be held against the chain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from dicom_node.audit_codes import (
    ACTION_SYSTEM,
    AUDIT_LOG_USED,
    CHAIN_SYSTEM,
    OBJECT_SYSTEM,
    Code,
    event_of,
    is_refused,
)

MAX_BYTES = 32_000
"""Less than what every receiver must take (PS3.15 A.6): of a longer message the last opaque ids are left out."""
_PERSON, _SYSTEM, _OTHER = "1", "2", "4"
_PATIENT, _REPORT, _USER, _RESOURCE = "1", "3", "6", "13"
_SERVER = "4"
_BY_NAME, _BY_ADDRESS = "1", "2"
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'
"""In one line with the rest: repositories keep a message a line."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Source:
    """Who reports.

    Attributes
    ----------
    name, enterprise
        AuditSourceID and AuditEnterpriseSiteID; an empty enterprise is left out.
    application
        AE title of the node, the second participant of every event.
    host
        Name of this machine.
    log
        The installation's own random name.
    """

    name: str
    application: str
    host: str
    log: str
    enterprise: str = ""


@dataclass(frozen=True)
class StudyFacts:
    """What is told of a study.

    Attributes
    ----------
    sop_classes
        SOP Class UID -> number of instances.
    patient
        Patient ID as ``id^^^issuer`` (HL7 CX); empty: the patient is not named.
    """

    sop_classes: Mapping[str, int] = field(default_factory=dict)
    patient: str = ""


def audit_message(entry: Mapping[str, Any], source: Source, study: StudyFacts | None = None) -> bytes:
    """The message of one entry, UTF-8 XML.

    Parameters
    ----------
    entry
        `id`, `at` (ISO 8601, UTC), `actor`, `action`, `study_uid` or None, `detail`, `sha256`.
    """
    named = entry["detail"].get("ids", [])
    ids = [str(one) for one in named] if isinstance(named, list) else []
    while True:
        made = _written(entry, source, study or StudyFacts(), ids)
        if len(made) <= MAX_BYTES or not ids:
            return made
        ids = ids[: len(ids) * 2 // 3]


def _written(entry: Mapping[str, Any], source: Source, study: StudyFacts, ids: Sequence[str]) -> bytes:
    action, study_uid = str(entry["action"]), entry["study_uid"]
    event = event_of(action, is_of_study=bool(study_uid))
    root = ElementTree.Element("AuditMessage")
    told = _add(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=str(entry["at"]),
        EventOutcomeIndicator="4" if is_refused(action) else "0",
    )
    _code(told, "EventID", event.code)
    if event.kind is not None:
        _code(told, "EventTypeCode", event.kind)
    _code(told, "EventTypeCode", Code(action, action), ACTION_SYSTEM)
    actor = str(entry["actor"])
    place = _access_point(str(entry["detail"].get("address", "")), _BY_ADDRESS)
    _add(root, "ActiveParticipant", UserID=actor, UserIsRequestor="true", **place)
    node = _add(
        root,
        "ActiveParticipant",
        UserID=source.application,
        UserIsRequestor="false",
        **_access_point(source.host, _BY_NAME),
    )
    _code(node, "RoleIDCode", Code("110150", "Application"))
    enterprise = {"AuditEnterpriseSiteID": source.enterprise} if source.enterprise else {}
    origin = _add(root, "AuditSourceIdentification", AuditSourceID=source.name, **enterprise)
    _add(origin, "AuditSourceTypeCode", **{"csd-code": _SERVER})
    if event.code == AUDIT_LOG_USED:
        uri = Code("12", "URI")
        _object(root, f"urn:ainode:audit:{source.log}", uri, "RFC-3881", "Security Audit Log", _SYSTEM, _RESOURCE)
    if study_uid:
        uid = Code("110180", "Study Instance UID")
        described = _object(root, str(study_uid), uid, "DCM", "study", _SYSTEM, _REPORT)
        if study.sop_classes:
            kinds = _add(described, "ParticipantObjectDescription")
            for sop_class, number in sorted(study.sop_classes.items()):
                _add(kinds, "SOPClass", UID=sop_class, NumberOfInstances=str(number))
    if study.patient:
        _object(root, study.patient, Code("2", "Patient Number"), "RFC-3881", "patient", _PERSON, _PATIENT)
    for one in ids:
        _object(root, one, Code("id", "Identifier of this node"), OBJECT_SYSTEM, "object", _SYSTEM)
    if user := entry["detail"].get("user"):
        _object(root, f"user:{user}", Code("11", "User Identifier"), "RFC-3881", "user", _PERSON, _USER)
    chain = Code("entry", "Number and digest of the entry")
    _object(root, f"{entry['id']}:{entry['sha256']}", chain, CHAIN_SYSTEM, "audit log entry", _OTHER)
    return _DECLARATION + bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=False))


def _access_point(host: str, kind: str) -> dict[str, str]:
    return {"NetworkAccessPointID": host, "NetworkAccessPointTypeCode": kind} if host else {}


def _object(
    root: ElementTree.Element, value: str, kind: Code, system: str, name: str, type_code: str, role: str = ""
) -> ElementTree.Element:
    roles = {"ParticipantObjectTypeCodeRole": role} if role else {}
    made = _add(
        root, "ParticipantObjectIdentification",
        ParticipantObjectID=value, ParticipantObjectTypeCode=type_code, **roles,
    )  # fmt: skip
    _code(made, "ParticipantObjectIDTypeCode", kind, system)
    ElementTree.SubElement(made, "ParticipantObjectName").text = name
    return made


def _code(parent: ElementTree.Element, name: str, code: Code, system: str = "DCM") -> None:
    _add(parent, name, **{"csd-code": code.value, "codeSystemName": system, "originalText": code.meaning})


def _add(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    clean = {key: _NOT_XML.sub("�", value) for key, value in attributes.items()}
    return ElementTree.SubElement(parent, name, clean)
