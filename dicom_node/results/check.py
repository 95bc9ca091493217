"""The self-test before sending: what was written is read back by another path and compared with what was meant.

- The segmentation's frames, unpacked by our own bit order, are laid into patient space by their own positions and
  compared voxel by voxel with the mask on the volume's grid; each frame names the image it was drawn on.
- Volumes are computed again from the segmentation and compared with the numbers in the report; the other numbers are
  compared with the findings and with the extent of the segment.
- Patient and study attributes are those of the source in every object; references resolve; tracking UIDs agree;
  values fit their representation.

Anything that is not so is our fault, is named, and is never sent (`result-check-failed`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_engine.findings import Findings, Measurement, Region
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results.check_attributes import check_limits, check_patient
from dicom_node.results.quiet import quietly
from dicom_node.results.readback import Frame, Group, measurement_groups, parsed, segmentation_frames, voxel_volume_mm3
from dicom_node.words import ObjectKind, ResultSet, Volume

_GRID_TOLERANCE_VOXELS = 0.02
_VOLUME_TOLERANCE = 1e-4
_NUMBER_TOLERANCE = 1e-9
_LENGTHS = ("long_axis", "short_axis", "diameter_3d")
_ABSENT, _PRESENCE, _VOLUME = "272519000", "121052", "118565006"


def check(
    result_set: ResultSet,
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    findings: Findings,
    *,
    data_root: Path | None = None,
) -> None:
    """Refuse a result set that does not say what the run found, where it found it, about whom.

    Parameters
    ----------
    mask
        (S, R, C) uint8 of labels on the volume's own grid.
    data_root
        Folder to which the paths of the volume's slices are relative.

    Raises
    ------
    Refused
        `result-check-failed`, saying what was expected and what was found.
    """
    with quietly():
        _check(result_set, volume, mask, findings, data_root)


def _check(
    result_set: ResultSet,
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    findings: Findings,
    data_root: Path | None,
) -> None:
    objects = {made.kind: parsed(made) for made in result_set.objects}
    for made in result_set.objects:
        require(hashlib.sha256(made.data).hexdigest() == made.sha256, f"{made.kind} bytes of its digest", "others")
    require(ObjectKind.SR in objects and ObjectKind.PDF in objects, "a report and a page", "one of them missing")
    check_patient(objects, volume.slices[0].path, volume.study_uid, data_root)
    check_limits(objects)
    segments = [r for r in findings.regions if r.label is not None and r.present]
    require((ObjectKind.SEG in objects) == bool(segments), "a segmentation exactly when a region is present", "else")
    frames: list[Frame] = []
    if ObjectKind.SEG in objects:
        frames = segmentation_frames(objects[ObjectKind.SEG])
        _check_segmentation(objects[ObjectKind.SEG], frames, volume, mask, segments)
    _check_report(objects, frames, findings, segments)
    _check_references(objects, volume)
    check_page(objects[ObjectKind.PDF], result_set.pdf)


def require(holds: bool, expected: str, found: str | Callable[[], str]) -> None:
    """Refuse a result set where something does not hold."""
    if not holds:
        raise Refused(RefusalCode.RESULT_CHECK_FAILED, expected, found if isinstance(found, str) else found())


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


# -- the segmentation -------------------------------------------------------------------------------------------------


def _check_segmentation(
    seg: Dataset, frames: list[Frame], volume: Volume, mask: npt.NDArray[np.uint8], segments: list[Region]
) -> None:
    require(seg.SegmentationType == "BINARY", "a BINARY segmentation", "another type")
    require(str(seg.FrameOfReferenceUID) == volume.frame_of_reference_uid, "the volume's frame of reference", "else")
    described = [int(item.SegmentNumber) for item in seg.SegmentSequence]
    require(described == list(range(1, len(segments) + 1)), "segments 1..n, one per region present", f"{described}")
    seen: set[tuple[int, int]] = set()
    for frame in frames:
        index = _slice_of(frame, volume)
        region = segments[frame.segment_number - 1]
        require((frame.segment_number, index) not in seen, "each plane once per segment", "a plane twice")
        seen.add((frame.segment_number, index))
        source = volume.slices[index]
        names_source = (frame.source_uid, frame.source_frame) == (source.sop_instance_uid, source.frame_number)
        require(names_source, "each frame naming the image it was drawn on", f"another at slice {index + 1}")
        wanted = mask[index] == region.label
        if not np.array_equal(frame.pixels.astype(bool), wanted):
            wrong = int(np.count_nonzero(frame.pixels.astype(bool) != wanted))
            raise Refused(
                RefusalCode.RESULT_CHECK_FAILED,
                "the mask's voxels",
                f"{wrong} others at slice {index + 1} of segment {frame.segment_number}",
            )
    expected = len(segments) * len(volume.slices)
    require(len(seen) == expected, f"{expected} frames", f"{len(seen)}")


def _slice_of(frame: Frame, volume: Volume) -> int:
    """The slice of the volume on which a frame lies, corner by corner."""
    rows, columns = frame.pixels.shape
    corners = np.array([(r, c) for r in (0, rows - 1) for c in (0, columns - 1)], dtype=np.float64)
    points = frame.origin_mm + corners[:, :1] * frame.row_step_mm + corners[:, 1:] * frame.column_step_mm
    found = volume.affine.to_index(points)
    index = round(float(found[0, 0]))
    wanted = np.column_stack([np.full(4, index), corners])
    off = float(np.abs(found - wanted).max())
    is_inside = 0 <= index < len(volume.slices) and frame.pixels.shape == volume.array.shape[1:]
    require(
        is_inside and off <= _GRID_TOLERANCE_VOXELS, "frames on the volume's grid", lambda: f"one {off:.3f} voxels off"
    )
    return index


# -- the report -------------------------------------------------------------------------------------------------------


def _check_report(
    objects: dict[ObjectKind, Dataset], frames: list[Frame], findings: Findings, segments: list[Region]
) -> None:
    report, seg = objects[ObjectKind.SR], objects.get(ObjectKind.SEG)
    flags = (report.CompletionFlag, report.VerificationFlag, report.get("PreliminaryFlag"))
    require(flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY"), "an unverified, preliminary report", f"{flags}")
    groups = {group.tracking_id: group for group in measurement_groups(report)}
    voxels = {region.key: 0 for region in segments}
    for frame in frames:
        voxels[segments[frame.segment_number - 1].key] += int(frame.pixels.sum())
    voxel_cm3 = voxel_volume_mm3(frames) / 1000.0 if frames else 0.0
    by_label = {region.label: voxels[region.key] for region in segments}
    for region in findings.regions:
        group = groups.get(region.key)
        if group is None:
            raise Refused(RefusalCode.RESULT_CHECK_FAILED, f"a measurement group for {region.key}", "none")
        if not region.present:
            is_zero = group.numbers.get(_VOLUME, (1.0, ""))[0] == 0.0 and group.codes.get(_PRESENCE) == _ABSENT
            require(is_zero, f"{region.key} said to be absent", "something else")
            continue
        count = (
            by_label[region.label] if region.label is not None else sum(by_label.get(p, 0) for p in region.composite_of)
        )
        _check_numbers(region, group, count * voxel_cm3)
    if seg is not None:
        _check_tracking(seg, groups, segments)
        _check_extents(frames, groups, segments)
    for observation in findings.observations:
        require(observation.key in groups, f"a measurement group for {observation.key}", "none")


def _number_key(measurement: Measurement) -> str:
    """How `readback.Group.numbers` names a measurement: its concept, and its derivation where it has one."""
    derivation = measurement.derivation
    return measurement.name.value + ("" if derivation is None else f"/{derivation.value}")


def _check_numbers(region: Region, group: Group, recomputed_cm3: float) -> None:
    """Volume against the segmentation; every number against the findings."""
    for measurement in region.measurements:
        written = group.numbers.get(_number_key(measurement))
        require(written is not None, f"{measurement.key} of {region.key} in the report", "none")
        value, unit = written or (math.nan, "")
        is_same = _close(value, measurement.value, _NUMBER_TOLERANCE) and unit == measurement.unit.value
        require(is_same, f"{measurement.key} of {region.key} as found", "another number or unit")
        if measurement.key == "volume":
            require(unit == "cm3", "volumes in cm3", unit)
            require(
                _close(value, recomputed_cm3, _VOLUME_TOLERANCE),
                f"{recomputed_cm3:.4f} cm3 of {region.key}, from the segmentation",
                f"{value:.4f} cm3 in the report",
            )


def _check_tracking(seg: Dataset, groups: dict[str, Group], segments: list[Region]) -> None:
    for item, region in zip(seg.SegmentSequence, segments, strict=True):
        group = groups[region.key]
        is_same = (str(item.TrackingID), str(item.TrackingUID)) == (group.tracking_id, group.tracking_uid)
        require(is_same, f"one tracking UID for {region.key} in segmentation and report", "two")
        pointed = (str(seg.SOPInstanceUID), int(item.SegmentNumber))
        require(group.segment == pointed, f"a reference to the segment of {region.key}", "another")
        require(str(item.SegmentLabel) == region.name[:64], f"the label of {region.key}", "another")


def _check_extents(frames: list[Frame], groups: dict[str, Group], segments: list[Region]) -> None:
    """No diameter is longer than the diagonal of the box around its segment."""
    for number, region in enumerate(segments, start=1):
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        thickness = voxel_volume_mm3(frames) / float(
            np.linalg.norm(np.cross(frames[0].row_step_mm, frames[0].column_step_mm))
        )
        for frame in frames:
            if frame.segment_number != number or not frame.pixels.any():
                continue
            normal = np.cross(frame.column_step_mm, frame.row_step_mm)
            axes = np.array([v / np.linalg.norm(v) for v in (frame.column_step_mm, frame.row_step_mm, normal)])
            rows, columns = np.flatnonzero(frame.pixels.any(axis=1)), np.flatnonzero(frame.pixels.any(axis=0))
            corners = [
                axes @ (frame.origin_mm + r * frame.row_step_mm + c * frame.column_step_mm)
                for r in (rows[0] - 0.5, rows[-1] + 0.5)
                for c in (columns[0] - 0.5, columns[-1] + 0.5)
            ]
            low, high = np.minimum(low, np.min(corners, axis=0)), np.maximum(high, np.max(corners, axis=0))
        diagonal = float(np.linalg.norm(high - low + np.array([0.0, 0.0, thickness])))
        for key in _LENGTHS:
            measurement = region.measure(key)
            if measurement is not None:
                value = groups[region.key].numbers[_number_key(measurement)][0]
                require(
                    0 <= value <= diagonal * 1.001, f"{key} of {region.key} within {diagonal:.1f} mm", f"{value:.1f}"
                )


# -- references and page ----------------------------------------------------------------------------------------------


def _check_references(objects: dict[ObjectKind, Dataset], volume: Volume) -> None:
    """Everything that report and page point at is a source image or an object of this set."""
    report, page = objects[ObjectKind.SR], objects[ObjectKind.PDF]
    evidence = {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    sources = {source.sop_instance_uid for source in volume.slices}
    own = {str(objects[ObjectKind.SEG].SOPInstanceUID)} if ObjectKind.SEG in objects else set()
    require(sources | own <= evidence, "every image and the segmentation as evidence", "some missing")
    for group in measurement_groups(report):
        pointed = {group.segment[0]} if group.segment else set()
        require(pointed | set(group.images) <= evidence, "references that the evidence lists", "others")
    paged = {str(item.ReferencedSOPInstanceUID) for item in page.SourceInstanceSequence}
    require(sources | own <= paged, "the page naming its sources", "some missing")
    require(str(report.SOPInstanceUID) not in paged, "a page that does not name the report", "one that does")
    if ObjectKind.SEG in objects:
        first = objects[ObjectKind.SEG].ReferencedSeriesSequence[0]
        require(str(first.SeriesInstanceUID) == volume.series_uid, "the reference series named first", "another")


def check_page(page: Dataset, pdf: bytes) -> None:
    """The encapsulated page is the page itself."""
    length = int(page.EncapsulatedDocumentLength)
    require(bytes(page.EncapsulatedDocument)[:length] == pdf, "the page's own bytes", "others")
    require(pdf.startswith(b"%PDF-"), "a PDF", "something else")
