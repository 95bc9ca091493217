"""Kinds of series that models are not given (standards section 7.1), each with the sign by which it was recognised.

PS3.3 C.7.6.1.1.2 Image Type, C.7.6.1.1.5 Burned In Annotation, C.12.1.1 SOP Common.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dicom_node.routing.clauses import values_of
from dicom_node.routing.idioms import special, texts
from dicom_node.words import PRODUCT, SeriesFacts

IMAGE_MODALITIES = frozenset(
    {"MR", "CT", "PT", "NM", "CR", "DX", "MG", "US", "XC", "DMS", "OP", "ES", "GM", "SM", "XA", "RF", "IO", "PX"}
)

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
PHOTOGRAPHS = frozenset({VL_PHOTOGRAPHIC, DERMOSCOPIC_PHOTOGRAPHY, _SECONDARY_CAPTURE})
"""Classes of which each instance is a picture of its own and no slice of anything."""
_MAPS = """ADC EADC DADC EXP FA COLFA TRACE TRACEW CBF CBV RCBF RCBV RELCBF RELCBV MTT TTP TMAX K_TRANS
    PERFUSION T1MAP T2MAP T1_MAP T2_MAP T2_STAR_MAP FIELD_MAP PHASE_MAP PHASE VELOCITY TENSOR DTI QUANTITATIVE MAP
    P PH"""
_MAP_VALUES = frozenset(_MAPS.split())
_ADC_VALUES = frozenset({"ADC", "EADC", "DADC"})
_PROJECTION_VALUES = frozenset({"MIP", "MNIP", "MINIP", "MAX_IP", "MIN_IP", "MPR_MIP", "VOLREN", "VOLUME RENDERING"})
_SUBTRACTION_VALUES = frozenset({"SUBTRACT", "SUBTRACTION", "SUB"})
_SCREEN_VALUES = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "PASTED", "REPORT", "DOSE_INFO"})
_REFORMAT_VALUES = frozenset({"REFORMATTED", "MPR", "PROJECTION IMAGE", "RESAMPLED"})


def image_type(series: SeriesFacts) -> tuple[str, ...]:
    """Values of Image Type (0008,0008), upper case."""
    return tuple(str(v).strip().upper() for v in values_of(series.attributes.get("ImageType")))


def kinds(series: SeriesFacts) -> dict[str, str]:
    """Which kinds a series is, each with its sign in words.

    Returns
    -------
    dict
        Keys as in `dicom_node.routing.route.Exclusion`; empty for a plain acquisition.  A reformat on one clean stack
        is no kind of its own: it stays a candidate, at lower confidence (`is_reformat`).
    """
    values = image_type(series)
    attributes = series.attributes
    found: dict[str, str] = {}
    _of_the_object(series, found)
    _by_value(found, "localizer", values, {"LOCALIZER", "LOCALISER"})
    _by_value(found, "projection", values, _PROJECTION_VALUES)
    _by_value(found, "map", values, _MAP_VALUES)
    _by_value(found, "subtraction", values, _SUBTRACTION_VALUES)
    _by_value(found, "screenshot", values, _SCREEN_VALUES)
    if _is_yes(attributes.get("BurnedInAnnotation")):
        found["burned-in"] = "Burned In Annotation is YES"
    if _is_yes(attributes.get("QualityControlSubject")):
        found["quality-control"] = "Quality Control Subject is YES"
    for keyword, text in texts(attributes):
        named = special(text)
        if named is None:
            continue
        role, what = named
        if role == "localizer":
            found.setdefault("localizer", f"{keyword} names a localizer")
        elif role == "derived":
            found.setdefault(what, f"{keyword} names a {what}")
        elif role == "adc":
            found.setdefault("map", f"{keyword} names an ADC map")
    if _looks_like_localizer(series):
        found.setdefault("localizer", "few slices in several orientations")
    return found


def is_colour_capture(series: SeriesFacts) -> bool:
    """Whether a series holds colour Secondary Captures, which is how cameras without a class of their own write."""
    uid = str(series.attributes.get("SOPClassUID", ""))
    is_capture = uid == _SECONDARY_CAPTURE or uid.startswith(f"{_SECONDARY_CAPTURE}.")
    return is_capture and str(series.attributes.get("SamplesPerPixel", "")) == "3"


def is_adc(series: SeriesFacts) -> bool:
    """Whether Image Type says that the series is an apparent diffusion coefficient map."""
    return bool(_ADC_VALUES & set(image_type(series)))


def is_reformat(series: SeriesFacts) -> bool:
    """Whether Image Type says that the slices were computed from another stack (not a projection, not a map)."""
    values = set(image_type(series))
    return bool(values & _REFORMAT_VALUES) or any("MPR" in v for v in values)


def _of_the_object(series: SeriesFacts, found: dict[str, str]) -> None:
    modality = str(series.attributes.get("Modality", "")).strip().upper()
    if str(series.attributes.get("ManufacturerModelName", "")).strip() == PRODUCT:
        found["own-result"] = "written by this node"
    if modality == "OT" and is_colour_capture(series):
        found["screenshot"] = "Secondary Capture of modality OT: a screen or a photograph"
    elif modality not in IMAGE_MODALITIES:
        found["not-an-image"] = f"Modality {modality or 'absent'} holds no images to read"
    if str(series.attributes.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE) and modality in {"MR", "CT", "PT"}:
        found["screenshot"] = "Secondary Capture object"


def _by_value(found: dict[str, str], kind: str, values: tuple[str, ...], wanted: Collection[str]) -> None:
    hits = sorted(set(values) & set(wanted))
    if hits:
        found[kind] = f"Image Type says {', '.join(hits)}"


def _looks_like_localizer(series: SeriesFacts) -> bool:
    orientations = series.attributes.get("NumberOfOrientations", 1)
    return int(orientations) >= 2 and int(series.attributes.get("NumberOfInstances", 0)) <= 30


def _is_yes(value: Any) -> bool:
    return any(str(v).strip().upper() == "YES" for v in values_of(value))
