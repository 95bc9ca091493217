"""The end of a training: package, test, card, curves.

The package is exported once without numbers, evaluated on the patients kept for the test, and exported again with its
numbers in ``model.yaml`` and ``CARD.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_engine.training.card import card_text, metrics_of
from ai_engine.training.recipe import Recipe, package_recipe
from ai_engine.training.report import read_history, write_report
from ai_engine.training.trainer import HISTORY_FILE

Say = Callable[[str], None]


def finish(recipe: Recipe, data: Path, work: Path, version: str, say: Say) -> Path:
    """Write ``work/package/<name>/<version>`` and the evaluation beside it; the package's folder."""
    from ai_engine.evaluation.command import EvaluationRequest, run_evaluation

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
        folder = export(evaluation)
    write_report(work, f"{recipe.name} {version}")
    return folder
