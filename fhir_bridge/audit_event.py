"""An entry of the audit log as a FHIR R4 AuditEvent, coded with the events of DICOM PS3.15 A.5.3 (CID 400, 401).

Names, pictures and patient identifiers are not in an entry and so not here: actors and results go by opaque ids, the
study by its UID.  `entry` keeps the log's own number and digest, so that a copy can be held against the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KIND = "AuditEvent"
ACTOR_SYSTEM = "urn:ainode:actor"
ACTION_SYSTEM = "urn:ainode:audit-action"
OBJECT_SYSTEM = "urn:ainode:id"
CHAIN_SYSTEM = "urn:ainode:audit-chain"
STUDY_SYSTEM = "urn:dicom:uid"
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_OBJECT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"


@dataclass(frozen=True)
class _Event:
    code: str
    display: str
    action: str
    """FHIR: C create, R read, U update, E execute."""
    subtype: tuple[str, str] = ("", "")


_LOGIN, _LOGOUT = ("110122", "Login"), ("110123", "Logout")
_ALERT = "Security Alert"
_EVENTS: tuple[tuple[str, _Event], ...] = (
    ("sign-in", _Event("110114", "User Authentication", "E", _LOGIN)),
    ("session-ended", _Event("110114", "User Authentication", "E", _LOGOUT)),
    ("user-", _Event("110113", _ALERT, "U", ("110137", "User security Attributes Changed"))),
    ("password-", _Event("110113", _ALERT, "U", ("110137", "User security Attributes Changed"))),
    ("key-", _Event("110113", _ALERT, "U", ("110129", "Security Configuration"))),
    ("site-", _Event("110113", _ALERT, "U", ("110129", "Security Configuration"))),
    ("token-key", _Event("110113", _ALERT, "U", ("110129", "Security Configuration"))),
    ("audit-", _Event("110101", "Audit Log Used", "R")),
    (f"search-{KIND}", _Event("110101", "Audit Log Used", "R")),
    (f"read-{KIND}", _Event("110101", "Audit Log Used", "R")),
    ("search-", _Event("110112", "Query", "E")),
    ("archive.searched", _Event("110112", "Query", "E")),
    ("patient-looked-up", _Event("110112", "Query", "E")),
    ("cases-listed", _Event("110112", "Query", "E")),
    ("read-", _Event("110110", "Patient Record", "R")),
    ("dicomweb-", _Event("110103", "DICOM Instances Accessed", "R")),
    ("analysis-revealed", _Event("110103", "DICOM Instances Accessed", "R")),
    ("analysis-result-seen", _Event("110110", "Patient Record", "R")),
    ("archive.study-fetched", _Event("110104", "DICOM Instances Transferred", "E")),
    ("analysis-made", _Event("110107", "Import", "C")),
    ("prediction-asked", _Event("110107", "Import", "C")),
)
"""By how the action begins; the first that fits."""
_OF_A_STUDY = _Event("110110", "Patient Record", "U")
_OF_THE_NODE = _Event("110100", "Application Activity", "E")


def audit_event(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The resource of one entry.

    Parameters
    ----------
    entry
        `id`, `at` (ISO 8601, UTC), `actor`, `action`, `study_uid` or None, `detail`, `sha256`.
    """
    action, detail = str(entry["action"]), dict(entry["detail"])
    event = next((event for begins, event in _EVENTS if action.startswith(begins)), None)
    event = event or (_OF_A_STUDY if entry["study_uid"] else _OF_THE_NODE)
    subtype = [{"system": ACTION_SYSTEM, "code": action}]
    if event.subtype[0]:
        subtype.insert(0, {"system": _DCM, "code": event.subtype[0], "display": event.subtype[1]})
    return {
        "resourceType": KIND,
        "id": str(entry["id"]),
        "type": {"system": _DCM, "code": event.code, "display": event.display},
        "subtype": subtype,
        "action": event.action,
        "recorded": entry["at"],
        "outcome": "4" if action.endswith("-refused") else "0",
        "agent": [{"who": {"identifier": {"system": ACTOR_SYSTEM, "value": str(entry["actor"])}}, "requestor": True}],
        "source": {
            "observer": {"display": "dicom-ai-node"},
            "type": [{"system": _SOURCE_TYPE, "code": "4", "display": "Application Server"}],
        },
        "entity": [*_objects(entry["study_uid"], detail), _chain(entry)],
    }


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
