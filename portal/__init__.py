"""HTTP for people and programs: health, metrics, FHIR and the viewer.

`create_app` makes the application from `PortalServices`; nothing here decides anything clinical.  Every route says who
may use it (I5), every error is a problem of RFC 9457 without input or stack text (S24), every body is bounded (S13).
"""

from __future__ import annotations

from portal.app import create_app
from portal.services import Check, CheckResult, PortalServices, PortalSettings
from portal.serving import Listen, serve
from portal.tickets import TicketOffice
from portal.viewer import ViewerSettings

__all__ = [
    "Check",
    "CheckResult",
    "Listen",
    "PortalServices",
    "PortalSettings",
    "TicketOffice",
    "ViewerSettings",
    "create_app",
    "serve",
]
