"""Numbers about repeated times: mean, spread, interval, percentiles, and whether two arms differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLOPE_MB_PER_100_RUNS = 20.0
"""Memory that grows by more than this per hundred runs, and surely so, is called a leak."""


@dataclass(frozen=True)
class Summary:
    """Repeated measurements of one thing, in the unit of the values."""

    n: int
    mean: float
    sd: float
    low: float
    """Of the 95 % interval of the mean (Student's t)."""
    high: float
    p50: float
    p90: float
    p95: float
    p99: float
    least: float
    most: float


@dataclass(frozen=True)
class Comparison:
    """Two arms: ratio of the medians, and the two-sided Mann-Whitney U test."""

    ratio_of_medians: float
    u: float
    p: float


@dataclass(frozen=True)
class Slope:
    """How memory went with the number of runs."""

    mb_per_100_runs: float
    low: float
    high: float
    verdict: str
    """`steady`, `grows`, or `too few runs`."""


def summarise(values: Sequence[float]) -> Summary:
    """Describe repeated measurements.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not values:
        raise ValueError("nothing was measured: at least one value is needed")
    from scipy import stats

    ordered = sorted(values)
    mean = statistics.fmean(ordered)
    sd = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    half = float(stats.t.ppf(0.975, len(ordered) - 1)) * sd / math.sqrt(len(ordered)) if len(ordered) > 1 else 0.0
    p50, p90, p95, p99 = (float(value) for value in np.percentile(ordered, (50, 90, 95, 99)))
    return Summary(
        n=len(ordered),
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        least=ordered[0],
        most=ordered[-1],
    )


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """How many times longer `theirs` take, and how probable such a difference is without a cause."""
    from scipy import stats

    test = stats.mannwhitneyu(ours, theirs, alternative="two-sided")
    ratio = statistics.median(theirs) / statistics.median(ours)
    return Comparison(ratio, float(test.statistic), float(test.pvalue))


def memory_slope(mb_after_run: Sequence[Sequence[float]]) -> Slope:
    """One least-squares slope over the runs' order, with a 95 % interval; a verdict needs ten runs.

    Parameters
    ----------
    mb_after_run
        Level by level.  Each level has a mean of its own, because more users at once hold more pictures: that is no
        growth.
    """
    levels = [np.asarray(level, dtype=float) for level in mb_after_run if len(level)]
    free = sum(level.size for level in levels) - len(levels) - 1
    if sum(level.size for level in levels) < 10 or free < 1:
        return Slope(0.0, 0.0, 0.0, "too few runs")
    from scipy import stats

    order = np.concatenate([np.arange(level.size) - (level.size - 1) / 2 for level in levels])
    memory = np.concatenate([level - level.mean() for level in levels])
    spread = float(order @ order)
    slope = float(order @ memory) / spread
    error = math.sqrt(float(((memory - slope * order) ** 2).sum()) / free / spread)
    half = float(stats.t.ppf(0.975, free)) * error
    slope, low, high = (100 * value for value in (slope, slope - half, slope + half))
    grows = low > 0 and slope > SLOPE_MB_PER_100_RUNS
    return Slope(slope, low, high, "grows" if grows else "steady")
