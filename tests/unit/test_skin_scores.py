"""Figures and calibration of a classifier, against values worked out by hand or by another formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ai_engine.evaluation.skin_scores import (
    at_prevalence,
    auc,
    average_precision,
    bootstrapped,
    by_group,
    calibration_error,
    collapsed,
    confusion,
    figures,
    reliability,
    roc,
    threshold_for,
)
from ai_engine.packages import load_package
from ai_engine.packages.classification import Calibration
from ai_engine.packages.common import DescriptionError
from ai_engine.packages.site import SiteOutput, SiteOverride, read_override, with_override, write_override
from ai_engine.training.skin_calibrate import choose, fit, settled, weights_for
from tests.fixtures_classifier import make_tiny_classifier

pytestmark = pytest.mark.unit


def drawn(count: int = 2000, slope: float = 1.0, offset: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and truths whose probability is the sigmoid of ``slope * logit + offset``."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, count)
    return logits, random.random(count) < 1 / (1 + np.exp(-(slope * logits + offset)))


def test_auc_counts_pairs_with_ties_as_half() -> None:
    truth = np.array([True, True, False, False, False])
    scores = np.array([0.9, 0.4, 0.4, 0.3, 0.6])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    assert auc(truth, scores) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(truth[:2], scores[:2]))


def test_area_under_the_drawn_curve_is_the_auc() -> None:
    logits, truth = drawn(500)
    false_rate, true_rate = roc(truth, np.round(logits, 1))
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(auc(truth, np.round(logits, 1)))


def test_average_precision_of_a_short_list() -> None:
    truth = np.array([True, False, True, False])
    assert average_precision(truth, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_the_threshold_reaches_the_wanted_sensitivity_and_no_higher_one_does() -> None:
    logits, truth = drawn(300)
    threshold = threshold_for(truth, logits, 0.9)
    assert confusion(truth, logits, threshold).sensitivity >= 0.9
    assert confusion(truth, logits, np.nextafter(threshold, np.inf)).sensitivity < 0.9


def test_a_settled_threshold_lies_on_no_picture_and_parts_them_as_before() -> None:
    said = np.array([0.1, 0.2, 0.20001, 0.7])
    for wanted in said:
        threshold = settled(said, float(wanted))
        assert np.array_equal(said >= threshold, said >= wanted)
        assert threshold not in said


def test_bayes_at_a_prevalence() -> None:
    row = at_prevalence(0.9, 0.8, 0.1)
    assert row["ppv"] == pytest.approx(90 / (90 + 180))
    assert row["npv"] == pytest.approx(720 / (720 + 10))
    assert row["flagged_per_1000"] == pytest.approx(270)
    assert row["missed_per_1000"] == pytest.approx(10)


def test_intervals_draw_whole_groups() -> None:
    """Ten copies of every picture must not make the interval ten times more certain."""
    logits, truth = drawn(60, seed=3)
    alone = bootstrapped(auc, truth, logits, times=300)
    copies = np.repeat(np.arange(60), 10)
    grouped = bootstrapped(auc, truth[copies], logits[copies], copies, times=300)
    fooled = bootstrapped(auc, truth[copies], logits[copies], times=300)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.3)
    assert fooled.high - fooled.low < 0.5 * (alone.high - alone.low)


def test_calibrated_probabilities_lie_on_the_diagonal() -> None:
    logits, truth = drawn(4000)
    said = 1 / (1 + np.exp(-logits))
    assert calibration_error(truth, said) < 0.03
    assert calibration_error(truth, said**3) > 0.05
    assert sum(row["n"] for row in reliability(truth, said)) == 4000


def test_a_collapse_is_told_and_rarity_is_none() -> None:
    truth = np.arange(100) < 30
    assert collapsed(truth, np.full(100, 0.2), 0.5)
    assert collapsed(truth, np.full(100, 0.8), 0.5)
    assert not collapsed(truth, np.where(np.arange(100) < 20, 0.9, 0.1), 0.5)
    assert not collapsed(np.arange(100) < 2, np.full(100, 0.2), 0.5)


def test_small_groups_are_counted_and_not_measured() -> None:
    logits, truth = drawn(60)
    rows = by_group(truth, logits, 0.0, ["a"] * 55 + [""] * 5, times=20)
    assert {row["group"]: "figures" in row for row in rows} == {"a": True, "not known": False}
    told = figures(truth, 1 / (1 + np.exp(-logits)), 0.5, times=20)
    assert json.loads(json.dumps(told))["malignant"] == int(truth.sum())


# -- calibration ----------------------------------------------------------------------------------------------------


def test_platt_finds_the_line_again() -> None:
    logits, truth = drawn(6000, slope=0.5, offset=-1.0)
    found = fit("platt", logits, truth, np.ones(6000), "drawn")
    assert found.scale == pytest.approx(0.5, abs=0.06)
    assert found.offset == pytest.approx(-1.0, abs=0.12)


def test_temperature_finds_the_factor_again() -> None:
    logits, truth = drawn(6000, slope=0.5)
    assert fit("temperature", logits, truth, np.ones(6000), "drawn").temperature == pytest.approx(2.0, abs=0.2)


def test_isotonic_rises_and_follows_any_curve() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 5000)
    truth = random.random(5000) < np.where(logits > 0, 0.7, 0.1)
    found = fit("isotonic", logits, truth, np.ones(5000), "drawn")
    assert found.probability(-2.0) == pytest.approx(0.1, abs=0.05)
    assert found.probability(2.0) == pytest.approx(0.7, abs=0.05)


def test_the_simplest_way_is_taken_where_it_does_as_well() -> None:
    logits, truth = drawn(1500)
    assert choose(logits, truth, np.arange(1500), "drawn").calibration.method == "temperature"
    shifted, ill = drawn(1500, offset=-2.0)
    assert choose(shifted, ill, np.arange(1500), "drawn").calibration.method == "platt"


def test_weights_speak_for_another_share() -> None:
    truth = np.arange(100) < 40
    weights = weights_for(truth, 0.2)
    assert weights.sum() == pytest.approx(100)
    assert weights[truth].sum() == pytest.approx(20)
    with pytest.raises(ValueError, match="between 0 and 1"):
        weights_for(truth, 1.0)


# -- a site's override ----------------------------------------------------------------------------------------------


def override_for(digest: str, **changes: object) -> SiteOverride:
    point = {"sensitivity": 0.9, "specificity": 0.4, "n": 100, "data": "a site"}
    own = SiteOutput(
        threshold=0.2,
        calibration=Calibration(method="platt", scale=1.0, offset=-0.5, population="a site"),
        operating_point=point,  # type: ignore[arg-type]
    )
    values = {
        "format": 1,
        "name": "tiny-classifier",
        "version": "1.0.0",
        "digest_sha256": digest,
        "outputs": {"malignant": own},
        "population": "a site",
    }
    return SiteOverride(**{**values, **changes})  # type: ignore[arg-type]


def test_an_override_comes_back_as_it_was_written_and_changes_only_its_outputs(tmp_path: Path) -> None:
    package = load_package(make_tiny_classifier(tmp_path))
    digest = write_override(override_for(package.digest_sha256), tmp_path / "site.json")
    own, read_digest = read_override(tmp_path / "site.json")
    assert digest == read_digest
    changed = with_override(package.classification, package.digest_sha256, own)
    assert changed.outputs[0].threshold == 0.2
    assert changed.outputs[0].calibration.method == "platt"
    assert changed.outputs[1] == package.classification.outputs[1]
    assert changed.limits == package.classification.limits


def test_an_override_of_another_package_is_refused(tmp_path: Path) -> None:
    package = load_package(make_tiny_classifier(tmp_path))
    with pytest.raises(DescriptionError, match="calibrate"):
        with_override(package.classification, package.digest_sha256, override_for("0" * 64))
    strange = override_for(package.digest_sha256, outputs={"nevus": override_for("0" * 64).outputs["malignant"]})
    with pytest.raises(DescriptionError, match="nevus"):
        with_override(package.classification, package.digest_sha256, strange)


def test_a_damaged_override_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text('{"format": 1}')
    with pytest.raises(DescriptionError, match="name"):
        read_override(tmp_path / "site.json")
    with pytest.raises(DescriptionError, match="cannot be read"):
        read_override(tmp_path / "none.json")
