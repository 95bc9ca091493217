"""`ai-node train`: make a model package from images and masks of one's own.

How to, with the layout of the data: ``docs/how-to/train.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ai_engine.packages import common as schema
from dicom_node.cli.common import Exit, err, out, stop
from dicom_node.cli.evaluate import check_flair

if TYPE_CHECKING:
    from ai_engine.training.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Train a segmentation model on image/mask pairs and write a model package.",
    epilog="Example: ai-node train nnunet --data cases --out training --name my-model --minutes 120",
)

PRETRAINED = "efficientnetv2_b0_imagenet.safetensors"

DATA = typer.Option(..., "--data", exists=True, file_okay=False, help="Folder with cases.csv and the NIfTI files.")
OUT = typer.Option(..., "--out", help="Working folder: prepared data, state, curves, package. Outside the repository.")
RESUME = typer.Option(False, "--resume", help="Go on from the state in the working folder.")
MINUTES = typer.Option(None, "--minutes", min=0.1, help="Length of the training; default: the recipe's.")
WEIGHTS = typer.Option(
    None, "--pretrained", exists=True, dir_okay=False, help=f"ImageNet weights; default: {PRETRAINED} beside the data."
)


def spelt(pattern: str, words: str) -> Callable[[str], str]:
    """A check of an option's form, made before hours of work are put behind it."""

    def check(value: str) -> str:
        if not re.match(pattern, value):
            raise typer.BadParameter(f"expected {words}, found {value[:60]!r}")
        return value

    return check


VERSION = typer.Option(
    "0.1.0",
    "--version",
    help="Version of the package.",
    callback=spelt(schema.VERSION, "MAJOR.MINOR.PATCH, such as 1.0.0"),
)
KEY_IS = spelt(schema.KEY, "lower case letters, digits and underscores")
NAME_IS = spelt(schema.NAME, "lower case letters, digits and hyphens")


@app.command("brain-flair")
def brain_flair(
    data: Path = DATA,
    out_folder: Path = OUT,
    resume: bool = RESUME,
    minutes: float | None = MINUTES,
    pretrained: Path | None = WEIGHTS,
    version: str = VERSION,
) -> None:
    """Repeat the training of the shipped brain-flair.

    Example: ai-node train brain-flair --data data/brain --out training --resume
    """
    from ai_engine.training.recipe import BRAIN_FLAIR

    _train(BRAIN_FLAIR, data, out_folder, resume, minutes, pretrained, version)


@app.command("brain-tumour")
def brain_tumour(
    data: Path = DATA,
    out_folder: Path = OUT,
    resume: bool = RESUME,
    minutes: float | None = MINUTES,
    version: str = VERSION,
) -> None:
    """Repeat the training of the shipped brain-tumour: a start, three folds, the shipped network; then its figures.

    Example: ai-node train brain-tumour --data data/brain --out training --resume
    """
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.tumour import BRAIN_TUMOUR, HISTORY_FILE, TumourTraining
    from ai_engine.training.tumour_folds import finish_tumour
    from ai_engine.training.tumour_report import write_tumour_report

    if (out_folder / HISTORY_FILE).exists() and not resume:
        stop(Exit.USAGE, f"{out_folder.name} already holds a training; resume it or choose another folder")
    try:
        training = TumourTraining(BRAIN_TUMOUR, data, out_folder, minutes=minutes, say=_say)
        if resume and training.resume():
            _say(f"resumed after {training.used_s / 60:.0f} minutes")
        training.run()
        folder = finish_tumour(BRAIN_TUMOUR, data, out_folder, version, _say, with_folds=True)
    except TrainingDataError as trouble:
        stop(Exit.USAGE, str(trouble))
    write_tumour_report(out_folder)
    out.print(str(folder), markup=False)


@app.command("tumour-folds")
def tumour_folds(
    data: Path = DATA,
    work: Path = typer.Option(..., "--out", exists=True, file_okay=False, help="Working folder of brain-tumour."),
) -> None:
    """Measure a training of brain-tumour: every patient by the fold that never saw it, as T1c and FLAIR, and T1c alone.

    Example: ai-node train tumour-folds --data data/brain --out training
    """
    from ai_engine.training.tumour import BRAIN_TUMOUR, HISTORY_FILE
    from ai_engine.training.tumour_folds import evaluate_folds, fold_lines

    if not (work / HISTORY_FILE).exists():
        stop(Exit.USAGE, "no training of brain-tumour in this folder")
    for line in fold_lines(evaluate_folds(BRAIN_TUMOUR, data, work, _say)):
        out.print(line, markup=False, soft_wrap=True)


@app.command("nnunet")
def nnunet(
    data: Path = DATA,
    out_folder: Path = OUT,
    name: str = typer.Option(..., "--name", help="Name of the package.", callback=NAME_IS),
    role: str = typer.Option("flair", "--role", help="Sequence role that the model reads.", callback=KEY_IS),
    label: str = typer.Option(
        "lesion", "--label", help="Key of the one label, e.g. lesion; stable for ever.", callback=KEY_IS
    ),
    title: str = typer.Option("Own model", "--title", help="Title of the package."),
    resume: bool = RESUME,
    minutes: float | None = MINUTES,
    pretrained: Path | None = WEIGHTS,
    version: str = VERSION,
) -> None:
    """Train on data of one's own: brain MR of one sequence, one label.

    Example: ai-node train nnunet --data cases --out training --name my-model --label lesion
    """
    from ai_engine.training.recipe import BRAIN_FLAIR

    settings = replace(BRAIN_FLAIR.settings, sampling={}, merge_validation_at=1.0)
    recipe = replace(
        BRAIN_FLAIR,
        name=name,
        dataset_name="Dataset601_Own",
        role=role,
        label=label,
        title=title,
        label_name=title,
        oblique={"own": 1},
        phantoms=0,
        settings=settings,
        later_stages=(),
        skull="any",
        postprocessing={},
        training_data="Data of the user's own; not described.",
        licence="as the user's data",
        limits=("Not for clinical use.", "Trained by the user; nothing is known of the data here."),
    )
    _train(recipe, data, out_folder, resume, minutes, pretrained, version)


@app.command("report")
def report(work: Path = typer.Option(..., "--out", exists=True, file_okay=False, help="Working folder.")) -> None:
    """Draw the curves of a training, also while it runs.

    Example: ai-node train report --out training
    """
    from ai_engine.training.report import write_report
    from ai_engine.training.tumour_report import write_tumour_report

    page = write_tumour_report(work) or write_report(work, "Training")
    if page is None:
        stop(Exit.USAGE, "no history in this folder yet; it is written with the first checkpoint")
    out.print(str(page), markup=False)


@app.command("seal")
def seal(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="Folder of one package version."),
) -> None:
    """Check an edited package and write its manifest anew; prints the model digest.

    Example: ai-node train seal models/my-model/0.1.0
    """
    from ai_engine.packages import DescriptionError, seal_package

    try:
        out.print(seal_package(folder), markup=False)
    except DescriptionError as error:
        stop(Exit.USAGE, str(error))


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)


def _train(
    recipe: Recipe, data: Path, work: Path, resume: bool, minutes: float | None, pretrained: Path | None, version: str
) -> None:
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.finish import finish
    from ai_engine.training.recipe import train_recipe

    beside = data.parent / "weights" / PRETRAINED
    start = pretrained or (beside if beside.is_file() else None)
    if start is None:
        _say("no pretrained weights given: the encoder starts from random numbers, expect to need much longer")
    work.mkdir(parents=True, exist_ok=True)
    try:
        train_recipe(recipe, data, work, pretrained=start, resume=resume, minutes=minutes, say=_say)
        folder = finish(recipe, data, work, version, _say)
    except (TrainingDataError, FileExistsError) as trouble:
        stop(Exit.USAGE, str(trouble))
    out.print(str(folder), markup=False)


app.command("check")(check_flair)
