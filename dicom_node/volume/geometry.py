"""The geometry of a series, from positions alone.

PS3.3 C.7.6.2.1.1 (Image Position and Image Orientation (Patient)), C.7.6.3.1 (matrix), 10.7.1.3 (Pixel Spacing).
Slices are ordered by the projection of their position on the normal; the spacing is the step between projections.
File names, Instance Number, Slice Location, Slice Thickness, Spacing Between Slices, Gantry Tilt and Patient Position
are hints at most and are not read here.  `series_geometry` is a pure function over headers; pixels are not needed.

It cannot see that slices are missing at either end: only a count from elsewhere can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine, FloatArray, GeometryError
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.frames import Frame, frames_of
from dicom_node.volume.grouping import one_stack

COSINE_TOLERANCE = 1e-3
"""Between slices, on each of the six cosines; and for unit length and right angles within one slice."""
SPACING_TOLERANCE_MM = 0.01
SPACING_TOLERANCE_RATIO = 0.01
"""A step between slices may differ from the mean step by the larger of the two; handles decimal rounding."""
SHEAR_TOLERANCE = 1e-3
"""In-plane shift per distance along the normal; the tangent of 0.06 degrees."""
PIXEL_SPACING_TOLERANCE_RATIO = 1e-4
"""Between slices: 0.03 mm over a field of view of 256 mm."""
SAME_POSITION_MM = 0.01
"""Two slices nearer than this have the same position."""
GAP_MULTIPLE_TOLERANCE = 0.05
"""How near to a whole multiple of the step a gap is for "slices missing" rather than "not uniform"."""
PLANE_COSINE = 0.8
"""The normal's largest component from which a plane is called axial, coronal or sagittal (within 37 degrees)."""
MAX_POSITION_MM = 1e5
SPACING_RANGE_MM = (1e-3, 1e3)


@dataclass(frozen=True)
class StackedFrame:
    """One slice of the stack: which header it is from, and its frame number (1-based; None for classic images)."""

    header_index: int
    frame_number: int | None


@dataclass(frozen=True, eq=False)
class SeriesGeometry:
    """One regular stack of slices.

    Attributes
    ----------
    slices
        In ascending order along the normal ``row cosines x column cosines``, one for each position.
    duplicates
        For each position that occurs more than once, the further frames beside the one in `slices`: index into `slices`
        and the frame.  Whether their pixels are equal is not known here.
    affine
        (slice, row, column) to LPS millimetres.
    shape
        (S, R, C).
    spacing_mm
        Between slices, rows and columns.
    plane
        axial, coronal, sagittal or oblique.
    notes
        What was left out, in words.
    """

    slices: tuple[StackedFrame, ...]
    duplicates: tuple[tuple[int, StackedFrame], ...]
    affine: Affine
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plane: str
    frame_of_reference_uid: str
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.slices)


def series_geometry(headers: Sequence[Mapping[str, Any]], *, min_slices: int = 2) -> SeriesGeometry | Refused:
    """The stack that the headers of one series describe, or why there is none.

    Parameters
    ----------
    headers
        As `dicom_node.volume.header.read_header` gives them, in any order.
    min_slices
        Fewer are too-few-slices.

    Returns
    -------
    SeriesGeometry or Refused
        The refusal is returned, not raised: while a series is still arriving, "there is a gap" is an answer.  Codes:
        input-empty, sop-class-unsupported, pixel-format-unsupported, dicom-malformed, series-mixed, geometry-missing,
        geometry-invalid, geometry-inconsistent, gantry-tilt, too-few-slices, slices-missing, slice-spacing-nonuniform.
    """
    try:
        return _stack(frames_of(headers), min_slices)
    except Refused as refused:
        return refused


def _stack(frames: Sequence[Frame], min_slices: int) -> SeriesGeometry:
    _check_readable(frames)
    chosen, notes = one_stack(frames)
    plane = _common_plane(chosen)
    projections = plane.positions @ plane.normal
    order = _order(chosen, projections)
    kept, duplicates = _without_duplicates(chosen, plane, projections, order)
    if len(kept) < min_slices:
        raise Refused(
            RefusalCode.TOO_FEW_SLICES, f"at least {min_slices} slices at different positions", str(len(kept))
        )
    positions = plane.positions[kept]
    _check_steps(positions @ plane.normal)
    step = (positions[-1] - positions[0]) / (len(kept) - 1)
    _check_shear(positions, step, plane.normal)
    try:
        affine = Affine.from_dicom(positions[0], plane.orientations[kept[0]], plane.pixel_spacing_mm, step)
    except GeometryError as error:
        raise Refused(RefusalCode.GEOMETRY_INVALID, "three axes that span space", "a singular grid") from error
    return SeriesGeometry(
        slices=tuple(_stacked(chosen[index]) for index in kept),
        duplicates=tuple((place, _stacked(chosen[index])) for place, index in duplicates),
        affine=affine,
        shape=(len(kept), plane.rows, plane.columns),
        spacing_mm=affine.spacing_mm,
        plane=plane_name(plane.normal),
        frame_of_reference_uid=plane.frame_of_reference_uid,
        notes=tuple(notes),
    )


def _stacked(frame: Frame) -> StackedFrame:
    return StackedFrame(frame.file_index, frame.frame_number)


_NEEDED = frozenset({"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"})


def _check_readable(frames: Sequence[Frame]) -> None:
    for frame in frames:
        broken = _NEEDED & set(frame.attributes.get("UnreadableAttributes", ()))
        if broken:
            raise Refused(RefusalCode.GEOMETRY_INVALID, f"a readable {min(broken)}", "bytes that are not such a value")


@dataclass(frozen=True, eq=False)
class _Plane:
    """What all slices of a stack share, and their positions."""

    orientations: FloatArray
    positions: FloatArray
    pixel_spacing_mm: tuple[float, float]
    normal: FloatArray
    rows: int
    columns: int
    frame_of_reference_uid: str


def _common_plane(frames: Sequence[Frame]) -> _Plane:
    orientations = _required(frames, "ImageOrientationPatient", 6)
    positions = _required(frames, "ImagePositionPatient", 3)
    spacings = _required(frames, "PixelSpacing", 2)
    references = {str(frame.attributes.get("FrameOfReferenceUID", "")) for frame in frames}
    matrices = {(_whole(frame, "Rows"), _whole(frame, "Columns")) for frame in frames}
    if "" in references:
        raise Refused(RefusalCode.GEOMETRY_MISSING, "a Frame of Reference UID on every slice", "slices without")
    if len(references) > 1:
        raise Refused(RefusalCode.GEOMETRY_INCONSISTENT, "one frame of reference", f"{len(references)}")
    if len(matrices) > 1:
        raise Refused(RefusalCode.GEOMETRY_INCONSISTENT, "one matrix size", f"{len(matrices)} sizes")
    rows, columns = matrices.pop()
    if rows < 1 or columns < 1:
        raise Refused(RefusalCode.GEOMETRY_INVALID, "Rows and Columns of at least 1", "none or 0")
    for orientation in orientations:
        _check_cosines(orientation)
    if np.ptp(orientations, axis=0).max() > COSINE_TOLERANCE:
        raise Refused(
            RefusalCode.GEOMETRY_INCONSISTENT,
            f"one orientation, within {COSINE_TOLERANCE:g} on each cosine",
            f"a difference of {np.ptp(orientations, axis=0).max():.4g}",
        )
    low, high = SPACING_RANGE_MM
    if spacings.min() < low or spacings.max() > high or np.abs(positions).max() > MAX_POSITION_MM:
        raise Refused(RefusalCode.GEOMETRY_INVALID, "spacing and position of a body", "a number that cannot be one")
    if (np.ptp(spacings, axis=0) > PIXEL_SPACING_TOLERANCE_RATIO * spacings.min(axis=0)).any():
        raise Refused(RefusalCode.GEOMETRY_INCONSISTENT, "one Pixel Spacing", "several")
    normal = np.cross(orientations[0][:3], orientations[0][3:])
    spacing = (float(spacings[0][0]), float(spacings[0][1]))
    return _Plane(orientations, positions, spacing, normal / np.linalg.norm(normal), rows, columns, references.pop())


def _whole(frame: Frame, keyword: str) -> int:
    value = frame.attributes.get(keyword)
    return value if isinstance(value, int) else 0


def _required(frames: Sequence[Frame], keyword: str, count: int) -> FloatArray:
    rows: list[tuple[float, ...]] = []
    for frame in frames:
        values = frame.numbers(keyword, count)
        if values is None:
            found = "a slice without"
            if keyword == "PixelSpacing" and "ImagerPixelSpacing" in frame.attributes:
                found = "Imager Pixel Spacing only, which is not a distance in the patient"
            raise Refused(RefusalCode.GEOMETRY_MISSING, f"{keyword} on every slice", found)
        rows.append(values)
    return np.asarray(rows, dtype=np.float64)


def _check_cosines(orientation: FloatArray) -> None:
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1.0) for length in lengths) > COSINE_TOLERANCE:
        raise Refused(
            RefusalCode.GEOMETRY_INVALID,
            "direction cosines of length 1",
            f"lengths {lengths[0]:.4f} and {lengths[1]:.4f}",
        )
    if abs(float(row @ column)) > COSINE_TOLERANCE:
        raise Refused(
            RefusalCode.GEOMETRY_INVALID,
            "row and column directions at right angles",
            f"a product of {row @ column:.4f}",
        )


def _order(frames: Sequence[Frame], projections: FloatArray) -> list[int]:
    """Ascending along the normal; equal positions by UID and frame number, so that file order never matters."""

    def key(index: int) -> tuple[float, str, int]:
        frame = frames[index]
        return (float(projections[index]), str(frame.attributes.get("SOPInstanceUID", "")), frame.frame_number or 0)

    return sorted(range(len(frames)), key=key)


def _without_duplicates(
    frames: Sequence[Frame], plane: _Plane, projections: FloatArray, order: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """One frame for each position (the first by UID and frame number), and the others with the place they repeat."""
    clusters: list[list[int]] = []
    for index in order:
        if clusters and projections[index] - projections[clusters[-1][0]] <= SAME_POSITION_MM:
            shift = plane.positions[index] - plane.positions[clusters[-1][0]]
            if np.linalg.norm(shift) > 2 * SAME_POSITION_MM:
                raise Refused(
                    RefusalCode.GEOMETRY_INCONSISTENT,
                    "one image for each distance along the normal",
                    f"two that lie {np.linalg.norm(shift):.2f} mm apart in their plane",
                )
            clusters[-1].append(index)
        else:
            clusters.append([index])
    kept: list[int] = []
    duplicates: list[tuple[int, int]] = []
    for place, cluster in enumerate(clusters):
        cluster.sort(key=lambda i: (str(frames[i].attributes.get("SOPInstanceUID", "")), frames[i].frame_number or 0))
        kept.append(cluster[0])
        duplicates.extend((place, other) for other in cluster[1:])
    return kept, duplicates


def spacing_tolerance_mm(spacing_mm: float) -> float:
    """How far a step between slices may differ from the mean step, and a slice from its place on the regular grid."""
    return max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE_RATIO * spacing_mm)


def _check_steps(projections: FloatArray) -> None:
    """Steps are equal, and every slice lies on the regular grid between the first and the last."""
    gaps = np.diff(projections)
    usual = float(projections[-1] - projections[0]) / len(gaps)
    grid = projections[0] + np.arange(len(projections)) * usual
    tolerance = spacing_tolerance_mm(usual)
    off_grid = float(np.abs(projections - grid).max())
    if np.abs(gaps - usual).max() <= tolerance and off_grid <= tolerance:
        return
    step = _smallest_step(gaps)
    multiples = np.round(gaps / step)
    if multiples.max() > 1 and np.abs(gaps / step - multiples).max() <= GAP_MULTIPLE_TOLERANCE * multiples.max():
        raise Refused(
            RefusalCode.SLICES_MISSING,
            f"a slice every {step:.2f} mm",
            f"a gap of {gaps.max():.2f} mm; {int(multiples.sum() - len(gaps))} slice(s) missing",
        )
    raise Refused(
        RefusalCode.SLICE_SPACING_NONUNIFORM,
        f"steps within {tolerance:.3f} mm of {usual:.3f} mm",
        f"steps from {gaps.min():.3f} to {gaps.max():.3f} mm",
    )


def _smallest_step(gaps: npt.NDArray[np.float64]) -> float:
    """The usual step between neighbours: the median of the gaps near the smallest one."""
    near = gaps[gaps <= gaps.min() * (1 + GAP_MULTIPLE_TOLERANCE)]
    return float(np.median(near))


def _check_shear(positions: FloatArray, step: FloatArray, normal: FloatArray) -> None:
    """The stack goes along its normal: no tilt (a steady shift in the plane) and no jitter (an unsteady one)."""
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    if sideways > SHEAR_TOLERANCE * along:
        raise Refused(
            RefusalCode.GANTRY_TILT,
            "slices stacked along their normal",
            f"a tilt of {np.rad2deg(np.arctan2(sideways, along)):.2f} degrees",
        )
    residual = positions - positions[0] - np.arange(len(positions))[:, None] * step
    in_plane = np.linalg.norm(residual - np.outer(residual @ normal, normal), axis=1).max()
    if in_plane > spacing_tolerance_mm(along):
        raise Refused(
            RefusalCode.GEOMETRY_INCONSISTENT, "slices stacked along one line", f"a slice {in_plane:.3f} mm beside it"
        )


def plane_name(normal: npt.ArrayLike) -> str:
    """axial, coronal or sagittal by the normal's largest LPS component; oblique when none reaches `PLANE_COSINE`."""
    components = np.abs(np.asarray(normal, dtype=np.float64))
    largest = int(np.argmax(components))
    return ("sagittal", "coronal", "axial")[largest] if components[largest] >= PLANE_COSINE else "oblique"
