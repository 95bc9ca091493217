"""The source images of a result, read once and reduced to what results may say about them.

Only headers are read (`stop_before_pixels`).  What comes out holds no private tag and no acquisition parameter:
position and orientation of each slice as the source wrote them, and the patient and study attributes of
`attributes`.  Enhanced and legacy-converted multi-frame sources give their geometry per frame (PS3.3 C.7.6.16.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import text
from dicom_node.results.attributes import COPIED, check_agreement, clean_attributes, decoded
from dicom_node.results.quiet import quietly
from dicom_node.sealing import at_rest
from dicom_node.words import RunIdentity, SliceSource, Volume

_SERIES_TAGS = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContentDate",
    "ContentTime",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_GEOMETRY_TAGS = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_READ = [*COPIED, *_SERIES_TAGS, *_GEOMETRY_TAGS]


@dataclass(frozen=True)
class ImageReference:
    """One source object, and which of its frames were used (1-based; empty for a single-frame object)."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class SeriesUsed:
    """One input series as page and report name it."""

    series_uid: str
    modality: str
    number: str
    description: str
    acquired: str
    """``YYYYMMDDHHMMSS`` as far as known, in the zone of the study; empty when the images do not say."""
    slices: int
    images: tuple[ImageReference, ...]


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Where a stored slice lies, in the words of its own header."""

    position: tuple[str, ...]
    orientation: tuple[str, ...]
    pixel_spacing: tuple[str, ...]
    slice_thickness: str


@dataclass(frozen=True, eq=False)
class SourceStudy:
    """Everything that result objects take from their sources."""

    attributes: Dataset
    """Patient and study attributes, clean and decoded."""
    altered: tuple[str, ...]
    """Keywords of copied attributes that had to be shortened or left out."""
    slices: tuple[SliceGeometry, ...]
    """One per slice of the reference volume, in array order."""
    series: tuple[SeriesUsed, ...]
    """The reference series first, then every other series used."""
    position_reference: str
    offset_minutes: int
    lossy: tuple[tuple[str, ...], tuple[str, ...]] | None
    """Ratios and methods when a source went through lossy compression."""


def read_sources(
    identity: RunIdentity, volume: Volume, further: Sequence[SliceSource], data_root: Path | None
) -> SourceStudy:
    """Read the headers behind a volume and the run's further inputs.

    Raises
    ------
    Refused
        `patient-conflict` when they disagree on patient or study, `uid-mismatch` when they are not of the run's study,
        `geometry-missing` when a slice has no position, `dicom-malformed` when a header cannot be read.
    """
    paths = dict.fromkeys(s.path for s in (*volume.slices, *further))
    headers = {path: _read(path, data_root) for path in paths}
    geometry = tuple(_geometry(headers[s.path], s.frame_number) for s in volume.slices)
    return _study(identity, headers, (*volume.slices, *further), geometry)


def _study(
    identity: RunIdentity,
    headers: dict[str, Dataset],
    sources: Sequence[SliceSource],
    geometry: tuple[SliceGeometry, ...],
) -> SourceStudy:
    everything = list(headers.values())
    check_agreement(everything)
    attributes, altered = clean_attributes(everything[0])
    if attributes.StudyInstanceUID != identity.study_uid:
        raise Refused(RefusalCode.UID_MISMATCH, "source images of the run's study", "images of another study")
    declared = text.offset_minutes(decoded(everything[0], "TimezoneOffsetFromUTC"))
    site = text.offset_minutes(identity.timezone_offset)
    minutes = declared if declared is not None else (site or 0)
    return SourceStudy(
        attributes=attributes,
        altered=altered,
        slices=geometry,
        series=_series_used(sources, headers, minutes),
        position_reference=text.cut(decoded(everything[0], "PositionReferenceIndicator"), text.LO_MAX),
        offset_minutes=minutes,
        lossy=_lossy(everything),
    )


def read_study(identity: RunIdentity, source: SliceSource, data_root: Path | None) -> SourceStudy:
    """Patient and study attributes from one image, for objects that refer to no image.

    Raises
    ------
    Refused
        As `read_sources`.
    """
    return _study(identity, {source.path: _read(source.path, data_root)}, (source,), ())


def _read(path: str, data_root: Path | None) -> Dataset:
    where = Path(path) if data_root is None else data_root / path
    with quietly():
        try:
            with at_rest.opened(where) as file:
                return dcmread(file, stop_before_pixels=True, specific_tags=list(_READ), force=False)
        except (InvalidDicomError, ValueError, EOFError) as error:
            raise Refused(RefusalCode.DICOM_MALFORMED, "a readable header", type(error).__name__) from error


def _geometry(header: Dataset, frame_number: int | None) -> SliceGeometry:
    if frame_number is None:
        groups = [header]
    else:
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        if not 1 <= frame_number <= len(per_frame):
            raise Refused(RefusalCode.GEOMETRY_MISSING, f"functional groups of frame {frame_number}", "none")
        groups = [per_frame[frame_number - 1], *(header.get("SharedFunctionalGroupsSequence") or [])]
    return SliceGeometry(
        position=_decimals(_attribute(groups, "PlanePositionSequence", "ImagePositionPatient"), 3),
        orientation=_decimals(_attribute(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        pixel_spacing=_decimals(_attribute(groups, "PixelMeasuresSequence", "PixelSpacing"), 2),
        slice_thickness=next(iter(_decimals(_attribute(groups, "PixelMeasuresSequence", "SliceThickness"), 0)), ""),
    )


def _attribute(groups: Iterable[Dataset], sequence: str, keyword: str) -> Any:
    """The attribute from a single-frame header, or from the first functional group that has it."""
    for group in groups:
        if keyword in group:
            return group[keyword].value
        items = group.get(sequence)
        if items and keyword in items[0]:
            return items[0][keyword].value
    return None


def _decimals(value: Any, count: int) -> tuple[str, ...]:
    """DS values as the source wrote them (shortened only if over-long); `count` 0 accepts any number of values."""
    if value is None or value == "":
        values: list[Any] = []
    else:
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if count and len(values) != count:
        raise Refused(
            RefusalCode.GEOMETRY_MISSING, "position, orientation and spacing of each slice", "a slice without"
        )
    written = []
    for number in values:
        original = str(getattr(number, "original_string", number)).strip()
        written.append(original if len(original) <= text.DS_MAX else text.decimal_string(float(number)))
    return tuple(written)


def _series_used(sources: Sequence[SliceSource], headers: dict[str, Dataset], minutes: int) -> tuple[SeriesUsed, ...]:
    """Group sources by series, in order of first appearance: the reference series comes first."""
    by_series: dict[str, list[SliceSource]] = {}
    for source in sources:
        by_series.setdefault(str(headers[source.path].SeriesInstanceUID), []).append(source)
    return tuple(_one_series(uid, members, headers, minutes) for uid, members in by_series.items())


def _one_series(
    series_uid: str, members: Sequence[SliceSource], headers: dict[str, Dataset], minutes: int
) -> SeriesUsed:
    first = headers[members[0].path]
    frames: dict[tuple[str, str], list[int]] = {}
    for source in members:
        numbers = frames.setdefault((source.sop_class_uid, source.sop_instance_uid), [])
        if source.frame_number is not None:
            numbers.append(source.frame_number)
    times = [_acquired(headers[path], minutes) for path in dict.fromkeys(s.path for s in members)]
    return SeriesUsed(
        series_uid=series_uid,
        modality=text.cut(decoded(first, "Modality"), 16),
        number=text.cut(decoded(first, "SeriesNumber"), 12),
        description=_lenient(first, "SeriesDescription"),
        acquired=min((t for t in times if t), default=""),
        slices=len(members),
        images=tuple(ImageReference(c, i, tuple(sorted(numbers))) for (c, i), numbers in frames.items()),
    )


def _lenient(header: Dataset, keyword: str) -> str:
    """Free text for people: left out when it cannot be decoded."""
    try:
        return text.cut(decoded(header, keyword), text.LO_MAX)
    except Refused:
        return ""


def _acquired(header: Dataset, minutes: int) -> str:
    """When the image was acquired, in the zone of the study (minutes east of UTC).

    The first of acquisition, content and series date and time that is complete; a date and time with an offset of its
    own (DT, PS3.5 6.2) is brought into that zone.
    """
    whole = re.fullmatch(r"(\d{8})(\d{4}(?:\d{2})?)(?:\.\d{1,6})?([+-]\d{4})?", decoded(header, "AcquisitionDateTime"))
    if whole and _is_known(whole[1]) and text.is_time(whole[2]):
        return _in_zone(whole[1] + whole[2], text.offset_minutes(whole[3] or ""), minutes)
    for prefix in ("Acquisition", "Content", "Series"):
        day, hour = decoded(header, f"{prefix}Date"), decoded(header, f"{prefix}Time")
        if _is_known(day) and text.is_time(hour):
            return day + hour.split(".")[0]
    return ""


def _is_known(day: str) -> bool:
    """Whether a day is one on which an image was made: year 1 and its like say that nobody knows."""
    return text.is_date(day) and day >= "1895"


def _in_zone(moment: str, own: int | None, minutes: int) -> str:
    """``YYYYMMDDHHMM[SS]`` of a zone in another one; as it is where it says no zone of its own."""
    if own is None or own == minutes:
        return moment
    try:
        read = datetime.strptime(moment[:12] + (moment[12:] or "00"), "%Y%m%d%H%M%S")
        shifted = read + timedelta(minutes=minutes - own)
    except ValueError:  # a leap second
        return ""
    return f"{shifted:%Y%m%d%H%M%S}"[: len(moment)]


def _lossy(headers: Sequence[Dataset]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    for header in headers:
        if decoded(header, "LossyImageCompression") == "01":
            ratios = _decimals(header.get("LossyImageCompressionRatio"), 0)
            methods = decoded(header, "LossyImageCompressionMethod")
            return ratios, tuple(m for m in methods.split("\\") if m)
    return None
