"""A classifier on a labelled table of pictures: every answer, every figure, by group, with intervals.

Pictures go through the package's own runner at their own size, as in the product, without the quality gate: a gate that
refuses hard pictures would flatter the figures.  How many it refuses is the gate's own measurement.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.backends import NetworkOptions
from ai_engine.evaluation.skin_scores import PREVALENCES, at_prevalence, by_group, collapsed, figures
from ai_engine.packages import ModelPackage
from ai_engine.packages.classification import Classification
from ai_engine.runners.classifier import ClassifierRunner
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin_cases import SkinCase, found_pictures
from ai_engine.training.skin_folds import groups_of

Say = Callable[[str], None]
Pixels = npt.NDArray[np.uint8]

AGES = ((0, 30, "under 30"), (30, 45, "30 to 44"), (45, 60, "45 to 59"), (60, 75, "60 to 74"), (75, 200, "75 and over"))
WORST = 24


@dataclass(frozen=True, eq=False)
class SkinStudy:
    """Answers and figures.

    Attributes
    ----------
    cases
        In the order of `logits`.
    logits
        Output key to ``(N,)``.
    probability
        The same after calibration.
    told
        Everything measured, as JSON.
    misses
        Thumbnails ``(side, side, 3)`` and captions of the malignant pictures with the lowest probability, lowest first.
    """

    cases: Sequence[SkinCase]
    logits: Mapping[str, npt.NDArray[np.float64]]
    probability: Mapping[str, npt.NDArray[np.float64]]
    told: dict[str, Any]
    misses: Sequence[tuple[str, Pixels]]

    @property
    def collapsed(self) -> bool:
        """Whether any output answers nearly all pictures alike while the truth has both."""
        return any(bool(entry["collapsed"]) for entry in self.told["outputs"].values())


def truth_of(cases: Sequence[SkinCase], key: str) -> npt.NDArray[np.bool_]:
    """What is true about an output: ``melanoma`` has its own column, every other output means malignant."""
    return np.array([case.melanoma if key == "melanoma" else case.malignant for case in cases], dtype=bool)


def age_group(age: float | None) -> str:
    """The row of the table by age."""
    return next((name for low, high, name in AGES if age is not None and low <= age < high), "")


def pixels_of(content: bytes, name: str) -> Pixels:
    """One picture at its own size, upright, ``(rows, columns, 3)`` sRGB."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingDataError(f"{name}: expected a JPEG or PNG picture that can be read") from error


def answer_pictures(
    runner: ClassifierRunner, cases: Sequence[SkinCase], folder: Path, say: Say
) -> dict[str, npt.NDArray[np.float64]]:
    """Logits of every case, by output, in the cases' order.

    Raises
    ------
    TrainingDataError
        If pictures are missing.
    """
    place = {case.name: index for index, case in enumerate(cases)}
    keys = [output.key for output in runner.description.outputs]
    found = {key: np.full(len(cases), np.nan) for key in keys}
    waiting: list[tuple[int, Pixels]] = []
    done = 0

    def answer() -> None:
        nonlocal done
        for (index, _), scores in zip(waiting, runner.run([pixels for _, pixels in waiting]), strict=True):
            for key in keys:
                found[key][index] = scores.logits[key]
        done += len(waiting)
        if done // 500 != (done - len(waiting)) // 500:
            say(f"{done} of {len(cases)} pictures answered")
        waiting.clear()

    for name, content in found_pictures(cases, folder):
        waiting.append((place[name], pixels_of(content, name)))
        if len(waiting) == runner.batch:
            answer()
    if waiting:
        answer()
    lost = int(np.isnan(found[keys[0]]).sum())
    if lost:
        raise TrainingDataError(f"{lost} of {len(cases)} pictures of the table are neither in folders nor in tars")
    return found


def evaluate_pictures(
    package: ModelPackage,
    cases: Sequence[SkinCase],
    folder: Path,
    say: Say,
    *,
    options: NetworkOptions | None = None,
    description: Classification | None = None,
    bootstraps: int = 1000,
) -> SkinStudy:
    """Run a package over labelled pictures and measure it.

    Parameters
    ----------
    description
        With a site's override applied; None takes the package's own.

    Raises
    ------
    TrainingDataError
        If there is no case or a picture is missing.
    """
    if not cases:
        raise TrainingDataError("the table has no picture of the wanted part")
    runner = ClassifierRunner(package, options or NetworkOptions(device="cpu"))
    logits = answer_pictures(runner, cases, folder, say)
    return measured(package, cases, logits, folder, description=description, bootstraps=bootstraps)


def measured(
    package: ModelPackage,
    cases: Sequence[SkinCase],
    logits: Mapping[str, npt.NDArray[np.float64]],
    folder: Path,
    *,
    description: Classification | None = None,
    bootstraps: int = 1000,
) -> SkinStudy:
    """The figures of answers that were already given."""
    description = description or package.classification
    groups = groups_of(cases)
    outputs: dict[str, Any] = {}
    probability = probabilities(description, logits)
    for output in description.outputs:
        key, truth, said = output.key, truth_of(cases, output.key), probability[output.key]
        whole = figures(truth, said, output.threshold, groups, times=bootstraps)
        sensitivity = whole["figures"]["sensitivity"]["value"]
        specificity = whole["figures"]["specificity"]["value"]
        known = sensitivity is not None and specificity is not None
        outputs[key] = {
            **whole,
            "calibration": output.calibration.method,
            "collapsed": collapsed(truth, said, output.threshold),
            "prevalence": [at_prevalence(sensitivity, specificity, p) for p in PREVALENCES] if known else [],
            "by": {
                kind: by_group(truth, said, output.threshold, labels, groups, times=max(bootstraps // 3, 1))
                for kind, labels in _labels(cases).items()
            },
        }
    told = {
        "model": description.reference,
        "digest_sha256": package.digest_sha256,
        "pictures": len(cases),
        "groups": len(set(groups.tolist())),
        "outputs": outputs,
    }
    first = description.outputs[0].key
    misses = _misses(cases, probability[first], truth_of(cases, first), folder)
    return SkinStudy(cases, logits, probability, json.loads(json.dumps(told)), misses)


def probabilities(
    description: Classification, logits: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """What a description makes of the logits of many pictures, by output."""
    keys = [output.key for output in description.outputs]
    rows = [
        description.probabilities(dict(zip(keys, row, strict=True))) for row in zip(*map(logits.get, keys), strict=True)
    ]
    return {key: np.array([row[key] for row in rows], dtype=np.float64) for key in keys}


def _labels(cases: Sequence[SkinCase]) -> dict[str, list[str]]:
    return {
        "source": [case.source for case in cases],
        "sex": [case.sex for case in cases],
        "age": [age_group(case.age) for case in cases],
        "body site": [case.site for case in cases],
        "diagnosis": [case.diagnosis for case in cases],
    }


def _misses(
    cases: Sequence[SkinCase], probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], folder: Path
) -> list[tuple[str, Pixels]]:
    ill = np.flatnonzero(truth)
    worst = ill[np.argsort(probability[ill], kind="stable")][:WORST]
    wanted = [cases[index] for index in worst]
    pictures = dict(found_pictures(wanted, folder))
    rows = []
    for index in worst:
        case = cases[index]
        with Image.open(io.BytesIO(pictures[case.name])) as picture:
            thumbnail = np.array(picture.convert("RGB").resize((224, 224)))
        rows.append((f"{case.diagnosis or 'malignant'}, {case.source}\n{100 * probability[index]:.1f} %", thumbnail))
    return rows
