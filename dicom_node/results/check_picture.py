"""The self-test of a photograph's results: what was written is read back and compared with what was meant.

- Every number, threshold, category, finding and site of the report is compared with the findings, and each group names
  the photograph it is about and nothing else.
- The secondary capture is decoded from its bytes: it shows the photograph, differs from it only where the heat map says
  something, carries the words of warning as pixels, and names the photograph as its source.
- Patient and study are those of the photograph in every object; references resolve; values fit.

Anything that is not so is our fault, is named, and is never sent (`result-check-failed`).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_engine.findings import Findings, Observation
from dicom_node.results.check import check_page, require
from dicom_node.results.check_attributes import check_limits, check_patient
from dicom_node.results.heat import BAR, GAP, TILE, photograph
from dicom_node.results.quiet import quietly
from dicom_node.results.readback import Group, measurement_groups, parsed
from dicom_node.words import ObjectKind, Picture, ResultSet

_FINDING, _SITE, _CATEGORY, _THRESHOLD = "121071", "363698007", "operating-point-category", "operating-point"
_NUMBER_TOLERANCE = 1e-9
_FAINT = 3
"""Grey levels: what a heat map of 0 may change in a pixel by interpolation at its edge."""
_MELANOMA = frozenset({"1162635006", "372244006", "2092003"})
"""SNOMED CT codes that say melanoma as a fact; no result of a machine does."""


def check_picture(
    result_set: ResultSet,
    picture: Picture,
    heat_map: npt.NDArray[np.uint8] | None,
    findings: Findings,
    *,
    data_root: Path | None = None,
) -> None:
    """Refuse a result set that does not say what the run found, about which photograph, of whom.

    Parameters
    ----------
    heat_map
        (rows, columns) uint8, as it was handed to `build_picture`.
    data_root
        Folder to which the picture's path is relative.

    Raises
    ------
    Refused
        `result-check-failed`, saying what was expected and what was found.
    """
    with quietly():
        objects = {made.kind: parsed(made) for made in result_set.objects}
        for made in result_set.objects:
            require(hashlib.sha256(made.data).hexdigest() == made.sha256, f"{made.kind} bytes of its digest", "others")
        wanted = {ObjectKind.PDF, ObjectKind.SR} | ({ObjectKind.SC} if heat_map is not None else set())
        require(set(objects) == wanted, f"the objects {sorted(wanted)}", f"{sorted(objects)}")
        check_patient(objects, picture.path, picture.study_uid, data_root)
        check_limits(objects)
        _check_report(objects[ObjectKind.SR], picture, findings)
        _check_references(objects, picture)
        if heat_map is not None:
            _check_capture(objects[ObjectKind.SC], picture, heat_map)
        check_page(objects[ObjectKind.PDF], result_set.pdf)


def _check_report(report: Dataset, picture: Picture, findings: Findings) -> None:
    flags = (report.CompletionFlag, report.VerificationFlag, report.get("PreliminaryFlag"))
    require(flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY"), "an unverified, preliminary report", f"{flags}")
    groups = measurement_groups(report)
    keys = [group.tracking_id for group in groups]
    require(keys == [o.key for o in findings.observations], "one measurement group per observation", f"{len(keys)}")
    uids = {group.tracking_uid for group in groups}
    require(len(uids) == len(groups), "a tracking UID for each group", f"{len(uids)}")
    for observation, group in zip(findings.observations, groups, strict=True):
        _check_group(observation, group, picture)
    stated = {str(e.value) for e in report.iterall() if e.keyword in ("CodeValue", "LongCodeValue")}
    require(not stated & _MELANOMA, "no diagnosis among the codes", "one")


def _check_group(observation: Observation, group: Group, picture: Picture) -> None:
    for measurement in observation.measurements:
        value, unit = group.numbers.get(measurement.name.value, (math.nan, ""))
        is_same = math.isclose(value, measurement.value, rel_tol=_NUMBER_TOLERANCE, abs_tol=_NUMBER_TOLERANCE)
        require(is_same and unit == measurement.unit.value, f"{observation.key} as found", "another number or unit")
    if observation.threshold is not None:
        value, _ = group.numbers.get(_THRESHOLD, (math.nan, ""))
        is_same = math.isclose(value, observation.threshold, rel_tol=_NUMBER_TOLERANCE)
        require(is_same, f"the threshold of {observation.key}", "another")
        first = observation.measurements[0].value
        is_above = observation.category is not None and observation.category.value == "AI-OP-ABOVE"
        require(
            is_above == (first >= observation.threshold), f"the side of {observation.key} by its numbers", "the other"
        )
    for concept, code in (
        (_FINDING, observation.finding),
        (_SITE, observation.site),
        (_CATEGORY, observation.category),
    ):
        if code is not None:
            require(group.codes.get(concept) == code.value, f"{code.meaning} for {observation.key}", "another code")
    require(group.images == (picture.sop_instance_uid,), "the photograph as the only image of a group", "others")


def _check_references(objects: dict[ObjectKind, Dataset], picture: Picture) -> None:
    """Report and page point at the photograph and the capture; the page never at the report."""
    report, page = objects[ObjectKind.SR], objects[ObjectKind.PDF]
    wanted = {picture.sop_instance_uid}
    if ObjectKind.SC in objects:
        wanted.add(str(objects[ObjectKind.SC].SOPInstanceUID))
    evidence = {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    require(evidence == wanted, "photograph and capture as evidence", "others")
    paged = {str(item.ReferencedSOPInstanceUID) for item in page.SourceInstanceSequence}
    require(paged == wanted, "the page naming photograph and capture, and not the report", "others")


def _check_capture(capture: Dataset, picture: Picture, heat_map: npt.NDArray[np.uint8]) -> None:
    rows, columns = int(capture.Rows), int(capture.Columns)
    pixels = np.frombuffer(capture.PixelData, dtype=np.uint8)[: rows * columns * 3].reshape(rows, columns, 3)
    require(list(capture.ImageType) == ["DERIVED", "SECONDARY"], "a derived, secondary image", "another type")
    require(capture.BurnedInAnnotation == "YES", "a capture that says that words are burnt in", "one that does not")
    source = {str(item.ReferencedSOPInstanceUID) for item in capture.SourceImageSequence}
    require(source == {picture.sop_instance_uid}, "the photograph as the capture's source", "another")
    require(bool((pixels[:BAR] > 128).any()), "words of warning above the pictures", "none")
    plain = photograph(picture.pixels, TILE)
    height, width = plain.shape[:2]
    second_tile = (columns + GAP) // 2
    left = (second_tile - GAP - width) // 2
    require(height + 2 * BAR == rows and left >= 0, "two pictures between two bars", "another layout")
    first = pixels[BAR : BAR + height, left : left + width].astype(np.int16)
    require(bool((first == plain).all()), "the photograph on the left", "another picture")
    second = pixels[BAR : BAR + height, second_tile + left : second_tile + left + width].astype(np.int16)
    row_of = np.arange(height) * heat_map.shape[0] // height
    column_of = np.arange(width) * heat_map.shape[1] // width
    near = _widened(heat_map > 0)[row_of][:, column_of]
    is_elsewhere = (np.abs(second - first).max(axis=2) > _FAINT) & ~near
    require(not bool(is_elsewhere.any()), "colour only where the heat map says something", "elsewhere")


def _widened(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask and its neighbours: interpolation reaches one of them."""
    padded = np.pad(inside, 2)
    found = np.zeros_like(inside)
    for row in range(5):
        for column in range(5):
            found |= padded[row : row + inside.shape[0], column : column + inside.shape[1]]
    return found
