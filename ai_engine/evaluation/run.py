"""Run a package over cases and write what came out.

``evaluate`` answers "how good"; ``check_steps`` repeats the cases under other declared slice steps; ``check_behaviour``
shows one volume in many variants. All three use the product's own :class:`~ai_engine.engine.Engine`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ai_engine.engine import Engine
from ai_engine.evaluation.behaviour import variants, with_declared_step
from ai_engine.evaluation.metrics import (
    CaseResult,
    Mask,
    Mean,
    bootstrap_mean,
    dice,
    false_voxels,
    precision_recall,
)
from ai_engine.evaluation.sheet import Row
from ai_engine.phantom import axial_grid
from ai_engine.prediction import InputVolume
from ai_engine.training.cases import Case, Pair, read_pair
from dicom_node.refusals import Refused

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A case with its result and what is needed to draw it."""

    result: CaseResult
    pair: Pair
    predicted: Mask


@dataclass(frozen=True)
class StepCheck:
    """Dice under one declared slice step, against the Dice as declared."""

    step_mm: float
    mean_dice: float
    greatest_change: float


@dataclass(frozen=True)
class VariantResult:
    """Volume found in one variant, and its change against the unchanged volume."""

    variant: str
    volume_ml: float
    change_percent: float


def as_volume(pair: Pair) -> InputVolume:
    """A pair as the engine takes it: axial, centred, modality MR."""
    shape = pair.image.shape
    return InputVolume(pair.image, axial_grid((shape[0], shape[1], shape[2]), pair.spacing_mm), modality="MR")


def predict(engine: Engine, volume: InputVolume) -> tuple[Mask, float]:
    """Mask of everything that is not background, and the seconds it took."""
    role = engine.package.segmentation.inputs[0].role
    start = time.monotonic()
    prediction = engine.run({role: volume})
    return prediction.mask > 0, time.monotonic() - start


def evaluate(
    engine: Engine, cases: Iterable[Case], say: Say, *, refused: dict[str, str] | None = None
) -> list[Evaluated]:
    """Run every case; says one line each.

    Parameters
    ----------
    refused
        Takes the code of every case that the package refuses; such a case has no Dice. Without it a refusal is raised.
    """
    done: list[Evaluated] = []
    for case in cases:
        pair = read_pair(case)
        try:
            predicted, seconds = predict(engine, as_volume(pair))
        except Refused as trouble:
            if refused is None:
                raise
            refusal = trouble.refusal
            refused[case.name] = refusal.code.value
            say(f"{case.name:<28} refused: {refusal.code.value} (expected {refusal.expected}, found {refusal.found})")
            continue
        result = compare(case, pair, predicted, seconds)
        done.append(Evaluated(result, pair, predicted))
        say(
            f"{case.name:<28} Dice {result.dice:.3f}  precision {result.precision:.2f}  recall {result.recall:.2f}  "
            f"{result.truth_ml:.0f} -> {result.predicted_ml:.0f} ml  {seconds:.1f} s"
        )
    return done


def compare(case: Case, pair: Pair, predicted: Mask, seconds: float) -> CaseResult:
    """Put the agreement of one prediction into numbers."""
    voxel_ml = float(np.prod(pair.spacing_mm)) / 1000
    precision, recall = precision_recall(predicted, pair.mask)
    return CaseResult(
        case=case.name,
        patient=case.patient,
        source=case.source,
        site=case.site,
        dice=dice(predicted, pair.mask),
        precision=precision,
        recall=recall,
        truth_ml=float(pair.mask.sum()) * voxel_ml,
        predicted_ml=float(predicted.sum()) * voxel_ml,
        false_ml=false_voxels(predicted, pair.mask) * voxel_ml,
        seconds=seconds,
    )


def check_steps(engine: Engine, done: Sequence[Evaluated], steps_mm: Sequence[float], say: Say) -> list[StepCheck]:
    """Repeat the cases with only the declared slice step changed."""
    checks = []
    for step in steps_mm:
        values = []
        for entry in done:
            mask, _ = predict(engine, with_declared_step(as_volume(entry.pair), step))
            values.append(dice(mask, entry.pair.mask))
        change = max(abs(value - entry.result.dice) for value, entry in zip(values, done, strict=True))
        checks.append(StepCheck(step, float(np.mean(values)), change))
        say(f"declared slice step {step:g} mm: mean Dice {np.mean(values):.3f}, greatest change {change:.4f}")
    return checks


def check_behaviour(engine: Engine, volume: InputVolume, say: Say) -> tuple[list[VariantResult], list[Row]]:
    """Run all variants of a volume; rows for a sheet come along."""
    results: list[VariantResult] = []
    rows: list[Row] = []
    base = 0.0
    for variant in variants(volume):
        mask, _ = predict(engine, variant.volume)
        found = float(mask.sum()) * float(np.prod(variant.volume.affine.spacing_mm)) / 1000
        base = found if not results else base
        change = 100 * (found - base) / base if base else 0.0
        results.append(VariantResult(variant.name, found, change))
        rows.append((f"{variant.name}: {found:.1f} ml ({change:+.1f} %)", variant.volume.array, None, mask))
        say(f"{variant.name:<42} {found:7.1f} ml  {change:+6.1f} %")
    return results, rows


def means(done: Sequence[Evaluated]) -> dict[str, Mean]:
    """Mean Dice by collection."""
    sources = sorted({entry.result.source for entry in done})
    return {
        source: bootstrap_mean([entry.result.dice for entry in done if entry.result.source == source])
        for source in sources
    }


def as_json(
    engine: Engine,
    done: Sequence[Evaluated],
    steps: Sequence[StepCheck] = (),
    behaviour: Mapping[str, Sequence[VariantResult]] | None = None,
) -> dict[str, Any]:
    """Everything measured, for a file."""
    return {
        "model": engine.package.reference,
        "digest_sha256": engine.package.digest_sha256,
        "backend": engine.identity.backend,
        "precision": engine.identity.precision,
        "settings": dict(engine.identity.settings),
        "dice": {source: asdict(mean) for source, mean in means(done).items()},
        "cases": [asdict(entry.result) for entry in sorted(done, key=lambda entry: entry.result.dice)],
        "declared_steps": [asdict(step) for step in steps],
        "behaviour": {name: [asdict(result) for result in found] for name, found in (behaviour or {}).items()},
    }
