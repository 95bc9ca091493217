"""The end of a skin training: probabilities, threshold, package, figures, card, one page.

The package is the fold with the best AUC, calibrated on the pictures which that fold never learnt from.  Its figures
are those of the same pictures and so flatter a little, for the epoch and the fold were chosen by them; the mean over
folds stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from ai_engine.backends import NetworkOptions
from ai_engine.evaluation.skin_page import (
    CONFUSION,
    LEARNING,
    MISSES,
    PLOTS,
    RELIABILITY,
    ROC,
    card_section,
    write_study,
)
from ai_engine.evaluation.skin_plots import draw_learning
from ai_engine.evaluation.skin_scores import threshold_for
from ai_engine.evaluation.skin_study import SkinStudy, answer_pictures, measured, truth_of
from ai_engine.packages import load_package, seal_package
from ai_engine.runners.classifier import ClassifierRunner
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin import Say, SkinTraining
from ai_engine.training.skin_calibrate import Fitted, choose, operating_point, settled, weights_for
from ai_engine.training.skin_cases import SkinCase
from ai_engine.training.skin_folds import groups_of
from ai_engine.training.skin_package import WITHIN, Decided, SkinPackage, SkinWords, write_skin_package
from ai_engine.training.skin_trainer import HEADS

SOURCE_POSITIVES = 25
"""From so many positives on, a source must reach the wanted sensitivity on its own."""
CALIBRATION_POPULATION = "{n} held-back pictures, {positive} of them positive{weighed}"
WEIGHED = ", weighed so that {share:.0%} of all are malignant"


def decide(
    cases: Sequence[SkinCase],
    logits: Mapping[str, npt.NDArray[np.float64]],
    *,
    sensitivity: float,
    share: float | None,
    data: str,
) -> tuple[dict[str, Decided], dict[str, Fitted]]:
    """Calibration, threshold and operating point of every output, from answers to held-back pictures.

    Parameters
    ----------
    sensitivity
        What share of the positives the threshold must find, overall and in every source with enough of them.
    share
        Share of malignant pictures that all probabilities shall be right for; None: that of the pictures.
    data
        What the pictures are, in words.

    Raises
    ------
    TrainingDataError
        If an output has no positive or no negative picture.
    """
    groups, weights = groups_of(cases), weights_for(truth_of(cases, HEADS[0]), share)
    said: dict[str, npt.NDArray[np.float64]] = {}
    decided: dict[str, Decided] = {}
    ways: dict[str, Fitted] = {}
    for key in HEADS:
        truth, given = truth_of(cases, key), np.asarray(logits[key], dtype=np.float64)
        if truth.all() or not truth.any():
            raise TrainingDataError(f"output {key}: positive and negative held-back pictures were expected")
        weighed = "" if share is None else WEIGHED.format(share=share)
        population = CALIBRATION_POPULATION.format(n=len(truth), positive=int(truth.sum()), weighed=weighed)
        fitted = choose(given, truth, groups, f"{data}: {population}", weights=weights)
        said[key] = np.array([fitted.calibration.probability(float(value)) for value in given])
        if key in WITHIN:
            said[key] = np.minimum(said[key], said[WITHIN[key]])
        threshold = settled(said[key], _threshold(cases, truth, said[key], sensitivity))
        point, _ = operating_point(truth, said[key], threshold, groups, data)
        decided[key], ways[key] = Decided(threshold, fitted.calibration, point.model_dump(mode="json")), fitted
    return decided, ways


def _threshold(
    cases: Sequence[SkinCase], truth: npt.NDArray[np.bool_], said: npt.NDArray[np.float64], sensitivity: float
) -> float:
    """The highest threshold that is sensitive enough on all pictures and in every source with enough positives."""
    sources = np.array([case.source for case in cases])
    parts = [np.ones(len(truth), dtype=bool)]
    parts += [sources == name for name in np.unique(sources) if (truth & (sources == name)).sum() >= SOURCE_POSITIVES]
    return min(threshold_for(truth[part], said[part], sensitivity) for part in parts)


def metrics_of(study: SkinStudy, data: str) -> list[dict[str, Any]]:
    """Entries for ``metrics`` of ``model.yaml``: AUC of every output, on all pictures and by source."""
    rows = []
    for key, entry in study.told["outputs"].items():
        for group, figures in [("", entry), *((f"source: {row['group']}", row) for row in entry["by"]["source"])]:
            found = figures.get("figures", {}).get("auc")
            if found and found["value"] is not None:
                row: dict[str, Any] = {
                    "name": "AUC",
                    "value": round(found["value"], 4),
                    "ci95": [round(found["low"], 4), round(found["high"], 4)],
                    "n": found["n"],
                    "data": data,
                    "output": key,
                }
                rows.append(row | ({"group": group} if group else {}))
    return rows


def finish_skin(training: SkinTraining, version: str, table: Path, say: Say) -> Path:
    """Write ``work/package/<name>/<version>`` and ``work/evaluation``; the package's folder.

    Raises
    ------
    TrainingDataError
        If the shipped network collapsed to one class.
    """
    recipe, work = training.recipe, training.work
    best = {name: max((entry["auc"] for entry in training.runs[name]), default=0.0) for name in training.names}
    chosen = max(training.names, key=lambda name: best[name])
    say(f"packaged: fold {int(chosen) + 1}, AUC {best[chosen]:.4f}; mean over folds {np.mean(list(best.values())):.4f}")
    held = training.held_back(chosen)
    cases = [training.cases[index] for index in held]
    state = load_file(training.best_of(chosen))
    test = np.asarray(training.pictures[held[0]])
    size, data = recipe.how.stages[-1].size, f"held-back pictures of fold {int(chosen) + 1} of {len(training.names)}"
    package = SkinPackage(recipe.words, version, recipe.how.architecture, size)
    folder = write_skin_package(work / "package", package, [state], "", test)
    logits = answer_pictures(runner_of(folder), cases, table.parent, say)
    decided, ways = decide(cases, logits, sensitivity=recipe.sensitivity, share=recipe.malignant_share, data=data)
    package = SkinPackage(recipe.words, version, recipe.how.architecture, size, decided=decided)
    folder = write_skin_package(work / "package", package, [state], "", test)
    study = measured(load_package(folder), cases, logits, table.parent)
    if study.collapsed:
        raise TrainingDataError("the network collapsed: nearly all answers are one class; no package is made of it")
    package = SkinPackage(
        recipe.words, version, recipe.how.architecture, size, decided=decided, metrics=metrics_of(study, data)
    )
    how = training_words(training, best)
    card = skin_card(recipe.words, version, study, data, how, ways)
    folder = write_skin_package(work / "package", package, [state], card, test)
    evaluation = work / "evaluation"
    evaluation.mkdir(exist_ok=True)
    draw_learning({f"fold {int(n) + 1}": training.runs[n] for n in training.names}, evaluation / LEARNING)
    title = f"{recipe.words.name} {version}: training and figures"
    page = write_study(study, evaluation, title, {"Learning curves": LEARNING})
    add_figures(folder, evaluation)
    say(f"figures: {page.name} in {evaluation.name}")
    return folder


def add_figures(folder: Path, evaluation: Path) -> str:
    """Lay the evaluation's pictures beside the card that names them and seal anew; the model digest."""
    for name in PLOTS:
        (folder / name).write_bytes((evaluation / name).read_bytes())
        (folder / name).chmod(0o644)
    return seal_package(folder)


def runner_of(folder: Path, threads: int = 1) -> ClassifierRunner:
    """The runner of a package on the CPU, as the product opens it."""
    return ClassifierRunner(load_package(folder), NetworkOptions(device="cpu", threads=threads))


def training_words(training: SkinTraining, best: Mapping[str, float]) -> str:
    """How it was trained, in words."""
    recipe = training.recipe
    values = np.array(list(best.values()))
    folds = (
        f"{len(values)} folds, stratified by source and class, disjoint by patient and lesion; best epoch of each by "
        f"AUC (malignant): {', '.join(f'{value:.3f}' for value in values)}; mean {values.mean():.3f}, "
        f"standard deviation {values.std():.3f}"
        if len(values) > 1
        else f"the table's own split into train and val; AUC (malignant) of the best epoch {values[0]:.3f}"
    )
    sizes = ", then ".join(str(stage.size) for stage in recipe.how.stages)
    return (
        f"{recipe.how.architecture}, {recipe.epochs} epochs of {len(training.cases)} pictures, copies of {sizes} "
        f"pixels, {training.used_s / 60:.0f} minutes; {folds}."
    )


def skin_card(
    words: SkinWords, version: str, study: SkinStudy, data: str, how: str, ways: Mapping[str, Fitted], more: str = ""
) -> str:
    """The text of ``CARD.md``."""
    losses = "; ".join(
        f"`{key}` {fitted.calibration.method} (log loss "
        + ", ".join(f"{way} {loss:.4f}" for way, loss in fitted.log_loss.items())
        + ")"
        for key, fitted in ways.items()
    )
    parts = [
        f"# {words.name} {version}",
        f"{words.title}. **{words.intended_use}**",
        "## What it was trained on",
        words.training_data,
        f"Licence of the weights: {words.licence}",
        "## How",
        how,
        "Batches are balanced by source and by class within each source, so that a source says nothing about the "
        "class; hairs, rulers, ink, stickers and microscope surrounds are drawn with the same chance on every class. "
        "The heat map is a class activation map: where evidence was seen, not where a lesion ends.",
        f"Calibration, chosen by cross-validation over patients and lesions: {losses}.",
        *([more] if more else []),
        "## What was measured",
        card_section(study, data),
        f"Pictures: [ROC]({ROC}), [reliability]({RELIABILITY}), [confusion matrix]({CONFUSION}), "
        f"[the {len(study.misses)} worst misses]({MISSES}).",
        "## Limits",
        "\n".join(f"- {limit}" for limit in words.limits),
    ]
    return "\n\n".join(parts) + "\n"
