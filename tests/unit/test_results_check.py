"""The self-test notices what it is there for: every kind of damage to a result set is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from fixtures_results import (
    PRODUCER,
    asymmetric_phantom,
    findings_of,
    items_by_code,
    plain_volume,
    run_identity,
    write_series,
)
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_engine.findings import Findings
from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import build, check
from dicom_node.words import ObjectKind, ResultSet, Volume

pytestmark = pytest.mark.unit

OBLIQUE = Affine.from_axes(
    (-40.0, -50.0, -10.0),
    [[0.0, -np.sin(0.3), np.cos(0.3)], [0.0, np.cos(0.3), np.sin(0.3)], [1.0, 0.0, 0.0]],
    (4.0, 1.1, 0.9),
)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> tuple[Volume, np.ndarray, Findings, ResultSet]:
    array, mask = asymmetric_phantom((6, 17, 19))
    volume = plain_volume(write_series(tmp_path_factory.mktemp("series"), array, OBLIQUE))
    findings = findings_of(mask, volume.affine)
    return volume, mask, findings, build(run_identity(), volume, mask, findings, PRODUCER)


def damaged(result: ResultSet, kind: ObjectKind, change: Callable[[Dataset], None]) -> ResultSet:
    """The set with one object changed and its digest made to fit, as a faulty writer would leave it."""
    objects = []
    for made in result.objects:
        if made.kind is kind:
            document = dcmread(BytesIO(made.data))
            change(document)
            buffer = BytesIO()
            document.save_as(buffer)
            data = buffer.getvalue()
            made = dataclasses.replace(made, data=data, sha256=hashlib.sha256(data).hexdigest())
        objects.append(made)
    return dataclasses.replace(result, objects=tuple(objects))


def refused(case, kind: ObjectKind, change: Callable[[Dataset], None]) -> str:
    volume, mask, findings, result = case
    with pytest.raises(Refused) as caught:
        check(damaged(result, kind, change), volume, mask, findings)
    assert caught.value.refusal.code is RefusalCode.RESULT_CHECK_FAILED
    assert "MARKER" not in str(caught.value.refusal.to_json())
    return caught.value.refusal.expected


def test_the_undamaged_set_passes_also_after_rewriting(case):
    volume, mask, findings, result = case
    check(damaged(result, ObjectKind.SEG, lambda _: None), volume, mask, findings)


def test_one_flipped_voxel(case):
    def flip(seg: Dataset) -> None:
        pixels = bytearray(seg.PixelData)
        pixels[57] ^= 0x10
        seg.PixelData = bytes(pixels)

    assert "voxels" in refused(case, ObjectKind.SEG, flip)


def test_bits_packed_the_other_way_round(case):
    def reverse(seg: Dataset) -> None:
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
        seg.PixelData = np.packbits(bits, bitorder="big").tobytes()

    assert "voxels" in refused(case, ObjectKind.SEG, reverse)


def test_two_positions_exchanged(case):
    def exchange(seg: Dataset) -> None:
        first, second = seg.PerFrameFunctionalGroupsSequence[1:3]
        first.PlanePositionSequence, second.PlanePositionSequence = (
            second.PlanePositionSequence,
            first.PlanePositionSequence,
        )

    refused(case, ObjectKind.SEG, exchange)


def test_grid_shifted_by_a_tenth_of_a_voxel(case):
    def shift(seg: Dataset) -> None:
        for frame in seg.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0].ImagePositionPatient
            position[0] = float(position[0]) + 0.09

    assert "grid" in refused(case, ObjectKind.SEG, shift)


def test_row_and_column_spacing_exchanged(case):
    def exchange(seg: Dataset) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = list(measures.PixelSpacing)[::-1]

    assert "grid" in refused(case, ObjectKind.SEG, exchange)


def test_orientation_flipped(case):
    def flip(seg: Dataset) -> None:
        item = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        item.ImageOrientationPatient = [-float(v) for v in item.ImageOrientationPatient]

    assert "grid" in refused(case, ObjectKind.SEG, flip)


def test_frame_names_another_image(case):
    def rename(seg: Dataset) -> None:
        frame = seg.PerFrameFunctionalGroupsSequence[0]
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"

    assert "image it was drawn on" in refused(case, ObjectKind.SEG, rename)


def test_another_frame_of_reference(case):
    assert "frame of reference" in refused(
        case, ObjectKind.SEG, lambda seg: setattr(seg, "FrameOfReferenceUID", "1.2.3")
    )


def test_segments_exchanged(case):
    def exchange(seg: Dataset) -> None:
        for frame in seg.PerFrameFunctionalGroupsSequence:
            item = frame.SegmentIdentificationSequence[0]
            item.ReferencedSegmentNumber = 3 - item.ReferencedSegmentNumber

    refused(case, ObjectKind.SEG, exchange)


@pytest.mark.parametrize("code", ["118565006", "103339001", "L0JK"])
def test_a_number_of_the_report_changed(case, code):
    def change(report: Dataset) -> None:
        measured = items_by_code(report, code)[0].MeasuredValueSequence[0]
        measured.NumericValue = str(round(float(measured.NumericValue) * 1.01, 8))

    assert "as found" in refused(case, ObjectKind.SR, change)


def test_volume_of_findings_and_report_not_that_of_the_segmentation(case):
    """Both say the same wrong number: only the recomputation can notice."""
    volume, mask, findings, _ = case
    region = findings.regions[0]
    doubled = dataclasses.replace(region.measurements[0], value=region.measurements[0].value * 2)
    wrong = dataclasses.replace(
        findings,
        regions=(dataclasses.replace(region, measurements=(doubled, *region.measurements[1:])), *findings.regions[1:]),
    )
    with pytest.raises(Refused) as caught:
        check(build(run_identity(), volume, mask, wrong, PRODUCER), volume, mask, wrong)
    assert "from the segmentation" in caught.value.refusal.expected


def test_diameter_longer_than_the_segment(case):
    volume, mask, findings, _ = case
    region = findings.regions[0]
    huge = dataclasses.replace(region.measurements[3], value=500.0)
    wrong = dataclasses.replace(
        findings,
        regions=(dataclasses.replace(region, measurements=(*region.measurements[:3], huge)), *findings.regions[1:]),
    )
    with pytest.raises(Refused) as caught:
        check(build(run_identity(), volume, mask, wrong, PRODUCER), volume, mask, wrong)
    assert "diameter_3d" in caught.value.refusal.expected


def test_unit_changed(case):
    def change(report: Dataset) -> None:
        item = items_by_code(report, "118565006")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
        item.CodeValue = "mm3"

    refused(case, ObjectKind.SR, change)


def test_tracking_uid_differs(case):
    assert "tracking UID" in refused(
        case, ObjectKind.SR, lambda report: setattr(items_by_code(report, "112040")[0], "UID", "1.2.3")
    )


def test_reference_to_another_segment(case):
    def change(report: Dataset) -> None:
        items_by_code(report, "121191")[0].ReferencedSOPSequence[0].ReferencedSegmentNumber = 2

    assert "reference to the segment" in refused(case, ObjectKind.SR, change)


def test_report_called_verified(case):
    assert "unverified" in refused(case, ObjectKind.SR, lambda report: setattr(report, "VerificationFlag", "VERIFIED"))


def test_evidence_incomplete(case):
    def change(report: Dataset) -> None:
        del report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]

    assert "evidence" in refused(case, ObjectKind.SR, change)


@pytest.mark.parametrize("kind", [ObjectKind.SEG, ObjectKind.PDF, ObjectKind.SR])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "SYN-2"),
        ("PatientName", "MARKER^OTHER"),
        ("StudyInstanceUID", "1.2.3.4.5.9"),
        ("IssuerOfPatientID", "HOSPITAL"),
        ("StudyDescription", "CT chest"),
    ],
)
def test_another_patient_or_study_in_one_object(case, kind, keyword, value):
    assert keyword in refused(case, kind, lambda document: setattr(document, keyword, value))


def test_another_patient_in_all_objects(case):
    volume, mask, findings, result = case
    for kind in (ObjectKind.SEG, ObjectKind.PDF, ObjectKind.SR):
        result = damaged(result, kind, lambda document: setattr(document, "PatientID", "SYN-2"))
    with pytest.raises(Refused) as caught:
        check(result, volume, mask, findings)
    assert caught.value.refusal.expected == "the source's PatientID"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SeriesDescription", "x" * 65), ("StudyID", "x" * 17), ("Manufacturer", "a\x1bb"), ("ContentLabel", "ai seg")],
)
def test_values_over_their_limits(case, keyword, value):
    import warnings

    def change(seg: Dataset) -> None:
        from pydicom.dataelem import DataElement

        seg[keyword] = DataElement(seg[keyword].tag, seg[keyword].VR, value, validation_mode=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(case, ObjectKind.SEG, change)


def test_page_changed(case):
    volume, mask, findings, result = case
    with pytest.raises(Refused) as caught:
        check(dataclasses.replace(result, pdf=result.pdf + b" "), volume, mask, findings)
    assert caught.value.refusal.expected == "the page's own bytes"


def test_page_that_names_the_report(case):
    report = case[3].objects[-1].sop_instance_uid

    def change(page: Dataset) -> None:
        page.SourceInstanceSequence[0].ReferencedSOPInstanceUID = report

    refused(case, ObjectKind.PDF, change)


def test_bytes_changed_after_the_digest(case):
    volume, mask, findings, result = case
    first = result.objects[0]
    changed = dataclasses.replace(first, data=first.data[:-1] + bytes([first.data[-1] ^ 1]))
    with pytest.raises(Refused):
        check(dataclasses.replace(result, objects=(changed, *result.objects[1:])), volume, mask, findings)


def test_an_object_is_missing(case):
    volume, mask, findings, result = case
    for gone in range(3):
        left = tuple(made for i, made in enumerate(result.objects) if i != gone)
        with pytest.raises(Refused):
            check(dataclasses.replace(result, objects=left), volume, mask, findings)
