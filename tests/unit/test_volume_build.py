"""Volumes from files: hardening 4.1 to 4.3 at the level of `build_volume`, pixels decoded in the guarded child."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    UltrasoundImageStorage,
)
from volume_series import (
    COLUMNS,
    NATIVE,
    ROOT,
    ROWS,
    as_ct,
    drop,
    enhanced,
    in_syntax,
    phantom,
    series,
    set_all,
    set_one,
    write,
    write_all,
)

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import Limits, build_volume

pytestmark = pytest.mark.unit


def volume_of(datasets, tmp_path, change=None, **options):
    return build_volume(write_all(datasets, tmp_path / "series", change), **options)


def code(files, **options):
    with pytest.raises(Refused) as caught:
        build_volume(files, **options)
    return caught.value.refusal.code


# -- good series -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_values_and_geometry_in_every_lossless_syntax(tmp_path, syntax):
    datasets = series()
    if syntax in NATIVE:
        datasets = [in_syntax(ds, syntax) for ds in datasets]
    else:
        for ds in datasets:
            ds.compress(syntax, generate_instance_uid=False)
    paths = write_all(datasets, tmp_path)
    random.Random(1).shuffle(paths)
    volume = build_volume(paths)
    np.testing.assert_array_equal(volume.array, phantom(6, ROWS, COLUMNS).astype(np.float32))
    assert volume.array.dtype == np.float32
    assert volume.valid is None
    assert volume.affine.origin_mm == (-10.0, 20.0, 30.0)
    assert volume.affine.spacing_mm == pytest.approx((4.0, 0.9, 0.8))
    assert [one.sop_instance_uid for one in volume.slices] == [f"{ROOT}.3.{k}" for k in range(1, 7)]
    assert (volume.modality, volume.study_uid, volume.series_uid) == ("MR", f"{ROOT}.1", f"{ROOT}.2")
    assert volume.frame_of_reference_uid == f"{ROOT}.9"
    assert volume.notes == ()


def test_rescale_is_applied_slice_by_slice(tmp_path):
    def change(ds, index):
        ds.RescaleSlope, ds.RescaleIntercept = f"{index + 1}.5", f"-{index}"

    volume = volume_of(series(), tmp_path, change)
    for k in range(6):
        np.testing.assert_array_equal(
            volume.array[k], (phantom(6, ROWS, COLUMNS)[k] * (k + 1.5) - k).astype(np.float32)
        )


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless])
def test_signed_values_below_dirty_high_bits(tmp_path, syntax):
    values = (phantom(6, ROWS, COLUMNS).astype(np.int32) - 400).astype(np.int16)
    datasets = series()
    for k, ds in enumerate(datasets):
        ds.PixelRepresentation = 1
        dirty = (values[k].astype(np.uint16) & 0x0FFF) | 0x5000
        ds.PixelData = dirty.astype("<u2").tobytes()
        if syntax == RLELossless:
            ds.compress(RLELossless, generate_instance_uid=False)
    if syntax in NATIVE:
        datasets = [in_syntax(ds, syntax) for ds in datasets]
    np.testing.assert_array_equal(volume_of(datasets, tmp_path).array, values.astype(np.float32))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_signed_values_in_codestreams(tmp_path, syntax):
    values = (phantom(6, ROWS, COLUMNS).astype(np.int32) - 400).astype(np.int16)
    datasets = series()
    for k, ds in enumerate(datasets):
        ds.PixelRepresentation = 1
        ds.PixelData = values[k].astype("<i2").tobytes()
        ds.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(volume_of(datasets, tmp_path).array, values.astype(np.float32))


def test_header_and_codestream_disagree_about_the_sign(tmp_path):
    """The header says signed, the codestream was written unsigned: the bits are the same, the header decides."""
    values = (phantom(6, ROWS, COLUMNS).astype(np.int32) - 400).astype(np.int16)
    datasets = series()
    for k, ds in enumerate(datasets):
        ds.PixelData = (values[k].astype(np.uint16) & 0x0FFF).tobytes()
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds.PixelRepresentation = 1
    np.testing.assert_array_equal(volume_of(datasets, tmp_path).array, values.astype(np.float32))


def test_eight_bits_and_an_odd_number_of_bytes(tmp_path):
    datasets = series(rows=5, columns=7)
    values = (phantom(6, 5, 7) % 250).astype(np.uint8)
    for k, ds in enumerate(datasets):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = values[k].tobytes() + b"\0"
    np.testing.assert_array_equal(volume_of(datasets, tmp_path).array, values.astype(np.float32))


def test_monochrome1_is_inverted_and_said(tmp_path):
    volume = volume_of(series(), tmp_path, set_all(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(volume.array, 4095 - phantom(6, ROWS, COLUMNS).astype(np.float32))
    assert "MONOCHROME1 inverted" in volume.notes


@pytest.mark.parametrize("syntax", NATIVE)
def test_padding_value_and_range_are_marked(tmp_path, syntax):
    datasets = [in_syntax(ds, syntax) for ds in series()]
    values = phantom(6, ROWS, COLUMNS)
    volume = volume_of(datasets, tmp_path / "value", set_all(PixelPaddingValue=103))
    np.testing.assert_array_equal(volume.valid, values != 103)
    volume = volume_of(datasets, tmp_path / "range", set_all(PixelPaddingValue=110, PixelPaddingRangeLimit=100))
    np.testing.assert_array_equal(volume.valid, values > 110)


def test_signed_padding_value(tmp_path):
    datasets = series()
    for ds in datasets:
        ds.PixelRepresentation = 1
        ds.add_new(0x00280120, "SS", -5)
    datasets[0].PixelData = np.full((ROWS, COLUMNS), -5, dtype="<i2").tobytes()
    volume = volume_of(datasets, tmp_path)
    assert volume.valid is not None
    assert not volume.valid[0].any()
    assert volume.valid[1:].all()


def test_ct_in_hounsfield_units(tmp_path):
    volume = volume_of(as_ct(series()), tmp_path)
    np.testing.assert_array_equal(volume.array, phantom(6, ROWS, COLUMNS).astype(np.float32) - 1024)
    assert volume.modality == "CT"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 2, 0, 3, 1, 4]])
def test_enhanced_frames_in_any_order(tmp_path, order):
    path = write(enhanced(series(), order), tmp_path / "enhanced.dcm")
    volume = build_volume([path])
    for k in range(6):
        np.testing.assert_array_equal(volume.array[k], phantom(6, ROWS, COLUMNS)[k].astype(np.float32) * 2 + k)
    assert [one.frame_number for one in volume.slices] == [order.index(k) + 1 for k in range(6)]
    assert volume.affine.spacing_mm == pytest.approx((4.0, 0.9, 0.8))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("layout", ["one fragment each", "split with table", "split without table"])
def test_enhanced_compressed_frames_and_their_fragments(tmp_path, syntax, layout):
    ds = enhanced(series(), [5, 2, 0, 3, 1, 4])
    ds.compress(syntax, generate_instance_uid=False)
    if layout != "one fragment each":
        from pydicom.encaps import generate_frames

        frames = list(generate_frames(ds.PixelData, number_of_frames=6))
        ds.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=layout == "split with table")
        ds["PixelData"].VR = "OB"
    path = write(ds, tmp_path / "enhanced.dcm")
    if layout == "split without table":
        assert code([path]) is RefusalCode.PIXEL_DECODE_FAILED
    else:
        np.testing.assert_array_equal(
            build_volume([path]).array[3], phantom(6, ROWS, COLUMNS)[3].astype(np.float32) * 2 + 3
        )


def test_split_fragments_of_one_frame(tmp_path):
    datasets = series()
    from pydicom.encaps import generate_frames

    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        frame = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = encapsulate([frame], fragments_per_frame=3)
        ds["PixelData"].VR = "OB"
    np.testing.assert_array_equal(volume_of(datasets, tmp_path).array, phantom(6, ROWS, COLUMNS).astype(np.float32))


# -- duplicates ------------------------------------------------------------------------------------------------------


def test_the_same_file_twice_is_left_out_and_said(tmp_path):
    paths = write_all(series(), tmp_path)
    volume = build_volume([*paths, paths[2]])
    assert volume.array.shape[0] == 6
    assert volume.notes == ("1 file(s) that repeat another left out",)


def test_the_same_object_in_other_bytes_is_the_same(tmp_path):
    datasets = series()
    paths = write_all(datasets, tmp_path)
    again = write(in_syntax(datasets[2], ExplicitVRBigEndian), tmp_path / "again.dcm")
    assert build_volume([*paths, again]).notes == ("1 file(s) that repeat another left out",)


def test_one_uid_two_contents(tmp_path):
    datasets = series()
    paths = write_all(datasets, tmp_path)
    datasets[2].PixelData = bytes(2 * ROWS * COLUMNS)
    assert code([*paths, write(datasets[2], tmp_path / "other.dcm")]) is RefusalCode.UID_CONFLICT


@pytest.mark.parametrize("equal", [True, False])
def test_two_images_at_one_position(tmp_path, equal):
    datasets = series()
    twin = copy.deepcopy(datasets[2])
    twin.SOPInstanceUID = f"{ROOT}.3.99"
    if not equal:
        twin.PixelData = datasets[3].PixelData
    paths = write_all([*datasets, twin], tmp_path)
    if equal:
        volume = build_volume(paths)
        assert volume.array.shape[0] == 6
        assert volume.notes == ("1 image(s) that repeat another left out",)
    else:
        assert code(paths) is RefusalCode.SLICES_DUPLICATED


# -- defects ---------------------------------------------------------------------------------------------------------


def no_pixels(ds, _):
    del ds.PixelData


def short(ds, index):
    if index == 2:
        ds.PixelData = ds.PixelData[:-2]


def long(ds, index):
    if index == 2:
        ds.PixelData = ds.PixelData + bytes(2)


def constant(ds, _):
    ds.PixelData = np.full((ROWS, COLUMNS), 7, dtype="<u2").tobytes()


def all_padding(ds, _):
    constant(ds, 0)
    ds.PixelPaddingValue = 7


def colour(ds, _):
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(3 * ROWS * COLUMNS)


def one_bit(ds, _):
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    ds.PixelData = bytes(ROWS * COLUMNS // 8)


def thirty_two_bits(ds, _):
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
    ds.PixelData = bytes(4 * ROWS * COLUMNS)


def float_pixels(ds, _):
    del ds.PixelData
    ds.FloatPixelData = bytes(4 * ROWS * COLUMNS)


def huge(ds, index):
    if index == 2:
        ds.Rows = ds.Columns = 65535


def all_huge(ds, _):
    ds.Rows = ds.Columns = 65535


def text_number(keyword, text):
    def change(ds, index):
        if index == 2:
            from pydicom.datadict import tag_for_keyword
            from pydicom.dataelem import RawDataElement
            from pydicom.tag import Tag

            tag = Tag(tag_for_keyword(keyword))
            ds._dict[tag] = RawDataElement(tag, "DS", len(text), text, 0, False, True)

    return change


DEFECTS = [
    ("two patients", set_one(2, PatientID="T-2"), RefusalCode.PATIENT_CONFLICT),
    ("two names", set_one(2, PatientName="Other^Name"), RefusalCode.PATIENT_CONFLICT),
    ("two birth dates", set_one(2, PatientBirthDate="19600101"), RefusalCode.PATIENT_CONFLICT),
    ("two issuers", set_one(2, IssuerOfPatientID="X"), RefusalCode.PATIENT_CONFLICT),
    ("one series in two studies", set_one(2, StudyInstanceUID=f"{ROOT}.77"), RefusalCode.UID_CONFLICT),
    ("two series", set_one(2, SeriesInstanceUID=f"{ROOT}.78"), RefusalCode.SERIES_MIXED),
    ("no pixel data", no_pixels, RefusalCode.PIXEL_DATA_MISSING),
    ("short pixel data", short, RefusalCode.PIXEL_DATA_LENGTH),
    ("long pixel data", long, RefusalCode.PIXEL_DATA_LENGTH),
    ("slope without intercept", set_one(2, RescaleSlope="2"), RefusalCode.RESCALE_INVALID),
    ("intercept without slope", set_one(2, RescaleIntercept="2"), RefusalCode.RESCALE_INVALID),
    ("slope 0", set_one(2, RescaleSlope="0", RescaleIntercept="0"), RefusalCode.RESCALE_INVALID),
    ("slope not a number", text_number("RescaleSlope", b"nan "), RefusalCode.RESCALE_INVALID),
    ("position not a number", text_number("ImagePositionPatient", b"1\\2\\x "), RefusalCode.GEOMETRY_INVALID),
    ("constant", constant, RefusalCode.IMAGE_BLANK),
    ("all padding", all_padding, RefusalCode.IMAGE_BLANK),
    ("colour", colour, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("palette", set_all(PhotometricInterpretation="PALETTE COLOR"), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("unknown photometric", set_all(PhotometricInterpretation="CIELAB"), RefusalCode.PHOTOMETRIC_UNSUPPORTED),
    ("no photometric", drop(None, "PhotometricInterpretation"), RefusalCode.PHOTOMETRIC_UNSUPPORTED),
    ("two photometrics", set_one(2, PhotometricInterpretation="MONOCHROME1"), RefusalCode.SERIES_MIXED),
    ("one bit", one_bit, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("32 bits", thirty_two_bits, RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("float pixels", float_pixels, RefusalCode.PIXEL_DATA_MISSING),
    ("more bits stored than allocated", set_all(BitsStored=17, HighBit=16), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("high bit elsewhere", set_all(HighBit=15), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("no bits", drop(None, "BitsStored"), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("one slice claims to be huge", huge, RefusalCode.GEOMETRY_INCONSISTENT),
    ("all slices claim to be huge", all_huge, RefusalCode.TOO_LARGE),
    ("another class", set_all(SOPClassUID=UltrasoundImageStorage), RefusalCode.SOP_CLASS_UNSUPPORTED),
    ("an inner slice without position", drop(2, "ImagePositionPatient"), RefusalCode.GEOMETRY_MISSING),
]


@pytest.mark.parametrize(("change", "expected"), [row[1:] for row in DEFECTS], ids=[row[0] for row in DEFECTS])
def test_defects_are_refused_by_name(tmp_path, change, expected):
    assert code(write_all(series(), tmp_path, change)) is expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop(None, "RescaleIntercept", "RescaleSlope"), RefusalCode.RESCALE_INVALID),
        (drop(2, "RescaleIntercept"), RefusalCode.RESCALE_INVALID),
        (set_all(PhotometricInterpretation="MONOCHROME1"), RefusalCode.PHOTOMETRIC_UNSUPPORTED),
        (
            lambda ds, k: setattr(ds, "PixelData", (np.arange(ROWS * COLUMNS) % 99).astype("<u2").tobytes()),
            RefusalCode.IMAGE_BLANK,
        ),
    ],
    ids=["no rescale", "half a rescale", "inverted", "air"],
)
def test_ct_defects(tmp_path, change, expected):
    assert code(write_all(as_ct(series()), tmp_path, change)) is expected


def test_no_files():
    assert code([]) is RefusalCode.INPUT_EMPTY


def test_limits(tmp_path):
    paths = write_all(series(), tmp_path)
    assert code(paths, limits=Limits(max_files=5)) is RefusalCode.TOO_LARGE
    assert code(paths, limits=Limits(max_frames=5)) is RefusalCode.TOO_LARGE
    assert code(paths, limits=Limits(max_decoded_bytes=1000)) is RefusalCode.TOO_LARGE
    assert code(paths, limits=Limits(min_slices=7)) is RefusalCode.TOO_FEW_SLICES


# -- damaged and lying codestreams -----------------------------------------------------------------------------------


def spoiled(syntax, spoil, tmp_path):
    from pydicom.encaps import generate_frames

    datasets = series()
    for k, ds in enumerate(datasets):
        ds.compress(syntax, generate_instance_uid=False)
        if k == 2:
            frame = next(generate_frames(ds.PixelData, number_of_frames=1))
            ds.PixelData = encapsulate([spoil(frame)])
            ds["PixelData"].VR = "OB"
    return write_all(datasets, tmp_path)


def cut(frame):
    return frame[: len(frame) // 2]


def noise(frame):
    rng = np.random.default_rng(3)
    return frame[:80] + bytes(rng.integers(0, 256, len(frame) - 80, dtype=np.uint8))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(
    "spoil", [cut, noise, lambda frame: b"\0\0", lambda frame: b"\0" * 100], ids=["cut", "noise", "empty", "zeros"]
)
def test_one_damaged_frame_fails_the_series(tmp_path, syntax, spoil):
    assert code(spoiled(syntax, spoil, tmp_path)) in (RefusalCode.PIXEL_DECODE_FAILED, RefusalCode.PIXEL_DATA_MISSING)


def bigger_jpeg_2000(frame):
    at = frame.index(b"\xff\x51") + 6
    return frame[:at] + (40_000).to_bytes(4, "big") * 2 + frame[at + 8 :]


def bigger_jpeg_ls(frame):
    at = frame.index(b"\xff\xf7") + 5
    return frame[:at] + (60_000).to_bytes(2, "big") * 2 + frame[at + 4 :]


@pytest.mark.parametrize(("syntax", "spoil"), [(JPEG2000Lossless, bigger_jpeg_2000), (JPEGLSLossless, bigger_jpeg_ls)])
def test_a_codestream_that_claims_another_size_is_not_decoded(tmp_path, syntax, spoil):
    files = spoiled(syntax, spoil, tmp_path)
    with pytest.raises(Refused) as caught:
        build_volume(files)
    assert caught.value.refusal.found == "a codestream of another size than the header says"


@pytest.mark.parametrize("lie", [JPEGBaseline8Bit, JPEG2000Lossless, RLELossless])
def test_a_transfer_syntax_that_lies(tmp_path, lie):
    datasets = series()
    for ds in datasets:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = lie
    assert code(write_all(datasets, tmp_path)) is RefusalCode.PIXEL_DECODE_FAILED


def test_a_compressed_syntax_without_a_listed_decoder(tmp_path):
    datasets = series()
    for ds in datasets:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    assert code(write_all(datasets, tmp_path)) is RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED


def test_native_pixels_under_a_compressed_syntax(tmp_path):
    def lie(ds, _):
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([ds.PixelData])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True

    assert code(write_all(series(), tmp_path, lie)) is RefusalCode.PIXEL_DECODE_FAILED


def test_an_encoded_frame_far_larger_than_the_decoded_one_is_not_read(tmp_path):
    datasets = series()
    datasets[2].compress(RLELossless, generate_instance_uid=False)
    for ds in datasets:
        ds.PixelData = encapsulate([bytes(1 << 20)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = RLELossless
    with pytest.raises(Refused) as caught:
        build_volume(write_all(datasets, tmp_path))
    assert caught.value.refusal.expected == "an encoded frame smaller than a decoded one"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_all(PixelPaddingValue=[1, 2]), RefusalCode.DICOM_MALFORMED),
        (set_all(Rows=[40, 40]), RefusalCode.GEOMETRY_INVALID),
        (set_all(NumberOfFrames=0), RefusalCode.DICOM_MALFORMED),
        (set_all(RescaleSlope=["1", "2"], RescaleIntercept=["1", "2"]), RefusalCode.RESCALE_INVALID),
        (set_all(BitsAllocated=[16, 16]), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ],
    ids=["padding", "rows", "frames", "rescale", "bits"],
)
def test_several_values_where_one_belongs(tmp_path, change, expected):
    assert code(write_all(series(), tmp_path, change)) is expected
