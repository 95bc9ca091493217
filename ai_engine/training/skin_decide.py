"""A trained package decided anew: views, calibrations, thresholds and figures, from labelled pictures.

What `finish_skin` does at the end of a training, for weights that lie in a package already: other test-time views,
other pictures, another share of malignant ones.  Weights, quality gate and words of the package stay.  All of it is
made in a copy, so that a package is left as it was by whatever goes wrong.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from ai_engine.backends import NetworkOptions
from ai_engine.evaluation.page import put_into_card
from ai_engine.evaluation.skin_page import card_section, draw_study
from ai_engine.evaluation.skin_study import SkinStudy, answer_pictures, measured
from ai_engine.packages import load_package, seal_package
from ai_engine.runners.classifier import ClassifierRunner
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin import Say
from ai_engine.training.skin_calibrate import Fitted
from ai_engine.training.skin_cases import SkinCase
from ai_engine.training.skin_finish import decide, metrics_of
from ai_engine.training.skin_package import WITHIN


def decide_anew(
    folder: Path,
    cases: Sequence[SkinCase],
    pictures: Path,
    say: Say,
    *,
    views: Sequence[str],
    sensitivity: float,
    share: float | None,
    data: str,
) -> tuple[SkinStudy, dict[str, Fitted]]:
    """Measure, decide, write ``model.yaml``, the card's figures and its plots, and seal.

    Parameters
    ----------
    folder
        Of one version of a classifier's package.
    cases
        Labelled pictures that the network never learnt from; they lie in or below `pictures`.
    views
        Test-time views from now on; empty keeps the package's.
    sensitivity, share, data
        As for `ai_engine.training.skin_finish.decide`.

    Returns
    -------
    study, ways
        The figures, and per output the calibration with what each way of calibrating lost.

    Raises
    ------
    TrainingDataError
        If pictures are missing, or the answers collapse to one class.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(folder, Path(name) / folder.name))
        study, ways = _decided(copy, cases, pictures, say, views, sensitivity, share, data)
        shutil.copytree(copy, folder, dirs_exist_ok=True)
    say(f"sealed as {seal_package(folder)}")
    return study, ways


def _decided(
    folder: Path,
    cases: Sequence[SkinCase],
    pictures: Path,
    say: Say,
    views: Sequence[str],
    sensitivity: float,
    share: float | None,
    data: str,
) -> tuple[SkinStudy, dict[str, Fitted]]:
    path = folder / "model.yaml"
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if views:
        tree["network"]["views"] = list(views)
        _write(path, tree)
        seal_package(folder)
    runner = ClassifierRunner(load_package(folder), NetworkOptions(device="cpu"))
    logits = answer_pictures(runner, cases, pictures, say)
    decided, ways = decide(cases, logits, sensitivity=sensitivity, share=share, data=data)
    for entry in tree["outputs"]:
        own = decided[entry["key"]]
        entry["threshold"] = own.threshold
        entry["calibration"] = own.calibration.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        entry["operating_point"] = dict(own.operating_point or {})
        if entry["key"] in WITHIN:
            entry["within"] = WITHIN[entry["key"]]
    if "self_test" in tree:
        # stored answers are float32 of the reference backend, as when the package was first written
        reference = ClassifierRunner(load_package(folder), NetworkOptions(device="cpu", backend="torch", threads=1))
        picture = load_file(folder / tree["self_test"]["file"])["pixels"]
        said = reference.run([picture])[0].logits
        tree["self_test"]["logits"] = {key: round(value, 4) for key, value in said.items()}
    tree.pop("metrics", None)
    _write(path, tree)
    seal_package(folder)
    study = measured(load_package(folder), cases, logits, pictures)
    if study.collapsed:
        raise TrainingDataError("the answers collapsed: nearly all are one class; the package is not to be used")
    tree["metrics"] = metrics_of(study, data)
    _write(path, tree)
    card = folder / "CARD.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    card.write_text(put_into_card(text, card_section(study, data)), encoding="utf-8")
    draw_study(study, folder)
    return study, ways


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
