"""What the caller of a request says about a photograph, as web process and worker both read it.

Nothing here opens an image, so the web process stays small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from dicom_node.body_sites import body_site
from dicom_node.photo import Occasion, Patient
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import NodeSection

NOBODY = "urn:ainode:request"
"""Issuer under which a request without a patient has its own id: the object needs one, and nobody is to be invented."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+")


def issuer_of(system: str, issuers: Mapping[str, str]) -> str:
    """The Issuer of Patient ID (0010,0021) of a FHIR identifier system: as `report.issuers` maps it, else itself.

    Raises
    ------
    Refused
        ``validation`` for what is no URI.
    """
    if not _URI.fullmatch(system):
        raise Refused(RefusalCode.VALIDATION, "patient.system: a URI", "something else")
    return next((issuer for issuer, known in issuers.items() if issuer and known == system), system)


def patient_of(said: Mapping[str, Any], public_id: str) -> Patient:
    """Whose photograph it is: as the caller says, else the request's own.

    Raises
    ------
    Refused
        ``patient-unidentified`` or ``validation`` for what no Patient ID can be.
    """
    told = said["patient"]
    if told is None:
        return Patient(f"REQUEST-{public_id[:16].upper()}", NOBODY)
    return Patient(told["id"], told["issuer"], told.get("name", ""), told.get("birth_date", ""), told.get("sex", ""))


def occasion_of(said: Mapping[str, Any], created: str) -> Occasion:
    """What the caller says about the taking of the photograph.

    Raises
    ------
    Refused
        ``validation``.
    """
    site = body_site(said["body_site"]) if said["body_site"] else None
    if said["body_site"] and site is None:
        raise Refused(RefusalCode.VALIDATION, "bodySite: a name of the table of body sites", "another word")
    return Occasion(
        created, order=said["order"], body_site=site, laterality=said["laterality"], declared=said["declared"]
    )


def local_time(node: NodeSection, moment: str) -> str:
    """A time of the record as the site's clocks show it."""
    if node.timezone:
        return datetime.fromisoformat(moment).astimezone(ZoneInfo(node.timezone)).isoformat(timespec="microseconds")
    hours, minutes = (int(part) for part in node.timezone_offset[1:].split(":"))
    shift = timedelta(hours=hours, minutes=minutes) * (-1 if node.timezone_offset[0] == "-" else 1)
    return datetime.fromisoformat(moment).astimezone(timezone(shift)).isoformat(timespec="microseconds")
