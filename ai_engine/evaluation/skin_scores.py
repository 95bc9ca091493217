"""Figures of a yes-or-no answer with a probability: what they are is in docs/reference/skin-training.md.

Intervals are 95 % percentile intervals of a bootstrap over *groups* (patients or lesions), because pictures of one
lesion are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Measure = Callable[[Truth, Floats], float]

BOOTSTRAPS = 1000
PREVALENCES = (0.005, 0.02, 0.10, 0.20)
COLLAPSE_SHARE = 0.97
"""More than this of all answers on one side, while the truth has at least a tenth on both, is a collapse."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n})"


def auc(truth: Truth, scores: Floats) -> float:
    """Area under the ROC curve: how often an ill picture scores above a well one, ties counting half (Mann-Whitney)."""
    ill, well = int(truth.sum()), int((~truth).sum())
    if ill == 0 or well == 0:
        return float("nan")
    values, where = np.unique(scores, return_inverse=True)
    counts = np.bincount(where, minlength=len(values))
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[where][truth].sum() - ill * (ill + 1) / 2) / (ill * well))


def average_precision(truth: Truth, scores: Floats) -> float:
    """Area under precision over recall, as a step function; ties are one step."""
    if not truth.any():
        return float("nan")
    values, where = np.unique(-scores, return_inverse=True)
    hits = np.cumsum(np.bincount(where, weights=truth, minlength=len(values)))
    flagged = np.cumsum(np.bincount(where, minlength=len(values)))
    return float((np.diff(hits, prepend=0) / truth.sum() * hits / flagged).sum())


def roc(truth: Truth, scores: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates, from (0, 0) to (1, 1), one step per different score."""
    values, where = np.unique(-scores, return_inverse=True)
    ill = np.cumsum(np.bincount(where, weights=truth, minlength=len(values)))
    well = np.cumsum(np.bincount(where, weights=~truth, minlength=len(values)))
    first = np.zeros(1)
    return (
        np.concatenate((first, well / max(int((~truth).sum()), 1))),
        np.concatenate((first, ill / max(int(truth.sum()), 1))),
    )


def threshold_for(truth: Truth, scores: Floats, sensitivity: float) -> float:
    """The highest threshold at which ``score >= threshold`` finds at least that share of the ill.

    Raises
    ------
    ValueError
        If nobody is ill.
    """
    ill = np.sort(scores[truth])[::-1]
    if len(ill) == 0:
        raise ValueError("no malignant picture to choose a threshold on")
    needed = int(np.ceil(sensitivity * len(ill) - 1e-9))
    return float(ill[max(needed, 1) - 1])


@dataclass(frozen=True)
class Confusion:
    """Counts at one threshold."""

    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int

    @property
    def sensitivity(self) -> float:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        return _ratio(self.true_negative, self.true_negative + self.false_positive)

    @property
    def precision(self) -> float:
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def negative_precision(self) -> float:
        return _ratio(self.true_negative, self.true_negative + self.false_negative)

    @property
    def accuracy(self) -> float:
        whole = self.true_positive + self.false_negative + self.false_positive + self.true_negative
        return _ratio(self.true_positive + self.true_negative, whole)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def confusion(truth: Truth, scores: Floats, threshold: float) -> Confusion:
    """Counts of ``score >= threshold`` against the truth."""
    found = scores >= threshold
    return Confusion(
        int((found & truth).sum()),
        int((~found & truth).sum()),
        int((found & ~truth).sum()),
        int((~found & ~truth).sum()),
    )


def at_prevalence(sensitivity: float, specificity: float, prevalence: float) -> dict[str, float]:
    """What a flag is worth where `prevalence` of the pictures are malignant (Bayes)."""
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    misses, rest = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    return {
        "prevalence": prevalence,
        "ppv": hits / (hits + alarms) if hits + alarms else float("nan"),
        "npv": rest / (rest + misses) if rest + misses else float("nan"),
        "flagged_per_1000": 1000 * (hits + alarms),
        "missed_per_1000": 1000 * misses,
    }


def reliability(truth: Truth, probability: Floats, bins: int = 10) -> list[dict[str, float]]:
    """Bins with equally many pictures: mean probability, share of ill, count."""
    order = np.argsort(probability, kind="stable")
    return [
        {"probability": float(probability[part].mean()), "share": float(truth[part].mean()), "n": len(part)}
        for part in np.array_split(order, min(bins, len(order)))
        if len(part)
    ]


def calibration_error(truth: Truth, probability: Floats, bins: int = 10) -> float:
    """Mean distance of said and seen over equally filled bins (expected calibration error)."""
    rows = reliability(truth, probability, bins)
    return sum(row["n"] * abs(row["probability"] - row["share"]) for row in rows) / max(len(truth), 1)


def brier(truth: Truth, probability: Floats) -> float:
    """Mean squared distance of probability and truth."""
    return float(((probability - truth) ** 2).mean()) if len(truth) else float("nan")


def bootstrapped(
    measure: Measure,
    truth: Truth,
    scores: Floats,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
    times: int = BOOTSTRAPS,
) -> Figure:
    """A measure with its interval; draws of groups, draws on which the measure is not defined left out."""
    return bootstrapped_all({"": measure}, truth, scores, groups, seed, times)[""]


def bootstrapped_all(
    measures: Mapping[str, Measure],
    truth: Truth,
    scores: Floats,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
    times: int = BOOTSTRAPS,
) -> dict[str, Figure]:
    """Several measures with their intervals, all on the same draws."""
    random = np.random.default_rng(seed)
    group = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    size = np.bincount(group)
    first = np.cumsum(size) - size
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(times if len(truth) else 0):
        chosen = random.integers(len(size), size=len(size))
        # the members of the chosen groups, one after the other
        many = size[chosen]
        inside = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        drawn = order[np.repeat(first[chosen], many) + inside]
        for name, measure in measures.items():
            one = measure(truth[drawn], scores[drawn])
            if np.isfinite(one):
                values[name].append(one)
    return {
        name: Figure(measure(truth, scores), *_percentiles(values[name]), len(truth))
        for name, measure in measures.items()
    }


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def figures(
    truth: Truth, probability: Floats, threshold: float, groups: npt.NDArray[np.int64] | None = None, times: int = 1000
) -> dict[str, Any]:
    """Every figure of one output on one set of pictures, as JSON."""
    counts = confusion(truth, probability, threshold)
    measures: Mapping[str, Measure] = {
        "auc": auc,
        "average_precision": average_precision,
        "sensitivity": lambda t, p: confusion(t, p, threshold).sensitivity,
        "specificity": lambda t, p: confusion(t, p, threshold).specificity,
        "precision_malignant": lambda t, p: confusion(t, p, threshold).precision,
        "precision_benign": lambda t, p: confusion(t, p, threshold).negative_precision,
        "accuracy": lambda t, p: confusion(t, p, threshold).accuracy,
        "brier": brier,
    }
    drawn = bootstrapped_all(measures, truth, probability, groups, times=times)
    found = {name: _json(figure) for name, figure in drawn.items()}
    return {
        "n": len(truth),
        "malignant": int(truth.sum()),
        "threshold": threshold,
        "confusion": asdict(counts),
        "figures": found,
        "calibration_error": calibration_error(truth, probability),
        "predicted_share": float((probability >= threshold).mean()) if len(truth) else None,
        "true_share": float(truth.mean()) if len(truth) else None,
        "mean_probability": float(probability.mean()) if len(truth) else None,
        "reliability": reliability(truth, probability),
    }


def _json(figure: Figure) -> dict[str, float | int | None]:
    return {name: None if value != value else value for name, value in asdict(figure).items()}


def collapsed(truth: Truth, probability: Floats, threshold: float) -> bool:
    """Whether nearly all answers are one class while the truth has both."""
    if len(truth) == 0 or not 0.1 <= truth.mean() <= 0.9:
        return False
    share = float((probability >= threshold).mean())
    return max(share, 1 - share) > COLLAPSE_SHARE


def by_group(
    truth: Truth,
    probability: Floats,
    threshold: float,
    labels: Sequence[str],
    groups: npt.NDArray[np.int64] | None = None,
    least: int = 10,
    times: int = 400,
) -> list[dict[str, Any]]:
    """The figures of every subgroup; those with fewer than `least` pictures are only counted."""
    rows: list[dict[str, Any]] = []
    names = np.array(labels)
    for name in sorted(set(labels)):
        here = names == name
        mine = None if groups is None else groups[here]
        row: dict[str, Any] = {"group": name or "not known", "n": int(here.sum()), "malignant": int(truth[here].sum())}
        if here.sum() >= least:
            row |= figures(truth[here], probability[here], threshold, mine, times)
        rows.append(row)
    return rows
