"""NIfTI: hardening 4.6 row by row; nibabel and SimpleITK read what is written, and agree on what is read."""

from __future__ import annotations

import gzip
import itertools
import os
import stat
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import Limits, read_nifti, write_nifti

pytestmark = pytest.mark.unit

SHAPE = (4, 6, 5)
ARRAY = np.arange(120, dtype=np.int16).reshape(SHAPE)
AFFINE = Affine.from_axes((-30.0, 20.0, 5.0), np.eye(3)[::-1], (3.0, 0.9, 0.8))


def rotations():
    """The 48 axis orders and flips as directions of (slice, row, column)."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield np.eye(3)[list(order)] * np.asarray(signs)[:, None]


def bytes_of(tmp_path, array=ARRAY, affine=AFFINE):
    path = tmp_path / "whole.nii"
    write_nifti(array, affine, path)
    return bytearray(path.read_bytes())


def changed(tmp_path, *fields, tail=b"", cut=None):
    """The good file with (offset, struct code, value...) written over it."""
    data = bytes_of(tmp_path)
    for offset, fmt, *values in fields:
        struct.pack_into("<" + fmt, data, offset, *values)
    path = tmp_path / "changed.nii"
    path.write_bytes(bytes(data)[:cut] + tail)
    return path


def code(path, **options):
    with pytest.raises(Refused) as caught:
        read_nifti(path, **options)
    return caught.value.refusal.code


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_there_and_back(tmp_path, name, dtype):
    write_nifti(ARRAY.astype(dtype), AFFINE, tmp_path / name)
    volume = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY.astype(np.float32))
    assert volume.affine.close_to(AFFINE, 1e-5)
    assert volume.notes == ()
    assert len(volume.slices) == SHAPE[0]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(ARRAY, AFFINE, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("directions", list(rotations()))
def test_all_axis_orders_as_nibabel_and_simpleitk_read_them(tmp_path, directions):
    affine = Affine.from_axes((-30.0, 20.0, 5.0), directions, (3.0, 0.9, 0.8))
    path = tmp_path / "a.nii"
    write_nifti(ARRAY, affine, path)
    assert read_nifti(path).affine.close_to(affine, 1e-4)
    image = nibabel.load(path)
    assert Affine.from_nifti(image.affine).close_to(affine, 1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, ARRAY)
    qform, qcode = image.get_qform(coded=True)
    if qcode:
        np.testing.assert_allclose(qform, image.affine, atol=0.05)
    read = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), ARRAY)
    there = Affine.from_simpleitk(read.GetOrigin(), read.GetSpacing(), read.GetDirection())
    assert there.close_to(affine, 1e-3)


@given(turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_obliques(tmp_path, turn):
    a, b, c, d = np.asarray(turn) / np.linalg.norm(turn)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = Affine.from_axes((-30.0, 20.0, 5.0), rotation, (3.0, 0.9, 0.8))
    path = tmp_path / "a.nii"
    write_nifti(ARRAY, affine, path)
    assert read_nifti(path).affine.close_to(affine, 1e-4)
    data = bytearray(path.read_bytes())
    if struct.unpack_from("<h", data, 252)[0]:
        struct.pack_into("<h", data, 254, 0)  # qform alone
        path.write_bytes(data)
        assert read_nifti(path).affine.close_to(affine, 0.05)
        assert Affine.from_nifti(nibabel.load(path).affine).close_to(read_nifti(path).affine, 1e-3)


def test_what_nibabel_writes_is_read(tmp_path):
    ras = AFFINE.to_nifti()
    for cls in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        image = cls(ARRAY.T, ras)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / "n.nii.gz")
        volume = read_nifti(tmp_path / "n.nii.gz")
        np.testing.assert_array_equal(volume.array, ARRAY)
        assert volume.affine.close_to(AFFINE, 1e-4)


def test_big_endian(tmp_path):
    image = nibabel.Nifti1Image(ARRAY.T, AFFINE.to_nifti(), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(">i2")
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii").array, ARRAY)


# -- slope, units ----------------------------------------------------------------------------------------------------


def test_slope_and_intercept(tmp_path):
    np.testing.assert_allclose(read_nifti(changed(tmp_path, (112, "ff", 2.0, 5.0))).array, ARRAY * 2.0 + 5.0)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_no_slope_means_unscaled_whatever_the_intercept(tmp_path, slope):
    np.testing.assert_array_equal(read_nifti(changed(tmp_path, (112, "ff", slope, 5.0))).array, ARRAY)


def test_units_must_be_said_or_declared(tmp_path):
    path = changed(
        tmp_path, (123, "B", 0), (76, "4f", 1, 1, 1, 1), (252, "h", 0), (280, "12f", 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    )
    assert code(path) is RefusalCode.NIFTI_UNITS_MISSING
    volume = read_nifti(path, spacing_mm=(0.8, 0.9, 5.0))
    assert volume.affine.spacing_mm == pytest.approx((5.0, 0.9, 0.8))
    assert volume.notes == ("spacing 0.8 x 0.9 x 5 mm declared by the caller",)


@pytest.mark.parametrize("units", [0, 1, 3, 8])
def test_other_units(tmp_path, units):
    assert code(changed(tmp_path, (123, "B", units))) is RefusalCode.NIFTI_UNITS_MISSING


def test_units_of_time_do_not_matter(tmp_path):
    assert read_nifti(changed(tmp_path, (123, "B", 2 | 8))).array.shape == SHAPE


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, 30), (1, 1, float("nan"))])
def test_declared_spacings_must_be_possible(tmp_path, spacing):
    assert code(changed(tmp_path), spacing_mm=spacing) is RefusalCode.VALIDATION


# -- refusals --------------------------------------------------------------------------------------------------------

BAD = [
    ("magic", [(344, "4s", b"n+3\0")], RefusalCode.NOT_NIFTI),
    ("pair", [(344, "4s", b"ni1\0")], RefusalCode.NOT_NIFTI),
    ("header size", [(0, "i", 347)], RefusalCode.NOT_NIFTI),
    ("two dimensions", [(40, "h", 2)], RefusalCode.NIFTI_DIMENSIONS),
    ("four dimensions", [(40, "5h", 4, 5, 6, 2, 2)], RefusalCode.NIFTI_DIMENSIONS),
    ("eight dimensions", [(40, "h", 8)], RefusalCode.NIFTI_DIMENSIONS),
    ("dimension 0", [(42, "h", 0)], RefusalCode.NIFTI_DIMENSIONS),
    ("negative dimension", [(42, "h", -5)], RefusalCode.NIFTI_DIMENSIONS),
    ("dimension 3000", [(42, "h", 3000)], RefusalCode.NIFTI_DIMENSIONS),
    ("smaller dimensions", [(42, "h", 4)], RefusalCode.NIFTI_SIZE_MISMATCH),
    ("larger dimensions", [(42, "h", 6)], RefusalCode.NIFTI_TRUNCATED),
    ("rgb", [(70, "hh", 128, 24)], RefusalCode.NIFTI_DATATYPE_UNSUPPORTED),
    ("complex", [(70, "hh", 32, 64)], RefusalCode.NIFTI_DATATYPE_UNSUPPORTED),
    ("bitpix", [(72, "h", 8)], RefusalCode.NIFTI_HEADER_INVALID),
    ("vox_offset 0", [(108, "f", 0.0)], RefusalCode.NIFTI_HEADER_INVALID),
    ("vox_offset 348", [(108, "f", 348.0)], RefusalCode.NIFTI_HEADER_INVALID),
    ("vox_offset broken", [(108, "f", 352.5)], RefusalCode.NIFTI_HEADER_INVALID),
    ("vox_offset nan", [(108, "f", float("nan"))], RefusalCode.NIFTI_HEADER_INVALID),
    ("vox_offset past the end", [(108, "f", 1e6)], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim 0", [(80, "f", 0.0)], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim negative", [(80, "f", -1.0)], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim nan", [(80, "f", float("nan"))], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim 0.04", [(80, "f", 0.04)], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim 21", [(80, "f", 21.0)], RefusalCode.NIFTI_HEADER_INVALID),
    ("pixdim and sform disagree", [(252, "h", 0), (80, "f", 0.7)], RefusalCode.NIFTI_HEADER_INVALID),
    ("slope infinite", [(112, "f", float("inf"))], RefusalCode.NIFTI_HEADER_INVALID),
    ("intercept nan", [(112, "ff", 1.0, float("nan"))], RefusalCode.NIFTI_HEADER_INVALID),
    ("no orientation", [(252, "hh", 0, 0)], RefusalCode.NIFTI_ORIENTATION_MISSING),
    ("sform and qform disagree", [(268, "f", 1.0)], RefusalCode.NIFTI_ORIENTATION_CONFLICT),
    ("sform zero", [(252, "h", 0), (280, "12f", *[0.0] * 12)], RefusalCode.NIFTI_HEADER_INVALID),
    ("sform nan", [(252, "h", 0), (280, "f", float("nan"))], RefusalCode.NIFTI_HEADER_INVALID),
    ("shear", [(252, "h", 0), (280, "12f", -0.8, 0.2, 0, 30, 0, -0.9, 0, -20, 0, 0, 3, 5)],
     RefusalCode.NIFTI_NOT_ORTHOGONAL),
    ("quaternion too long", [(254, "h", 0), (256, "3f", 1, 1, 1)], RefusalCode.NIFTI_HEADER_INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_headers_that_lie(tmp_path, fields, expected):
    assert code(changed(tmp_path, *fields)) is expected


@pytest.mark.parametrize(("apart", "refused"), [(0.09, False), (0.11, True)])
def test_orientation_conflict_tolerance_on_both_sides(tmp_path, apart, refused):
    data = bytes_of(tmp_path)
    (offset_x,) = struct.unpack_from("<f", data, 268)
    path = changed(tmp_path, (268, "f", offset_x + apart))
    if refused:
        assert code(path) is RefusalCode.NIFTI_ORIENTATION_CONFLICT
    else:
        assert read_nifti(path).affine.close_to(AFFINE, 1e-4)


def test_trailing_dimensions_of_one_are_no_dimensions(tmp_path):
    assert read_nifti(changed(tmp_path, (40, "8h", 5, 5, 6, 4, 1, 1, 1, 1))).array.shape == SHAPE


def test_sizes(tmp_path):
    assert code(changed(tmp_path, tail=b"\0")) is RefusalCode.NIFTI_SIZE_MISMATCH
    assert code(changed(tmp_path, cut=-1)) is RefusalCode.NIFTI_TRUNCATED
    assert code(changed(tmp_path, cut=200)) is RefusalCode.NIFTI_TRUNCATED
    assert code(changed(tmp_path, cut=3)) is RefusalCode.NOT_NIFTI
    assert code(changed(tmp_path, cut=0)) is RefusalCode.INPUT_EMPTY
    assert code(changed(tmp_path), limits=Limits(max_nifti_bytes=100)) is RefusalCode.TOO_LARGE


def test_extensions_are_skipped(tmp_path):
    data = bytes_of(tmp_path)
    struct.pack_into("<f", data, 108, 352.0 + 32)
    data[348] = 1
    path = tmp_path / "e.nii"
    path.write_bytes(data[:352] + struct.pack("<ii", 32, 6) + b"x" * 24 + data[352:])
    np.testing.assert_array_equal(read_nifti(path).array, ARRAY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_voxels_must_be_finite(tmp_path, value):
    array = ARRAY.astype(np.float64)
    array[1, 2, 3] = value
    write_nifti(array, AFFINE, tmp_path / "n.nii")
    assert code(tmp_path / "n.nii") is RefusalCode.NIFTI_VALUES_INVALID


def test_a_blank_image(tmp_path):
    write_nifti(np.full(SHAPE, 3, np.int16), AFFINE, tmp_path / "n.nii")
    assert code(tmp_path / "n.nii") is RefusalCode.IMAGE_BLANK


def zipped(tmp_path, data):
    path = tmp_path / "z.nii.gz"
    path.write_bytes(data)
    return path


def test_gzip_damage(tmp_path):
    good = gzip.compress(bytes(bytes_of(tmp_path)))
    assert code(zipped(tmp_path, good[:-1])) is RefusalCode.GZIP_DAMAGED
    assert code(zipped(tmp_path, good[:-8] + b"\0\0\0\0" + good[-4:])) is RefusalCode.GZIP_DAMAGED
    assert code(zipped(tmp_path, good[:40])) is RefusalCode.GZIP_DAMAGED
    assert code(zipped(tmp_path, good + good)) is RefusalCode.GZIP_DAMAGED
    assert code(zipped(tmp_path, good + b"\0")) is RefusalCode.GZIP_DAMAGED
    assert code(zipped(tmp_path, good[:20] + b"\xff" * 20 + good[40:])) is RefusalCode.GZIP_DAMAGED


def test_a_gzip_bomb_is_stopped_while_inflating(tmp_path):
    bomb = gzip.compress(bytes(64 << 20), 9)
    limits = Limits(max_nifti_bytes=1 << 20)
    assert code(zipped(tmp_path, bomb), limits=limits) is RefusalCode.DECOMPRESSION_BOMB


def test_bzip2_is_no_input_format(tmp_path):
    import bz2

    path = tmp_path / "a.nii.bz2"
    path.write_bytes(bz2.compress(bytes(bytes_of(tmp_path))))
    assert code(path) is RefusalCode.NOT_NIFTI


@given(place=st.integers(0, 351), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_byte_changed_ends_in_a_volume_or_a_named_refusal(tmp_path, place, value):
    path = changed(tmp_path, (place, "B", value))
    try:
        volume = read_nifti(path)
    except Refused as refused:
        assert refused.refusal.code.value  # noqa: PT017
    else:
        assert np.isfinite(volume.array).all()
        assert volume.affine.is_orthogonal


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="found"):
        write_nifti(ARRAY[0], AFFINE, tmp_path / "a.nii")
    with pytest.raises(ValueError, match="found"):
        write_nifti(ARRAY.astype(np.complex64), AFFINE, tmp_path / "a.nii")
    sheared = AFFINE.matrix.copy()
    sheared[1, 0] += 1.0
    with pytest.raises(ValueError, match="right angles"):
        write_nifti(ARRAY, Affine(sheared), tmp_path / "a.nii")


def test_what_was_written_outlives_a_power_cut(tmp_path, monkeypatch):
    """File first, then the folder with its new name: both are on the disk when the call returns."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_mode))
    write_nifti(ARRAY, AFFINE, tmp_path / "a.nii.gz")
    assert [stat.S_ISDIR(mode) for mode in synced] == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
