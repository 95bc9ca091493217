"""I17: what leaves is valid.  dicom3tools over every object, over the set, and over objects of made-up headers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from fixtures_results import (
    PRODUCER,
    asymmetric_phantom,
    dciodvfy,
    enhanced_volume,
    findings_of,
    plain_volume,
    run_identity,
    write_enhanced,
    write_series,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ai_engine.geometry import Affine
from dicom_node.results import build, build_rejection, check
from dicom_node.words import ResultSet

pytestmark = pytest.mark.component

AXIAL = Affine.from_axes((-10.0, -10.0, 0.0), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (4.0, 1.0, 1.0))
SHAPE = (5, 16, 16)


def saved(result: ResultSet, folder: Path) -> list[Path]:
    paths = []
    for made in result.objects:
        paths.append(folder / f"{made.kind}.dcm")
        paths[-1].write_bytes(made.data)
    return paths


def dcentvfy(paths: list[Path]) -> list[str]:
    """What dicom3tools says about attributes that should be equal over a set of objects."""
    if shutil.which("dcentvfy") is None:
        raise RuntimeError("dcentvfy is missing: install dicom3tools")
    done = subprocess.run(
        ["dcentvfy", *map(str, paths)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", ["two segments", "one segment", "nothing found", "superseding"])
def test_objects_are_valid_alone_and_as_a_set(tmp_path, kind):
    array, mask = asymmetric_phantom(SHAPE)
    images = write_series(
        tmp_path, array, AXIAL, IssuerOfPatientID="HOSP", PatientAge="053Y", SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Jörg",
    )  # fmt: skip
    volume = plain_volume(images)
    keep = {"one segment": (1,), "nothing found": ()}.get(kind, (1, 2))
    mask = np.where(np.isin(mask, keep), mask, 0).astype(np.uint8)
    findings = findings_of(mask, volume.affine, notes=("A note.",))
    identity = run_identity()
    if kind == "superseding":
        old = [
            {"kind": "sr", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34", "sop_instance_uid": "1.2.3.9",
             "series_uid": "1.2.3.8"}
        ]  # fmt: skip
        identity = run_identity(revision_number=2, predecessor={"objects": old})
    result = build(identity, volume, mask, findings, PRODUCER, language="es" if kind == "superseding" else "en")
    check(result, volume, mask, findings)
    paths = saved(result, tmp_path)
    if kind == "superseding":
        rejection = build_rejection(identity, old, volume.slices[0], findings.model, PRODUCER)
        paths.append(tmp_path / "ko.dcm")
        paths[-1].write_bytes(rejection.data)
    for path in paths:
        assert dciodvfy(path) == []
    assert dcentvfy([*paths, *images]) == []


def test_objects_of_an_enhanced_source_are_valid(tmp_path):
    array, mask = asymmetric_phantom(SHAPE)
    path = write_enhanced(tmp_path, array, AXIAL, [4, 0, 3, 1, 2])
    volume = enhanced_volume(path, array, AXIAL, [4, 0, 3, 1, 2])
    findings = findings_of(mask, volume.affine)
    result = build(run_identity(), volume, mask, findings, PRODUCER)
    check(result, volume, mask, findings)
    for made in saved(result, tmp_path):
        assert dciodvfy(made) == []


uids = st.from_regex(r"1\.2\.(0|[1-9][0-9]{0,20})\.[1-9][0-9]{20,36}", fullmatch=True).filter(lambda u: len(u) <= 60)
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"], exclude_characters="\\^="), max_size=80)
HEADERS = st.fixed_dictionaries(
    {
        "PatientName": st.one_of(st.just(""), words, st.builds("{}^{}={}^{}".format, words, words, words, words)),
        "PatientID": st.one_of(st.just(""), words.map(lambda w: w[:60])),
        "PatientBirthDate": st.sampled_from(["", "19700101", "19700230"]),
        "PatientSex": st.sampled_from(["", "F", "M", "O", "X"]),
        "AccessionNumber": st.one_of(st.just(""), words),
        "StudyID": st.one_of(st.just(""), words),
        "StudyTime": st.sampled_from(["", "10", "1015", "101500.123456", "99"]),
        "StudyDate": st.sampled_from(["", "20260101", "2026.01.01"]),
        "StudyDescription": words,
        "SeriesDescription": words,
        "ReferringPhysicianName": words,
        "IssuerOfPatientID": words,
        "StudyInstanceUID": uids.map("1.3.{}".format).map(lambda u: (u + "1" * 64)[:64]),
        "SeriesInstanceUID": uids,
        "FrameOfReferenceUID": uids.map("1.4.{}".format),
        "PositionReferenceIndicator": st.sampled_from(["", "NASION"]),
        "PatientAge": st.sampled_from(["053Y", "53", "***"]),
    }
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(header=HEADERS)
def test_made_up_headers_stay_valid(header):
    array, mask = asymmetric_phantom((3, 8, 8))
    mask[1, 3, 3] = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = write_series(folder, array, AXIAL, SpecificCharacterSet="ISO_IR 192", **header)
            volume = plain_volume(images)
        findings = findings_of(mask, volume.affine)
        result = build(run_identity(volume.study_uid), volume, mask, findings, PRODUCER)
        check(result, volume, mask, findings)
        for path in saved(result, folder):
            # The validator counts bytes where PS3.5 6.2 counts characters; `check` has counted those.
            assert [line for line in dciodvfy(path) if "Length invalid for this VR" not in line] == []
