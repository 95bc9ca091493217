"""What an action of the audit log is in DICOM's words (PS3.15 A.5.3, CID 400 and 401), for FHIR and for syslog alike.

Ground floor: knows nothing but the actions' names.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTOR_SYSTEM = "urn:ainode:actor"
ACTION_SYSTEM = "urn:ainode:audit-action"
OBJECT_SYSTEM = "urn:ainode:id"
CHAIN_SYSTEM = "urn:ainode:audit-chain"


@dataclass(frozen=True)
class Code:
    """A concept of DCM."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Event:
    """One kind of event.

    Attributes
    ----------
    action
        C create, R read, U update, E execute.
    kind
        The event within its family (CID 401), where DICOM names one.
    """

    code: Code
    action: str
    kind: Code | None = None


AUDIT_LOG_USED = Code("110101", "Audit Log Used")
_ACTIVITY = Code("110100", "Application Activity")
_ACCESSED = Code("110103", "DICOM Instances Accessed")
_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_EXPORT = Code("110106", "Export")
_IMPORT = Code("110107", "Import")
_RECORD = Code("110110", "Patient Record")
_QUERY = Code("110112", "Query")
_ALERT = Code("110113", "Security Alert")
_AUTHENTICATION = Code("110114", "User Authentication")
_CONFIGURED = Code("110129", "Security Configuration")
_USER_CHANGED = Code("110137", "User security Attributes Changed")

_EVENTS: tuple[tuple[str, Event], ...] = (
    ("sign-in", Event(_AUTHENTICATION, "E", Code("110122", "Login"))),
    ("session-ended", Event(_AUTHENTICATION, "E", Code("110123", "Logout"))),
    ("user-", Event(_ALERT, "U", _USER_CHANGED)),
    ("password-", Event(_ALERT, "U", _USER_CHANGED)),
    ("second-factor-", Event(_ALERT, "U", _USER_CHANGED)),
    ("recovery-code-", Event(_ALERT, "U", _USER_CHANGED)),
    ("key-", Event(_ALERT, "U", _CONFIGURED)),
    ("site-", Event(_ALERT, "U", _CONFIGURED)),
    ("token-key", Event(_ALERT, "U", _CONFIGURED)),
    ("audit-key", Event(_ALERT, "U", _CONFIGURED)),
    ("audit-", Event(AUDIT_LOG_USED, "R")),
    ("search-AuditEvent", Event(AUDIT_LOG_USED, "R")),
    ("read-AuditEvent", Event(AUDIT_LOG_USED, "R")),
    ("search-", Event(_QUERY, "E")),
    ("archive.searched", Event(_QUERY, "E")),
    ("patient-looked-up", Event(_QUERY, "E")),
    ("cases-listed", Event(_QUERY, "E")),
    ("analysis-results-listed", Event(_QUERY, "E")),
    ("read-", Event(_RECORD, "R")),
    ("dicomweb-", Event(_ACCESSED, "R")),
    ("analysis-revealed", Event(_ACCESSED, "R")),
    ("analysis-result-seen", Event(_RECORD, "R")),
    ("archive.study-fetched", Event(_TRANSFERRED, "E")),
    ("analysis-exported", Event(_EXPORT, "R")),
    ("cases-exported", Event(_EXPORT, "R")),
    ("export-", Event(_EXPORT, "R")),
    ("backed-up", Event(_EXPORT, "R")),
    ("analysis-made", Event(_IMPORT, "C")),
    ("prediction-asked", Event(_IMPORT, "C")),
)
"""By how the action begins; the first that fits."""


def event_of(action: str, *, is_of_study: bool) -> Event:
    """The event that an action is; what is not named above is a change of a patient's record, or the node's own."""
    found = next((event for begins, event in _EVENTS if action.startswith(begins)), None)
    return found or (Event(_RECORD, "U") if is_of_study else Event(_ACTIVITY, "E"))


def is_refused(action: str) -> bool:
    """Whether somebody was turned away: an outcome of 4, minor failure."""
    return action.endswith("-refused")
