"""Real series against SimpleITK and highdicom, which agree with each other on good series; and the odd ones by name."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import build_volume, content_digest, decode_in_child, read_header, series_geometry
from dicom_node.words import Volume

pytestmark = pytest.mark.realdata

TOLERANCE_MM = 1e-4


@pytest.fixture(scope="module")
def dicom(data_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    for archive in sorted((data_dir / "dicom").glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


def files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found, folder
    return found


def refusal(paths) -> RefusalCode:
    with pytest.raises(Refused) as caught:
        build_volume(paths)
    return caught.value.refusal.code


@pytest.fixture(scope="module")
def volumes(dicom) -> Callable[[str], Volume]:
    """Each series is built once, from its files in reverse order."""
    return functools.cache(lambda name: build_volume(files(dicom / name)[::-1]))


NATIVE_SERIES = [
    "tumour-study-philips/s0303_adc",
    "tumour-study-philips/s0401_t2_tse_axial",
    "tumour-study-philips/s0502_t1_3d_axial_pre",
    "tumour-study-philips/s0701_flair_axial",
    "tumour-study-philips/s0901_t1_fs_axial_pre",
    "tumour-study-philips/s1103_t1_3d_fs_axial_post",
    "tumour-study-philips/s1201_t1_fs_axial_post",
    "tumour-study-philips/s1301_flair_axial_post",
    "vendors/siemens-prisma-t1-sag-HFS",
    "vendors/siemens-prisma-t1-sag-HFP",
    "vendors/siemens-prisma-t1-sag-HFDL",
    "vendors/siemens-prisma-t1-sag-HFDR",
    "vendors/united-imaging-t1-3d-sag",
    "vendors/siemens-xa-t1-jpeg-lossless",
    "vendors/siemens-xa-t1-jpeg2000",
]


@pytest.mark.parametrize("name", NATIVE_SERIES)
def test_simpleitk_and_highdicom_agree(dicom, volumes, name):
    paths = files(dicom / name)
    volume = volumes(name)
    assert_as_simpleitk(volume, dicom / name)
    assert_as_highdicom(volume, paths)


def assert_as_simpleitk(volume, folder):
    """GDCM orders by its own rules, so compare where voxels lie and what they hold, not the order of slices."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    theirs = Affine.from_simpleitk(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    array = SimpleITK.GetArrayFromImage(image)
    if theirs.matrix[:3, 0] @ volume.affine.matrix[:3, 0] < 0:
        array = array[::-1]
        theirs = theirs.rearranged((0, 1, 2), (True, False, False), array.shape)
    # ITK takes the spacing between slices from the first two, we from the first and the last: compare the corners.
    corners = np.array([[s, r, c] for s in (0, 1) for r in (0, 1) for c in (0, 1)]) * (np.array(array.shape) - 1)
    far = np.abs(volume.affine.to_patient(corners) - theirs.to_patient(corners)).max()
    assert far < TOLERANCE_MM * array.shape[0]
    np.testing.assert_allclose(volume.array, array, rtol=1e-6, atol=1e-3)


def assert_as_highdicom(volume, paths):
    datasets = [pydicom.dcmread(path) for path in paths]
    theirs = highdicom.get_volume_from_series(datasets, apply_real_world_transform=False, apply_voi_transform=False)
    affine = Affine(np.asarray(theirs.affine))
    array = np.asarray(theirs.array)
    if affine.matrix[:3, 0] @ volume.affine.matrix[:3, 0] < 0:
        affine = affine.rearranged((0, 1, 2), (True, False, False), array.shape)
        array = array[::-1]
    assert volume.affine.close_to(affine, TOLERANCE_MM)
    np.testing.assert_allclose(volume.array, array, rtol=1e-6, atol=1e-3)
    assert volume.frame_of_reference_uid == theirs.frame_of_reference_uid


def test_every_slice_lies_where_its_own_header_says(dicom, volumes):
    for name in (*NATIVE_SERIES, "vendors/ge-signa-pd-axial"):
        paths = files(dicom / name)
        headers = {(h := read_header(path))["SOPInstanceUID"]: h for path in paths}
        volume = volumes(name)
        for place, one in enumerate(volume.slices):
            said = np.asarray(headers[one.sop_instance_uid]["ImagePositionPatient"])
            assert np.abs(volume.affine.to_patient([place, 0, 0]) - said).max() < 0.07  # GE rounds positions to 0.1 mm


def test_pixels_as_pydicom_decodes_them(volumes):
    for name in ("tumour-study-philips/s0701_flair_axial", "vendors/ge-signa-pd-axial"):
        volume = volumes(name)
        for place in (0, 7, len(volume.slices) - 1):
            ds = pydicom.dcmread(volume.slices[place].path)
            expected = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
            np.testing.assert_allclose(volume.array[place], expected, rtol=1e-6)


# -- encodings -------------------------------------------------------------------------------------------------------


def test_one_image_in_nine_encodings(dicom):
    paths = files(dicom / "transfer-syntaxes" / "siemens-epi-mosaic")
    assert len({read_header(path)["TransferSyntaxUID"] for path in paths}) == 7
    arrays = decode_in_child(paths)
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])
    np.testing.assert_array_equal(arrays[0], pydicom.dcmread(paths[0]).pixel_array)
    for path in paths:
        assert refusal([path]) is RefusalCode.SOP_CLASS_UNSUPPORTED


def test_lossless_encodings_are_equal_and_lossy_ones_near(dicom):
    folder = dicom / "transfer-syntaxes" / "nema-wg04-mr4"
    paths = files(folder)
    images = dict(zip([path.stem for path in paths], map(np.int32, decode_in_child(paths)), strict=True))
    assert len(images) == 7
    reference = images["MR4_RLE"]
    for name in ("MR4_J2KR", "MR4_JLSL", "MR4_JPLL"):
        np.testing.assert_array_equal(images[name], reference)
    for name in ("MR4_J2KI", "MR4_JLSN", "MR4_JPLY"):
        assert 0 < np.abs(images[name] - reference).max() < 200
        assert np.abs(images[name] - reference).mean() < 10


@pytest.mark.parametrize("name", ["MR4_J2KI", "MR4_J2KR", "MR4_JLSL", "MR4_JLSN", "MR4_JPLL", "MR4_RLE"])
@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_cut_codestreams_are_refused(dicom, tmp_path, name, keep):
    ds = pydicom.dcmread(dicom / "transfer-syntaxes" / "nema-wg04-mr4" / f"{name}.dcm")
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = pydicom.encaps.encapsulate([frame[: int(len(frame) * keep)]])
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "cut.dcm")
    with pytest.raises(Refused) as caught:
        decode_in_child([tmp_path / "cut.dcm"])
    assert caught.value.refusal.code is RefusalCode.PIXEL_DECODE_FAILED


# -- enhanced and odd ------------------------------------------------------------------------------------------------


def test_enhanced_multi_frame(dicom):
    read = 0
    for path in files(dicom / "enhanced-multiframe" / "siemens-xa30"):
        if read_header(path)["SOPClassUID"] == "1.2.840.10008.5.1.4.1.1.4.3":
            assert refusal([path]) is RefusalCode.PIXEL_FORMAT_UNSUPPORTED
            continue
        volume = build_volume([path])
        assert volume.array.shape == (39, 72, 72)
        theirs = highdicom.imread(path).get_volume(apply_real_world_transform=False, apply_voi_transform=False)
        affine, array = Affine(np.asarray(theirs.affine)), np.asarray(theirs.array)
        if affine.matrix[:3, 0] @ volume.affine.matrix[:3, 0] < 0:
            affine = affine.rearranged((0, 1, 2), (True, False, False), array.shape)
            array = array[::-1]
        assert volume.affine.close_to(affine, TOLERANCE_MM)
        np.testing.assert_allclose(volume.array, array, rtol=1e-6, atol=1e-3)
        read += 1
    assert read == 2


def test_a_field_map_is_magnitude_and_phase_and_no_rule_chooses(dicom):
    assert refusal(files(dicom / "enhanced-multiframe" / "philips")) is RefusalCode.SERIES_MIXED


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tumour-study-philips/s0101_localizer", RefusalCode.GEOMETRY_INCONSISTENT),
        ("vendors/ge-genesis-flair-single", RefusalCode.TOO_FEW_SLICES),
        ("segmentation-objects", RefusalCode.SOP_CLASS_UNSUPPORTED),
    ],
)
def test_odd_series_are_refused_by_name(dicom, name, code):
    assert refusal(files(dicom / name)) is code


def test_a_slice_taken_out_of_a_real_series_is_missed(volumes):
    by_place = [one.path for one in volumes("tumour-study-philips/s0701_flair_axial").slices]
    del by_place[11]
    headers = [read_header(path) for path in by_place]
    found = series_geometry(headers)
    assert isinstance(found, Refused)
    assert found.refusal.code is RefusalCode.SLICES_MISSING


OWN_KEYWORDS = {"Frames", "HasContrastBolusSequence", "PixelDataLength"}


def test_all_headers_are_read_and_agree_with_pydicom(dicom):
    count = 0
    for path in files(dicom):
        header = read_header(path)
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword, value in header.items():
            if keyword in OWN_KEYWORDS or keyword not in ds:
                continue
            if ds[keyword].VR in ("DS", "IS", "US", "FD", "UI", "CS", "LO", "DA"):
                theirs = ds[keyword].value
                theirs = list(theirs) if isinstance(theirs, pydicom.multival.MultiValue) else [theirs]
                ours = value if isinstance(value, list) else [value]
                assert [str(float(o)) if isinstance(o, float) else str(o) for o in ours] == [
                    str(float(t)) if isinstance(t, float) else str(t) for t in theirs
                ], keyword
        assert "UnreadableAttributes" not in header
        assert len(content_digest(path)) == 64
        count += 1
    assert count == 374
