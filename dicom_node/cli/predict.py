"""predict: run a model on files, without a server."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, err, make_folder, settings, spacing_of, stop
from dicom_node.refusals import Refused


def predict(
    inputs: list[str] = typer.Argument(
        ..., help="DICOM folder, zip, NIfTI, or photographs; role=path when a model has several."
    ),
    model: str = typer.Option(..., "--model", help="NAME or NAME@VERSION."),
    out: Path = typer.Option(..., "--out", help="Folder for result.json, mask.nii.gz, seg.dcm, sr.dcm, report.pdf."),
    step: float | None = typer.Option(None, "--step", min=0.1, max=1.0, help="Tile step, as a share of the tile."),
    no_mirroring: bool = typer.Option(False, "--no-mirroring", help="Switch the package's mirroring off."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    backend: str = typer.Option("auto", "--backend", help="auto, openvino, torch or tensorflow."),
    precision: str = typer.Option("package", "--precision", help="package, f32, bf16, f16 or int8."),
    spacing_mm: str | None = typer.Option(None, "--spacing-mm", help="X,Y,Z for NIfTI that does not state its units."),
    dermoscopic: bool | None = typer.Option(
        None, "--dermoscopic/--plain", help="What photographs show, by your word; DICOM objects say it themselves."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Run a model on files: mask and measurements, and for DICOM input the SEG, SR and PDF that would be sent.

    Several inputs give one folder each, DIR/1, DIR/2 and so on. Nothing is sent anywhere.
    Photographs (JPEG, PNG, WebP, DICOM) go to a model that reads them, many in one call, one line of JSON each.

    Example: ai-node predict --model brain-flair study-folder --out results
    """
    from ai_engine.faults import EngineFault
    from ai_engine.host import HostSettings, ModelHost
    from ai_engine.packages import Classification, find_package, load_package
    from ai_engine.prediction import EngineSettings
    from dicom_node import logs

    logs.set_up("predict")
    chosen = settings()
    declared = spacing_of(spacing_mm)
    if device not in ("auto", "cpu", "cuda") or precision not in ("package", "f32", "bf16", "f16", "int8"):
        stop(Exit.USAGE, "--device is auto, cpu or cuda; --precision is package, f32, bf16, f16 or int8")
    if backend not in ("auto", "openvino", "torch", "tensorflow"):
        stop(Exit.USAGE, "--backend is auto, openvino, torch or tensorflow")
    with answering(as_json=as_json):
        folder = find_package(chosen.engine.models, model)
        package = load_package(folder, weights=False)
        named = _named(inputs)
        make_folder(out)
        is_of_photos = isinstance(package.description, Classification)
        if is_of_photos and (step is not None or no_mirroring or declared is not None):
            stop(Exit.USAGE, "--step, --no-mirroring and --spacing-mm are for models that read volumes")
        engine = EngineSettings(
            device=device,  # type: ignore[arg-type]  # checked above
            backend=backend,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            threads=chosen.engine.threads,
            step=step,
            mirroring=False if no_mirroring else None,
        )
        limits = HostSettings(job_timeout_s=chosen.engine.timeout_s, memory_limit_mb=chosen.engine.memory_limit_mb)
        if is_of_photos:
            from dicom_node.cli.predict_photos import predict_photos
            from dicom_node.models import engine_settings

            override = engine_settings(
                chosen.engine, package.description.runner, package.description.name
            ).site_override
            predict_photos(
                package,
                [argument.path for argument in named],
                "" if dermoscopic is None else "dermoscopic" if dermoscopic else "plain",
                replace(engine, site_override=override),
                limits,
                out,
                _progress(),
                as_json=as_json,
                chosen=chosen,
            )
            return
        refused_any = False
        host = ModelHost(folder, engine, limits, pinned_sha256=package.digest_sha256)
        with host, _loading(host), _progress() as progress:
            from dicom_node.stages.inputs import cases_of  # its imports take a while: the model is loading beside them

            cases = cases_of(named, package.segmentation)
            task = progress.add_task("loading the model", total=len(cases))
            for number, case in enumerate(cases, start=1):
                target = out if len(cases) == 1 else out / str(number)
                progress.update(task, description=f"case {number} of {len(cases)}")
                try:
                    result = _one(host, package, case, declared, target, chosen)
                except EngineFault as fault:  # its text may hold paths and values; its code says which limit it was
                    stop(Exit.FAULT, f"case {number}: the model did not run ({fault.code})")
                except Refused as refused:
                    refused_any = True
                    result = _refused(package, refused, target)
                    if len(cases) == 1:
                        raise
                progress.advance(task)
                if as_json:
                    emit(result)
                else:
                    _tell(result, target)
    if refused_any:
        raise typer.Exit(int(Exit.REFUSED))


def _named(inputs: Sequence[str]) -> list[Any]:
    """The arguments, each of which exists."""
    from dicom_node.stages.inputs import parse_argument

    arguments = [parse_argument(text) for text in inputs]
    for number, argument in enumerate(arguments, start=1):
        if not argument.path.exists():
            stop(Exit.USAGE, f"no such file or folder: input {number}")
    return arguments


@contextmanager
def _loading(host: Any) -> Iterator[None]:
    """Load the model while inputs are read; what goes wrong with it is told by the first case that needs it."""
    from ai_engine.faults import EngineFault

    over = threading.Event()

    def load() -> None:
        with suppress(EngineFault, Refused):
            host.start(is_wanted=lambda: not over.is_set())

    thread = threading.Thread(target=load, name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _one(host: Any, package: Any, case: Sequence[Any], declared: Any, target: Path, chosen: Any) -> dict[str, Any]:
    from ai_engine import predict as engine_predict
    from dicom_node.files import write_durably
    from dicom_node.stages.inputs import as_input, read_case
    from dicom_node.volume import write_nifti

    with tempfile.TemporaryDirectory(prefix="ai-node-") as scratch:
        read = read_case(case, package.segmentation, declared, Path(scratch))
        # in the package's order, whatever the caller's: the mask lies on the grid of the first input
        order = [entry.role for entry in package.segmentation.inputs if entry.role in read.volumes]
        volumes = {role: as_input(read.volumes[role]) for role in order}
        reference = read.volumes[package.segmentation.inputs[0].role]
        facts = engine_predict.InputFacts(read.kind, (*read.notes, *reference.notes))
        prediction, result = engine_predict.predict(host.predict, volumes, facts)
        target.mkdir(parents=True, exist_ok=True)
        write_nifti(prediction.mask, prediction.affine, target / "mask.nii.gz")
        if read.kind == "dicom":
            _objects(reference, prediction, target, chosen, read.notes)
        write_durably(target / "result.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return result


def _objects(reference: Any, prediction: Any, target: Path, chosen: Any, notes: Sequence[str]) -> None:
    """SEG, SR, PDF and overlay as the node would send them, checked as it would check them; sent nowhere."""
    import importlib.metadata

    from dicom_node.files import write_durably
    from dicom_node.record import digest
    from dicom_node.results import build, check
    from dicom_node.stages.producer import producer_of
    from dicom_node.words import ObjectKind, RunIdentity

    # Objects made here and objects of a node's run must never share a UID with other bytes: each call has its own.
    identity = RunIdentity(
        run_key=digest([uuid.uuid4().hex, prediction.findings.model.digest_sha256]),
        site_namespace=str(chosen.node.site_namespace or uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        study_uid=reference.study_uid,
        notes=tuple(notes),
        timezone_offset=chosen.node.offset_of(reference.attributes),
    )
    producer = producer_of(chosen, importlib.metadata.version("dicom-ai-node"), "predict")
    built = build(identity, reference, prediction.mask, prediction.findings, producer, language=chosen.node.language)
    check(built, reference, prediction.mask, prediction.findings)
    names = {ObjectKind.SEG: "seg.dcm", ObjectKind.SR: "sr.dcm"}
    for item in built.objects:
        if item.kind in names:
            write_durably(target / names[item.kind], item.data)
    write_durably(target / "report.pdf", built.pdf)
    write_durably(target / "overlay.png", built.overlay_png)


def _refused(package: Any, refused: Refused, target: Path) -> dict[str, Any]:
    from ai_engine import predict as engine_predict
    from dicom_node.files import write_durably

    description = package.segmentation
    result = engine_predict.refused_result(
        description.name,
        description.version,
        package.digest_sha256,
        refused.refusal,
        {},
        engine_predict.InputFacts("unknown"),
    )
    write_durably(target / "result.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return result


def _tell(result: dict[str, Any], target: Path) -> None:
    if "refusal" in result:
        err.print(f"refused ({result['refusal']['code']}): {result['refusal']['message']}", markup=False)
        return
    for region in result["classes"]:
        err.print(f"{region['name']}: {region['volume_ml']:.1f} mL", markup=False)
    if not any(region["voxels"] for region in result["classes"]):
        err.print("no region above threshold (this does not mean that there is no disease)")
    err.print(f"written to {target}", markup=False)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err,
        disable=not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
