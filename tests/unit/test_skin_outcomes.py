"""Figures of a model in use: told only where enough outcomes are there, and then those that counting by hand gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ai_engine.evaluation.skin_outcomes import (
    LEAST_FOR_CALIBRATION,
    LEAST_FOR_SHARE,
    Answered,
    Compared,
    audited,
    disagreement,
    disagrees,
    share_of,
    wilson,
)

pytestmark = pytest.mark.unit


def answers(count: int, *, ill: bool | None, above: bool, patient: str = "") -> list[Answered]:
    return [Answered(0.8 if above else 0.1, 0.5, ill, patient) for _ in range(count)]


def compared(count: int, impression: str, *, above: bool, ill: bool | None) -> list[Compared]:
    return [Compared(impression, above, ill) for _ in range(count)]


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (30, 30), (27, 30), (1, 200), (100, 200)])
def test_the_interval_is_wilsons(hits: int, count: int) -> None:
    theirs = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_a_share_of_nothing_has_no_interval() -> None:
    assert all(math.isnan(value) for value in wilson(0, 0))


def test_counts_decide_whether_a_figure_is_said_and_never_the_figure() -> None:
    one_short = audited(
        answers(LEAST_FOR_SHARE - 1, ill=True, above=True) + answers(LEAST_FOR_SHARE, ill=False, above=False)
    )
    assert one_short["sensitivity"]["needed"] == LEAST_FOR_SHARE
    assert one_short["sensitivity"]["n"] == LEAST_FOR_SHARE - 1
    assert "29 malignant lesions with an outcome, 30 are needed" in one_short["sensitivity"]["too_few"]
    assert "value" not in one_short["sensitivity"]
    assert one_short["specificity"]["value"] == 1.0
    bad = audited(answers(LEAST_FOR_SHARE, ill=True, above=False))
    assert bad["sensitivity"]["value"] == 0.0


def test_no_outcome_is_too_few_and_no_division() -> None:
    told = audited(answers(5, ill=None, above=True))
    assert (told["answered"], told["followed"]) == (5, 0)
    assert "no outcome yet" in told["sensitivity"]["too_few"]
    assert told["followed_above"] == {"known": 0, "of": 5}
    assert audited([])["answered"] == 0


def test_figures_are_those_of_counting() -> None:
    mixed = [
        *answers(36, ill=True, above=True),
        *answers(4, ill=True, above=False),
        *answers(45, ill=False, above=False),
        *answers(15, ill=False, above=True),
        *answers(7, ill=None, above=False),
    ]
    told = audited(mixed)
    assert told["confusion"] == {"true_positive": 36, "false_negative": 4, "false_positive": 15, "true_negative": 45}
    assert told["sensitivity"]["value"] == pytest.approx(0.9)
    assert told["specificity"]["value"] == pytest.approx(0.75)
    assert told["followed_below"] == {"known": 49, "of": 56}
    low, high = wilson(36, 40)
    assert told["sensitivity"]["low"] <= low and told["sensitivity"]["high"] >= high
    assert "too_few" in told["calibration"], "40 ill are enough for a share, not for calibration"


def test_a_perfect_score_is_not_told_as_certain() -> None:
    told = audited(answers(40, ill=True, above=True))
    assert told["sensitivity"]["value"] == 1.0
    assert told["sensitivity"]["low"] == pytest.approx(wilson(40, 40)[0])


def test_lesions_of_one_patient_widen_the_interval() -> None:
    hits = np.array([True] * 30 + [False] * 30)
    alone = share_of(hits, np.arange(60), "lesions")
    together = share_of(hits, np.array([0] * 30 + [1] * 30), "lesions")
    assert together["high"] - together["low"] > alone["high"] - alone["low"]


def test_calibration_tells_said_against_seen() -> None:
    random = np.random.default_rng(5)
    said = random.uniform(0.02, 0.98, 600)
    ill = random.random(600) < said
    straight = audited([Answered(float(p), 0.5, bool(t)) for p, t in zip(said, ill, strict=True)])["calibration"]
    bent = audited([Answered(float(p**4), 0.5, bool(t)) for p, t in zip(said, ill, strict=True)])["calibration"]
    assert min(ill.sum(), (~ill).sum()) >= LEAST_FOR_CALIBRATION
    assert straight["said_minus_seen"]["low"] < 0 < straight["said_minus_seen"]["high"]
    assert bent["said_minus_seen"]["high"] < 0
    assert bent["expected_calibration_error"] > 2 * straight["expected_calibration_error"]


def test_the_yield_of_disagreement_is_what_was_malignant_where_they_disagreed() -> None:
    told = disagreement(
        [
            *compared(32, "benign", above=True, ill=False),
            *compared(8, "benign", above=True, ill=True),
            *compared(5, "benign", above=True, ill=None),
            *compared(3, "suspicious", above=False, ill=True),
            *compared(20, "suspicious", above=True, ill=True),
            *compared(50, "unsure", above=True, ill=False),
            *compared(50, "", above=True, ill=False),
        ]
    )
    assert told["with_impression"] == 118
    against = told["flagged_against_benign"]
    assert (against["answered"], against["followed"], against["malignant"]) == (45, 40, 8)
    assert against["yield"]["value"] == pytest.approx(0.2)
    assert told["unflagged_against_suspicious"]["malignant"] == 3
    assert "too_few" in told["unflagged_against_suspicious"]["yield"]


def test_unsure_is_opposite_to_nothing() -> None:
    said = {(i, a) for i in ("", "benign", "unsure", "suspicious") for a in (True, False) if disagrees(i, a)}
    assert said == {("benign", True), ("suspicious", False)}


def test_answers_at_two_thresholds_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="one threshold"):
        audited([Answered(0.4, 0.5, True), Answered(0.4, 0.3, True)])
