"""What became of the lesions that a classifier was asked about: its figures in use, or that there are too few for one.

A figure is said only where enough outcomes are there for it to mean something; the rule looks at counts alone, never at
the figure, so that a lucky dozen is not told as a success.  What a figure in use cannot say stands with it: only
lesions with an outcome count, and those are the ones that somebody found worth removing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.evaluation.skin_scores import (
    Figure,
    Floats,
    Truth,
    bootstrapped,
    bootstrapped_all,
    brier,
    calibration_error,
    confusion,
    reliability,
)

LEAST_FOR_SHARE = 30
"""Fewest lesions under a share: all of 30 found still leaves a 95 % interval that reaches down to 0.89."""
LEAST_FOR_CALIBRATION = 100
"""Fewest malignant and fewest benign lesions for calibration: the least for judging a prediction model on new patients
(Collins, Ogundimu and Altman, Stat. Med. 35:214, 2016)."""

_Z2 = 1.959964**2


@dataclass(frozen=True)
class Answered:
    """One answer of a model, and what came of the lesion.

    Attributes
    ----------
    probability
        As the model said it, 0..1.
    threshold
        The operating threshold of that answer.
    truth
        Whether the lesion was what the output speaks of; None while nobody knows.
    patient
        Anything that is the same for lesions of one patient.
    """

    probability: float
    threshold: float
    truth: bool | None
    patient: str = ""

    @property
    def is_above(self) -> bool:
        return self.probability >= self.threshold


@dataclass(frozen=True)
class Compared:
    """What a doctor thought before she saw the answer, and what she saw.

    Attributes
    ----------
    impression
        benign, unsure, suspicious, or nothing.
    is_above
        Whether any output was at or above its threshold.
    is_malignant
        None while nobody knows.
    """

    impression: str
    is_above: bool
    is_malignant: bool | None
    patient: str = ""


def disagrees(impression: str, is_above: bool) -> bool:
    """Whether doctor and model said opposite things; `unsure` is opposite to nothing."""
    return (impression, is_above) in (("benign", True), ("suspicious", False))


def audited(answers: Sequence[Answered]) -> dict[str, Any]:
    """Figures of one output of one model version at one threshold, as JSON.

    Every figure is ``{"value", "low", "high", "n"}`` with its 95 % interval, or ``{"too_few": reason, "n", "needed"}``.

    Raises
    ------
    ValueError
        If the answers were given at more than one threshold: their figures are those of no model.
    """
    thresholds = {answer.threshold for answer in answers}
    if len(thresholds) > 1:
        raise ValueError("answers at one threshold expected: ask for each version and setting by itself")
    known = [answer for answer in answers if answer.truth is not None]
    truth = np.array([bool(answer.truth) for answer in known], dtype=bool)
    said = np.array([answer.probability for answer in known], dtype=np.float64)
    groups = _groups(known)
    threshold = thresholds.pop() if thresholds else 0.0
    flagged = said >= threshold
    return {
        "threshold": threshold,
        "answered": len(answers),
        "followed": len(known),
        "followed_above": _share([answer.truth is not None for answer in answers if answer.is_above]),
        "followed_below": _share([answer.truth is not None for answer in answers if not answer.is_above]),
        "positive": int(truth.sum()),
        "patients": len(set(groups.tolist())),
        "confusion": asdict(confusion(truth, said, threshold)),
        "sensitivity": share_of(flagged[truth], groups[truth], "malignant lesions"),
        "specificity": share_of(~flagged[~truth], groups[~truth], "benign lesions"),
        "calibration": _calibration(truth, said, groups),
    }


def disagreement(compared: Sequence[Compared]) -> dict[str, Any]:
    """How often the lesion was malignant where doctor and model said opposite things."""
    known = [one for one in compared if one.is_malignant is not None]
    groups = _groups(known)
    ill = np.array([bool(one.is_malignant) for one in known], dtype=bool)
    found: dict[str, Any] = {"with_impression": sum(bool(one.impression) for one in compared)}
    for name, impression in (("flagged_against_benign", "benign"), ("unflagged_against_suspicious", "suspicious")):
        here = np.array([one.impression == impression and disagrees(impression, one.is_above) for one in known], bool)
        found[name] = {
            "answered": sum(one.impression == impression and disagrees(impression, one.is_above) for one in compared),
            "followed": int(here.sum()),
            "malignant": int(ill[here].sum()),
            "yield": share_of(ill[here], groups[here], "lesions on which they disagreed"),
        }
    return found


def share_of(hits: Truth, groups: npt.NDArray[np.int64], of_what: str) -> dict[str, Any]:
    """A share with its interval, or why none is said.

    The interval is the wider of two: a bootstrap of patients knows that their lesions go together and shrinks to
    nothing at 0 and 1; Wilson's knows neither.
    """
    count = len(hits)
    if count < LEAST_FOR_SHARE:
        reach = f"even {count} of {count} would leave a 95 % interval down to {wilson(count, count)[0]:.2f}"
        return _too_few(count, LEAST_FOR_SHARE, of_what, reach if count else "no outcome yet")
    drawn = bootstrapped(lambda t, _: float(t.mean()) if len(t) else math.nan, hits, hits.astype(np.float64), groups)
    low, high = wilson(int(hits.sum()), count)
    return asdict(Figure(drawn.value, min(low, drawn.low), max(high, drawn.high), count))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); NaN for a share of nothing."""
    if count == 0:
        return math.nan, math.nan
    share = hits / count
    middle = (share + _Z2 / (2 * count)) / (1 + _Z2 / count)
    half = math.sqrt(_Z2 * (share * (1 - share) / count + _Z2 / (4 * count**2))) / (1 + _Z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _calibration(truth: Truth, said: Floats, groups: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Whether probabilities were right: said against seen, in the whole and in ten equally filled bins."""
    fewest = min(int(truth.sum()), int((~truth).sum()))
    if fewest < LEAST_FOR_CALIBRATION:
        why = "with fewer of either, a bent and a straight calibration look alike"
        return _too_few(fewest, LEAST_FOR_CALIBRATION, "lesions of each kind", why)
    drawn = bootstrapped_all(
        {"said_minus_seen": lambda t, p: float(p.mean() - t.mean()), "brier": brier}, truth, said, groups
    )
    return {
        "n": len(truth),
        "mean_probability": float(said.mean()),
        "share": float(truth.mean()),
        **{name: asdict(figure) for name, figure in drawn.items()},
        "expected_calibration_error": calibration_error(truth, said),
        "bins": reliability(truth, said),
    }


def _groups(known: Sequence[Answered | Compared]) -> npt.NDArray[np.int64]:
    """A number for each patient; a lesion of nobody known stands for itself."""
    numbers: dict[str, int] = {}
    names = [answer.patient or f"\0{place}" for place, answer in enumerate(known)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _share(hits: Sequence[bool]) -> Mapping[str, int]:
    return {"known": sum(hits), "of": len(hits)}


def _too_few(count: int, needed: int, of_what: str, why: str) -> dict[str, Any]:
    return {"too_few": f"{count} {of_what} with an outcome, {needed} are needed: {why}", "n": count, "needed": needed}
