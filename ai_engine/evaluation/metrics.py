"""Numbers that compare a mask with the truth, and say how sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CaseResult:
    """One case: how the mask and the truth agree.

    Attributes
    ----------
    dice, precision, recall
        1.0 where both masks are empty.
    false_ml
        Volume of predicted components that touch no truth at all.
    seconds
        Time of the whole run.
    """

    case: str
    patient: str
    source: str
    site: str
    dice: float
    precision: float
    recall: float
    truth_ml: float
    predicted_ml: float
    false_ml: float
    seconds: float


@dataclass(frozen=True)
class Mean:
    """A mean over patients with a 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} (95 % CI {self.low:.3f} to {self.high:.3f}, n = {self.n})"


def dice(first: Mask, second: Mask) -> float:
    """Dice overlap; 1.0 if both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2 * int((first & second).sum()) / total


def precision_recall(predicted: Mask, truth: Mask) -> tuple[float, float]:
    """Share of the prediction that is right, and share of the truth that is found; 1.0 of an empty whole."""
    hit = int((predicted & truth).sum())
    found, wanted = int(predicted.sum()), int(truth.sum())
    return (hit / found if found else 1.0), (hit / wanted if wanted else 1.0)


def false_voxels(predicted: Mask, truth: Mask) -> int:
    """Voxels of the connected parts of the prediction that nowhere touch the truth."""
    from scipy import ndimage

    parts, count = ndimage.label(predicted, np.ones((3, 3, 3)))
    if count == 0:
        return 0
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    touched = np.zeros(count + 1, dtype=bool)
    touched[np.unique(parts[truth])] = True
    touched[0] = True
    return int(sizes[~touched].sum())


def bootstrap_mean(values: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> Mean:
    """Mean with a percentile interval from resampled patients.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = array[random.integers(0, array.size, (draws, array.size))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Mean(float(array.mean()), float(low), float(high), array.size)
