"""`ai-node calibrate` and the part of `ai-node evaluate` that measures a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, make_folder, out, settings, stop

if TYPE_CHECKING:
    from ai_engine.packages import ModelPackage
    from ai_engine.training.skin_cases import SkinCase

PARTS = ("all", "train", "val")


def calibrate(
    model: str = typer.Argument(..., help="A classifier: NAME or NAME@VERSION, or a package's folder."),
    data: Path = typer.Option(..., "--data", exists=True, help="Labelled table of your own, pictures beside it."),
    out_file: Path = typer.Option(Path("site-override.json"), "--out", help="Where the override goes."),
    sensitivity: float = typer.Option(0.90, "--sensitivity", min=0.5, max=0.999, help="What the threshold must find."),
    share: float = typer.Option(
        0.0, "--malignant-share", min=0.0, max=0.9, help="Share that probabilities are right for; 0: the pictures'."
    ),
    population: str = typer.Option(..., "--population", help="Whose pictures these are; no names of patients."),
    part: str = typer.Option("all", "--part", help="all, train or val of the table's column split."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Measure a classifier on your own labelled pictures; write thresholds and calibration for your site.

    The file replaces nothing in the package; the settings name it, and its digest stands in every result.

    Example: ai-node calibrate skin-lesion --data own.csv --population "Clinic A, 2025" --out skin-site.json
    """
    from ai_engine.packages import DescriptionError
    from ai_engine.packages.site import write_override
    from ai_engine.training.cases import TrainingDataError
    from ai_engine.training.skin_site import site_override

    with answering(as_json=as_json):
        package = _package(model)
        make_folder(out_file.parent)
        try:
            cases, folder = _cases(data, part)
            override, told = site_override(
                package, cases, folder, _say, sensitivity=sensitivity, share=share or None, population=population
            )
            digest = write_override(override, out_file)
        except (TrainingDataError, DescriptionError, ValueError, OSError) as trouble:
            stop(Exit.USAGE, str(trouble))
    if as_json:
        emit({"file": str(out_file), "sha256": digest, "outputs": told})
        return
    for key, entry in told.items():
        out.print(f"{key}: {entry}", markup=False, soft_wrap=True)
    out.print(f"{out_file} (sha256 {digest[:12]})", markup=False, soft_wrap=True)


def evaluate_classifier(
    package: ModelPackage, dataset: Path, out_folder: Path, part: str, override: Path | None, card: bool, as_json: bool
) -> None:
    """Figures, pictures and page of a classifier on a labelled table; exit 1 when it collapsed."""
    from ai_engine.backends import NetworkOptions
    from ai_engine.evaluation.page import put_into_card
    from ai_engine.evaluation.skin_page import card_section, write_study
    from ai_engine.evaluation.skin_study import evaluate_pictures
    from ai_engine.packages import DescriptionError, seal_package
    from ai_engine.packages.site import read_override, with_override
    from ai_engine.training.cases import TrainingDataError

    chosen = settings()
    description = package.classification
    try:
        if override is not None:
            own, _ = read_override(override)
            description = with_override(description, package.digest_sha256, own)
        cases, folder = _cases(dataset, part)
        options = NetworkOptions(device=chosen.engine.device, threads=chosen.engine.threads)
        study = evaluate_pictures(package, cases, folder, _say, options=options, description=description)
    except (TrainingDataError, DescriptionError) as trouble:
        stop(Exit.USAGE, str(trouble))
    write_study(study, out_folder, f"{package.reference}: evaluation")
    section = card_section(study, f"the labelled set (part {part})")
    if card:
        path = package.folder / "CARD.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(put_into_card(text, section), encoding="utf-8")
        _say(f"the card is written; the package's digest is now {seal_package(package.folder)}")
    emit(study.told) if as_json else out.print(section, markup=False, soft_wrap=True)
    if study.collapsed:
        stop(Exit.FAULT, "collapsed: nearly all answers are one class, while the truth has both")


def _package(model: str) -> ModelPackage:
    from ai_engine.packages import find_package, load_package

    own = Path(model)
    return load_package(own if (own / "model.yaml").is_file() else find_package(settings().engine.models, model))


def _cases(data: Path, part: str) -> tuple[list[SkinCase], Path]:
    from ai_engine.training.skin_cases import skin_cases

    if part not in PARTS:
        stop(Exit.USAGE, f"--part: one of {', '.join(PARTS)} expected, found {part!r}")
    table = data / "labels.csv" if data.is_dir() else data
    cases = [case for case in skin_cases(table) if part in ("all", case.split)]
    return cases, table.parent


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
