"""The end of a training: package, test, accuracy gate, card, curves.

The package is exported once without numbers, evaluated on the patients kept for the test, and exported again with its
numbers in ``model.yaml`` and ``CARD.md``.  The gate then measures the cheaper ways of running on the patients that the
package accepted; if it adopts one, the numbers are taken again in that way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_engine.evaluation.datasets import Dataset, LabelledCase
from ai_engine.training.card import card_text, metrics_of
from ai_engine.training.cases import find_cases
from ai_engine.training.recipe import Recipe, package_recipe
from ai_engine.training.report import read_history
from ai_engine.training.report import write_report as draw_report
from ai_engine.training.trainer import HISTORY_FILE

if TYPE_CHECKING:
    from ai_engine.packages.accuracy import Report

Say = Callable[[str], None]
GATED = ("bf16", "mirrored-bf16", "mirrored-step-1.0-bf16")
"""The ways of running that are measured when the package is built; more with ``ai-node models gate``."""


def finish(recipe: Recipe, data: Path, work: Path, version: str, say: Say) -> Path:
    """Write ``work/package/<name>/<version>`` and the evaluation beside it; the package's folder."""
    from ai_engine.evaluation.adoption import write_report
    from ai_engine.evaluation.command import EvaluationRequest, run_evaluation
    from ai_engine.packages import load_package

    history = read_history(work / HISTORY_FILE)
    packages = work / "package"

    def export(evaluation: dict[str, Any] | None) -> Path:
        return package_recipe(
            recipe,
            work,
            packages,
            version,
            card=card_text(recipe, version, evaluation, history),
            metrics=metrics_of(evaluation, recipe.label) if evaluation else None,
        )

    folder = export(None)
    request = EvaluationRequest(package=folder, data=data, out=work / "evaluation", threads=1)
    try:
        evaluation = run_evaluation(request, say)
    except ValueError as trouble:
        say(f"no test was made: {trouble}")
    else:
        report = gate(recipe, folder, data, tuple(str(case["case"]) for case in evaluation["cases"]), say)
        usual = load_package(folder, weights=False).segmentation.inference
        folder = export(evaluation)
        write_report(folder, report, adopt=True)
        if load_package(folder, weights=False).segmentation.inference != usual:
            evaluation = run_evaluation(request, say)
            folder = export(evaluation)
            write_report(folder, report, adopt=True)
    draw_report(work, f"{recipe.name} {version}")
    return folder


def gate(recipe: Recipe, folder: Path, data: Path, names: tuple[str, ...], say: Say) -> Report:
    """Measure the package's cheaper ways of running on the named cases of a folder that `find_cases` knows."""
    from ai_engine.evaluation.accuracy import Evidence, GateRequest, run_gate

    return run_gate(GateRequest(folder, labelled(recipe, data), (Evidence(folder, names),), variants=GATED), say)


def labelled(recipe: Recipe, data: Path) -> Dataset:
    """The cases of a training as a labelled dataset, with the spacing that the training declared for them.

    Every value of a mask that is not 0 is the label, as in the training.
    """
    cases = [
        LabelledCase(
            case.name, case.patient, {recipe.role: case.image}, case.mask, case.spacing_mm and case.spacing_mm[::-1]
        )
        for case in find_cases(data)
    ]
    return Dataset("training", dict.fromkeys(range(1, 256), recipe.label_name), tuple(cases))
