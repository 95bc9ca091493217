"""What the accuracy gate computes from masks: one variant beside the reference, judged by the rule; no model is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai_engine.evaluation.agreement import agreement
from ai_engine.evaluation.metrics import bootstrap_mean, dice
from ai_engine.packages import Composite, Label
from ai_engine.packages.accuracy import REFERENCE, CaseDice, Cost, RegionOutcome, Rule, Variant, Way, judge
from ai_engine.prediction import InputVolume

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MeasuredCase:
    """A case in memory: inputs, and the truth of every region."""

    name: str
    inputs: Mapping[str, InputVolume]
    truth: Mapping[str, Mask]
    spacing_mm: tuple[float, float, float]


@dataclass(eq=False)
class Ran:
    """What one way answered, by case, and what it cost."""

    way: Way
    backend: str = ""
    precision: str = ""
    masks: dict[str, Labels] = field(default_factory=dict)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    tflop: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    hd95_mm: dict[tuple[str, str], float | None] = field(default_factory=dict)
    """By case and region, as they are asked for."""


def region_mask(mask: Labels, entry: Label | Composite) -> Mask:
    """Where a mask holds a region."""
    return np.isin(mask, entry.labels if isinstance(entry, Composite) else (entry.label,))


def compare_variant(
    name: str,
    run: Ran,
    reference: Ran,
    cases: Mapping[str, MeasuredCase],
    regions: Mapping[str, Label | Composite],
    rule: Rule,
    reviewed: Mapping[str, str],
) -> Variant:
    """One variant beside the reference, region by region, and whether it passes the rule."""
    outcomes: dict[str, RegionOutcome] = {}
    worst: dict[str, str] = {}
    by_case: dict[str, CaseDice] = {case: CaseDice(case=case, dice={}, agreement={}) for case in cases}
    for key, entry in regions.items():
        losses = {}
        missed = 0
        for case, content in cases.items():
            found, usual = region_mask(run.masks[case], entry), region_mask(reference.masks[case], entry)
            truth = content.truth[key]
            own = dice(found, truth)
            losses[case] = dice(usual, truth) - own
            by_case[case].dice[key] = round(own, 5)
            by_case[case].agreement[key] = round(dice(found, usual), 5)
            missed += newly_missed(found, usual, truth, content.spacing_mm, rule.lesion_ml)
        worst[key] = max(losses, key=lambda case: losses[case])
        mean = bootstrap_mean(list(losses.values()))
        own_mm, change_mm = _lengths(run, reference, cases, key, entry)
        outcomes[key] = RegionOutcome(
            dice=round(float(np.mean([entry.dice[key] for entry in by_case.values()])), 5),
            loss=round(mean.value, 5),
            loss_ci95=(round(mean.low, 5), round(mean.high, 5)),
            worst_loss=round(losses[worst[key]], 5),
            agreement=round(float(np.mean([entry.agreement[key] for entry in by_case.values()])), 5),
            hd95_mm=own_mm,
            hd95_change_mm=change_mm,
            newly_missed=missed,
        )
    shortest = min(min(case.spacing_mm) for case in cases.values())
    reasons = () if name == REFERENCE else judge(outcomes, worst, rule, shortest, reviewed)
    return Variant(
        name=name,
        way=run.way,
        precision=run.precision,
        backend=run.backend,
        passed=not reasons,
        reasons=reasons,
        cost=Cost(
            wall_s=round(float(np.mean(run.wall_s)), 2),
            cpu_s=round(float(np.mean(run.cpu_s)), 2),
            cpu_median_s=round(float(np.median(run.cpu_s)), 2),
            passes=float(np.mean(run.passes)),
            tflop=round(float(np.mean(run.tflop)), 3) if run.tflop else None,
            peak_mb=round(run.peak_mb),
        ),
        regions=outcomes,
        cases=tuple(by_case.values()),
    )


def _lengths(
    run: Ran, reference: Ran, cases: Mapping[str, MeasuredCase], key: str, entry: Label | Composite
) -> tuple[float | None, float | None]:
    """Mean HD95 and its change, over the cases in which both have one."""
    pairs = [(_hd95_mm(run, case, key, entry), _hd95_mm(reference, case, key, entry)) for case in cases.values()]
    both = [(here, there) for here, there in pairs if here is not None and there is not None]
    if not both:
        return None, None
    own, change = np.mean([here for here, _ in both]), np.mean([here - there for here, there in both])
    return round(float(own), 3), round(float(change), 3)


def _hd95_mm(run: Ran, case: MeasuredCase, key: str, entry: Label | Composite) -> float | None:
    """Computed once for each answer: the reference's is asked for by every variant."""
    if (case.name, key) not in run.hd95_mm:
        found = region_mask(run.masks[case.name], entry)
        run.hd95_mm[case.name, key] = agreement(found, case.truth[key], case.spacing_mm, 1.0).hd95_mm
    return run.hd95_mm[case.name, key]


def newly_missed(found: Mask, usual: Mask, truth: Mask, spacing_mm: tuple[float, float, float], limit_ml: float) -> int:
    """Connected parts of the truth above a size that the reference touches and this answer does not."""
    from scipy import ndimage

    parts, count = ndimage.label(truth, np.ones((3, 3, 3)))
    if not count:
        return 0
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing_mm)) / 1000
    large = set(np.flatnonzero(sizes > limit_ml).tolist()) - {0}
    return len((large & set(np.unique(parts[usual]).tolist())) - set(np.unique(parts[found]).tolist()))
