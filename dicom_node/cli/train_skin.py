"""`ai-node train skin`: k folds of a skin classifier, figures, package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, stop
from dicom_node.cli.train import NAME_IS, OUT, PRETRAINED, RESUME, VERSION
from dicom_node.cli.train_keras import app as app

TABLE = typer.Option(..., "--data", exists=True, help="labels.csv (or its folder); pictures beside it, also in tars.")
WEIGHTS = typer.Option(
    None, "--pretrained", exists=True, dir_okay=False, help=f"ImageNet weights; default: {PRETRAINED} near the data."
)


@app.command("skin")
def skin(
    data: Path = TABLE,
    out_folder: Path = OUT,
    folds: int = typer.Option(10, "--folds", min=0, max=50, help="0: the table's column split instead of folds."),
    epochs: int = typer.Option(10, "--epochs", min=1, max=1000),
    resume: bool = RESUME,
    name: str = typer.Option("own-skin-model", "--name", help="Name of the package.", callback=NAME_IS),
    version: str = VERSION,
    architecture: str = typer.Option("efficientnetv2_b0", "--architecture", help="Or efficientnet_b1."),
    size: int | None = typer.Option(
        None, "--size", min=32, max=512, help="Side of the copies; default: 192, then 224."
    ),
    batch: int = typer.Option(32, "--batch", min=2, max=512),
    source: list[str] = typer.Option([], "--source", help="Only rows of this source; may be repeated."),
    quick: bool = typer.Option(False, "--quick", help="Only the rows marked quick: a balanced subset."),
    sensitivity: float = typer.Option(0.90, "--sensitivity", min=0.5, max=0.999, help="What the threshold must find."),
    share: float = typer.Option(
        0.2, "--malignant-share", min=0.0, max=0.9, help="Share that probabilities are right for; 0: the pictures'."
    ),
    seed: int = typer.Option(2026, "--seed"),
    pretrained: Path | None = WEIGHTS,
    threads: int = typer.Option(0, "--threads", min=0, help="0: as many as there are processors."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Train a benign/malignant classifier on dermatoscope pictures; folds never share a patient or a lesion.

    Reads the SIIM-ISIC table (image_name, patient_id, sex, age_approx, anatom_site_general_challenge, diagnosis,
    benign_malignant, target). Writes states, curves, figures, a page and a calibrated package. Safe to stop: --resume.

    Example: ai-node train skin --data labels.csv --out training --folds 10 --epochs 10
    """
    from ai_engine.packages import DescriptionError
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.skin import HISTORY_FILE, SkinRecipe, SkinTraining, smaller, torch_threads
    from ai_engine.training.skin_finish import finish_skin
    from ai_engine.training.skin_package import SkinWords
    from ai_engine.training.skin_trainer import SkinHow

    if architecture not in ("efficientnetv2_b0", "efficientnet_b1"):
        stop(Exit.USAGE, f"--architecture: efficientnetv2_b0 or efficientnet_b1 expected, found {architecture!r}")
    if folds == 1:
        stop(Exit.USAGE, "--folds: two or more, or 0 for the table's own split")
    table = data / "labels.csv" if data.is_dir() else data
    if (out_folder / HISTORY_FILE).exists() and not resume:
        stop(Exit.USAGE, f"{out_folder.name} already holds a training; resume it or choose another folder")
    how = smaller(replace(SkinHow(), architecture=architecture), size, batch)  # type: ignore[arg-type]
    recipe = SkinRecipe(
        words=replace(SkinWords(), name=name),
        how=how,
        folds=folds,
        epochs=epochs,
        seed=seed,
        quick=quick,
        sources=tuple(source),
        sensitivity=sensitivity,
        malignant_share=share or None,
    )
    torch_threads(threads)
    start = pretrained or _near(table, architecture)
    if start is None:
        _say("no pretrained weights of this architecture: it starts from random numbers, expect to need much longer")
    with answering(as_json=as_json):
        try:
            training = SkinTraining(recipe, table, out_folder, start, _say)
            if resume and training.resume():
                _say(f"resumed after {training.used_s / 60:.0f} minutes")
            training.run()
            folder = finish_skin(training, version, table, _say)
        except (TrainingDataError, DescriptionError, ValueError) as trouble:
            stop(Exit.USAGE, str(trouble))
    emit({"folder": str(folder)}) if as_json else out.print(str(folder), markup=False)


def _near(table: Path, architecture: str) -> Path | None:
    """The ImageNet weights beside the data; they are those of EfficientNetV2-B0 only."""
    path = table.parent.parent / "weights" / PRETRAINED
    return path if architecture == "efficientnetv2_b0" and path.is_file() else None


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
