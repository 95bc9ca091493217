"""`ai-node evaluate`: measure a model package on labelled cases, as it would run in the product."""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, stop


def evaluate(
    package: Path = typer.Argument(..., exists=True, file_okay=False, help="Folder of one package version."),
    data: Path = typer.Option(..., "--data", exists=True, file_okay=False, help="Folder with the labelled cases."),
    out_folder: Path = typer.Option(..., "--out", help="Where evaluation.json and the pictures go."),
    side: str = typer.Option("test", "--side", help="test, validation, train (of the shipped split) or all."),
    steps: str = typer.Option("", "--steps", help="Slice steps to declare instead, in mm, e.g. 3,5,7."),
    behaviour: list[Path] = typer.Option([], "--behaviour", exists=True, help="NIfTI to turn, resample and flip."),
    mirroring: bool = typer.Option(True, "--mirroring/--no-mirroring", help="Left-right averaging of the package."),
    postprocessing: bool = typer.Option(False, "--postprocessing", help="Also measure each post-processing."),
    threads: int = typer.Option(0, "--threads", min=0, help="0: as many as there are processors."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print Dice per patient, the mean with its interval and the worst cases; write evaluation.json and pictures.

    Example: ai-node evaluate models/brain-flair/1.0.0 --data data/brain --out evaluation --steps 3,5,7
    """
    from ai_engine.evaluation.command import EvaluationRequest, run_evaluation
    from ai_engine.training.cases import TrainingDataError

    try:
        steps_mm = tuple(float(part) for part in steps.split(",") if part.strip())
    except ValueError:
        stop(Exit.USAGE, f"--steps must be numbers with commas between, found {steps!r}")
    request = EvaluationRequest(
        package=package,
        data=data,
        out=out_folder,
        side=side,
        steps_mm=steps_mm,
        behaviour=tuple(behaviour),
        mirroring=None if mirroring else False,
        threads=threads,
        with_postprocessing_table=postprocessing,
    )
    with answering(as_json=as_json):
        try:
            result = run_evaluation(request, lambda line: err.print(line, markup=False, soft_wrap=True))
        except (TrainingDataError, ValueError) as trouble:
            stop(Exit.USAGE, str(trouble))
        if as_json:
            emit(result)
