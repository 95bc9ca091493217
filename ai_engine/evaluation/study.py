"""A package on a labelled dataset: every region of every case, with intervals over patients, as numbers and a page."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.engine import Engine
from ai_engine.evaluation.agreement import Agreement, agreement
from ai_engine.evaluation.datasets import (
    Dataset,
    DatasetError,
    LabelledCase,
    read_image,
    read_label,
    values_of,
)
from ai_engine.evaluation.metrics import bootstrap_mean
from ai_engine.evaluation.sheet import draw_sheet
from ai_engine.packages import Composite, Label
from dicom_node.refusals import Refused

Say = Callable[[str], None]
TOLERANCE_MM = 2.0
COLLAPSE_SHARE = 0.99
"""One label takes this much of all that is labelled, while the truth is more even: the model has collapsed."""

MEASURES = (
    "dice", "iou", "sensitivity", "specificity", "hd95_mm", "surface_dice", "volume_error_ml", "volume_error_percent",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CaseAgreement:
    """One case: agreement by region key, or the refusal that kept it from being read; and where its picture lies."""

    case: LabelledCase
    regions: Mapping[str, Agreement]
    seconds: float
    refusal: Mapping[str, str] | None = None
    picture: Path | None = None

    @property
    def lowest_dice(self) -> float:
        """Of its regions; above 1 when there are none."""
        return min((found.dice for found in self.regions.values()), default=2.0)


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that an evaluation found out."""

    model: str
    digest_sha256: str
    identity: Mapping[str, Any]
    dataset: str
    regions: Mapping[str, str]
    """Region key to name, of those that the dataset has a truth for."""
    not_measured: tuple[str, ...]
    cases: tuple[CaseAgreement, ...]
    shares: Mapping[str, tuple[float, float]]
    """Region key of a label to its share of all labelled voxels: predicted, true."""
    collapsed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``evaluation.json``."""
        return {
            "model": self.model,
            "digest_sha256": self.digest_sha256,
            "run_as": dict(self.identity),
            "dataset": self.dataset,
            "tolerance_mm": TOLERANCE_MM,
            "not_measured": list(self.not_measured),
            "summary": {key: summarise(self.cases, key) for key in self.regions},
            "class_shares": {key: {"predicted": p, "true": t} for key, (p, t) in self.shares.items()},
            "collapsed": self.collapsed,
            "cases": [
                {
                    "case": entry.case.name,
                    "patient": entry.case.patient,
                    "seconds": round(entry.seconds, 3),
                    "refusal": entry.refusal,
                    "regions": {key: asdict(found) for key, found in entry.regions.items()},
                }
                for entry in self.cases
            ],
        }


def evaluate_dataset(
    engine: Engine,
    dataset: Dataset,
    say: Say,
    *,
    pictures: Path | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    roles: Sequence[str] | None = None,
) -> Study:
    """Run a package over every case of a dataset and compare.

    Parameters
    ----------
    pictures
        Folder for a picture of every case: truth and answer as outlines on the first sequence.
    roles
        Hand over only these sequences; default the package's best set that a case has.

    Raises
    ------
    DatasetError
        If a case lacks a sequence, or the dataset knows none of the package's regions.
    """
    description = engine.package.segmentation
    entries: list[Label | Composite] = [*description.labels, *description.composites]
    truths = {entry.key: values_of(entry, description, dataset.names) for entry in entries}
    wanted = {entry.key: entry for entry in entries if truths[entry.key] is not None}
    if not wanted:
        known, has = ", ".join(e.name for e in entries), ", ".join(sorted(set(dataset.names.values())))
        raise DatasetError(f"none of the package's regions ({known}) is among the dataset's labels ({has})")
    sets = (tuple(roles),) if roles else description.accepted_roles
    sequences = [_sequences(case, sets) for case in dataset.cases]  # of all cases before the first one is run
    done: list[CaseAgreement] = []
    predicted_voxels: dict[str, int] = {}
    true_voxels: dict[str, int] = {}
    for case, needed in zip(dataset.cases, sequences, strict=True):
        inputs = {role: read_image(case.images[role], spacing_mm) for role in needed}
        first = inputs[needed[0]]
        labels = read_label(case.label, first, dataset.names)
        started = time.monotonic()
        try:
            mask = engine.run(inputs).mask
        except Refused as refused:
            done.append(CaseAgreement(case, {}, time.monotonic() - started, refused.refusal.to_json()))
            say(f"{case.name:<28} refused: {refused.refusal.code.value}")
            continue
        seconds = time.monotonic() - started
        found = {}
        for key, entry in wanted.items():
            inside, truth = _inside(mask, entry), np.isin(labels, sorted(truths[key] or ()))
            found[key] = agreement(inside, truth, first.affine.spacing_mm, TOLERANCE_MM)
            if isinstance(entry, Label):
                predicted_voxels[key] = predicted_voxels.get(key, 0) + int(inside.sum())
                true_voxels[key] = true_voxels.get(key, 0) + int(truth.sum())
        told = "  ".join(f"{wanted[key].abbreviation} {value.dice:.3f}" for key, value in found.items())
        picture = None
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            picture = pictures / f"{len(done):04d}.png"
            draw_sheet(picture, [(f"{case.name}: Dice {told}", first.array, labels > 0, mask > 0)])
        done.append(CaseAgreement(case, found, seconds, picture=picture))
        say(f"{case.name:<28} Dice {told}  {seconds:.1f} s")
    shares = _shares(predicted_voxels, true_voxels)
    return Study(
        model=engine.package.reference,
        digest_sha256=engine.package.digest_sha256,
        identity={
            "backend": engine.identity.backend,
            "device": engine.identity.device,
            "precision": engine.identity.precision,
            "settings": dict(engine.identity.settings),
            "inputs": list(dict.fromkeys("+".join(needed) for needed in sequences)),
        },
        dataset=dataset.kind,
        regions={key: entry.name for key, entry in wanted.items()},
        not_measured=tuple(entry.name for entry in entries if entry.key not in wanted),
        cases=tuple(done),
        shares=shares,
        collapsed=has_collapsed(shares),
    )


def summarise(cases: Sequence[CaseAgreement], key: str) -> dict[str, Any]:
    """Mean, 95 % bootstrap interval over *patients*, median, worst and n of every measure of one region.

    Cases of one patient are averaged first.  Cases that are empty in truth and prediction count 1 in Dice and are also
    counted apart; distances leave out what has no distance, and say how many that were.
    """
    found = [(entry.case.patient, entry.regions[key]) for entry in cases if key in entry.regions]
    summary: dict[str, Any] = {
        "cases": len(found),
        "patients": len({patient for patient, _ in found}),
        "both_empty": sum(entry.both_empty for _, entry in found),
        "truth_empty": sum(entry.truth_ml == 0 for _, entry in found),
    }
    for measure in MEASURES:
        by_patient: dict[str, list[float]] = {}
        for patient, entry in found:
            value = getattr(entry, measure)
            if value is not None:
                by_patient.setdefault(patient, []).append(value)
        values = [statistics.fmean(several) for several in by_patient.values()]
        if values:
            mean = bootstrap_mean(values)
            summary[measure] = {
                "mean": mean.value,
                "low": mean.low,
                "high": mean.high,
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "n": mean.n,
            }
    return summary


def has_collapsed(shares: Mapping[str, tuple[float, float]]) -> bool:
    """Whether one class, or background, takes (nearly) all that is predicted where the truth has several."""
    predicted = max((share for share, _ in shares.values()), default=0.0)
    true = max((share for _, share in shares.values()), default=0.0)
    return predicted == 0.0 < true or predicted >= COLLAPSE_SHARE > true > 0.0


def _sequences(case: LabelledCase, sets: Sequence[Sequence[str]]) -> Sequence[str]:
    """The first set of sequences that a case has."""
    needed = next((wanted for wanted in sets if set(wanted) <= set(case.images)), None)
    if needed is None:
        expected = " or ".join(", ".join(wanted) for wanted in sets)
        raise DatasetError(f"case {case.name}: sequences {expected} expected, found {', '.join(sorted(case.images))}")
    return needed


def _inside(mask: npt.NDArray[np.uint8], entry: Label | Composite) -> npt.NDArray[np.bool_]:
    return np.isin(mask, entry.labels if isinstance(entry, Composite) else (entry.label,))


def _shares(predicted: Mapping[str, int], true: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    found, wanted = sum(predicted.values()) or 1, sum(true.values()) or 1
    return {key: (predicted[key] / found, true[key] / wanted) for key in predicted}
