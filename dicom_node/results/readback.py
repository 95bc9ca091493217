"""Reading our own objects the way a stranger would: plain data sets, own bit order, own geometry.

Nothing here uses the library or the helpers that wrote the objects; the self-test of `check` stands on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.words import ResultObject


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a segmentation, with its place in patient space.

    Attributes
    ----------
    pixels
        (R, C) uint8 of 0 and 1.
    origin_mm
        LPS centre of the first pixel.
    row_step_mm, column_step_mm
        LPS vectors from one row, and from one column, to the next.
    """

    segment_number: int
    pixels: npt.NDArray[np.uint8]
    origin_mm: npt.NDArray[np.float64]
    row_step_mm: npt.NDArray[np.float64]
    column_step_mm: npt.NDArray[np.float64]
    source_uid: str
    source_frame: int | None


@dataclass(frozen=True)
class Group:
    """One measurement group of a report: tracking, numbers by concept and derivation code, references."""

    tracking_id: str
    tracking_uid: str
    numbers: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Concept code value to (value, unit code)."""
    codes: dict[str, str] = field(default_factory=dict)
    segment: tuple[str, int] | None = None
    """SOP Instance UID and Segment Number."""
    images: tuple[str, ...] = ()


def parsed(made: ResultObject) -> Dataset:
    """The object's data set, from its bytes."""
    return dcmread(BytesIO(made.data))


def segmentation_frames(seg: Dataset) -> list[Frame]:
    """Unpack a BINARY segmentation (PS3.5 8.1.1 and annex D: pixels packed least significant bit first)."""
    rows, columns, count = int(seg.Rows), int(seg.Columns), int(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, dtype=np.uint8), bitorder="little")
    stack = bits[: count * rows * columns].reshape(count, rows, columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    between_rows, between_columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = []
    for pixels, groups in zip(stack, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber")
        frames.append(
            Frame(
                segment_number=int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
                pixels=pixels,
                origin_mm=np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64),
                row_step_mm=cosines[3:] * between_rows,
                column_step_mm=cosines[:3] * between_columns,
                source_uid=str(source.ReferencedSOPInstanceUID),
                source_frame=None if number is None else int(number),
            )
        )
    return frames


def voxel_volume_mm3(frames: list[Frame]) -> float:
    """Volume of one voxel from the frames' own positions: area of a pixel times the step along the normal."""
    first = frames[0]
    area = np.cross(first.column_step_mm, first.row_step_mm)
    normal = area / np.linalg.norm(area)
    heights = np.unique(np.round([float(f.origin_mm @ normal) for f in frames], 4))
    step = (heights[-1] - heights[0]) / (len(heights) - 1) if len(heights) > 1 else 0.0
    return float(np.linalg.norm(area) * step)


def content_items(item: Dataset) -> Iterator[Dataset]:
    """Every content item below an item, depth first."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from content_items(child)


def measurement_groups(report: Dataset) -> list[Group]:
    """The measurement groups (125007, DCM) of a report, in order."""
    return [_group(item) for item in content_items(report) if _concept(item) == "125007"]


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return _code_value(names[0]) if names else ""


def _code_value(code: Dataset) -> str:
    """Code Value, or Long Code Value of a code over 16 characters (PS3.3 table 8.8-1)."""
    return str(code.get("CodeValue") or code.get("LongCodeValue", ""))


def _group(container: Dataset) -> Group:
    tracking_id = tracking_uid = ""
    numbers: dict[str, tuple[float, str]] = {}
    codes: dict[str, str] = {}
    segment: tuple[str, int] | None = None
    images: list[str] = []
    for item in container.ContentSequence:
        concept = _concept(item)
        if concept == "112039":
            tracking_id = str(item.TextValue)
        elif concept == "112040":
            tracking_uid = str(item.UID)
        elif item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            numbers[concept + _derivation(item)] = (
                float(measured.NumericValue),
                _code_value(measured.MeasurementUnitsCodeSequence[0]),
            )
        elif item.ValueType == "CODE":
            codes[concept] = _code_value(item.ConceptCodeSequence[0])
        elif item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            if "ReferencedSegmentNumber" in reference:
                segment = (str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber))
            else:
                images.append(str(reference.ReferencedSOPInstanceUID))
    return Group(tracking_id, tracking_uid, numbers, codes, segment, tuple(images))


def _derivation(number: Dataset) -> str:
    """``/`` and the code of a number's Derivation modifier (121401, DCM), so that a mean is not taken for an SD."""
    for item in number.get("ContentSequence", []):
        if item.ValueType == "CODE" and _code_value(item.ConceptNameCodeSequence[0]) == "121401":
            return "/" + _code_value(item.ConceptCodeSequence[0])
    return ""
