"""DICOM codes as FHIR codings, DICOM times as FHIR times, DICOM numbers as FHIR decimals.

FHIR R4 terminologies (systems), PS3.5 6.2 (DA, TM, DT), PS3.3 C.12.1.1.3 (time zone).  Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ai_engine.findings import Code
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.zones import offset, offset_at

SYSTEMS: Mapping[str, str] = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "NCIt": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
}
PRIVATE_SYSTEM_PREFIX = "urn:ainode:codes:"
"""A private scheme ``99X`` becomes ``urn:ainode:codes:99X`` unless the site maps it."""

_FHIR_UNITS: Mapping[str, tuple[str, str]] = {"cm3": ("mL", "mL"), "{ratio}": ("ratio", "{ratio}")}
"""UCUM codes whose FHIR form differs from the one CID 7462 asks for in SR; 1 cm3 is 1 mL."""

_DATE = re.compile(r"^(\d{4})(\d{2})(\d{2})$")
_TIME = re.compile(r"^(\d{2})(\d{2})?(\d{2})?(?:\.(\d{1,6}))?$")
EARLIEST_YEAR = 1850
"""Nobody who was born earlier has been imaged."""
DECIMAL_PLACES = 4


def system_uri(scheme: str, overrides: Mapping[str, str] | None = None) -> str:
    """The FHIR URI of a DICOM coding scheme designator; a URI stays as it is."""
    if overrides and scheme in overrides:
        return overrides[scheme]
    if scheme in SYSTEMS:
        return SYSTEMS[scheme]
    return scheme if ":" in scheme else PRIVATE_SYSTEM_PREFIX + scheme


def coding(code: Code, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """FHIR Coding of a DICOM code."""
    return {"system": system_uri(code.scheme, overrides), "code": code.value, "display": code.meaning}


def concept(code: Code, text: str = "", overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """FHIR CodeableConcept with one coding and, where given, a text."""
    return {"coding": [coding(code, overrides)], **({"text": text} if text else {})}


def decimal(value: float) -> float | int:
    """A finite number with at most `DECIMAL_PLACES` decimals, as JSON writes it without an exponent.

    Raises
    ------
    Refused
        With `result-check-failed` for NaN or infinity: FHIR R4 decimal has neither.
    """
    if not math.isfinite(value):
        raise Refused(RefusalCode.RESULT_CHECK_FAILED, expected="finite measurements", found="NaN or infinity")
    rounded = round(float(value), DECIMAL_PLACES)
    return int(rounded) if rounded == int(rounded) else rounded


def quantity(value: float, unit: Code) -> dict[str, Any]:
    """FHIR Quantity in UCUM; cm3 is said as mL."""
    shown, code = _FHIR_UNITS.get(unit.value, (unit.value, unit.value))
    return {"value": decimal(value), "unit": shown, "system": SYSTEMS["UCUM"], "code": code}


def zone_of(attributes: Mapping[str, Any], default: str) -> str:
    """The offset that the images say, else the site's zone; empty when they say one that is none."""
    said = text(attributes, "TimezoneOffsetFromUTC")
    return (offset(said) or "") if said else default


def date(value: str) -> str | None:
    """DA as a FHIR date, or None when it is not a possible date: year 1 and its like say that nobody knows."""
    match = _DATE.fullmatch(value.strip())
    if not match or int(match[1]) < EARLIEST_YEAR:
        return None
    try:
        return datetime(int(match[1]), int(match[2]), int(match[3])).date().isoformat()
    except ValueError:
        return None


def date_time(day: str, time: str, zone: str) -> str | None:
    """DA, TM and an offset as a FHIR dateTime: with a time when there is one, else the date alone.

    A local time is never given as UTC: `zone` is the offset of the header or, when the header has none, the site's
    offset or the name of its zone.  Without an offset that held at that time the date alone is given.
    """
    base = date(day)
    match = _TIME.fullmatch(time.strip()) if base else None
    if base is None or match is None or match[2] is None:
        return base
    shift = offset_at(day.strip(), time.strip(), zone)
    if shift is None:
        return base
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if hour > 23 or minute > 59 or second > 60:
        return base
    fraction = f".{match[4]}" if match[4] else ""
    return f"{base}T{hour:02}:{minute:02}:{second:02}{fraction}{shift}"


def instant(value: str) -> str:
    """An aware ISO 8601 time as a FHIR instant.

    Raises
    ------
    ValueError
        If it is not a time or has no offset.
    """
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("an instant needs an offset")
    return moment.isoformat(timespec="milliseconds")


def text(attributes: Mapping[str, Any], keyword: str) -> str:
    """One attribute as a stripped string; absent, empty and null are ``""``; the first of several values."""
    value = attributes.get(keyword)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return "" if value is None else str(value).strip()


def is_carried(value: str) -> bool:
    """Whether FHIR's `string` can carry a value: of all white space it knows space, tab and line ends only."""
    return re.fullmatch(r"[ \S]*", value) is not None


def acquired(attributes: Mapping[str, Any], default_offset: str) -> str | None:
    """When the images were made: acquisition, else series, else study (FHIR Observation.effective)."""
    zone = zone_of(attributes, default_offset)
    whole = text(attributes, "AcquisitionDateTime")
    if whole:
        match = re.fullmatch(r"^(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?$", whole)
        if match:
            return date_time(match[1], match[2] or "", match[3] or zone)
    for stem in ("Acquisition", "Content", "Series", "Study"):
        day = text(attributes, f"{stem}Date")
        if day:
            found = date_time(day, text(attributes, f"{stem}Time"), zone)
            if found:
                return found
    return None
