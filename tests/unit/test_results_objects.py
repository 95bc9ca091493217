"""Result objects of small synthetic series: content, identity, determinism, refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures_results import (
    BRAIN,
    MODEL,
    PRODUCER,
    SERIES,
    STUDY,
    asymmetric_phantom,
    findings_of,
    items_by_code,
    plain_volume,
    run_identity,
    write_series,
)
from pydicom import dcmread

from ai_engine.findings import Code, Findings, Measurement, Observation
from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import Producer, build, build_rejection, check, device_uid, tracking_uid
from dicom_node.words import Grade, ObjectKind, ResultSet, Volume

pytestmark = pytest.mark.unit

AXIAL = Affine.from_axes((-40.0, -50.0, -10.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (5.0, 1.0, 0.9))


@pytest.fixture
def case(tmp_path: Path) -> tuple[Volume, np.ndarray, Findings]:
    array, mask = asymmetric_phantom((8, 20, 24))
    volume = plain_volume(write_series(tmp_path, array, AXIAL))
    return volume, mask, findings_of(mask, volume.affine, notes=("Spacing of the training data is unknown.",))


def parsed(result: ResultSet) -> dict[ObjectKind, object]:
    return {made.kind: dcmread(BytesIO(made.data)) for made in result.objects}


def test_objects_come_in_sending_order_and_pass_the_check(case):
    volume, mask, findings = case
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    assert [made.kind for made in result.objects] == [ObjectKind.SEG, ObjectKind.PDF, ObjectKind.SR]
    check(result, volume, mask, findings)
    assert result.pdf.startswith(b"%PDF-") and result.overlay_png.startswith(b"\x89PNG")


def test_segmentation_says_what_the_standard_asks(case):
    volume, mask, findings = case
    seg = parsed(build(run_identity(), volume, mask, findings, PRODUCER))[ObjectKind.SEG]
    assert seg.SegmentationType == "BINARY" and list(seg.ImageType) == ["DERIVED", "PRIMARY"]
    assert seg.NumberOfFrames == 2 * len(volume.slices), "empty planes are written too"
    assert seg.FrameOfReferenceUID == volume.frame_of_reference_uid
    assert [s.SegmentNumber for s in seg.SegmentSequence] == [1, 2]
    first = seg.SegmentSequence[0]
    assert first.SegmentLabel == "FLAIR abnormality" and first.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert first.SegmentAlgorithmName == algorithm.AlgorithmName == MODEL.name
    assert algorithm.AlgorithmVersion == MODEL.version and "weights_sha256=abab" in algorithm.AlgorithmParameters
    assert list(first.RecommendedDisplayCIELabValue) == [56512, 29469, 51140]
    assert first.AnatomicRegionSequence[0].CodeValue == BRAIN.value
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    assert seg.SpecificCharacterSet == "ISO_IR 192" and seg.LossyImageCompression == "00"
    assert seg.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99AINODE"


def test_positions_are_the_strings_of_the_source(case):
    volume, mask, findings = case
    seg = parsed(build(run_identity(), volume, mask, findings, PRODUCER))[ObjectKind.SEG]
    written = {
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID: [
            v.original_string for v in f.PlanePositionSequence[0].ImagePositionPatient
        ]
        for f in seg.PerFrameFunctionalGroupsSequence
    }
    for source in volume.slices:
        header = dcmread(source.path)
        assert written[source.sop_instance_uid] == [v.original_string for v in header.ImagePositionPatient]


def test_report_tree(case):
    volume, mask, findings = case
    objects = parsed(build(run_identity(), volume, mask, findings, PRODUCER))
    report, seg = objects[ObjectKind.SR], objects[ObjectKind.SEG]
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert report.AuthorObserverSequence[0].ObserverType == "DEV"
    groups = items_by_code(report, "125007")
    assert [g.ContentTemplateSequence[0].TemplateIdentifier for g in groups] == ["1411", "1411", "1501"]
    for number, group in enumerate(groups[:2]):
        segment = seg.SegmentSequence[number]
        assert segment.TrackingUID == items_by_code(group, "112040")[0].UID
        reference = items_by_code(group, "121191")[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == number + 1
    assert not items_by_code(groups[2], "121191"), "a composite has no segment"
    volume_item = items_by_code(groups[0], "118565006")[0].MeasuredValueSequence[0]
    expected = np.count_nonzero(mask == 1) * 5.0 * 1.0 * 0.9 / 1000
    assert float(volume_item.NumericValue) == pytest.approx(expected, rel=1e-6)
    assert volume_item.MeasurementUnitsCodeSequence[0].CodeValue == "cm3"
    comments = " ".join(item.TextValue for item in items_by_code(report, "121106"))
    for words in ("Unreviewed", "research use only", "transferred", "nearest in time", "Spacing of the training data"):
        assert words in comments


def test_equipment_is_equal_everywhere(case):
    volume, mask, findings = case
    objects = parsed(build(run_identity(), volume, mask, findings, PRODUCER))
    device = device_uid(PRODUCER.product, MODEL.name, MODEL.version)
    for document in objects.values():
        (item,) = document.ContributingEquipmentSequence
        assert item.DeviceUID == device and item.ManufacturerModelName == MODEL.name
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert document.DeviceSerialNumber == "node-1" and list(document.SoftwareVersions) == [
            "node 0.1.0",
            "brain-flair 1.2.0",
        ]
        assert document.SeriesDescription.endswith("- brain-flair 1.2.0 RUO")
        assert document.TimezoneOffsetFromUTC == "+0000"
    report = objects[ObjectKind.SR]
    assert device == items_by_code(report, "121012")[0].UID
    assert items_by_code(report, "121015")[0].TextValue == MODEL.name
    assert {str(o.SeriesNumber) for o in objects.values()} == {"9101", "9102", "9103"}


def test_nothing_found_gives_no_segmentation_and_says_so(case):
    volume, mask, _ = case
    empty = np.zeros_like(mask)
    findings = findings_of(empty, volume.affine)
    result = build(run_identity(), volume, empty, findings, PRODUCER)
    check(result, volume, empty, findings)
    objects = parsed(result)
    assert set(objects) == {ObjectKind.PDF, ObjectKind.SR}
    groups = items_by_code(objects[ObjectKind.SR], "125007")
    assert len(groups) == 3
    for group in groups:
        assert items_by_code(group, "121052")[0].ConceptCodeSequence[0].CodeValue == "272519000"
        assert float(items_by_code(group, "118565006")[0].MeasuredValueSequence[0].NumericValue) == 0
    text = " ".join(item.TextValue for item in items_by_code(objects[ObjectKind.SR], "121106"))
    assert "No region above threshold" in text and "normal" not in text.lower()


def test_findings_without_regions_make_one_absent_group(case):
    volume, mask, _ = case
    empty = np.zeros_like(mask)
    result = build(run_identity(), volume, empty, Findings(MODEL), PRODUCER)
    check(result, volume, empty, Findings(MODEL))
    (group,) = items_by_code(parsed(result)[ObjectKind.SR], "125007")
    assert items_by_code(group, "121052")


def test_absent_region_beside_a_present_one(case):
    volume, mask, _ = case
    one = np.where(mask == 1, 1, 0).astype(np.uint8)
    findings = findings_of(one, volume.affine)
    result = build(run_identity(), volume, one, findings, PRODUCER)
    check(result, volume, one, findings)
    objects = parsed(result)
    assert [s.SegmentLabel for s in objects[ObjectKind.SEG].SegmentSequence] == ["FLAIR abnormality"]
    groups = items_by_code(objects[ObjectKind.SR], "125007")
    assert [bool(items_by_code(g, "121052")) for g in groups] == [False, True, False]


def test_observation_becomes_a_group_with_its_operating_point(case):
    volume, mask, _ = case
    probability = Measurement(
        "probability",
        Code("AI-PROB", "99AINODE", "Model-estimated probability"),
        37.4,
        Code("%", "UCUM", "percent"),
    )
    observation = Observation(
        "lesion",
        name=Code("AI-PROB", "99AINODE", "Model-estimated probability"),
        finding=Code("52988006", "SCT", "Lesion"),
        site=BRAIN,
        measurements=(probability,),
        category=Code("below", "99AINODE", "Below operating threshold"),
        threshold=50.0,
    )
    findings = Findings(MODEL, observations=(observation,))
    empty = np.zeros_like(mask)
    result = build(run_identity(), volume, empty, findings, PRODUCER)
    check(result, volume, empty, findings)
    (group,) = items_by_code(parsed(result)[ObjectKind.SR], "125007")
    assert float(items_by_code(group, "AI-PROB")[0].MeasuredValueSequence[0].NumericValue) == 37.4
    assert items_by_code(group, "operating-point-category")[0].ConceptCodeSequence[0].CodeValue == "below"


def test_uids_are_derived_and_fit():
    first, again, other = run_identity(), run_identity(), run_identity(run_key="d" * 64)
    from dicom_node.results import uids

    assert uids.instance_uid(first, ObjectKind.SEG) == uids.instance_uid(again, ObjectKind.SEG)
    every = {
        make(identity, kind)
        for make in (uids.instance_uid, uids.series_uid)
        for identity in (first, other)
        for kind in ObjectKind
    }
    assert len(every) == 2 * 2 * len(ObjectKind)
    assert all(uid.startswith("2.25.") and len(uid) <= 44 for uid in every)
    assert tracking_uid(first.site_namespace, STUDY, "core") == tracking_uid(other.site_namespace, STUDY, "core")
    rooted = uids.instance_uid(first, ObjectKind.SEG, "1.2.826.0.1.3680043.10.1234")
    assert rooted.startswith("1.2.826.0.1.3680043.10.1234.") and len(rooted) <= 64


def test_site_root_reaches_every_object(case):
    volume, mask, findings = case
    producer = dataclasses.replace(PRODUCER, uid_root="1.2.826.0.1.3680043.10.1234", model_slot=2)
    result = build(run_identity(), volume, mask, findings, producer)
    check(result, volume, mask, findings)
    assert all(made.sop_instance_uid.startswith("1.2.826.0.1.3680043.10.1234.") for made in result.objects)
    assert parsed(result)[ObjectKind.SEG].SeriesNumber == 9121


@pytest.mark.parametrize("broken", [{"manufacturer": " "}, {"instance_id": ""}, {"uid_root": "1.02"}])
def test_producer_is_complete_or_not_at_all(broken):
    with pytest.raises(ValueError, match=r"uid_root|type 1"):
        dataclasses.replace(PRODUCER, **broken)


def test_two_processes_write_the_same_bytes(case, tmp_path):
    """No clock, no chance, no environment: another process, time zone, locale and hash seed, the same digests."""
    volume, mask, findings = case
    here = [o.sha256 for o in build(run_identity(), volume, mask, findings, PRODUCER).objects]
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "from fixtures_results import *; from dicom_node.results import build;"
        "paths = sorted(pathlib.Path(sys.argv[2]).glob('*.dcm')); v = plain_volume(paths);"
        "_, m = asymmetric_phantom((8, 20, 24));"
        "f = findings_of(m, v.affine, notes=('Spacing of the training data is unknown.',));"
        "r = build(run_identity(), v, m, f, PRODUCER);"
        "sys.stdout.write(' '.join(o.sha256 for o in r.objects))"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "TZ": "Pacific/Auckland",
        "PYTHONHASHSEED": "77",
        "SOURCE_DATE_EPOCH": "86400",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            str(Path(__file__).resolve().parents[1]),
            str(Path(volume.slices[0].path).parent),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == here


def test_rejection_names_every_old_object_and_the_report_its_predecessor(case):
    volume, mask, findings = case
    old = build(run_identity(), volume, mask, findings, PRODUCER)
    listed = [
        {
            "kind": o.kind.value,
            "sop_class_uid": o.sop_class_uid,
            "sop_instance_uid": o.sop_instance_uid,
            "series_uid": o.series_uid,
        }
        for o in old.objects
    ]
    new = run_identity(run_key="e" * 64, revision_number=2, predecessor={"objects": listed})
    result = build(new, volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    report = parsed(result)[ObjectKind.SR]
    replaced = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert replaced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.objects[-1].sop_instance_uid
    assert report.SeriesDescription.endswith("rev 2")
    made = build_rejection(new, listed, volume.slices[0], findings.model, PRODUCER)
    again = build_rejection(new, listed, volume.slices[0], findings.model, PRODUCER)
    assert made.sha256 == again.sha256 and made.kind is ObjectKind.KO
    document = dcmread(BytesIO(made.data))
    assert document.ConceptNameCodeSequence[0].CodeValue == "113001"
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]
    assert named == [o.sop_instance_uid for o in old.objects]
    assert document.PatientID == "SYN-1" and document.StudyInstanceUID == STUDY
    with pytest.raises(Refused):
        build_rejection(new, [], volume.slices[0], findings.model, PRODUCER)


def test_paths_may_be_relative_to_a_data_root(case):
    volume, mask, findings = case
    root = Path(volume.slices[0].path).parent
    moved = dataclasses.replace(
        volume, slices=tuple(dataclasses.replace(s, path=Path(s.path).name) for s in volume.slices)
    )
    here = build(run_identity(), volume, mask, findings, PRODUCER)
    there = build(run_identity(), moved, mask, findings, PRODUCER, data_root=root)
    check(there, moved, mask, findings, data_root=root)
    assert [o.sha256 for o in here.objects] == [o.sha256 for o in there.objects]


def test_further_series_are_evidence_and_come_second(case, tmp_path):
    volume, mask, findings = case
    folder = tmp_path / "t1"
    folder.mkdir()
    array, _ = asymmetric_phantom((8, 20, 24))
    other = plain_volume(
        write_series(
            folder, array, AXIAL, SeriesInstanceUID="1.2.3.4.5.77", SeriesDescription="T1 post", SeriesNumber=9
        )
    )
    result = build(run_identity(), volume, mask, findings, PRODUCER, further_sources=other.slices)
    check(result, volume, mask, findings)
    objects = parsed(result)
    listed = [s.SeriesInstanceUID for s in objects[ObjectKind.SEG].ReferencedSeriesSequence]
    assert listed == [SERIES, "1.2.3.4.5.77"]
    evidence = objects[ObjectKind.SR].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {s.SeriesInstanceUID for s in evidence} >= {SERIES, "1.2.3.4.5.77"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PatientID": "SOMEONE-ELSE"}, RefusalCode.PATIENT_CONFLICT),
        ({"PatientName": "OTHER^PERSON"}, RefusalCode.PATIENT_CONFLICT),
        ({"PatientBirthDate": "19500101"}, RefusalCode.PATIENT_CONFLICT),
        ({"IssuerOfPatientID": "OTHER"}, RefusalCode.PATIENT_CONFLICT),
        ({"StudyInstanceUID": "1.2.3.4.9"}, RefusalCode.PATIENT_CONFLICT),
    ],
)
def test_sources_of_two_patients_are_refused(case, tmp_path, changes, code):
    volume, mask, findings = case
    folder = tmp_path / "other"
    folder.mkdir()
    array, _ = asymmetric_phantom((8, 20, 24))
    other = plain_volume(write_series(folder, array, AXIAL, SeriesInstanceUID="1.2.3.4.5.78", **changes))
    with pytest.raises(Refused) as refused:
        build(run_identity(), volume, mask, findings, PRODUCER, further_sources=other.slices)
    assert refused.value.refusal.code is code
    told = str(refused.value.refusal.to_json())
    assert next(iter(changes)) in told and "OTHER" not in told and "SOMEONE" not in told


def test_a_run_of_another_study_is_refused(case):
    volume, mask, findings = case
    with pytest.raises(Refused) as refused:
        build(run_identity("1.2.3.99"), volume, mask, findings, PRODUCER)
    assert refused.value.refusal.code is RefusalCode.UID_MISMATCH


def test_mask_and_findings_must_belong_together(case):
    volume, mask, findings = case
    wrong = mask.copy()
    wrong[0, 0, 0] = 7
    for bad in (wrong, mask[:, :, ::-1][:, :-1], mask.astype(np.int16), np.zeros_like(mask)):
        with pytest.raises(Refused) as refused:
            build(run_identity(), volume, bad, findings, PRODUCER)
        assert refused.value.refusal.code is RefusalCode.RESULT_CHECK_FAILED


def test_series_description_keeps_its_tail():
    from dicom_node.results.objects import Job

    model = dataclasses.replace(
        MODEL, title="A very long title of a model that says everything there is to say about it"
    )
    job = Job(run_identity(revision_number=3), PRODUCER, Findings(model), None)  # type: ignore[arg-type]
    described = job.series_description(ObjectKind.SR)
    assert len(described) <= 64 and described.startswith("AI SR A very") and described.endswith("1.2.0 RUO rev 3")


def test_weak_evidence_stands_first_on_the_page(case):
    from dicom_node.results.objects import Job
    from dicom_node.results.remarks import warnings_of
    from dicom_node.results.sources import read_sources

    volume, _, findings = case
    identity = run_identity(grade=Grade.CONTRADICTING)
    job = Job(identity, PRODUCER, findings, read_sources(identity, volume, (), None))
    assert any("CONTRADICTING" in line for line in warnings_of(job, ("one duplicate slice dropped",), "en"))
    assert warnings_of(job, ("one duplicate slice dropped",), "en")[0] == "one duplicate slice dropped"


def test_producer_type_is_public():
    assert isinstance(PRODUCER, Producer)
