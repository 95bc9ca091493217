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
    by_case: dict[str, tuple[dict[str, float], dict[str, float]]] = {case: ({}, {}) for case in cases}
    for key, entry in regions.items():
        found = {case: region_mask(run.masks[case], entry) for case in cases}
        usual = {case: region_mask(reference.masks[case], entry) for case in cases}
        losses = {}
        for case, content in cases.items():
            truth = content.truth[key]
            own = dice(found[case], truth)
            losses[case] = dice(usual[case], truth) - own
            by_case[case][0][key] = round(own, 5)
            by_case[case][1][key] = round(dice(found[case], usual[case]), 5)
        worst[key] = max(losses, key=lambda case: losses[case])
        mean = bootstrap_mean(list(losses.values()))
        lengths = _lengths(found, usual, cases, key)
        outcomes[key] = RegionOutcome(
            dice=round(float(np.mean([by_case[case][0][key] for case in cases])), 5),
            loss=round(mean.value, 5),
            loss_ci95=(round(mean.low, 5), round(mean.high, 5)),
            worst_loss=round(losses[worst[key]], 5),
            agreement=round(float(np.mean([by_case[case][1][key] for case in cases])), 5),
            hd95_mm=lengths[0],
            hd95_change_mm=lengths[1],
            newly_missed=sum(
                newly_missed(found[case], usual[case], content.truth[key], content.spacing_mm, rule.lesion_ml)
                for case, content in cases.items()
            ),
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
            passes=float(np.mean(run.passes)),
            tflop=round(float(np.mean(run.tflop)), 3) if run.tflop else None,
            peak_mb=round(run.peak_mb),
        ),
        regions=outcomes,
        cases=tuple(CaseDice(case=case, dice=both[0], agreement=both[1]) for case, both in by_case.items()),
    )


def _lengths(
    found: Mapping[str, Mask], usual: Mapping[str, Mask], cases: Mapping[str, MeasuredCase], key: str
) -> tuple[float | None, float | None]:
    """Mean HD95 and its change, over the cases in which both have one."""
    own, change = [], []
    for name, case in cases.items():
        here = agreement(found[name], case.truth[key], case.spacing_mm, 1.0).hd95_mm
        there = agreement(usual[name], case.truth[key], case.spacing_mm, 1.0).hd95_mm
        if here is not None and there is not None:
            own.append(here)
            change.append(here - there)
    return (round(float(np.mean(own)), 3), round(float(np.mean(change)), 3)) if own else (None, None)


def newly_missed(found: Mask, usual: Mask, truth: Mask, spacing_mm: tuple[float, float, float], limit_ml: float) -> int:
    """Connected parts of the truth above a size that the reference touches and this answer does not."""
    from scipy import ndimage

    parts, count = ndimage.label(truth, np.ones((3, 3, 3)))
    if not count:
        return 0
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing_mm)) / 1000
    large = set(np.flatnonzero(sizes > limit_ml).tolist()) - {0}
    return len((large & set(np.unique(parts[usual]).tolist())) - set(np.unique(parts[found]).tolist()))
