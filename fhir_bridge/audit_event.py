"""An entry of the audit log as a FHIR R4 AuditEvent, coded with the events of DICOM PS3.15 A.5.3 (CID 400, 401).

Names, pictures and patient identifiers are not in an entry and so not here: actors and results go by opaque ids, the
study by its UID.  `entry` keeps the log's own number and digest, so that a copy can be held against the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.audit_codes import ACTION_SYSTEM, ACTOR_SYSTEM, CHAIN_SYSTEM, OBJECT_SYSTEM, event_of, is_refused

KIND = "AuditEvent"
STUDY_SYSTEM = "urn:dicom:uid"
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_OBJECT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"


def audit_event(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The resource of one entry.

    Parameters
    ----------
    entry
        `id`, `at` (ISO 8601, UTC), `actor`, `action`, `study_uid` or None, `detail`, `sha256`.
    """
    action, detail = str(entry["action"]), dict(entry["detail"])
    event = event_of(action, is_of_study=bool(entry["study_uid"]))
    subtype = [{"system": ACTION_SYSTEM, "code": action}]
    if event.kind is not None:
        subtype.insert(0, {"system": _DCM, "code": event.kind.value, "display": event.kind.meaning})
    return {
        "resourceType": KIND,
        "id": str(entry["id"]),
        "type": {"system": _DCM, "code": event.code.value, "display": event.code.meaning},
        "subtype": subtype,
        "action": event.action,
        "recorded": entry["at"],
        "outcome": "4" if is_refused(action) else "0",
        "agent": [_agent(str(entry["actor"]), str(detail.get("address", "")))],
        "source": {
            "observer": {"display": "dicom-ai-node"},
            "type": [{"system": _SOURCE_TYPE, "code": "4", "display": "Application Server"}],
        },
        "entity": [*_objects(entry["study_uid"], detail), _chain(entry)],
    }


def _agent(actor: str, address: str) -> dict[str, Any]:
    made: dict[str, Any] = {"who": {"identifier": {"system": ACTOR_SYSTEM, "value": actor}}, "requestor": True}
    if address:
        made["network"] = {"address": address, "type": "2"}  # 2: an IP address
    return made


def _objects(study_uid: str | None, detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    if study_uid:
        found.append(_entity(STUDY_SYSTEM, f"urn:oid:{study_uid}", "2", "System Object"))
    named = detail.get("ids", [])
    for value in named if isinstance(named, list) else []:
        found.append(_entity(OBJECT_SYSTEM, str(value), "2", "System Object"))
    if user := detail.get("user"):
        found.append(_entity(ACTOR_SYSTEM, f"user:{user}", "1", "Person"))
    return found


def _chain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return _entity(CHAIN_SYSTEM, f"{entry['id']}:{entry['sha256']}", "4", "Other")


def _entity(system: str, value: str, code: str, display: str) -> dict[str, Any]:
    return {
        "what": {"identifier": {"system": system, "value": value}},
        "type": {"system": _OBJECT_TYPE, "code": code, "display": display},
    }
