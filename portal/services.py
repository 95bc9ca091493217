"""What the portal is given: functions and a store, so that it knows no database and no road."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING

from starlette.requests import Request

from dicom_node.metrics import METRICS, Metrics
from dicom_node.record.keys import KeyIdentity
from fhir_bridge.server import Access
from fhir_bridge.store import ReportStore

if TYPE_CHECKING:
    from dicom_node.audit_desk import AuditDesk
    from dicom_node.desks.administration import Administration
    from dicom_node.desks.analyses import Analyses
    from dicom_node.desks.operation import Operation
    from dicom_node.desks.people import People
    from dicom_node.desks.predictions import Predictions
    from dicom_node.desks.reviews import Reviews
    from dicom_node.desks.studies import StudyDesk
    from dicom_node.permissions import Person
    from portal.luna import LunaDesk
    from portal.pages.trust import Trust
    from portal.viewer import ViewerSettings


@dataclass(frozen=True)
class CheckResult:
    """Whether one condition of readiness holds, why not, and what to do.  Words only: no paths, no patient data."""

    ok: bool
    reason: str = ""
    advice: str = ""


Check = Callable[[], CheckResult]


@dataclass(frozen=True)
class PortalSettings:
    """Limits and addresses of the HTTP side."""

    version: str = "0"
    allowed_hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})
    """Names under which the portal may be called (Host header, without port): stops DNS rebinding."""
    base_url: str = ""
    """Public address, e.g. ``https://node.example``; empty takes each request's own."""
    max_body_bytes: int = 1_000_000
    max_upload_bytes: int = 0
    """Of a request whose body goes to disk while it arrives (`portal.api`); 0: there is none."""
    max_photo_bytes: int = 0
    """Of a request about a photograph, whose body may be JSON too."""
    max_json_depth: int = 32
    check_timeout_s: float = 5.0
    language: str = "en"
    """Of pages for somebody whose browser asks for none of ours."""
    organisation: str = ""
    """Stands beside the product's name on every page."""
    zone: tzinfo = UTC
    """By whose clock pages tell the time."""


@dataclass(frozen=True)
class PortalServices:
    """Everything the portal needs from the rest of the node.

    Attributes
    ----------
    live
        Checks of /livez: the accept loops turn.  No dependencies.
    ready
        Checks of /readyz by name: database write, disk, models, queue, decode child, audit, clock.
    verify_key
        Who sends an API key, or None.
    refresh_metrics
        Called before /metrics is rendered, to set the gauges that only the record knows.
    on_access
        Called after patient data were handed out, for the audit trail.
    predictions
        The desk for predictions by HTTP; None: there is no /api/v1.
    analyses
        The desk for photographs that people ask about; None: there are no pages for them.
    administration
        The desk for accounts, sites, keys and the audit log; None: there is no /administration.
    operation
        The desk of whoever is on duty; None: there is no /operation.
    studies
        The desk of who brings a study of her own; None: there is no /study.
    reviews
        The specialist's desk; None: there are no /cases.
    trust
        Certificates of the node and its authority, for the page that says how to trust them; None: there is no TLS.
    luna
        The same for older clients, and their tokens; None: there is no LUNA API.
    people
        The desk for accounts and sessions; None: nobody signs in.
    verify_token
        Who sends a token of the LUNA API, or None.
    audit
        Reads the audit log for programs; None: there is no /fhir/AuditEvent.
    """

    verify_key: Callable[[str], KeyIdentity | None]
    ready: Mapping[str, Check]
    live: Mapping[str, Check] = field(default_factory=dict)
    reports: ReportStore | None = None
    metrics: Metrics = METRICS
    refresh_metrics: Callable[[], None] | None = None
    on_access: Callable[[Request, Access], None] | None = None
    viewer: ViewerSettings | None = None
    predictions: Predictions | None = None
    administration: Administration | None = None
    operation: Operation | None = None
    studies: StudyDesk | None = None
    analyses: Analyses | None = None
    reviews: Reviews | None = None
    luna: LunaDesk | None = None
    people: People | None = None
    verify_token: Callable[[str], Person | None] | None = None
    audit: AuditDesk | None = None
    trust: Callable[[], Trust] | None = None
    settings: PortalSettings = PortalSettings()
