"""`ai-node evaluate`: measure a model on labelled cases, as it would run in the product; and `ai-node train check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import typer

from dicom_node.cli.calibrate import evaluate_classifier
from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, make_folder, out, settings, spacing_of, stop


def evaluate(
    dataset: Path = typer.Argument(..., exists=True, help="nnU-Net folder, tree of BraTS cases, CSV; labels.csv."),
    model: str = typer.Option(..., "--model", help="NAME or NAME@VERSION, or a package's folder."),
    out_folder: Path = typer.Option(Path("evaluation"), "--out", help="Where evaluation.html and .json go."),
    labels: str = typer.Option("", "--labels", help="What label values mean: 1=necrosis,2=oedema,4=enhancing."),
    roles: str = typer.Option("", "--roles", help="Hand over only these sequences, e.g. t1c."),
    spacing_mm: str | None = typer.Option(None, "--spacing-mm", help="X,Y,Z for NIfTI that does not state its units."),
    no_mirroring: bool = typer.Option(False, "--no-mirroring", help="Switch the package's mirroring off."),
    step: float | None = typer.Option(None, "--step", min=0.1, max=1.0, help="Tile step, as a share of the tile."),
    precision: Literal["package", "f32", "bf16", "f16", "int8"] = typer.Option(
        "package", "--precision", help="package, f32, bf16, f16 or int8."
    ),
    part: str = typer.Option("all", "--part", help="Classifier: all, train or val of the table's column split."),
    override: Path | None = typer.Option(None, "--override", exists=True, help="Classifier: a site's override."),
    card: bool = typer.Option(False, "--card", help="Write the figures into the package's CARD.md and seal it again."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Dice, IoU, sensitivity, specificity, HD95, surface Dice and volume error per case and region, with intervals.

    Label values are matched by what their names mean, never by number. Ends with 1 when the model has collapsed to one
    class. A CSV has the columns case,role,path,label and optionally patient.

    Of a classifier, on a table like that of `train skin`: AUC, sensitivity, specificity, precision, calibration, by
    source, sex, age, body site and diagnosis, with intervals, plots and the worst misses.

    Example: ai-node evaluate data/brats --model brain-tumour --out evaluation
    """
    from ai_engine.engine import Engine
    from ai_engine.evaluation.datasets import DatasetError, open_dataset
    from ai_engine.evaluation.page import card_section, page, put_into_card
    from ai_engine.evaluation.study import evaluate_dataset
    from ai_engine.packages import find_package, load_package, seal_package
    from ai_engine.packages.common import Task
    from ai_engine.prediction import EngineSettings

    chosen = settings()
    with answering(as_json=as_json):
        folder = Path(model) if (Path(model) / "model.yaml").is_file() else find_package(chosen.engine.models, model)
        package = load_package(folder)
        make_folder(out_folder)
        if package.description.task is Task.CLASSIFICATION:
            evaluate_classifier(package, dataset, out_folder, part, override, card, as_json)
            return
        run_as = EngineSettings(
            device=chosen.engine.device,
            precision=precision,
            threads=chosen.engine.threads,
            step=step,
            mirroring=False if no_mirroring else None,
        )
        try:
            opened = open_dataset(dataset, _names(labels))  # before the model is loaded: it may not be one
            study = evaluate_dataset(
                Engine(package, run_as),
                opened,
                lambda line: err.print(line, markup=False, soft_wrap=True),
                pictures=out_folder / "cases",
                spacing_mm=spacing_of(spacing_mm),
                roles=[role.strip() for role in roles.split(",") if role.strip()] or None,
            )
        except DatasetError as trouble:
            stop(Exit.USAGE, str(trouble))
    told = study.to_json()
    (out_folder / "evaluation.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (out_folder / "evaluation.html").write_text(page(study), encoding="utf-8")
    section = card_section(study)
    if card:
        text = (folder / "CARD.md").read_text(encoding="utf-8") if (folder / "CARD.md").exists() else ""
        (folder / "CARD.md").write_text(put_into_card(text, section), encoding="utf-8")
        err.print(f"the card is written; the package's digest is now {seal_package(folder)}", markup=False)
        err.print("a version that is in force must be put in force again: ai-node models switch", markup=False)
    emit(told) if as_json else out.print(section, markup=False, soft_wrap=True)
    if study.collapsed:
        stop(Exit.FAULT, "collapsed: nearly all that the model predicts is one class, while the truth has several")


def _names(text: str) -> dict[int, str] | None:
    """``1=necrosis,2=oedema`` as a mapping."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    try:
        return {int(value): name.strip() for value, _, name in pairs} or None
    except ValueError:
        stop(Exit.USAGE, f"--labels: VALUE=NAME with commas between expected, found {text!r}")


def check_flair(
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

    Example: ai-node train check models/brain-flair/1.1.1 --data data/brain --out evaluation --steps 3,5,7
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
