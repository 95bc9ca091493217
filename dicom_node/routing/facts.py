"""What routing may know about a series, computed from the headers of its instances.

Positions decide (PS3.3 C.7.6.2.1.1); names, Instance Number and Slice Thickness are hints only (hardening section 4.1).
Nothing here refuses: a series whose headers say nothing simply has fewer facts, and the clauses that ask for them fail.
The outcome does not depend on the order in which instances arrived.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from dicom_node.routing.clauses import number_of, values_of
from dicom_node.routing.kinds import PHOTOGRAPHS
from dicom_node.words import SeriesFacts

PLANE_COSINE = 0.8
"""A slice normal within 37 degrees of a body axis takes the name of that plane; else it is oblique."""
SAME_POSITION_MM = 0.01
"""Closer than this along the normal is the same slice position (decimal rounding)."""

_PLANES = ("sagittal", "coronal", "axial")
_AGE_UNITS_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def facts(headers: Sequence[Mapping[str, Any]], *, calling_ae: str | None = None) -> SeriesFacts:
    """Compute a series' facts.

    Parameters
    ----------
    headers
        One mapping per instance, DICOM keywords to JSON values, all of one series.  Enhanced images bring their frames
        under ``Frames``, each with what its functional groups say under the keywords of classic images.
    calling_ae
        Calling AE title of the arrival, offered to clauses as ``CallingAETitle``.

    Returns
    -------
    SeriesFacts
        Attributes of the lowest slice along the normal (ties by SOP Instance UID), and the computed ones of
        `dicom_node.routing.attributes.COMPUTED_ATTRIBUTES` where they are known.  Of photographs also which one it is,
        or the facts of each where the series holds several.

    Raises
    ------
    ValueError
        No headers, or headers of more than one series.
    """
    if not headers:
        raise ValueError("a series has at least one instance; found none")
    series = {str(h.get("SeriesInstanceUID", "")) for h in headers}
    studies = {str(h.get("StudyInstanceUID", "")) for h in headers}
    if len(series) != 1 or len(studies) != 1:
        raise ValueError(f"headers of one series expected; found {len(series)} series of {len(studies)} studies")
    images = [image for header in headers for image in _images(header)]
    stack, extras = _stack(images)
    first = min(stack, key=lambda item: (item[0], str(item[1].get("SOPInstanceUID", ""))))[1]
    attributes: dict[str, Any] = {key: value for key, value in first.items() if values_of(value)}
    attributes.update(extras)
    attributes["NumberOfInstances"] = len(headers)
    attributes.update(_several(images, "EchoTime", "EchoTimes"))
    attributes.update(_several(images, "DiffusionBValue", "DiffusionBValues"))
    acquired = sorted(moment for moment in map(_acquired_at, images) if moment)
    if acquired:
        attributes["AcquiredAt"] = acquired[0]
    if calling_ae:
        attributes["CallingAETitle"] = calling_ae.strip()
    age = age_in_years(first.get("PatientAge"))
    if age is not None:
        attributes["PatientAgeYears"] = age
    found = SeriesFacts(series.pop(), studies.pop(), attributes)
    if not all(str(h.get("SOPClassUID", "")) in PHOTOGRAPHS for h in headers):
        return found
    if len(headers) == 1:
        return replace(found, instance_uid=str(headers[0].get("SOPInstanceUID", "")))
    ordered = sorted(headers, key=lambda h: str(h.get("SOPInstanceUID", "")))
    return replace(found, photographs=tuple(facts([header], calling_ae=calling_ae) for header in ordered))


def age_in_years(text: Any) -> float | None:
    """Patient's Age (0010,1010), an age string such as ``056Y`` or ``018M`` (PS3.5 6.2), in years; None without one."""
    age = re.fullmatch(r"(\d{1,3})([DWMY])", str(text or "").strip())
    return round(int(age.group(1)) * _AGE_UNITS_YEARS[age.group(2)], 2) if age else None


def _images(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One mapping per frame of an enhanced image, else the header itself."""
    listed = header.get("Frames")
    frames = [f for f in listed if isinstance(f, Mapping)] if isinstance(listed, (list, tuple)) else []
    shared = {key: value for key, value in header.items() if key != "Frames"}
    return [{**shared, **frame} for frame in frames] or [shared]


def moment_s(series: SeriesFacts) -> float | None:
    """Acquisition time of the first image in seconds, for differences within one study only (no time zone)."""
    text = str(series.attributes.get("AcquiredAt", ""))
    try:
        day = datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    fraction = float(f"0{text[14:]}") if re.fullmatch(r"\.\d+", text[14:]) else 0.0
    return (day - datetime(1900, 1, 1)) / timedelta(seconds=1) + fraction


def _stack(headers: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[float, Mapping[str, Any]]], dict[str, Any]]:
    """Instances with their position along the commonest normal, and the facts of that stack."""
    oriented = [(o, h) for h in headers if (o := _numbers(h.get("ImageOrientationPatient"), 6)) is not None]
    if not oriented:
        return [(0.0, header) for header in headers], {}
    rounded = [tuple(float(v) + 0.0 for v in np.round(o, 3)) for o, _ in oriented]
    counts = Counter(rounded)
    common = max(counts, key=lambda key: (counts[key], key))
    normal = np.cross(common[:3], common[3:])
    length = float(np.linalg.norm(normal))
    extras: dict[str, Any] = {"NumberOfOrientations": len(counts)}
    if length < 1e-6:
        return [(0.0, header) for header in headers], extras
    normal = normal / length
    stack = []
    for key, (_, header) in zip(rounded, oriented, strict=True):
        position = _numbers(header.get("ImagePositionPatient"), 3)
        if key == common and position is not None:
            stack.append((float(position @ normal), header))
    largest = int(np.argmax(np.abs(normal)))
    extras["Plane"] = _PLANES[largest] if abs(normal[largest]) >= PLANE_COSINE else "oblique"
    if not stack:
        return [(0.0, header) for header in headers], extras
    extras.update(_steps(sorted(place for place, _ in stack)))
    pixel = _numbers(stack[0][1].get("PixelSpacing"), 2)
    if pixel is not None:
        extras["SpacingMm"] = [round(float(v), 6) for v in pixel]
    return stack, extras


def _steps(places: Sequence[float]) -> dict[str, Any]:
    distinct = [places[0]]
    for place in places[1:]:
        if place - distinct[-1] > SAME_POSITION_MM:
            distinct.append(place)
    found: dict[str, Any] = {"NumberOfSlices": len(distinct)}
    if len(distinct) > 1:
        found["SliceStepMm"] = round(float(np.median(np.diff(distinct))), 4)
    return found


def _numbers(value: Any, count: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if isinstance(value, str):
        value = value.split("\\")
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    numbers = [number_of(v) for v in value]
    return None if any(n is None for n in numbers) else np.array(numbers, dtype=np.float64)


def _several(headers: Sequence[Mapping[str, Any]], keyword: str, name: str) -> dict[str, Any]:
    found = sorted({n for h in headers for v in values_of(h.get(keyword)) if (n := number_of(v)) is not None})
    return {name: found} if len(found) > 1 else {}


def _acquired_at(header: Mapping[str, Any]) -> str | None:
    """``YYYYMMDDHHMMSS.ffffff`` from the acquisition's own date and time, else the series', else the content's."""
    whole = str(header.get("AcquisitionDateTime", "") or "").split("+")[0].split("-")[0].strip()
    if re.fullmatch(r"\d{14}(\.\d{1,6})?", whole):
        return whole
    for kind in ("Acquisition", "Series", "Content"):
        date = str(header.get(f"{kind}Date", "") or header.get("StudyDate", "") or "").strip()
        time = str(header.get(f"{kind}Time", "") or "").strip()
        if re.fullmatch(r"\d{8}", date) and re.fullmatch(r"\d{6}(\.\d{1,6})?", time):
            return date + time
    return None
