"""From logits to probabilities, and where the threshold lies.

Three ways are fitted on validation pictures and compared by the log loss of a cross-validation over patients and
lesions; the simplest within a hair of the best is taken.  Pictures may be weighed, so that a set with 40 % malignant
pictures speaks for a clinic with 20 %: a calibrated probability is one for a stated share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ai_engine.evaluation.skin_scores import Figure, bootstrapped_all, confusion
from ai_engine.packages.classification import Calibration, OperatingPoint

Floats = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Method = Literal["temperature", "platt", "isotonic"]

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
"""From the fewest numbers to the most."""
HAIR = 0.005
"""A difference of log loss that counts for nothing."""
MOST_POINTS = 24


@dataclass(frozen=True)
class Fitted:
    """A calibration and what each way lost in the cross-validation (log loss, weighed)."""

    calibration: Calibration
    log_loss: dict[str, float]


def operating_point(
    truth: Truth, said: Floats, threshold: float, groups: npt.NDArray[np.int64], data: str
) -> tuple[OperatingPoint, dict[str, Figure]]:
    """What a threshold does on `data`: sensitivity and specificity, and both with intervals over `groups`."""
    found = bootstrapped_all(
        {
            "sensitivity": lambda t, p: confusion(t, p, threshold).sensitivity,
            "specificity": lambda t, p: confusion(t, p, threshold).specificity,
        },
        truth,
        said,
        groups,
    )
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    point = OperatingPoint(
        sensitivity=round(sensitivity.value, 4),
        specificity=round(specificity.value, 4),
        sensitivity_ci95=(round(sensitivity.low, 4), round(sensitivity.high, 4)),
        specificity_ci95=(round(specificity.low, 4), round(specificity.high, 4)),
        n=len(truth),
        data=data,
    )
    return point, found


def weights_for(truth: Truth, share: float | None) -> Floats:
    """Weights under which `share` of the pictures are malignant; None weighs all alike.  They sum to the count.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1.
    """
    weights = np.ones(len(truth))
    if share is None:
        return weights
    if not 0 < share < 1:
        raise ValueError(f"a share between 0 and 1 expected, found {share:g}")
    weights[truth] = share * len(truth) / max(int(truth.sum()), 1)
    weights[~truth] = (1 - share) * len(truth) / max(int((~truth).sum()), 1)
    return weights


def fit(method: Method, logits: Floats, truth: Truth, weights: Floats, population: str) -> Calibration:
    """Fit one way; ``temperature`` divides the logit, ``platt`` is a line through it, ``isotonic`` any rising curve."""
    if method == "isotonic":
        points = _isotonic(_sigmoid(logits), truth.astype(float), weights)
        return Calibration(method="isotonic", points=points, population=population)
    scale, offset = _line(logits, truth.astype(float), weights, with_offset=method == "platt")
    if method == "platt":
        return Calibration(method="platt", scale=round(scale, 5), offset=round(offset, 5), population=population)
    return Calibration(method="temperature", temperature=round(1 / scale, 5), population=population)


def choose(
    logits: Floats,
    truth: Truth,
    groups: npt.NDArray[np.int64],
    population: str,
    *,
    weights: Floats | None = None,
    methods: Sequence[Method] = METHODS,
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """Compare the ways on held-back groups, then fit the chosen one on everything.

    Parameters
    ----------
    weights
        Of every picture (`weights_for`); None weighs all alike.
    """
    weights = weights_for(truth, None) if weights is None else weights
    random = np.random.default_rng(seed)
    different = np.unique(groups)
    fold_of = dict(zip(different.tolist(), random.permutation(len(different)) % folds, strict=True))
    fold = np.array([fold_of[group] for group in groups.tolist()])
    losses: dict[str, float] = {}
    for method in methods:
        total = 0.0
        for held in range(folds):
            here = fold == held
            if not here.any() or len(set(truth[~here].tolist())) < 2:
                continue
            fitted = fit(method, logits[~here], truth[~here], weights[~here], "a fold")
            said = np.array([fitted.probability(float(value)) for value in logits[here]])
            total += float((weights[here] * _loss(truth[here], said)).sum())
        losses[method] = total / float(weights.sum())
    best = min(losses.values())
    chosen = next(method for method in methods if losses[method] <= best + HAIR)
    return Fitted(fit(chosen, logits, truth, weights, population), losses)


def _loss(truth: Truth, said: Floats) -> Floats:
    kept = np.clip(said, 1e-3, 1 - 1e-3)
    return np.asarray(-np.where(truth, np.log(kept), np.log(1 - kept)))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


def _line(logits: Floats, truth: Floats, weights: Floats, *, with_offset: bool) -> tuple[float, float]:
    """Scale and offset of least log loss, by Newton's method with a whiff of ridge so that it always ends."""
    design = np.stack((logits, np.ones_like(logits) if with_offset else np.zeros_like(logits)), 1)
    start = np.array([1.0, 0.0])
    answer, ridge = start.copy(), 1e-3 * np.eye(2)
    for _ in range(100):
        said = _sigmoid(design @ answer)
        slope = design.T @ (weights * (said - truth)) + ridge @ (answer - start)
        bend = (design * (weights * said * (1 - said))[:, None]).T @ design + ridge
        step = np.linalg.solve(bend, slope)
        answer -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            break
    return max(float(answer[0]), 0.02), float(answer[1]) if with_offset else 0.0


def _isotonic(scores: Floats, truth: Floats, weights: Floats) -> tuple[tuple[float, float], ...]:
    """Pool adjacent violators; the middle of every pool is a point of a rising curve."""
    order = np.argsort(scores, kind="stable")
    pools: list[list[float]] = []  # weight, weighed truth, weighed score
    for score, is_ill, weight in zip(scores[order], truth[order], weights[order], strict=True):
        pools.append([weight, weight * is_ill, weight * score])
        while len(pools) > 1 and pools[-2][1] / pools[-2][0] >= pools[-1][1] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [first + second for first, second in zip(pools[-1], last, strict=True)]
    places = [(round(score / weight, 5), ill / weight) for weight, ill, score in pools]
    if len(places) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(places) - 1, MOST_POINTS).round().astype(int))
        places = [places[index] for index in kept]
    rising: list[tuple[float, float]] = []
    for score, share in places:
        if not rising or score > rising[-1][0]:
            rising.append((score, round(min(max(share, 0.001), 0.999), 5)))
    if len(rising) < 2:
        only = rising[0][1]
        return (0.0, only), (1.0, only)
    return tuple(rising)


def settled(said: Floats, threshold: float) -> float:
    """A threshold in the middle between `threshold`, one of the said probabilities, and the next lower one.

    So that no picture lies on the threshold itself, where the last digit of an arithmetic would decide.
    """
    below = said[said < threshold]
    lower = float(below.max()) if len(below) else threshold / 2
    middle = (lower + threshold) / 2
    short = float(f"{middle:.4g}")
    return min(max(short if lower < short < threshold else middle, 1e-9), 1 - 1e-9)
