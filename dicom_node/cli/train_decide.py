"""`ai-node train decide`: views, calibrations and thresholds of a trained classifier, from labelled pictures."""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.cli.calibrate import PARTS
from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, stop
from dicom_node.cli.train_quality import PACKAGE
from dicom_node.cli.train_skin import app as app

VIEWS = {
    1: ("identity",),
    8: ("identity", "flip_lr", "flip_ud", "rot180", "transpose", "rot90", "rot270", "transverse"),
}


@app.command("decide")
def decide(
    package: Path = PACKAGE,
    data: Path = typer.Option(..., "--data", exists=True, help="Labelled table, pictures beside it."),
    part: str = typer.Option("val", "--part", help="all, train or val of the table's column split."),
    source: list[str] = typer.Option([], "--source", help="Only rows of this source; may be repeated."),
    views: int = typer.Option(0, "--views", help="1 or 8 test-time views; 0 keeps the package's."),
    sensitivity: float = typer.Option(0.90, "--sensitivity", min=0.5, max=0.999, help="What the threshold must find."),
    share: float = typer.Option(
        0.2, "--malignant-share", min=0.0, max=0.9, help="Share that probabilities are right for; 0: the pictures'."
    ),
    words: str = typer.Option(..., "--words", help="What the pictures are, for the card and every result."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Decide a trained classifier anew: calibrations, thresholds, figures and plots; the package is sealed again.

    For pictures that the network never learnt from. A site that uses a package of others calibrates it instead.

    Example: ai-node train decide --package models/skin-lesion/1.0.0 --data labels.csv --views 8 --words "a test set"
    """
    from ai_engine.packages import DescriptionError
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.skin_cases import skin_cases
    from ai_engine.training.skin_decide import decide_anew

    if part not in PARTS:
        stop(Exit.USAGE, f"--part: one of {', '.join(PARTS)} expected, found {part!r}")
    if views not in (0, *VIEWS):
        stop(Exit.USAGE, f"--views: 1, 8 or 0 expected, found {views}")
    table = data / "labels.csv" if data.is_dir() else data
    with answering(as_json=as_json):
        try:
            cases = [
                case
                for case in skin_cases(table)
                if part in ("all", case.split) and (not source or case.source in source)
            ]
            study, ways = decide_anew(
                package,
                cases,
                table.parent,
                lambda line: err.print(line, markup=False, soft_wrap=True),
                views=VIEWS.get(views, ()),
                sensitivity=sensitivity,
                share=share or None,
                data=words,
            )
        except (TrainingDataError, DescriptionError, ValueError) as trouble:
            stop(Exit.USAGE, str(trouble))
    told = {
        key: {"calibration": fitted.calibration.method, "log_loss": fitted.log_loss} for key, fitted in ways.items()
    }
    if as_json:
        emit({"outputs": study.told["outputs"], "calibrations": told})
        return
    for key, entry in study.told["outputs"].items():
        losses = ", ".join(f"{way} {loss:.4f}" for way, loss in ways[key].log_loss.items())
        auc = entry["figures"]["auc"]
        out.print(
            f"{key}: threshold {entry['threshold']:.4f}, AUC {auc['value']:.3f} "
            f"({auc['low']:.3f} to {auc['high']:.3f}), calibration {ways[key].calibration.method} (log loss {losses})",
            markup=False,
            soft_wrap=True,
        )
