"""The demonstration study is valid DICOM, says the truth about its geometry, and is the same every time."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from dicom_node.demo import DemoStudy, Fate, make_study
from dicom_node.demo.protocol import FLAIR_NUMBER, protocol

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def lesion(tmp_path_factory: pytest.TempPathFactory) -> DemoStudy:
    return make_study(tmp_path_factory.mktemp("lesion"), Fate.LESION)


def headers(study: DemoStudy):
    return [dcmread(path, stop_before_pixels=True) for path in sorted(study.folder.glob("*/*.dcm"))]


def test_there_are_six_series_of_one_patient_and_one_study(lesion):
    all_headers = headers(lesion)
    assert len(all_headers) == lesion.instances == sum(plan.images for plan in protocol())
    assert {str(h.PatientID) for h in all_headers} == {lesion.patient_id}
    assert "HTEST" in lesion.patient_id and str(all_headers[0].PatientName).startswith("DEMO^")
    assert {str(h.StudyInstanceUID) for h in all_headers} == {lesion.study_uid}
    assert len({str(h.SeriesInstanceUID) for h in all_headers}) == 6
    assert len({str(h.SOPInstanceUID) for h in all_headers}) == len(all_headers)
    assert len({str(h.FrameOfReferenceUID) for h in all_headers}) == 1
    assert all(h.get("PatientIdentityRemoved") is None for h in all_headers)
    contrasted = {int(h.SeriesNumber) for h in all_headers if "ContrastBolusAgent" in h}
    assert contrasted == {6}


def test_dciodvfy_and_dcentvfy_find_no_error(lesion):
    for folder in sorted(lesion.folder.iterdir()):
        said = subprocess.run(
            ["dciodvfy", "-new", str(folder / "0002.dcm")], capture_output=True, text=True, check=False, timeout=30
        )
        lines = (said.stdout + said.stderr).splitlines()
        # the 2022 build knows only two defined terms for Image Type value 3; scanners write others
        assert [x for x in lines if x != "MRImage" and "ImageType(0008,0008)[3]" not in x] == []
    files = [str(path) for path in sorted(lesion.folder.glob("*/*.dcm"))]
    said = subprocess.run(["dcentvfy", *files], capture_output=True, text=True, check=False, timeout=60)
    assert "Error" not in said.stdout + said.stderr


def test_another_reader_sees_the_same_grid_and_the_lesion_where_it_was_put(lesion):
    reader = sitk.ImageSeriesReader()
    folder = str(lesion.folder / f"series-{FLAIR_NUMBER:02d}")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    image = reader.Execute()
    origin, spacing, direction = lesion.flair_affine.to_simpleitk()
    assert np.allclose(image.GetOrigin(), origin, atol=1e-4)
    assert np.allclose(image.GetSpacing(), spacing, atol=1e-4)
    assert np.allclose(image.GetDirection(), direction, atol=1e-6)
    values = sitk.GetArrayFromImage(image)
    assert values[lesion.truth].mean() > 1.3 * np.median(values[values > 300])
    assert lesion.truth.sum() * lesion.flair_affine.voxel_volume_mm3 / 1000 == pytest.approx(
        lesion.true_volume_ml, rel=0.03
    )


def test_flair_uids_are_those_of_the_slices_from_feet_to_head(lesion):
    files = [dcmread(p, stop_before_pixels=True) for p in (lesion.folder / "series-04").iterdir()]
    ordered = sorted(files, key=lambda h: float(h.ImagePositionPatient[2]))
    assert tuple(str(h.SOPInstanceUID) for h in ordered) == lesion.flair_uids


def test_one_series_is_oblique(lesion):
    cosines = np.array(dcmread(lesion.folder / "series-05" / "0001.dcm").ImageOrientationPatient, dtype=float)
    assert np.abs(cosines).max() == 1 and 0.1 < np.sort(np.abs(cosines))[-3] < 0.95


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(lesion, tmp_path):
    def digests(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("series-01/*.dcm"))]

    make_study(tmp_path / "again", Fate.LESION, only=[1])
    assert digests(tmp_path / "again") == digests(lesion.folder)
    assert make_study(tmp_path / "other", Fate.LESION, seed=2, only=[]).study_uid != lesion.study_uid


def test_a_removed_slice_is_announced_and_absent(tmp_path):
    study = make_study(tmp_path, Fate.SLICE_REMOVED, only=[FLAIR_NUMBER])
    flair = [dcmread(p, stop_before_pixels=True) for p in (tmp_path / "series-04").iterdir()]
    assert {int(h.ImagesInAcquisition) for h in flair} == {len(flair) + 1} == {len(study.flair_uids)}
    missing = set(study.flair_uids) - {str(h.SOPInstanceUID) for h in flair}
    assert len(missing) == 1 and 5 < study.flair_uids.index(missing.pop()) < 22
