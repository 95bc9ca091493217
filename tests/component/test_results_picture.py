"""Results of a photograph: valid for strangers' validators, the same every time, and never sent when they are wrong."""

from __future__ import annotations

import dataclasses
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures_photo import heat_in_the_middle, lesion_findings, wrapped_lesion
from fixtures_results import PRODUCER, dciodvfy, run_identity
from PIL import Image
from pydicom import dcmread

from ai_engine.findings import Code
from dicom_node.body_sites import body_site
from dicom_node.refusals import Refused
from dicom_node.results import build_picture, build_rejection, check_picture
from dicom_node.results.page_picture import number_words
from dicom_node.results.readback import content_items, measurement_groups
from dicom_node.volume import read_picture
from dicom_node.words import ObjectKind, Picture, ResultSet, SliceSource

pytestmark = pytest.mark.component

HEAT = heat_in_the_middle()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Picture:
    folder = tmp_path_factory.mktemp("photo")
    _, path = wrapped_lesion(folder, body_site=body_site("chest"), laterality="L")
    return read_picture(path)


def _built(picture: Picture, language: str = "en", **changes) -> ResultSet:
    identity = run_identity(picture.study_uid, **changes)
    return build_picture(identity, picture, HEAT, lesion_findings(), PRODUCER, language=language)


def _saved(result: ResultSet, folder: Path) -> list[Path]:
    paths = [folder / f"{made.kind}.dcm" for made in result.objects]
    for path, made in zip(paths, result.objects, strict=True):
        path.write_bytes(made.data)
    return paths


def _of(result: ResultSet, kind: ObjectKind):
    return dcmread(BytesIO(next(o.data for o in result.objects if o.kind is kind)))


@pytest.mark.parametrize("language", ["en", "es"])
def test_objects_are_valid_alone_and_as_a_set(tmp_path: Path, picture: Picture, language: str) -> None:
    old = [
        {"kind": "sr", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.22", "sop_instance_uid": "1.2.3.9",
         "series_uid": "1.2.3.8"},
        {"kind": "sc", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "sop_instance_uid": "1.2.3.7",
         "series_uid": "1.2.3.6"},
    ]  # fmt: skip
    result = _built(picture, language, revision_number=2, predecessor={"objects": old})
    check_picture(result, picture, HEAT, lesion_findings())
    assert [made.kind for made in result.objects] == [ObjectKind.PDF, ObjectKind.SC, ObjectKind.SR]
    paths = _saved(result, tmp_path)
    source = SliceSource(picture.sop_class_uid, picture.sop_instance_uid, picture.path)
    identity = run_identity(picture.study_uid, revision_number=2, predecessor={"objects": old})
    paths.append(tmp_path / "ko.dcm")
    paths[-1].write_bytes(build_rejection(identity, old, source, lesion_findings().model, PRODUCER).data)
    for path in paths:
        assert dciodvfy(path) == [], path.name
    done = subprocess.run(
        ["dcentvfy", *map(str, [*paths, picture.path])],
        capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def test_the_same_run_is_the_same_bytes(picture: Picture) -> None:
    first, second = _built(picture), _built(picture)
    assert [o.sha256 for o in first.objects] == [o.sha256 for o in second.objects]
    assert first.pdf == second.pdf
    assert first.overlay_png == second.overlay_png


def test_the_page_of_a_photograph_full_of_detail_is_small_enough_for_a_fhir_report(picture: Picture) -> None:
    """It travels as base64 inside the report; a real server took none of 1.3 million characters."""
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    assert len(_built(dataclasses.replace(picture, pixels=noise)).pdf) < 750_000
    assert len(_built(picture).pdf) < 300_000


def test_the_report_says_number_threshold_side_and_no_diagnosis(picture: Picture) -> None:
    report = _of(_built(picture), ObjectKind.SR)
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.22"
    malignant, melanoma = measurement_groups(report)
    assert malignant.numbers["AI-MAL-PROB"] == (62.5, "%")
    assert malignant.numbers["operating-point"] == (31.0, "%")
    assert malignant.codes["operating-point-category"] == "AI-OP-ABOVE"
    assert malignant.codes["121071"] == "52988006"
    assert malignant.codes["363698007"] == "74160004"
    assert malignant.images == (picture.sop_instance_uid,)
    assert melanoma.codes["operating-point-category"] == "AI-OP-BELOW"
    assert malignant.tracking_uid != melanoma.tracking_uid
    meanings = [str(e.value) for e in report.iterall() if e.keyword == "CodeMeaning"]
    assert not [m for m in meanings if m.lower() in ("melanoma", "malignant melanoma", "malignant neoplasm")]
    assert "99AINODE" in {str(i.CodingSchemeDesignator) for i in report.CodingSchemeIdentificationSequence}
    library = [i for i in content_items(report) if i.ValueType == "IMAGE" and "ConceptNameCodeSequence" not in i]
    assert len(library) == 1


def test_the_capture_shows_photograph_and_heat_and_says_that_it_is_no_measurement(picture: Picture) -> None:
    result = _built(picture)
    capture = _of(result, ObjectKind.SC)
    assert (capture.Modality, list(capture.ImageType)) == ("OT", ["DERIVED", "SECONDARY"])
    assert capture.BurnedInAnnotation == "YES"
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == picture.sop_instance_uid
    assert "ImagePositionPatient" not in capture
    assert np.array_equal(capture.pixel_array, np.asarray(Image.open(BytesIO(result.overlay_png))))


def test_pages_of_several_photographs_of_a_study_are_tracked_apart(tmp_path: Path, picture: Picture) -> None:
    other = dataclasses.replace(picture, sop_instance_uid="1.2.3.4.99")
    uids = [measurement_groups(_of(_built(p), ObjectKind.SR))[0].tracking_uid for p in (picture, other)]
    assert uids[0] != uids[1]


@pytest.mark.parametrize("damage", ["value", "threshold", "category", "heat", "photograph", "site"])
def test_wrong_objects_are_never_sent(picture: Picture, damage: str) -> None:
    findings, heat, seen = lesion_findings(), HEAT, picture
    result = _built(picture)
    first = findings.observations[0]
    if damage == "value":
        findings = lesion_findings(62.6)
    elif damage == "threshold":
        findings = lesion_findings(threshold=31.5)
    elif damage == "category":
        moved = dataclasses.replace(first, category=Code("AI-OP-BELOW", "99AINODE", "Below operating threshold"))
        findings = dataclasses.replace(findings, observations=(moved, findings.observations[1]))
    elif damage == "site":
        moved = dataclasses.replace(first, site=Code("39937001", "SCT", "Skin"))
        findings = dataclasses.replace(findings, observations=(moved, findings.observations[1]))
    elif damage == "heat":
        heat = np.zeros_like(HEAT)
    else:
        seen = dataclasses.replace(picture, pixels=np.ascontiguousarray(picture.pixels[:, ::-1]))
    with pytest.raises(Refused, match="result-check-failed"):
        check_picture(result, seen, heat, findings)


def test_numbers_are_rounded_for_people_and_never_to_nothing() -> None:
    measurement = lesion_findings().observations[0].measurements[0]
    shares = (0.0, 0.02, 0.7, 4.39, 9.96, 62.5, 99.7, 100.0)
    said = [number_words(dataclasses.replace(measurement, value=v)) for v in shares]
    assert said == ["0.0 %", "< 0.1 %", "0.7 %", "4.4 %", "10 %", "62 %", "> 99 %", "100 %"]
