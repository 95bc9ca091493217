"""A photograph becomes a DICOM object: what stays, what goes, what is turned, and the same bytes every time."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from dicom_node.body_sites import body_site
from dicom_node.photo import ExistingStudy, Patient, PhotoClass, WrappedPhoto, wrap
from dicom_node.photo.decode import decode_photo
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import read_picture
from dicom_node.words import PRODUCT
from tests.support.photos import (
    CREATED,
    IMPORTER,
    PATIENT,
    UPRIGHT,
    corners,
    exif,
    occasion,
    saved,
    scene,
    segment,
    turned,
    with_segments,
)

pytestmark = pytest.mark.unit

JPEG_BASELINE, EXPLICIT = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"


def wrapped(data: bytes, **changes) -> tuple[WrappedPhoto, Dataset]:
    made = wrap(data, PATIENT, occasion(**changes), IMPORTER)
    return made, dcmread(io.BytesIO(made.data))


def seen(made: WrappedPhoto, tmp_path):
    path = tmp_path / "photo.dcm"
    path.write_bytes(made.data)
    return read_picture(path)


@pytest.mark.parametrize(
    ("subsampling", "photometric"), [("4:2:0", "YBR_FULL_422"), ("4:2:2", "YBR_FULL_422"), ("4:4:4", "YBR_FULL_422")]
)
def test_a_baseline_jpeg_keeps_its_own_stream(tmp_path, subsampling, photometric):
    data = saved(scene(), subsampling=subsampling)
    made, ds = wrapped(data)
    assert made.is_untouched and made.notes == ()
    assert (ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation) == (JPEG_BASELINE, photometric)
    (stream,) = generate_frames(ds.PixelData, number_of_frames=1)
    scan = data.index(b"\xff\xda")
    assert data[scan:] in stream and b"JFIF" not in stream
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(ds.LossyImageCompressionRatio) == pytest.approx(240 * 320 * 3 / len(stream.rstrip(b"\0")), abs=0.02)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(seen(made, tmp_path).pixels, np.asarray(image.convert("RGB")))


def test_an_rgb_jpeg_stays_rgb(tmp_path):
    data = saved(scene(), keep_rgb=True, subsampling="4:4:4")
    made, ds = wrapped(data)
    assert made.is_untouched and ds.PhotometricInterpretation == "RGB"
    assert np.abs(seen(made, tmp_path).pixels.astype(int) - scene()).mean() < 3


@pytest.mark.parametrize(
    ("kind", "orientation"), [*(("JPEG", n) for n in range(1, 9)), ("PNG", 1), ("PNG", 6), ("WEBP", 1), ("WEBP", 5)]
)
def test_every_orientation_comes_upright(tmp_path, kind, orientation):
    data = saved(turned(scene(), orientation), kind, exif=b"Exif\0\0" + exif(orientation))
    made, ds = wrapped(data)
    assert made.is_untouched == (kind == "JPEG" and orientation == 1)
    picture = seen(made, tmp_path)
    assert corners(picture.pixels) == UPRIGHT
    assert (ds.Rows, ds.Columns) == picture.pixels.shape[:2] == (240, 320)
    assert b"SECRET-CAMERA" not in made.data and b"GPS" not in made.data


def test_where_and_by_whom_it_was_taken_is_gone():
    secret = b"48.1371N 11.5754E"
    extras = (
        segment(0xE1, b"Exif\0\0" + exif(1, text=secret)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + secret),
        segment(0xED, b"Photoshop 3.0\0" + secret),
        segment(0xE2, b"MPF\0" + secret),
        segment(0xFE, b"comment " + secret),
    )
    made, _ = wrapped(with_segments(saved(scene()), *extras) + b"\0\0" + secret)
    assert made.is_untouched
    for trace in (secret, b"Exif", b"xmpmeta", b"Photoshop", b"comment", b"MPF"):
        assert trace not in made.data
    assert made.notes == (f"{len(secret) + 2} bytes behind the picture cut off",)
    png = saved(scene(), "PNG", pnginfo=_text_chunk(secret.decode()), exif=exif(1, text=secret))
    webp = saved(scene(), "WEBP", exif=b"Exif\0\0" + exif(1, text=secret), xmp=secret)
    for data in (png, webp):
        assert secret in data and secret not in wrapped(data)[0].data


def _text_chunk(text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Location", text)
    return info


def test_a_progressive_jpeg_is_decoded_and_still_marked_lossy(tmp_path):
    data = saved(scene(), progressive=True)
    made, ds = wrapped(data)
    assert not made.is_untouched
    assert (ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation) == (EXPLICIT, "RGB")
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(ds.LossyImageCompressionRatio) > 5
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(seen(made, tmp_path).pixels, np.asarray(image))


def test_jfif_with_adobe_rgb_is_not_kept_as_it_is(tmp_path):
    """JFIF says YCbCr and goes; Adobe's segment says RGB and would stay: a reader would see other colours."""
    plain = saved(scene(), subsampling="4:4:4")
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    end = 2 + 2 + int.from_bytes(plain[4:6], "big")
    data = plain[:end] + adobe + plain[end:]
    made, ds = wrapped(data)
    assert not made.is_untouched and ds.PhotometricInterpretation == "RGB"
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(seen(made, tmp_path).pixels, np.asarray(image))


def test_png_and_lossless_webp_pixel_by_pixel(tmp_path):
    for data in (saved(scene(), "PNG"), saved(scene(), "WEBP", lossless=True)):
        made, ds = wrapped(data)
        assert ds.file_meta.TransferSyntaxUID == EXPLICIT and ds.LossyImageCompression == "00"
        assert "LossyImageCompressionMethod" not in ds and ds.ImageType[0] == "ORIGINAL"
        assert np.array_equal(seen(made, tmp_path).pixels, scene())
    _, ds = wrapped(saved(scene(), "WEBP", quality=80))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "WEBP")


def test_sixteen_bits_grey_palette_and_transparency(tmp_path):
    grey = scene()[..., 0]
    deep = grey.astype(np.uint16) * 257
    made, ds = wrapped(saved(deep, "PNG"))
    assert np.array_equal(seen(made, tmp_path).pixels, np.repeat(grey[..., None], 3, axis=2))
    assert ds.ImageType[0] == "DERIVED" and "16 bits" in ds.DerivationDescription
    for data in (saved(grey, "PNG"), saved(grey)):
        pixels = seen(wrapped(data)[0], tmp_path).pixels
        assert np.abs(pixels[..., 0].astype(int) - grey).mean() < 3 and np.array_equal(pixels[..., 0], pixels[..., 2])
    palette = Image.fromarray(scene()).quantize(64)
    assert np.array_equal(seen(wrapped(saved(palette, "PNG"))[0], tmp_path).pixels, np.asarray(palette.convert("RGB")))
    alpha = np.dstack([scene(), np.where(np.arange(320) < 160, 0, 255)[None].repeat(240, 0).astype(np.uint8)])
    made, _ = wrapped(saved(alpha, "PNG"))
    pixels = seen(made, tmp_path).pixels
    assert (pixels[:, :160] == 255).all() and np.array_equal(pixels[:, 160:], scene()[:, 160:])
    assert made.notes == ("transparent parts laid on white",)
    opaque = np.dstack([scene(), np.full((240, 320), 255, np.uint8)])
    assert wrapped(saved(opaque, "PNG"))[0].notes == ()
    with Image.open(io.BytesIO(_rgb48())) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(seen(wrapped(_rgb48())[0], tmp_path).pixels, expected)
    assert np.array_equal(expected, scene())


def _rgb48() -> bytes:
    """A PNG of 16 bits for each of three samples, whose upper bytes are the scene."""
    import struct
    import zlib

    rows = (scene().astype(np.uint16) << 8 | 0x7F).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 320, 240, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def test_profiles(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(scene(), icc_profile=srgb)
    made, ds = wrapped(data)
    assert made.is_untouched and ds.ICCProfile.startswith(srgb) and ds.ColorSpace == "SRGB"
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(seen(made, tmp_path).pixels, np.asarray(image))
    foreign = _swapped_profile()
    made, ds = wrapped(saved(scene(), icc_profile=foreign))
    assert made.is_untouched and "ColorSpace" not in ds
    picture = seen(made, tmp_path)
    assert "colours of an ICC profile read as sRGB" in picture.notes
    rgb = saved(scene(), "PNG", icc_profile=foreign)
    converted = seen(wrapped(rgb)[0], tmp_path)
    assert np.abs(picture.pixels.astype(int) - converted.pixels).mean() < 3, "kept and applied is the same colour"
    assert np.abs(converted.pixels.astype(int) - scene()).mean() > 3, "the profile changes something"
    made, ds = wrapped(saved(scene(), icc_profile=b"no profile" * 20))
    assert made.notes == ("a colour profile that does not fit was left aside",) and "ICCProfile" not in ds


def _swapped_profile() -> bytes:
    """A matrix profile whose gamma is not that of sRGB: the built-in one with another tone curve."""
    import struct

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    for place in range(132, 132 + 12 * count, 12):
        tag, offset, size = struct.unpack_from(">4sII", profile, place)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + 16] = b"para\0\0\0\0\0\0\0\0" + struct.pack(">I", int(1.2 * 65536))
        if tag == b"desc":
            profile[offset + 8 : offset + size] = profile[offset + 8 : offset + size].replace(
                b"s\0R\0G\0B", b"w\0i\0d\0e"
            )
    return bytes(profile)


def test_cmyk_needs_its_profile():
    cmyk = Image.fromarray(scene()).convert("CMYK")
    with pytest.raises(Refused) as caught:
        wrapped(saved(cmyk))
    assert caught.value.refusal.code is RefusalCode.IMAGE_MODE_UNSUPPORTED
    assert "CMYK" in caught.value.refusal.found


def test_the_object_says_what_was_said_and_nothing_else():
    made, ds = wrapped(saved(scene()), laterality="")
    assert (ds.PatientID, ds.IssuerOfPatientID, str(ds.PatientName)) == ("P-17", "HOSPITAL", "Muster^Erika")
    assert (ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber) == ("19600229", "F", "A-1")
    assert (ds.SOPClassUID.name, ds.Modality) == ("VL Photographic Image Storage", "XC")
    assert (ds.StudyDate, ds.StudyTime, ds.TimezoneOffsetFromUTC) == ("20261122", "102030", "+0100")
    (region,) = ds.AnatomicRegionSequence
    assert (region.CodeValue, region.CodingSchemeDesignator) == ("66643007", "SCT") and ds.ImageLaterality == "U"
    (item,) = ds.AcquisitionContextSequence
    assert item.ConceptNameCodeSequence[0].CodeValue == "121139" and item.ConceptCodeSequence[0].CodeValue == "DMS"
    assert ds.ManufacturerModelName != PRODUCT, "our own results are known by that name and are never an input (I18)"
    assert made.data[:132] == b"\0" * 128 + b"DICM"
    _, bare = wrapped(saved(scene()), order="", body_site=None, declared="")
    assert bare.AccessionNumber == "" and "AnatomicRegionSequence" not in bare
    assert len(bare.AcquisitionContextSequence) == 0 and bare.SeriesDescription == "Photograph"
    unknown = wrap(saved(scene()), Patient("1", "X"), occasion(), IMPORTER)
    ds = dcmread(io.BytesIO(unknown.data))
    assert (str(ds.PatientName), ds.PatientBirthDate, ds.PatientSex) == ("", "", "")


def test_dermoscopic_photography_by_setting(tmp_path):
    made = wrap(saved(scene()), PATIENT, occasion(declared=""), IMPORTER, photo_class=PhotoClass.DERMOSCOPIC)
    ds = dcmread(io.BytesIO(made.data))
    assert (ds.SOPClassUID, ds.Modality) == ("1.2.840.10008.5.1.4.1.1.77.1.7", "DMS")
    assert ds.RecognizableVisualFeatures == "YES"
    for keyword in (
        "LightSourcePolarization",
        "ContactMethod",
        "EmitterColorTemperature",
        "OpticalMagnificationFactor",
    ):
        assert keyword in ds and not ds[keyword].value, "nobody knows it, so it is there and empty"
    assert seen(made, tmp_path).declared == "dermoscopic"
    with pytest.raises(Refused) as caught:
        wrap(saved(scene()), PATIENT, occasion(declared="plain"), IMPORTER, photo_class=PhotoClass.DERMOSCOPIC)
    assert caught.value.refusal.code is RefusalCode.VALIDATION


@pytest.mark.parametrize(("declared", "laterality"), [("dermoscopic", "L"), ("plain", "R"), ("", "")])
def test_what_was_said_is_read_again(tmp_path, declared, laterality):
    site = body_site("hand")
    picture = seen(wrapped(saved(scene()), declared=declared, laterality=laterality, body_site=site)[0], tmp_path)
    assert (picture.declared, picture.laterality, picture.body_site) == (declared, laterality, site.code)
    assert picture.modality == "XC" and any(note.startswith("decoder pillow") for note in picture.notes)


def test_the_same_bytes_every_time_and_no_uid_for_two_contents():
    data = saved(scene())
    first, _ = wrapped(data)
    assert wrapped(data)[0].data == first.data
    others = [
        wrapped(saved(scene(), quality=91))[0],
        wrapped(data, order="A-2")[0],
        wrapped(data, declared="plain")[0],
        wrapped(data, body_site=body_site("face"))[0],
        wrapped(data, number=2)[0],
        wrap(data, Patient("P-18", "HOSPITAL"), occasion(), IMPORTER),
        wrap(data, PATIENT, occasion(), IMPORTER, photo_class=PhotoClass.DERMOSCOPIC),
    ]
    assert len({one.sop_instance_uid for one in (first, *others)}) == 8
    assert len({one.series_uid for one in (first, *others)}) == 8
    assert wrapped(data, number=2)[0].study_uid == first.study_uid, "photographs of one occasion are one study"
    assert wrapped(data, order="A-2")[0].study_uid != first.study_uid
    joined, ds = wrapped(data, study=ExistingStudy("1.2.3", "20260101", "101500", "S1"))
    assert (joined.study_uid, ds.StudyDate, ds.StudyTime, ds.StudyID) == ("1.2.3", "20260101", "101500", "S1")
    assert joined.sop_instance_uid != first.sop_instance_uid


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": ""}, RefusalCode.PATIENT_UNIDENTIFIED),
        ({"id": "  "}, RefusalCode.PATIENT_UNIDENTIFIED),
        ({"issuer": ""}, RefusalCode.PATIENT_UNIDENTIFIED),
        ({"id": "1" * 65}, RefusalCode.VALIDATION),
        ({"id": "a\\b"}, RefusalCode.VALIDATION),
        ({"name": "a\nb"}, RefusalCode.VALIDATION),
        ({"birth_date": "1960-01-01"}, RefusalCode.VALIDATION),
        ({"birth_date": "19600230"}, RefusalCode.VALIDATION),
        ({"sex": "female"}, RefusalCode.VALIDATION),
    ],
)
def test_a_patient_is_never_half_written(fields, code):
    with pytest.raises(Refused) as caught:
        Patient(**{"id": "P-17", "issuer": "HOSPITAL", **fields})
    assert caught.value.refusal.code is code
    told = caught.value.refusal
    assert not any(value and value in told.expected + told.found for value in fields.values())


def test_names_of_any_script(tmp_path):
    patient = Patient("P-17", "HOSPITAL", "Yamada^Tarou=山田^太郎=やまだ^たろう")
    ds = dcmread(io.BytesIO(wrap(saved(scene()), patient, occasion(), IMPORTER).data))
    assert str(ds.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize("fields", [{"order": "1" * 17}, {"laterality": "left"}, {"number": 0}, {"declared": "yes"}])
def test_an_occasion_is_never_half_written(fields):
    with pytest.raises(Refused) as caught:
        occasion(**fields)
    assert caught.value.refusal.code is RefusalCode.VALIDATION


def test_the_only_clock_is_the_one_that_was_given():
    with pytest.raises(ValueError, match="offset"):
        occasion().__class__("2026-11-22T10:20:30")
    assert CREATED.startswith("2026-11-22")


def test_a_child_that_misbehaves(tmp_path):
    data = saved(scene())
    for body, found in (
        ("import sys; sys.exit(1)", "a reader that ended"),
        ("import os; os.write(1, b'\\xff\\xff\\xff\\x7f')", "a reader that says too much"),
    ):
        script = tmp_path / "child.py"
        script.write_text(body)
        with pytest.raises(Refused) as caught:
            decode_photo(data, command=(sys.executable, "-I", str(script)))
        assert caught.value.refusal.code is RefusalCode.IMAGE_DECODE_FAILED and caught.value.refusal.found == found
