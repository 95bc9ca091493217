"""Facts come from positions, are the same in every order of arrival, and never fail on a poor header."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.routing.facts import facts, moment_s
from dicom_node.words import SeriesFacts

pytestmark = pytest.mark.unit

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def header(number: int, z: float, orientation: list[float] | None = None, **more: Any) -> dict[str, Any]:
    orientation = AXIAL if orientation is None else orientation
    normal = np.cross(orientation[:3], orientation[3:])
    return {
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.2.3",
        "SOPInstanceUID": f"1.2.3.{number}",
        "Modality": "MR",
        "InstanceNumber": number,
        "ImageOrientationPatient": [float(v) for v in orientation],
        "ImagePositionPatient": [float(v) for v in normal * z],
        "PixelSpacing": [0.9, 0.9],
        **more,
    }


def test_slices_and_step_come_from_positions() -> None:
    found = facts([header(n, 6.0 * n, SpacingBetweenSlices=1.0) for n in range(26)]).attributes
    assert (found["NumberOfSlices"], found["SliceStepMm"], found["SpacingMm"]) == (26, 6.0, [0.9, 0.9])
    assert (found["Plane"], found["NumberOfOrientations"], found["NumberOfInstances"]) == ("axial", 1, 26)


def test_the_same_position_twice_is_one_slice() -> None:
    found = facts([header(n, 6.0 * (n // 2)) for n in range(20)]).attributes
    assert (found["NumberOfSlices"], found["NumberOfInstances"], found["SliceStepMm"]) == (10, 20, 6.0)


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"),
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        ([1, 0, 0, 0, 0.81, 0.5864], "axial"),
        ([1, 0, 0, 0, 0.79, 0.6131], "oblique"),
        ([0, 0, 0, 0, 0, 0], None),
    ],
)
def test_the_plane_is_that_of_the_normal(orientation: list[float], plane: str | None) -> None:
    assert facts([header(n, n, orientation) for n in range(3)]).attributes.get("Plane") == plane


def test_every_order_of_arrival_gives_the_same_facts() -> None:
    headers = [header(n, 5.0 * z, EchoTime=float(n), AcquisitionTime=f"1200{n:02d}", AcquisitionDate="20200101")
               for n, z in enumerate([3, 1, 0, 2])]  # fmt: skip
    expected = facts(headers)
    assert expected.attributes["SOPInstanceUID"] == "1.2.3.2"
    assert expected.attributes["AcquiredAt"] == "20200101120000"
    assert expected.attributes["EchoTimes"] == [0.0, 1.0, 2.0, 3.0]
    for order in itertools.permutations(headers):
        assert facts(list(order)) == expected


def test_frames_of_an_enhanced_image_count_as_slices() -> None:
    frames = [
        {
            "ImagePositionPatient": [0.0, 0.0, 4.0 * n],
            "ImageOrientationPatient": AXIAL,
            "EchoTime": 20.0,
            "ImageType": ["X"],
        }
        for n in range(12)
    ]
    whole = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.1", "Modality": "MR"}
    found = facts([{**whole, "Frames": frames}]).attributes
    assert (found["NumberOfSlices"], found["SliceStepMm"], found["NumberOfInstances"]) == (12, 4.0, 1)
    assert (found["EchoTime"], found["ImageType"]) == (20.0, ["X"])
    assert "Frames" not in found


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"AcquisitionDateTime": "20200229235959.5+0100", "AcquisitionTime": "010101"}, "20200229235959.5"),
        ({"AcquisitionDate": "20200229", "AcquisitionTime": "235959.07", "SeriesTime": "000000"}, "20200229235959.07"),
        ({"StudyDate": "20200229", "SeriesTime": "101010"}, "20200229101010"),
        ({"StudyDate": "20200229"}, None),
        ({"AcquisitionTime": "101010"}, None),
        ({"AcquisitionDate": "2020.02.29", "AcquisitionTime": "10:10:10"}, None),
    ],
)
def test_time_of_acquisition(times: dict[str, str], expected: str | None) -> None:
    assert facts([header(1, 0.0, **times)]).attributes.get("AcquiredAt") == expected


@pytest.mark.parametrize(
    ("early", "late", "apart_s"),
    [
        ("20130323142224", "20130323142354.5", 90.5),
        ("20121231235950", "20130101000010", 20.0),
        ("20200228235950", "20200229000010", 20.0),
        ("00010101000000", "00010101000001", 1.0),
    ],
)
def test_differences_of_time(early: str, late: str, apart_s: float) -> None:
    first, second = (moment_s(SeriesFacts("1", "1", {"AcquiredAt": t})) for t in (early, late))
    assert first is not None
    assert second is not None
    assert second - first == pytest.approx(apart_s)


@pytest.mark.parametrize("text", ["", "2013", "20131399000000", "x" * 20])
def test_a_time_that_is_none(text: str) -> None:
    assert moment_s(SeriesFacts("1", "1", {"AcquiredAt": text})) is None


@pytest.mark.parametrize(("age", "years"), [("045Y", 45), ("006M", 0.5), ("010D", 0.03), ("NA", None), ("45", None)])
def test_age(age: str, years: float | None) -> None:
    assert facts([header(1, 0.0, PatientAge=age)]).attributes.get("PatientAgeYears") == years


_VALUES = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.lists(st.floats(), max_size=7),
    st.lists(st.text(max_size=5)),
)
_NAMES = "ImageOrientationPatient ImagePositionPatient PixelSpacing EchoTime AcquisitionTime AcquisitionDate PatientAge"
_KEYS = st.sampled_from([*_NAMES.split(), "DiffusionBValue", "AcquisitionDateTime", "ImageType", "Frames"])


@given(st.lists(st.dictionaries(_KEYS, _VALUES), min_size=1, max_size=4))
def test_no_header_makes_it_fail(poor: list[dict[str, Any]]) -> None:
    headers = [{**h, "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": f"1.{n}"}
               for n, h in enumerate(poor)]  # fmt: skip
    assert facts(headers).attributes["NumberOfInstances"] == len(headers)


def test_headers_of_two_series_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one series"):
        facts([header(1, 0.0), {**header(2, 1.0), "SeriesInstanceUID": "1.9"}])
    with pytest.raises(ValueError, match="at least one"):
        facts([])
