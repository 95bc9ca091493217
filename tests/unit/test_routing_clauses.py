"""The grammar of a route's clauses: every comparison on both sides of its border, and patterns that cannot stall."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.routing.book import RoutesRefused, parse_routes
from dicom_node.routing.clauses import MAX_TEXT, Clause
from dicom_node.routing.patterns import check_pattern
from dicom_node.volume.attributes import MACROS, TOP_LEVEL

pytestmark = pytest.mark.unit


def judge(clause: dict[str, Any], **attributes: Any) -> bool:
    return Clause.model_validate(clause).judge(attributes).holds


@pytest.mark.parametrize(
    ("comparison", "value", "holds"),
    [
        ({"equals": "MR"}, "MR", True),
        ({"equals": "MR"}, " mr ", True),
        ({"equals": "MR"}, "MRI", False),
        ({"equals": "MR"}, None, False),
        ({"equals": "MR"}, ["CT", "MR"], True),
        ({"equals": 3}, "3", True),
        ({"equals": 3}, "3.0", True),
        ({"equals": 3}, "three", False),
        ({"in": ["BRAIN", "HEAD"]}, "head", True),
        ({"in": ["BRAIN", "HEAD"]}, "", False),
        ({"in": [1.5, 3]}, 3.0, True),
        ({"not_in": ["KNEE"]}, "HEAD", True),
        ({"not_in": ["KNEE"]}, "knee", False),
        ({"not_in": ["KNEE"]}, None, False),
        ({"not_in": ["KNEE"]}, ["HEAD", "KNEE"], False),
        ({"between": [10, 20]}, 10, True),
        ({"between": [10, 20]}, 20, True),
        ({"between": [10, 20]}, 20.001, False),
        ({"between": [10, 20]}, "15", True),
        ({"between": [10, 20]}, "NaN", False),
        ({"between": [10, 20]}, "fifteen", False),
        ({"between": [10, 20]}, None, False),
        ({"between": [10, None]}, 1e9, True),
        ({"between": [None, 20]}, -1e9, True),
        ({"between": [0.5, 1.2]}, [0.9, 0.9], True),
        ({"between": [0.5, 1.2]}, [0.9, 1.3], False),
        ({"at_least": 10}, 9.999, False),
        ({"at_least": 10}, 10, True),
        ({"at_most": 10}, 10, True),
        ({"at_most": 10}, 10.001, False),
        ({"contains": "flair"}, "T2W_FLAIR_TRA", True),
        ({"contains": "flair"}, "T2W_TSE", False),
        ({"matches": "^t2.*flair"}, "T2W_FLAIR_TRA", True),
        ({"matches": "^flair"}, "T2W_FLAIR_TRA", False),
        ({"matches": "flair|dark.?fluid"}, "t2_tirm_dark-fluid", True),
        ({"matches": "MPR"}, ["DERIVED", "SECONDARY", "MPR"], True),
        ({"matches": "x"}, None, False),
        ({"matches": "end$"}, "a" * MAX_TEXT + "end", False),  # only the first MAX_TEXT characters are shown to it
        ({"present": True}, "x", True),
        ({"present": True}, "  ", False),
        ({"present": True}, None, False),
        ({"present": False}, None, True),
        ({"present": False}, [], True),
        ({"present": False}, 0, False),
    ],
)
def test_comparisons(comparison: dict[str, Any], value: Any, holds: bool) -> None:
    attributes = {} if value is None else {"SeriesDescription": value}
    assert judge({"attribute": "SeriesDescription", **comparison}, **attributes) is holds


def test_combinations_judge_every_part() -> None:
    clause = Clause.model_validate(
        {
            "all": [
                {"attribute": "Modality", "equals": "CT"},
                {"any": [{"attribute": "Rows", "at_least": 5}, {"attribute": "Rows", "at_most": 1}]},
                {"not": {"attribute": "ImageType", "contains": "DERIVED"}},
            ]
        }
    )
    verdict = clause.judge({"Modality": "MR", "Rows": 7, "ImageType": ["ORIGINAL"]})
    assert not verdict.holds
    assert [(leaf.holds, leaf.expected, leaf.found) for leaf in verdict.leaves()] == [
        (False, "Modality equals CT", "MR"),
        (True, "Rows at least 5", "7"),
        (False, "Rows at most 1", "7"),
        (False, "ImageType contains DERIVED", "ORIGINAL"),
    ]


def test_an_absent_attribute_holds_only_under_not() -> None:
    clause = {"attribute": "ContrastBolusAgent", "equals": "GD"}
    assert not judge(clause)
    assert judge({"not": clause})


@pytest.mark.parametrize(
    "clause",
    [
        {},
        {"attribute": "Modality"},
        {"equals": "MR"},
        {"attribute": "Modality", "equals": "MR", "in": ["MR"]},
        {"attribute": "Modality", "equals": "MR", "all": [{"attribute": "Rows", "at_least": 1}]},
        {"attribute": "Modality", "equals": True},
        {"attribute": "Modality", "in": ["MR", False]},
        {"attribute": "Modality", "in": []},
        {"attribute": "Modality", "in": "MR"},
        {"attribute": "Modalty", "equals": "MR"},
        {"attribute": "PatientName", "equals": "A^B"},
        {"attribute": "Rows", "between": [5, 1]},
        {"attribute": "Rows", "between": [None, None]},
        {"attribute": "Rows", "between": [1]},
        {"attribute": "Rows", "between": ["1", 2]},
        {"attribute": "Rows", "at_least": "10"},
        {"attribute": "Rows", "at_least": float("nan")},
        {"attribute": "Rows", "at_most": float("inf")},
        {"attribute": "Rows", "present": "yes"},
        {"attribute": "Rows", "like": "1%"},
        {"all": []},
        {"any": {"attribute": "Rows", "at_least": 1}},
        {"not": [{"attribute": "Rows", "at_least": 1}]},
    ],
)
def test_what_the_grammar_does_not_know_is_refused(clause: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Clause.model_validate(clause)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(?:a?){30}a{30}",
        "a?" * 20 + "a" * 20,
        ".*a.*b.*c",
        "(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)(a|b|ab)",
        "(?=x)x",
        "(?<!x)y",
        r"(a)\1",
        "(?(1)a|b)",
        "[",
        "*",
        "(?P<n>a)(?P=n)",
    ],
)
def test_patterns_that_may_stall_or_are_none_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        check_pattern(pattern, MAX_TEXT)


@pytest.mark.parametrize(
    "pattern", ["flair", "^t1.*(post|gd|km)", "t2[ _-]?flair|dark.?fluid", r"\bt1\b", "[^a-z]+x.*y", "(?i:MPR)", "a{3}"]
)
def test_patterns_that_people_write_are_accepted(pattern: str) -> None:
    check_pattern(pattern, MAX_TEXT)


_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", r"\w", "(?:ab)", "(a|b)", "(?:a|ab)"])
_PATTERNS = st.lists(
    st.tuples(_ATOMS, st.sampled_from(["", "*", "+", "?", "{2}", "{1,5}", "*?"])), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(_PATTERNS, st.sampled_from(["a" * MAX_TEXT, "ab" * (MAX_TEXT // 2), "a" * (MAX_TEXT - 1) + "!"]))
def test_whatever_is_accepted_ends_soon(parts: list[tuple[str, str]], text: str) -> None:
    pattern = "".join(atom + repeat for atom, repeat in parts) + "Z"
    try:
        check_pattern(pattern, MAX_TEXT)
    except ValueError:
        return
    started = time.process_time()
    re.compile(pattern, re.IGNORECASE).search(text)
    assert time.process_time() - started < 2.0


def test_every_attribute_of_the_data_set_is_one_the_node_keeps() -> None:
    from dicom_node.routing.attributes import DICOM_ATTRIBUTES

    kept = {a.keyword for a in TOP_LEVEL.values()} | {a.keyword for m in MACROS.values() for a in m.values()}
    # read from the file's meta information, or out of a sequence
    kept |= {"TransferSyntaxUID", "AnatomicRegionCode", "AnatomicRegionScheme", "DeclaredPicture"}
    assert kept >= DICOM_ATTRIBUTES


def test_nothing_that_names_a_patient_can_be_asked_about() -> None:
    from dicom_node.routing.attributes import ROUTE_ATTRIBUTES

    assert (
        not {"PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID"} & ROUTE_ATTRIBUTES
    )


def test_a_clause_nested_too_deeply_is_refused() -> None:
    clause = "{attribute: Rows, at_least: 1}"
    for _ in range(9):
        clause = f"{{not: {clause}}}"
    with pytest.raises(RoutesRefused, match="nested at most"):
        parse_routes(
            f"schema_version: 1\nroutes:\n  - name: a\n    when: {clause}\n    role_sets: [[t1]]\n"
            "    model: m\n    result_family: f\n"
        )
