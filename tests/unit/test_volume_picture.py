"""Stored photographs come back as the colours they were archived in, in every accepted encoding, or are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import generate_uid

from dicom_node.photo import wrap
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import Limits, read_header, read_picture, read_pictures
from dicom_node.volume.colour_codecs import decode_colour
from tests.support.photos import IMPORTER, PATIENT, occasion, saved, scene

pytestmark = pytest.mark.unit

VL, DERMOSCOPIC, SC, ES = (
    "1.2.840.10008.5.1.4.1.1.77.1.4",
    "1.2.840.10008.5.1.4.1.1.77.1.7",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.77.1.1",
)
JPEG = "1.2.840.10008.1.2.4."
EXPLICIT = "1.2.840.10008.1.2.1"
"""Transfer syntaxes."""


def photograph(pixels=None, syntax: str = EXPLICIT, **changes) -> Dataset:
    """A colour image of another sender; `PixelData` as given, else the pixels."""
    pixels = scene() if pixels is None else pixels
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = VL, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality = "XC"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds["PixelData"].VR = "OB"
    if syntax not in (EXPLICIT, "1.2.840.10008.1.2"):
        ds["PixelData"].is_undefined_length = True
    return ds


def write(ds: Dataset, folder: Path, name: str = "photo.dcm") -> Path:
    path = folder / name
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def encoded(stream: bytes) -> bytes:
    return encapsulate([stream])


def refusal(path: Path, **options) -> RefusalCode:
    with pytest.raises(Refused) as caught:
        read_picture(path, **options)
    return caught.value.refusal.code


@pytest.mark.parametrize("sop_class", [VL, DERMOSCOPIC, SC])
def test_native_pixels_of_every_class(tmp_path, sop_class):
    picture = read_picture(write(photograph(SOPClassUID=sop_class), tmp_path))
    assert np.array_equal(picture.pixels, scene()) and picture.pixels.dtype == np.uint8
    assert picture.declared == ("dermoscopic" if sop_class == DERMOSCOPIC else "")
    assert picture.body_site is None and picture.notes == ("decoder own (native)",)
    implicit = read_picture(write(photograph(syntax="1.2.840.10008.1.2"), tmp_path))
    assert np.array_equal(implicit.pixels, scene())


def test_planes_and_ybr(tmp_path):
    planes = np.ascontiguousarray(scene().transpose(2, 0, 1))
    path = write(photograph(PlanarConfiguration=1, PixelData=planes.tobytes()), tmp_path)
    assert np.array_equal(read_picture(path).pixels, scene())
    ybr = np.asarray(Image.fromarray(scene()).convert("YCbCr"))
    path = write(photograph(PhotometricInterpretation="YBR_FULL", PixelData=ybr.tobytes()), tmp_path)
    seen = read_picture(path).pixels
    expected = np.asarray(Image.fromarray(ybr, "YCbCr").convert("RGB"))
    assert np.abs(seen.astype(int) - expected).max() <= 1, "Pillow works in whole numbers"


def test_rle(tmp_path):
    ds = photograph()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom")
    assert np.array_equal(read_picture(write(ds, tmp_path)).pixels, scene())


@pytest.mark.parametrize("syntax", ["80", "81"])
def test_jpeg_ls(tmp_path, syntax):
    ds = photograph()
    options = {"jls_error": 2} if syntax == "81" else {}
    ds.compress(JPEG + syntax, encoding_plugin="pyjpegls", **options)
    seen = read_picture(write(ds, tmp_path)).pixels
    assert np.abs(seen.astype(int) - scene()).max() <= options.get("jls_error", 0)


@pytest.mark.parametrize(("syntax", "photometric"), [("90", "YBR_RCT"), ("90", "RGB"), ("91", "YBR_ICT")])
def test_jpeg_2000(tmp_path, syntax, photometric):
    from openjpeg.utils import encode_array

    lossy = {"compression_ratios": [8]} if syntax == "91" else {}
    stream = encode_array(scene(), photometric_interpretation=1, use_mct=photometric != "RGB", codec_format=0, **lossy)
    ds = photograph(syntax=JPEG + syntax, PhotometricInterpretation=photometric, PixelData=encoded(bytes(stream)))
    seen = read_picture(write(ds, tmp_path)).pixels
    assert np.abs(seen.astype(int) - scene()).mean() < (4 if lossy else 1e-9)
    ds.PhotometricInterpretation = "YBR_FULL" if photometric != "RGB" else "YBR_RCT"
    assert refusal(write(ds, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED


@pytest.mark.parametrize("syntax", ["57", "70"])
def test_jpeg_lossless(tmp_path, syntax):
    ds = photograph()
    _lossless_jpeg(ds, JPEG + syntax, tmp_path)
    assert np.array_equal(read_picture(write(ds, tmp_path)).pixels, scene())


def _lossless_jpeg(ds: Dataset, syntax: str, folder: Path) -> None:
    import subprocess

    source = write(ds, folder, "plain.dcm")
    option = "+el" if syntax.endswith("57") else "+e1"
    target = folder / "lossless.dcm"
    subprocess.run(["dcmcjpeg", option, str(source), str(target)], check=True, timeout=60)
    packed = dcmread(target)
    ds.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    assert packed.file_meta.TransferSyntaxUID == syntax
    ds.PhotometricInterpretation = packed.PhotometricInterpretation
    ds.PixelData = packed.PixelData
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(200, 231),
    columns=st.integers(200, 231),
    subsampling=st.sampled_from(["4:2:0", "4:2:2", "4:4:4"]),
    quality=st.integers(20, 100),
    optimise=st.booleans(),
    restart=st.sampled_from([0, 1, 7]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_read_is_what_pillow_decodes_of_the_same_stream(
    tmp_path, rows, columns, subsampling, quality, optimise, restart, seed
):
    """The property: wrapped and read again, a baseline JPEG gives exactly Pillow's pixels (libjpeg-turbo)."""
    noise = np.random.default_rng(seed).integers(0, 60, (rows, columns, 3), dtype=np.uint8)
    data = saved(
        scene(rows, columns) // 2 + noise, subsampling=subsampling, quality=quality, optimize=optimise,
        restart_marker_blocks=restart,
    )  # fmt: skip
    made = wrap(data, PATIENT, occasion(), IMPORTER) if seed % 5 == 0 else None
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    if made is None:
        assert np.array_equal(_in_this_process(data, rows, columns), expected)
        return
    path = tmp_path / "photo.dcm"
    path.write_bytes(made.data)
    assert made.is_untouched and np.array_equal(read_picture(path).pixels, expected)


def _in_this_process(data: bytes, rows: int, columns: int):
    """The same reading and decoding, without starting two children for each example."""
    from dicom_node.photo.jpeg import read_jpeg
    from dicom_node.photo.limits import PhotoLimits
    from dicom_node.volume.codecs import FrameSpec

    found = read_jpeg(data, PhotoLimits())
    spec = FrameSpec("pillow", JPEG + "50", rows, columns, 8, 8, False, False, 3, found.photometric)
    return decode_colour(spec, found.stream(data))


def test_a_stream_that_contradicts_its_header(tmp_path):
    stream = saved(scene(), subsampling="4:4:4")
    ds = photograph(syntax=JPEG + "50", PhotometricInterpretation="YBR_FULL_422", PixelData=encoded(stream))
    good = read_picture(write(ds, tmp_path)).pixels
    with Image.open(io.BytesIO(stream)) as image:
        assert np.array_equal(good, np.asarray(image))
    ds.PhotometricInterpretation = "RGB"
    assert refusal(write(ds, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED, "JFIF says YCbCr"
    ds.PhotometricInterpretation, ds.Rows = "YBR_FULL_422", 239
    assert refusal(write(ds, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED
    ds.Rows = 240
    ds.PixelData = encoded(saved(scene()[..., 0]))
    assert refusal(write(ds, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED, "a grey stream"
    ds.PixelData = encoded(saved(scene(), progressive=True))
    assert refusal(write(ds, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED, "progressive is another process"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"SOPClassUID": ES}, RefusalCode.SOP_CLASS_UNSUPPORTED),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, RefusalCode.SOP_CLASS_UNSUPPORTED),
        ({"NumberOfFrames": 2}, RefusalCode.IMAGE_ANIMATED),
        ({"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1}, RefusalCode.PHOTOMETRIC_UNSUPPORTED),
        ({"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1}, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, RefusalCode.PHOTOMETRIC_UNSUPPORTED),
        ({"PhotometricInterpretation": "CMYK", "SamplesPerPixel": 4}, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ({"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
        ({"PlanarConfiguration": None}, RefusalCode.DICOM_MALFORMED),
        ({"Rows": 0}, RefusalCode.DICOM_MALFORMED),
        ({"Rows": 241}, RefusalCode.PIXEL_DATA_LENGTH),
        ({"Rows": 60_000, "Columns": 60_000}, RefusalCode.IMAGE_TOO_LARGE),
        ({"PixelData": b""}, RefusalCode.PIXEL_DATA_MISSING),
        ({"ICCProfile": b"no profile"}, RefusalCode.PIXEL_DECODE_FAILED),
    ],
)
def test_refused_by_name(tmp_path, changes, code):
    assert refusal(write(photograph(**changes), tmp_path)) is code


def test_several_in_one_call_in_their_order(tmp_path):
    paths = [write(photograph(np.roll(scene(), n * 40, axis=1)), tmp_path, f"{n}.dcm") for n in range(3)]
    seen = read_pictures(paths)
    assert [np.array_equal(p.pixels, np.roll(scene(), n * 40, axis=1)) for n, p in enumerate(seen)] == [True] * 3
    with pytest.raises(Refused) as caught:
        read_picture(paths)
    assert caught.value.refusal.code is RefusalCode.SERIES_MIXED
    with pytest.raises(Refused) as caught:
        read_pictures(paths, limits=Limits(max_decoded_bytes=300_000))
    assert caught.value.refusal.code is RefusalCode.TOO_LARGE


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def declaration(*kinds: str) -> list[Dataset]:
    items = []
    for kind in kinds:
        item = Dataset()
        item.ValueType = "CODE"
        item.ConceptNameCodeSequence = [code_item("121139", "DCM", "Modality")]
        item.ConceptCodeSequence = [code_item(kind, "DCM", "a kind")]
        items.append(item)
    return items


@pytest.mark.parametrize(
    ("changes", "declared"),
    [
        ({}, ""),
        ({"Modality": "DMS"}, "dermoscopic"),
        ({"SOPClassUID": DERMOSCOPIC, "Modality": "XC"}, "dermoscopic"),
        ({"AcquisitionContextSequence": declaration("DMS")}, "dermoscopic"),
        ({"AcquisitionContextSequence": declaration("XC")}, "plain"),
        ({"AcquisitionContextSequence": declaration("MR")}, ""),
        ({"AcquisitionContextSequence": declaration("XC", "DMS")}, ""),
        ({"AcquisitionContextSequence": declaration("XC"), "Modality": "DMS"}, ""),
        ({"AcquisitionContextSequence": []}, ""),
    ],
)
def test_the_declared_kind(tmp_path, changes, declared):
    header = read_header(write(photograph(**changes), tmp_path))
    assert header.get("DeclaredPicture", "") == declared


def test_the_body_site_as_the_object_names_it(tmp_path):
    first, second = code_item("66643007", "SCT", "Haut des Rückens"), code_item("1", "SCT", "no more")
    first.AnatomicRegionModifierSequence = [code_item("7771000", "SCT", "Left")]
    ds = photograph(SpecificCharacterSet="ISO_IR 100", AnatomicRegionSequence=[first, second], ImageLaterality="L")
    picture = read_picture(write(ds, tmp_path))
    assert picture.body_site is not None and picture.laterality == "L"
    assert (picture.body_site.value, picture.body_site.scheme) == ("66643007", "SCT")
    assert picture.body_site.meaning == "Haut des Rückens"


def test_the_wrapper_and_the_reader_use_one_decoder():
    data = saved(scene())
    made = wrap(data, PATIENT, occasion(), IMPORTER)
    (stream,) = generate_frames(dcmread(io.BytesIO(made.data)).PixelData, number_of_frames=1)
    with Image.open(io.BytesIO(stream)) as kept, Image.open(io.BytesIO(data)) as original:
        assert np.array_equal(np.asarray(kept), np.asarray(original))
