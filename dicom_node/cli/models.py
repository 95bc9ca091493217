"""``ai-node models``: list, show, verify, seal, import; `dicom_node.cli.registry` adds what needs the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from ai_engine.faults import EngineFault
from ai_engine.packages import DescriptionError, ModelPackage, find_package, list_packages, load_package, seal_package
from ai_engine.packages.accuracy import holds_int8, report_of
from ai_engine.packages.schema import NAME, VERSION
from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, out, settings, stop, whole
from dicom_node.refusals import Refused

if TYPE_CHECKING:
    from ai_engine.packages.importing import Imported

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Model packages: list, show, verify, seal, import.")
import_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Turn a trained model into a package.")
app.add_typer(import_app, name="import")

MODELS_OPTION = typer.Option(None, "--models", help="Models folder; default: engine.models of the settings.")


@app.callback()
def _group() -> None:
    """Model packages: list, show, verify, seal, import."""


@import_app.callback()
def _import_group() -> None:
    """Turn a trained model into a package."""


@app.command("list")
def list_models(models: Path | None = MODELS_OPTION, as_json: bool = JSON_OPTION) -> None:
    """List the packages of the models folder, each checked against its manifest.

    Example: ai-node models list --json
    """
    root = _root(models)
    if not root.is_dir():
        stop(Exit.CONFIGURATION, f"no models folder {root}: name it with --models, or engine.models in the settings")
    rows = [_row(name, version, folder) for name, version, folder in list_packages(root)]
    if as_json:
        emit({"models": rows})
        return
    table = Table(whole("model"), "title", "inputs", "digest", "runs with", "gate", "state")
    for row in rows:
        gate = row.get("gate", "")
        table.add_row(
            f"{row['name']}@{row['version']}",
            row["title"],
            ", ".join(row["inputs"]),
            row["digest"][:12],
            ", ".join(row.get("backends", ())),
            gate if isinstance(gate, str) else ", ".join(f"{name} {how}" for name, how in gate.items()),
            row["state"],
        )
    out.print(table)


@app.command()
def show(reference: str, models: Path | None = MODELS_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show what a package says: inputs and limits, labels with codes, settings, metrics, licence.

    Example: ai-node models show brain-flair@1.1.1
    """
    with answering(as_json=as_json):
        package = load_package(find_package(_root(models), reference), weights=False)
    description = package.description.model_dump(mode="json", exclude_none=True)
    if as_json:
        emit({"digest": package.digest_sha256, "files": dict(package.sha256), "description": description})
        return
    out.print(f"digest: {package.digest_sha256}", markup=False)
    _print_tree(description, 0)


@app.command()
def verify(
    reference: str,
    models: Path | None = MODELS_OPTION,
    digest: str | None = typer.Option(None, "--digest", help="The model digest that is expected."),
    run: bool = typer.Option(False, "--run", help="Also load the model and run the case stored with it."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check every byte of a package against its manifest, and with --run the model against its stored answer.

    Example: ai-node models verify brain-flair --run
    """
    with answering(as_json=as_json):
        package = load_package(find_package(_root(models), reference), pinned_sha256=digest, weights=run)
        answer: dict[str, Any] = {"model": package.reference, "digest": package.digest_sha256, "files": "as sealed"}
        passed = self_test_passes(package, answer) if run else True
    if as_json:
        emit(answer)
    else:
        for key, value in answer.items():
            out.print(f"{key}: {value}", markup=False)
    if not passed:
        stop(Exit.FAULT, "the stored case was answered otherwise than when the package was made: do not use this model")


@app.command()
def seal(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="The package's own folder."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check model.yaml and write manifest.json over the files that are there.

    Example: ai-node models seal models/my-model/1.0.0
    """
    with answering(as_json=as_json):
        try:
            digest = seal_package(folder)
        except DescriptionError as error:
            stop(Exit.USAGE, str(error))
    if as_json:
        emit({"digest": digest})
    else:
        out.print(f"sealed, digest {digest}", markup=False)


@import_app.command("nnunet")
def import_nnunet_command(
    results: Path = typer.Argument(..., exists=True, file_okay=False, help="Folder with plans.json and fold_*."),
    name: str = typer.Option(..., "--name", help="Name of the package: lower case, digits, hyphens."),
    version: str = typer.Option("1.0.0", "--version", help="MAJOR.MINOR.PATCH; a version never changes."),
    folds: list[str] = typer.Option([], "--fold", help="fold_0, fold_1, ...; default all; several are averaged."),
    checkpoint: str = typer.Option("", "--checkpoint", help="checkpoint_final.pth (default) or checkpoint_best.pth."),
    half: bool = typer.Option(False, "--half", help="Store the weights in float16."),
    description: Path | None = typer.Option(
        None, "--description", exists=True, dir_okay=False, help="YAML with what a results folder does not know."
    ),
    models: Path | None = MODELS_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Convert an nnU-Net v2 results folder into a package; the checkpoint is opened in a guarded child.

    Example: ai-node models import nnunet nnUNetTrainer__nnUNetPlans__3d_fullres --name liver --description liver.yaml
    """
    import re

    from ai_engine.packages.importing import MUST_BE_GIVEN, import_nnunet

    if not re.match(NAME, name) or not re.match(VERSION, version):
        stop(Exit.USAGE, "--name: lower case letters, digits, hyphens; --version: MAJOR.MINOR.PATCH")
    with answering(as_json=as_json):
        try:
            done = import_nnunet(
                results,
                _root(models),
                name,
                version=version,
                folds=folds,
                checkpoint=checkpoint,
                dtype="float16" if half else "float32",
                description=description,
            )
        except (EngineFault, DescriptionError, FileExistsError) as error:
            stop(Exit.USAGE, f"not imported: {error}")
    tell_imported(done, f"{name}@{version}", "results folder", MUST_BE_GIVEN, as_json=as_json)


def tell_imported(done: Imported, reference: str, source: str, must_be_given: Sequence[str], *, as_json: bool) -> None:
    """Say what an import made, and what the author still has to write where a `source` does not know it."""
    if as_json:
        emit({"folder": str(done.folder), "digest": done.digest_sha256, "missing": done.missing})
        return
    if done.digest_sha256:
        out.print(f"{reference} is ready in {done.folder}, digest {done.digest_sha256}", markup=False)
        return
    err.print(f"{done.folder} is a draft. A {source} does not say:", markup=False)
    for line in must_be_given:
        err.print(f"  {line}", markup=False)
    err.print(f"Write them into model.yaml, then: ai-node models seal {done.folder}", markup=False)


def _root(models: Path | None) -> Path:
    return models if models is not None else settings().engine.models


def _row(name: str, version: str, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "version": version, "title": "", "inputs": [], "digest": ""}
    try:
        package = load_package(folder, weights=False)
    except Refused as refused:
        return {**row, "state": refused.refusal.code.value}
    roles = [entry.role for entry in package.description.inputs]
    title = package.description.title
    told = {"title": title, "inputs": roles, "digest": package.digest_sha256, "backends": _backends(package)}
    try:
        report = report_of(package)
    except Refused as refused:
        return {**row, **told, "state": refused.refusal.code.value}
    if report is None:
        return {**row, **told, "gate": "none", "state": "as sealed"}
    found = {
        variant.name: "failed"
        if not variant.passed
        else "passed"
        if variant.precision != "int8" or holds_int8(package)
        else "passed, not in the package"
        for variant in report.variants
    }
    return {**row, **told, "gate": found, "state": "as sealed"}


def _backends(package: ModelPackage) -> list[str]:
    """What can run a package on this machine, the first by default; what is missing is said by name."""
    from ai_engine.backends.tensorflow import is_installed

    backends = ["openvino", "torch"]
    if package.description.runner == "keras":
        backends.append("tensorflow" if is_installed() else "tensorflow (not installed: extra [tensorflow])")
    return backends


def self_test_passes(package: ModelPackage, answer: dict[str, Any]) -> bool:
    """Run the case stored with a package on this machine; what came out is added to `answer`."""
    from ai_engine.host import HostSettings, ModelHost
    from ai_engine.packages.common import Task
    from ai_engine.selftest import self_test
    from dicom_node.models import engine_settings

    section = settings().engine
    if package.description.task is Task.CLASSIFICATION:
        return _picture_passes(package, answer)
    limits = HostSettings(job_timeout_s=section.timeout_s, memory_limit_mb=section.memory_limit_mb)
    engine = engine_settings(section, package.description.runner)
    try:
        with ModelHost(package.folder, engine, limits, pinned_sha256=package.digest_sha256) as host:
            result = self_test(package, host.predict)
            answer |= {key: host.identity.get(key) for key in ("backend", "device", "precision")}
    except EngineFault as fault:
        stop(Exit.FAULT, f"the model does not run ({fault.code}): {fault}")
    if result is None:
        answer["self_test"] = "none in this package"
        return True
    answer["self_test"] = "passed" if result.is_passed else "failed"
    answer["expected_voxels"] = {str(label): count for label, count in result.expected.items()}
    answer["found_voxels"] = {str(label): count for label, count in result.found.items()}
    return result.is_passed


def _picture_passes(package: ModelPackage, answer: dict[str, Any]) -> bool:
    """The same for a classifier: its stored picture's logits."""
    from ai_engine.backends import NetworkOptions
    from ai_engine.selftest import picture_self_test

    section = settings().engine
    try:
        result = picture_self_test(package, NetworkOptions(device=section.device, threads=section.threads))
    except EngineFault as fault:
        stop(Exit.FAULT, f"the model does not run ({fault.code}): {fault}")
    if result is None:
        answer["self_test"] = "none in this package"
        return True
    answer["self_test"] = "passed" if result.is_passed else "failed"
    answer["expected_logits"] = {key: round(value, 4) for key, value in result.expected.items()}
    answer["found_logits"] = {key: round(value, 4) for key, value in result.found.items()}
    return result.is_passed


def _print_tree(value: Any, depth: int) -> None:
    for key, entry in value.items():
        if isinstance(entry, dict):
            out.print(f"{'  ' * depth}{key}:", markup=False)
            _print_tree(entry, depth + 1)
        elif isinstance(entry, list) and entry and isinstance(entry[0], dict):
            for item in entry:
                out.print(f"{'  ' * depth}{key}:", markup=False)
                _print_tree(item, depth + 1)
        else:
            out.print(f"{'  ' * depth}{key}: {entry}", markup=False)
