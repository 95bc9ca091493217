"""``ai-node models gate`` and ``ai-node models import keras``: building packages, measured before they are offered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ai_engine.faults import EngineFault
from ai_engine.packages import DescriptionError, find_package
from ai_engine.packages.schema import NAME, VERSION
from dicom_node.cli import registry
from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, make_folder, out, settings, spacing_of, stop
from dicom_node.cli.models import MODELS_OPTION, app, import_app, tell_imported

if TYPE_CHECKING:
    from ai_engine.packages.accuracy import Report

__all__ = ["app", "registry"]  # importing the latter adds its own commands to the former


@app.command()
def gate(
    model: str = typer.Argument(..., help="NAME or NAME@VERSION, or a package's folder."),
    data: Path = typer.Option(..., "--data", exists=True, help="nnU-Net folder, tree of BraTS cases, or CSV."),
    case: list[str] = typer.Option([], "--case", help="A held-out case that this package never learnt from; repeat."),
    fold: list[str] = typer.Option([], "--fold", help="FOLDER=CASE,CASE: a fold of the same recipe, with its own."),
    variant: list[str] = typer.Option([], "--variant", help="A lever to measure; repeat. Default: f32, bf16, int8."),
    levers: bool = typer.Option(False, "--levers", help="Measure every lever that this package has."),
    region: list[str] = typer.Option([], "--region", help="Key of a label or composite that counts; default all."),
    int8: bool = typer.Option(False, "--int8", help="Make the 8-bit variant first, from cases that are not held out."),
    patches: int = typer.Option(64, "--patches", min=50, help="Windows to calibrate the 8-bit variant on."),
    drop_int8: bool = typer.Option(False, "--drop-int8", help="Measure the 8-bit variant, but do not keep its files."),
    labels: str = typer.Option("", "--labels", help="What label values mean: 1=necrosis,2=oedema,4=enhancing."),
    spacing_mm: str | None = typer.Option(None, "--spacing-mm", help="X,Y,Z for NIfTI that does not state its units."),
    reviewed: list[str] = typer.Option([], "--reviewed", help="CASE=WHAT WAS SEEN, for a case that lost over 0.05."),
    threads: int = typer.Option(0, "--threads", min=0, help="0: as many as there are processors."),
    table: Path | None = typer.Option(None, "--table", dir_okay=False, help="Write the table as Markdown, too."),
    reference_axes: str = typer.Option(
        "", "--reference-axes", help="Patch axes that the reference mirrors, e.g. 0,1,2 or none; default: as shipped."
    ),
    adopt: bool = typer.Option(False, "--adopt", help="Make the cheapest way that passed the package's default."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Measure and print; leave the package as it is."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Measure a package's cheaper ways of running against its full procedure; write gate.json and the card.

    Cost and Dice of every way stand side by side. A way that fails (mean Dice loss over 0.005, a case over 0.05 without
    review, a lesion over 1 ml newly missed, longer HD95) is not offered afterwards.

    Example: ai-node models gate brain-tumour --data data/brats --case Brats18_2013_3_1 --int8 --threads 2
    """
    from ai_engine.evaluation.accuracy import Evidence, GateRequest, run_gate
    from ai_engine.evaluation.datasets import DatasetError, open_dataset
    from ai_engine.evaluation.levers import LEVERS, OFFERED
    from ai_engine.packages.accuracy import as_table
    from ai_engine.training.quantise import quantise_networks
    from dicom_node.cli.evaluate import _names

    with answering(as_json=as_json):
        folder = (
            Path(model) if (Path(model) / "model.yaml").is_file() else find_package(settings().engine.models, model)
        )
        evidence = [Evidence(folder, tuple(case))] if case else []
        evidence += [Evidence(*_fold(text)) for text in fold]
        if table is not None:
            make_folder(table.parent)
        if not evidence:
            stop(Exit.USAGE, "name held-out cases with --case, or folds with --fold FOLDER=CASE,CASE")
        try:
            dataset = open_dataset(data, _names(labels))
            if declared := spacing_of(spacing_mm):
                dataset = replace(dataset, cases=tuple(replace(c, spacing_mm=declared) for c in dataset.cases))
            held_out = {entry.folder: entry.cases for entry in evidence}
            request = GateRequest(
                package=folder,
                dataset=dataset,
                evidence=tuple(evidence),
                calibration=quantise_networks(folder, dataset.cases, held_out, _say, patches=patches)
                if int8
                else _calibration(folder),
                variants=_possible(folder, LEVERS if levers else tuple(variant) or OFFERED, with_int8=int8),
                regions=tuple(region),
                reference_axes=_axes(reference_axes),
                threads=threads,
                reviewed=dict(_pair(text) for text in reviewed),
            )
            report = run_gate(request, _say)
        except (DatasetError, ValueError, EngineFault) as trouble:
            stop(Exit.USAGE, str(trouble))
    digest = "" if dry_run else _write(folder, report, adopt=adopt, keep_int8=not drop_int8)
    if table is not None:
        table.write_text(as_table(report), encoding="utf-8")
    if as_json:
        emit({"digest": digest, "gate": report.model_dump(mode="json")})
        return
    out.print(as_table(report), markup=False, soft_wrap=True)
    for measured in report.variants:
        for reason in measured.reasons:
            out.print(f"{measured.name}: {reason}", markup=False, soft_wrap=True)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)


def _write(folder: Path, report: Report, *, adopt: bool, keep_int8: bool) -> str:
    """The report into the package, and what that means in words; the new digest."""
    from ai_engine.evaluation.adoption import write_report

    written = write_report(folder, report, adopt=adopt, keep_int8=keep_int8)
    if written.adopted is not None:
        _say(f"adopted: {written.adopted.words()}")
    if not written.runs:
        _say("the package's own settings did not pass, so it cannot be run as it is: use --adopt, or edit model.yaml")
    _say(f"gate.json is written; the package's digest is now {written.digest}")
    return written.digest


def _calibration(folder: Path) -> str:
    """How the 8-bit network that the package holds was calibrated, from its last report."""
    from ai_engine.packages import load_package
    from ai_engine.packages.accuracy import holds_int8, report_of

    package = load_package(folder, weights=False)
    report = report_of(package) if holds_int8(package) else None
    return report.calibration if report is not None else ""


def _axes(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip() and text != "none")
    except ValueError:
        stop(Exit.USAGE, f"--reference-axes: numbers with commas between, or none, expected; found {text[:40]}")


def _fold(text: str) -> tuple[Path, tuple[str, ...]]:
    folder, cases = _pair(text)
    if not (Path(folder) / "model.yaml").is_file():
        stop(Exit.USAGE, f"--fold FOLDER=CASE,CASE: {folder} is no package's folder")
    return Path(folder), tuple(name.strip() for name in cases.split(",") if name.strip())


def _pair(text: str) -> tuple[str, str]:
    first, sign, second = text.partition("=")
    if not sign or not first or not second:
        stop(Exit.USAGE, f"NAME=VALUE was expected, found {text[:60]}")
    return first, second


def _possible(folder: Path, wanted: tuple[str, ...], *, with_int8: bool) -> tuple[str, ...]:
    """The wanted levers that this package and this machine have."""
    from ai_engine.backends.tensorflow import is_installed
    from ai_engine.evaluation.levers import fits
    from ai_engine.packages import load_package
    from ai_engine.packages.store import INT8

    package = load_package(folder, weights=False)
    has_int8 = with_int8 or INT8[0] in package.sha256
    has_tensorflow = package.segmentation.runner == "keras" and is_installed()

    def is_possible(name: str) -> bool:
        if name.endswith("int8") and not has_int8:
            return False
        return fits(package, name) if name != "tensorflow" else has_tensorflow

    for name in wanted:
        if not is_possible(name):
            _say(f"{name}: left out, this package or this machine has none")
    return tuple(name for name in wanted if is_possible(name))


@import_app.command("keras")
def import_keras_command(
    file: Path = typer.Argument(..., exists=True, dir_okay=False, help="A whole model: model.save('x.h5')."),
    name: str = typer.Option(..., "--name", help="Name of the package: lower case, digits, hyphens."),
    version: str = typer.Option("1.0.0", "--version", help="MAJOR.MINOR.PATCH; a version never changes."),
    half: bool = typer.Option(False, "--half", help="Store the kernels in float16."),
    description: Path | None = typer.Option(
        None, "--description", exists=True, dir_okay=False, help="YAML with what a Keras file does not know."
    ),
    models: Path | None = MODELS_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Convert a Keras .h5 file into a package: read by h5py in a guarded child, layer by layer, nothing executed.

    Example: ai-node models import keras unet.h5 --name my-unet --description my-unet.yaml
    """
    from ai_engine.packages.importing import KERAS_MUST_BE_GIVEN, import_keras

    if not re.match(NAME, name) or not re.match(VERSION, version):
        stop(Exit.USAGE, "--name: lower case letters, digits, hyphens; --version: MAJOR.MINOR.PATCH")
    root = models if models is not None else settings().engine.models
    with answering(as_json=as_json):
        try:
            done = import_keras(
                file, root, name, version=version, dtype="float16" if half else "float32", description=description
            )
        except (EngineFault, DescriptionError, FileExistsError) as error:
            stop(Exit.USAGE, f"not imported: {error}")
    tell_imported(done, f"{name}@{version}", "Keras file", KERAS_MUST_BE_GIVEN, as_json=as_json)
