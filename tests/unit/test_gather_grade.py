"""The rule that grades completeness, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.gather import Evidence, Patience, grade
from dicom_node.words import Grade

pytestmark = pytest.mark.unit

PATIENCE = Patience(quiet_s=3.0, cap_s=60.0)
WHOLE = {"slices": 26, "geometry": "regular"}
FORWARDED = {"is_from_archive": True, "is_released": True, **WHOLE}


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        # promised: announced by the acquisition, agreeing with the geometry
        (Evidence(26, announced=26, **WHOLE), (Grade.PROMISED, 0.0)),
        (Evidence(26, announced=26, is_arriving=True, **WHOLE), (Grade.PROMISED, 0.0)),
        (Evidence(1, announced=26, **WHOLE), (Grade.PROMISED, 0.0)),  # one multi-frame object
        # promised: an archive fed by others
        (Evidence(26, archive_count=26, is_archive_independent=True, **WHOLE), (Grade.PROMISED, 0.0)),
        # the announcement is a hint, never enough without the geometry
        (Evidence(26, announced=26, geometry="series-mixed"), (Grade.WEAK, 60.0)),
        (Evidence(26, announced=26, slices=25, geometry="regular"), (Grade.WEAK, 60.0)),
        # transferred
        (Evidence(26, archive_count=26, **FORWARDED), (Grade.TRANSFERRED, 3.0)),
        (Evidence(9, archive_count=9, is_from_archive=True, is_released=True, geometry="geometry-inconsistent"),
         (Grade.TRANSFERRED, 3.0)),
        (Evidence(26, archive_count=26, announced=130, **FORWARDED), (Grade.TRANSFERRED, 3.0)),
        (Evidence(26, archive_count=26, **{**FORWARDED, "is_arriving": True}), (Grade.WEAK, 60.0)),
        (Evidence(26, archive_count=26, **{**FORWARDED, "is_released": False}), (Grade.WEAK, 60.0)),
        (Evidence(26, archive_count=26, **{**FORWARDED, "is_from_archive": False}), (Grade.WEAK, 60.0)),
        # weak
        (Evidence(26, **WHOLE), (Grade.WEAK, 60.0)),
        (Evidence(26, archive_count=20, **FORWARDED), (Grade.WEAK, 60.0)),
        # contradicting
        (Evidence(25, archive_count=26, **FORWARDED), (Grade.CONTRADICTING, 60.0)),
        (Evidence(25, announced=26, slices=25, geometry="regular"), (Grade.CONTRADICTING, 60.0)),
        (Evidence(25, archive_count=25, has_gap=True, geometry="slices-missing", is_from_archive=True,
                  is_released=True), (Grade.CONTRADICTING, 60.0)),
        (Evidence(26, refused=1, announced=26, **WHOLE), (Grade.CONTRADICTING, 60.0)),
        (Evidence(26, archive_count=27, is_archive_independent=True, **WHOLE), (Grade.CONTRADICTING, 60.0)),
    ],
)  # fmt: skip
def test_table(evidence: Evidence, expected: tuple[Grade, float]) -> None:
    assert grade(evidence, PATIENCE) == expected


@given(
    st.builds(
        Evidence,
        instances=st.integers(1, 40),
        refused=st.integers(0, 2),
        announced=st.none() | st.integers(0, 40),
        archive_count=st.none() | st.integers(0, 40),
        is_archive_independent=st.booleans(),
        is_from_archive=st.booleans(),
        is_arriving=st.booleans(),
        is_released=st.booleans(),
        slices=st.none() | st.integers(1, 40),
        geometry=st.sampled_from(["regular", "slices-missing", "series-mixed"]),
        has_gap=st.booleans(),
    )
)
def test_nothing_closes_early_on_a_contradiction(evidence: Evidence) -> None:
    found, wait_s = grade(evidence, PATIENCE)
    assert 0.0 <= wait_s <= PATIENCE.cap_s
    if evidence.has_gap or evidence.refused or (evidence.archive_count or 0) > evidence.instances:
        assert (found, wait_s) == (Grade.CONTRADICTING, PATIENCE.cap_s)
    if found is Grade.PROMISED:
        assert evidence.instances in (evidence.announced, evidence.archive_count, 1)


def test_the_evidence_names_the_counts_others_gave() -> None:
    assert Evidence(3, announced=4, archive_count=3).to_json()["expected"] == {"images_in_acquisition": 4, "archive": 3}
    assert Evidence(3).to_json()["expected"] == {}
