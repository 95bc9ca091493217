"""Series geometry: hardening 4.1 row by row, tolerances on both sides, and every orientation there and back (I16)."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_engine.geometry import closest_axes, rearrange
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import SeriesGeometry, series_geometry
from dicom_node.volume.geometry import (
    COSINE_TOLERANCE,
    SHEAR_TOLERANCE,
    plane_name,
    spacing_tolerance_mm,
)

pytestmark = pytest.mark.unit

MR = "1.2.840.10008.5.1.4.1.1.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN = np.array([-100.0, -90.0, 10.0])


def headers(count=6, step=5.0, orientation=AXIAL, origin=ORIGIN, shift=(0.0, 0.0, 0.0), **common):
    """Headers of a good stack; `shift` is added once more for every slice."""
    normal = np.cross(orientation[:3], orientation[3:])
    normal = normal / np.linalg.norm(normal)
    return [
        {
            "SOPClassUID": MR,
            "SOPInstanceUID": f"1.2.{k + 1}",
            "SeriesInstanceUID": "1.3",
            "StudyInstanceUID": "1.4",
            "FrameOfReferenceUID": "1.9",
            "Modality": "MR",
            "ImageType": ["ORIGINAL", "PRIMARY", "M"],
            "EchoTime": 100.0,
            "Rows": 20,
            "Columns": 30,
            "PixelSpacing": [0.9, 0.8],
            "ImageOrientationPatient": list(orientation),
            "ImagePositionPatient": list(origin + normal * step * k + np.asarray(shift) * k),
            "InstanceNumber": k + 1,
            **common,
        }
        for k in range(count)
    ]


def above(mm):
    return ORIGIN + np.array([0.0, 0.0, mm])


def code_of(result):
    return result.refusal.code if isinstance(result, Refused) else None


def good(result) -> SeriesGeometry:
    assert isinstance(result, SeriesGeometry), result.refusal
    return result


def spoil(place, **values):
    stack = headers()
    for keyword, value in values.items():
        if value is None:
            stack[place].pop(keyword)
        else:
            stack[place][keyword] = value
    return stack


def without(place):
    stack = headers()
    del stack[place]
    return stack


def moved(place, mm, axis=2):
    stack = headers()
    stack[place]["ImagePositionPatient"][axis] += mm
    return stack


def also(**values):
    """Two interleaved stacks in one series that differ in one attribute."""
    return headers() + headers(origin=above(2.5), **values)


def rotated(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return [1.0, 0.0, 0.0, 0.0, c, s]


def sloped(mm_per_slice):
    """A tilted gantry: parallel slices whose origins creep sideways."""
    return headers(shift=(0.0, mm_per_slice, 0.0))


SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]

DEFECTS = [
    ("inner slice missing", without(2), RefusalCode.SLICES_MISSING),
    ("two inner slices missing", [h for k, h in enumerate(headers(9)) if k not in (3, 4)], RefusalCode.SLICES_MISSING),
    ("half of the slices missing", headers(2) + headers(6)[3:], RefusalCode.SLICES_MISSING),
    ("step in spacing", headers(4) + headers(4, step=6.2, origin=above(20)),
     RefusalCode.SLICE_SPACING_NONUNIFORM),
    ("one slice displaced", moved(2, 1.0), RefusalCode.SLICE_SPACING_NONUNIFORM),
    ("gantry tilt", sloped(1.0), RefusalCode.GANTRY_TILT),
    ("one slice beside the line", moved(2, 1.0, axis=0), RefusalCode.GEOMETRY_INCONSISTENT),
    ("same place, shifted in its plane", headers() + spoil(3, ImagePositionPatient=[-90.0, -90.0, 25.0])[3:4],
     RefusalCode.GEOMETRY_INCONSISTENT),
    ("a rotated slice in the middle", spoil(2, ImageOrientationPatient=rotated(10)), RefusalCode.GEOMETRY_INCONSISTENT),
    ("a rotated slice at the end", spoil(5, ImageOrientationPatient=rotated(10)), RefusalCode.GEOMETRY_INCONSISTENT),
    ("half of the slices in another plane", headers() + headers(orientation=SAGITTAL),
     RefusalCode.GEOMETRY_INCONSISTENT),
    ("another matrix", spoil(3, Rows=21), RefusalCode.GEOMETRY_INCONSISTENT),
    ("another pixel spacing", spoil(3, PixelSpacing=[0.9, 0.81]), RefusalCode.GEOMETRY_INCONSISTENT),
    ("another frame of reference", spoil(3, FrameOfReferenceUID="1.10"), RefusalCode.GEOMETRY_INCONSISTENT),
    ("no frame of reference", spoil(3, FrameOfReferenceUID=None), RefusalCode.GEOMETRY_MISSING),
    ("no position on one slice", spoil(3, ImagePositionPatient=None), RefusalCode.GEOMETRY_MISSING),
    ("no orientation on one slice", spoil(3, ImageOrientationPatient=None), RefusalCode.GEOMETRY_MISSING),
    ("no pixel spacing", spoil(0, PixelSpacing=None), RefusalCode.GEOMETRY_MISSING),
    ("imager pixel spacing only", [{**h, "ImagerPixelSpacing": 0.2} for h in spoil(0, PixelSpacing=None)],
     RefusalCode.GEOMETRY_MISSING),
    ("cosines not unit", headers(orientation=(1.1, 0, 0, 0, 1, 0)), RefusalCode.GEOMETRY_INVALID),
    ("cosines not orthogonal", headers(orientation=(1, 0, 0, 0.1, 0.995, 0)), RefusalCode.GEOMETRY_INVALID),
    ("cosines zero", spoil(0, ImageOrientationPatient=[0.0] * 6), RefusalCode.GEOMETRY_INVALID),
    ("two position values", spoil(1, ImagePositionPatient=[1.0, 2.0]), RefusalCode.GEOMETRY_INVALID),
    ("one pixel spacing value", spoil(1, PixelSpacing=[0.9]), RefusalCode.GEOMETRY_INVALID),
    ("pixel spacing zero", headers(PixelSpacing=[0.0, 0.8]), RefusalCode.GEOMETRY_INVALID),
    ("pixel spacing negative", headers(PixelSpacing=[-0.9, 0.8]), RefusalCode.GEOMETRY_INVALID),
    ("position of another planet", spoil(1, ImagePositionPatient=[1e9, 0.0, 0.0]), RefusalCode.GEOMETRY_INVALID),
    ("unreadable position", headers(UnreadableAttributes=["ImagePositionPatient"]), RefusalCode.GEOMETRY_INVALID),
    ("no rows", spoil(1, Rows=None), RefusalCode.GEOMETRY_INCONSISTENT),
    ("one slice", headers(1), RefusalCode.TOO_FEW_SLICES),
    ("one slice twice", headers(1) + headers(1, SOPInstanceUID="1.2.77"), RefusalCode.TOO_FEW_SLICES),
    ("nothing", [], RefusalCode.INPUT_EMPTY),
    ("two echoes", also(EchoTime=20.0), RefusalCode.SERIES_MIXED),
    ("two echo numbers", also(EchoNumbers=2), RefusalCode.SERIES_MIXED),
    ("two b-values", also(DiffusionBValue=1000.0), RefusalCode.SERIES_MIXED),
    ("two inversion times", also(InversionTime=2000.0), RefusalCode.SERIES_MIXED),
    ("two temporal positions", also(TemporalPositionIdentifier=2), RefusalCode.SERIES_MIXED),
    ("in and opposed phase", also(ImageType=["DERIVED", "PRIMARY", "OUT_PHASE"]), RefusalCode.SERIES_MIXED),
    ("two stacks", also(StackID="2"), RefusalCode.SERIES_MIXED),
    ("two kernels", also(ConvolutionKernel="B70"), RefusalCode.SERIES_MIXED),
    ("phase and real parts, no magnitude",
     headers(ImageType=["ORIGINAL", "PRIMARY", "P"]) + headers(ImageType=["ORIGINAL", "PRIMARY", "R"]),
     RefusalCode.SERIES_MIXED),
    ("mosaic", headers(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), RefusalCode.SOP_CLASS_UNSUPPORTED),
    ("ultrasound", headers(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1"), RefusalCode.SOP_CLASS_UNSUPPORTED),
    ("whole slide", headers(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6"), RefusalCode.SOP_CLASS_UNSUPPORTED),
    ("projection", headers(SOPClassUID="1.2.840.10008.5.1.4.1.1.1"), RefusalCode.SOP_CLASS_UNSUPPORTED),
    ("enhanced colour", headers(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.3"), RefusalCode.PIXEL_FORMAT_UNSUPPORTED),
    ("several frames in a classic class", headers(NumberOfFrames=3), RefusalCode.DICOM_MALFORMED),
    ("enhanced without functional groups", headers(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", NumberOfFrames=5),
     RefusalCode.DICOM_MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "code"), [row[1:] for row in DEFECTS], ids=[row[0] for row in DEFECTS])
def test_defects_are_refused_by_name_in_any_order(stack, code):
    assert code_of(series_geometry(stack)) is code
    shuffled = list(stack)
    random.Random(5).shuffle(shuffled)
    assert code_of(series_geometry(shuffled)) is code


def test_order_of_files_instance_numbers_and_hints_do_not_matter():
    stack = headers(9)
    expected = good(series_geometry(stack))
    for seed in range(5):
        shuffled = [dict(one) for one in stack]
        random.Random(seed).shuffle(shuffled)
        for number, one in enumerate(shuffled):
            one.update(InstanceNumber=number, SliceThickness=float(number), SpacingBetweenSlices=99.0)
        found = good(series_geometry(shuffled))
        assert found.affine.close_to(expected.affine, 0)
        assert [shuffled[s.header_index]["SOPInstanceUID"] for s in found.slices] == [f"1.2.{k + 1}" for k in range(9)]


def test_slices_ascend_along_the_normal_also_when_numbered_from_the_head():
    found = good(series_geometry(headers()[::-1]))
    assert found.affine.origin_mm == tuple(ORIGIN)
    assert found.spacing_mm == pytest.approx((5.0, 0.9, 0.8))
    assert found.shape == (6, 20, 30)


@pytest.mark.parametrize("position", ["FFS", "HFP", "HFDL", "FFDR"])
def test_patient_position_does_not_enter(position):
    assert good(series_geometry(headers(PatientPosition=position))).affine.close_to(
        good(series_geometry(headers())).affine
    )


def test_localizers_are_left_out_when_the_rest_is_one_stack():
    extra = headers(2, orientation=SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Rows=64)
    found = good(series_geometry(extra + headers()))
    assert found.count == 6
    assert found.notes == ("2 localizer image(s) in the series left out",)


def test_a_series_of_localizers_in_three_planes_is_no_stack():
    stack = [
        one
        for orientation in (AXIAL, SAGITTAL, [1.0, 0, 0, 0, 0, -1.0])
        for one in headers(2, orientation=orientation, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ]
    assert code_of(series_geometry(stack)) is RefusalCode.GEOMETRY_INCONSISTENT


def test_one_unmarked_image_of_another_plane_is_left_out_only_beside_a_clean_stack():
    odd = headers(1, orientation=SAGITTAL, SOPInstanceUID="1.2.50")
    found = good(series_geometry(headers() + odd))
    assert found.count == 6
    assert found.notes == ("1 image(s) of another orientation in the series left out",)
    assert code_of(series_geometry(without(2) + odd)) is RefusalCode.SLICES_MISSING


def test_magnitude_is_taken_of_complex_parts_and_said():
    stack = headers() + headers(ImageType=["ORIGINAL", "PRIMARY", "P"])
    found = good(series_geometry(stack))
    assert {s.header_index for s in found.slices} == set(range(6))
    assert found.notes == ("magnitude images taken; phase images of the series left out",)


def test_further_images_at_a_position_are_named_for_the_pixel_comparison():
    found = good(series_geometry([*headers(), {**headers()[3], "SOPInstanceUID": "1.2.99"}]))
    assert found.count == 6
    assert [(place, frame.header_index) for place, frame in found.duplicates] == [(3, 6)]


# -- tolerances, on both sides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "tolerance"), [(5.0, 0.05), (0.5, 0.01), (1.0, 0.01), (3.0, 0.03)])
def test_spacing_tolerance_on_both_sides(step, tolerance):
    assert spacing_tolerance_mm(step) == pytest.approx(tolerance)
    for factor, expected in ((0.9, None), (1.1, RefusalCode.SLICE_SPACING_NONUNIFORM)):
        for sign in (-1, 1):
            stack = headers(7, step=step)
            stack[3]["ImagePositionPatient"][2] += sign * factor * tolerance
            assert code_of(series_geometry(stack)) is expected


def test_a_spacing_that_creeps_within_the_step_tolerance_is_still_seen():
    stack = headers(40)
    for k, one in enumerate(stack):
        one["ImagePositionPatient"][2] += 0.0012 * k * k
    assert code_of(series_geometry(stack)) is RefusalCode.SLICE_SPACING_NONUNIFORM


@pytest.mark.parametrize(("factor", "code"), [(0.9, None), (1.1, RefusalCode.GANTRY_TILT)])
def test_shear_tolerance_on_both_sides(factor, code):
    assert code_of(series_geometry(sloped(5.0 * SHEAR_TOLERANCE * factor))) is code


@pytest.mark.parametrize(("factor", "code"), [(0.9, None), (1.1, RefusalCode.GEOMETRY_INCONSISTENT)])
def test_cosine_tolerance_between_slices_on_both_sides(factor, code):
    small = COSINE_TOLERANCE * factor
    stack = spoil(3, ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, float(np.sqrt(1 - small**2)), small])
    assert code_of(series_geometry(stack)) is code


@pytest.mark.parametrize(("factor", "code"), [(0.9, None), (1.1, RefusalCode.GEOMETRY_INVALID)])
def test_cosine_length_and_angle_tolerance_on_both_sides(factor, code):
    small = COSINE_TOLERANCE * factor
    assert code_of(series_geometry(headers(orientation=(1 + small, 0, 0, 0, 1, 0)))) is code
    assert code_of(series_geometry(headers(orientation=(1, 0, 0, small, 1, 0)))) is code


@pytest.mark.parametrize(("factor", "code"), [(0.9, None), (1.1, RefusalCode.GEOMETRY_INCONSISTENT)])
def test_pixel_spacing_tolerance_on_both_sides(factor, code):
    assert code_of(series_geometry(spoil(2, PixelSpacing=[0.9 * (1 + 1e-4 * factor), 0.8]))) is code


@pytest.mark.parametrize(
    ("ratio", "code"), [(2.04, RefusalCode.SLICES_MISSING), (2.3, RefusalCode.SLICE_SPACING_NONUNIFORM)]
)
def test_a_gap_is_missing_slices_only_near_a_whole_multiple(ratio, code):
    stack = headers(4) + headers(4, origin=above(15 + 5 * ratio))
    assert code_of(series_geometry(stack)) is code


@pytest.mark.parametrize(("degrees", "kept"), [(19, None), (21, 6)])
def test_odd_orientation_threshold_on_both_sides(degrees, kept):
    odd = headers(1, orientation=rotated(degrees), SOPInstanceUID="1.2.50")
    result = series_geometry(headers() + odd)
    if kept is None:
        assert code_of(result) is RefusalCode.GEOMETRY_INCONSISTENT
    else:
        assert good(result).count == kept


# -- every orientation -----------------------------------------------------------------------------------------------


def all_orientations():
    """The 24 right-handed row/column pairs along the axes; with slices either way that makes the 48 axis orders."""
    axes = [np.eye(3)[k] * sign for k in range(3) for sign in (1, -1)]
    return [(r, c) for r, c in itertools.product(axes, axes) if abs(r @ c) < 0.5]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("row", "column"), all_orientations())
def test_all_axis_orders_map_back(row, column, descending):
    stack = headers(orientation=(*row, *column))
    if descending:
        stack = stack[::-1]
    found = good(series_geometry(stack))
    assert_maps_back(stack, found)
    assert found.plane == ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(np.cross(row, column))))]


@given(
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    step=st.floats(0.5, 10.0),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_random_obliques_map_back(turn, step, origin, seed):
    a, b, c, d = np.asarray(turn) / np.linalg.norm(turn)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    stack = headers(7, step=step, origin=np.asarray(origin), orientation=(*rotation[:, 0], *rotation[:, 1]))
    shuffled = list(stack)
    random.Random(seed).shuffle(shuffled)
    assert_maps_back(shuffled, good(series_geometry(shuffled)))


def assert_maps_back(stack, found):
    """Every voxel lies where PS3.3 C.7.6.2.1.1 puts it, and comes back from there; reorienting moves nothing."""
    for place, frame in enumerate(found.slices):
        header = stack[frame.header_index]
        r, c = np.array([0, 3, 19]), np.array([0, 7, 29])
        cosines = np.asarray(header["ImageOrientationPatient"])
        expected = (
            np.asarray(header["ImagePositionPatient"])
            + np.outer(c, cosines[:3]) * header["PixelSpacing"][1]
            + np.outer(r, cosines[3:]) * header["PixelSpacing"][0]
        )
        index = np.stack([np.full(3, place), r, c], axis=1)
        np.testing.assert_allclose(found.affine.to_patient(index), expected, atol=1e-6)
        np.testing.assert_allclose(found.affine.to_index(expected), index, atol=1e-6)
    axes, flips = closest_axes(found.affine, np.eye(3)[::-1])
    array = np.arange(np.prod(found.shape)).reshape(found.shape)
    there = found.affine.rearranged(axes, flips, found.shape)
    turned = rearrange(array, axes, flips)
    for voxel in ((0, 0, 0), (2, 5, 11)):
        spot = np.argwhere(turned == array[voxel])[0]
        np.testing.assert_allclose(there.to_patient(spot), found.affine.to_patient(voxel), atol=1e-6)


@pytest.mark.parametrize(
    ("normal", "name"),
    [((0, 0, -1), "axial"), ((0, 1, 0), "coronal"), ((1, 0, 0), "sagittal"), ((0, 0.5, 0.866), "axial"),
     ((0, 0.707, 0.707), "oblique"), ((0.577, 0.577, 0.577), "oblique")],
)  # fmt: skip
def test_plane_names(normal, name):
    assert plane_name(normal) == name


TEXTS = st.one_of(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=4))
NUMBERS = st.one_of(
    st.integers(-(2**31), 2**31),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=7),
)


@given(
    place=st.integers(0, 5),
    changes=st.dictionaries(
        st.sampled_from(
            ["ImageType", "ComplexImageComponent", "StackID", "SequenceName", "Modality", "FrameOfReferenceUID"]
        ),
        TEXTS,
        max_size=2,
    ),
    numbers=st.dictionaries(
        st.sampled_from(
            ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "EchoTime",
             "InversionTime", "NumberOfFrames", "DiffusionBValue", "EchoNumbers"]
        ),
        NUMBERS,
        max_size=2,
    ),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_no_header_values_end_in_anything_but_a_stack_or_a_refusal(place, changes, numbers):
    changes = {
        key: [value] if key == "ImageType" and isinstance(value, str) else value for key, value in changes.items()
    }
    stack = headers()
    stack[place].update(changes, **numbers)
    result = series_geometry(stack)
    assert isinstance(result, SeriesGeometry | Refused)
