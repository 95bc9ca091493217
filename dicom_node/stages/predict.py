"""Predict: what somebody asked for over HTTP, as a job like any other (queues `cpu` and `model`).

    read      the uploads become exact volumes, each by its role                                    (queue `cpu`)
    infer     they go through the model, or its answer to the same arrays is taken out of the cache  (queue `model`)
    write     mask, numbers and pictures; for DICOM the SEG, SR and PDF too, checked                 (queue `cpu`)
    send      they go to a destination that the caller named                                         (queue `out-…`)

Each is a start of its own, counted before it begins; what it found is written only while it is the current one.  A
refusal of the input ends the request by name; a model's process that dies is tried again a bounded number of times; a
fault of ours ends it as *failed*, visibly (I6, I11, I12).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import RowMapping

from ai_engine.findings import Findings, findings_from_json
from ai_engine.packages import ModelPackage, find_package, load_package
from dicom_node import files
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import canonical_json, predictions
from dicom_node.record.predictions import Turn
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.stages.context import ChildDied, Mask, Tools, Unwanted, pack_mask, unpack_mask
from dicom_node.stages.inputs import CaseInput, Named, as_input, read_case
from dicom_node.stages.prediction_cache import is_hit, pixels_digest
from dicom_node.stages.prediction_files import write_files
from dicom_node.stages.prediction_photo import infer_photo, read_photo, write_photo
from dicom_node.stages.prediction_places import UploadsGone, folder_of, is_wanted, spool_of
from dicom_node.stages.prediction_words import check_transfer, stage_put, takes_results, transfer_puts
from dicom_node.stages.transfer import first_transfers, transfer
from dicom_node.stages.twins import note_twins
from dicom_node.volume import CacheDamaged, Limits, load_volume, read_nifti_guarded, save_volume
from dicom_node.words import RunState, Volume

log = structlog.get_logger()

_MASK, _FINDINGS = "mask.bin", "findings.json"


def predict(tools: Tools, number: int, stage: str, destination: str = "") -> list[Put]:
    """Do one stage of a request, once; the jobs that follow."""
    if stage == "send":
        return transfer(tools, number, destination)
    with tools.database.write() as connection:
        turn = predictions.begin(connection, number, stage, tools.worker)
        row = predictions.by_id(connection, number)
        if turn is not None:
            predictions.tell(connection, number, f"prediction.{stage}", attempt=turn.attempt)
    if turn is None:
        is_further = row["state"] in predictions.UNFINISHED and not row["cancel"] and row["stage"] != stage
        return [stage_put(row)] if is_further else []
    stages = _PHOTO_STAGES if "photo" in row["options"] else _STAGES
    try:
        stages[stage](tools, turn, row)
    except Refused as refused:
        _refuse(tools, turn, refused)
    except UploadsGone:
        _fail(tools, turn, "its images are not kept any more (api.keep_uploads_h): they have to be sent again")
    except ChildDied as death:
        return _after_death(tools, turn, row, str(death))
    except Unwanted:
        return []  # cancelled meanwhile, or another start has its turn
    except Exception as fault:  # the job's boundary: said, counted as ours, and never left running
        log.exception("prediction.fault", stage=stage)
        if tools.stopping.is_set():
            return []  # left as it is, and taken up at the next start
        _fail(tools, turn, f"a fault of the node: {type(fault).__name__}; see the worker's log at this time")
    return _following(tools, number)


def _following(tools: Tools, number: int) -> list[Put]:
    """The next stage of a request, or what is to be sent and told at its end."""
    with tools.database.read() as connection:
        row = predictions.by_id(connection, number)
    if row["state"] not in predictions.UNFINISHED:
        return transfer_puts(row, f"/at-{row['current_attempt']}")
    return [stage_put(row)] if row["state"] == RunState.RUNNING.value and not row["cancel"] else []


# -- read


def _read(tools: Tools, turn: Turn, row: RowMapping) -> None:
    started = time.monotonic()
    read = _read_case(tools, row)
    check_transfer(row["options"].get("transfer", ()), takes_results(tools.settings), is_nifti=read.kind == "nifti")
    for role, volume in read.volumes.items():
        tools.volume_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_volume(volume, _volume_path(tools, row, role))
    reach("P1")
    first = next(iter(read.volumes.values()))
    options = {
        **row["options"],
        "kind": read.kind,
        "roles": list(read.volumes),
        "notes": [*read.notes, *first.notes],
    }
    seconds = {"read": time.monotonic() - started}
    with tools.database.write() as connection:
        kept = predictions.go_on(connection, turn, "infer", seconds, options=options, study_uid=first.study_uid or None)
        if not kept:
            return
        predictions.tell(
            connection,
            turn.number,
            "prediction.was-read",
            roles=list(read.volumes),
            shape=list(first.array.shape),
            seconds=round(seconds["read"], 3),
        )
        unused = sorted({entry["role"] for entry in row["inputs"]} - {*read.volumes, ""})
        if unused:
            predictions.warn(connection, turn.number, f"not used, because the model does not read it: {unused}")
        for note in options["notes"]:
            predictions.warn(connection, turn.number, note)


def _package(tools: Tools, row: RowMapping) -> ModelPackage:
    return load_package(find_package(tools.settings.engine.models, row["model"]), weights=False)


def _read_case(tools: Tools, row: RowMapping) -> CaseInput:
    """The volumes of a request out of its uploads, in the order of the model's channels."""
    api, work = tools.settings.api, tools.settings.work
    limits = Limits(
        child_wall_s=work.decode_timeout_s,
        child_memory_bytes=work.decode_memory_mb * 1024**2,
        max_nifti_bytes=api.max_unpacked_mb * 1_000_000,
        max_archive_bytes=api.max_unpacked_mb * 1_000_000,
    )
    max_voxels = int(api.max_megavoxels * 1_000_000)
    description = _package(tools, row).description
    spool = spool_of(tools)
    named = [
        Named(spool.path(entry["sha256"]), entry["role"], entry["kind"], entry.get("default_role", ""))
        for entry in row["inputs"]
    ]
    if not all(one.path.is_file() for one in named):
        raise UploadsGone
    scratch = folder_of(tools, row) / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)  # of a start that died

    def nifti_reader(path: Path, *, spacing_mm: Any) -> Volume:
        return read_nifti_guarded(path, spacing_mm=spacing_mm, limits=limits, max_voxels=max_voxels)

    read = read_case(
        named, description, row["options"].get("spacing_mm"), scratch, limits=limits, nifti_reader=nifti_reader
    )
    for volume in read.volumes.values():
        if volume.array.size > max_voxels:
            raise Refused(RefusalCode.TOO_LARGE, f"at most {max_voxels} voxels", f"{volume.array.size} voxels")
    ordered = [entry.role for entry in description.inputs if entry.role in read.volumes]
    return CaseInput(read.kind, {role: read.volumes[role] for role in ordered}, read.notes)


def _volume_path(tools: Tools, row: RowMapping, role: str) -> Path:
    return tools.volume_folder / f"p{row['id']}-{role}"


def _volumes(tools: Tools, row: RowMapping) -> dict[str, Volume]:
    """The volumes that reading left in the cache, or built again: a cache may be thrown away at any time."""
    try:
        return {role: load_volume(_volume_path(tools, row, role)) for role in row["options"]["roles"]}
    except (CacheDamaged, FileNotFoundError):
        log.warning("cache.damaged")
        return dict(_read_case(tools, row).volumes)


# -- infer


def _infer(tools: Tools, turn: Turn, row: RowMapping) -> None:
    started = time.monotonic()
    volumes = _volumes(tools, row)
    inputs = {role: as_input(volume) for role, volume in volumes.items()}
    reach("P2")
    mask, findings = tools.models.predict(row["model"], inputs, lambda: is_wanted(tools, turn))
    folder = folder_of(tools, row) / str(turn.attempt)
    files.write_sealed(folder / _MASK, pack_mask(mask))
    files.write_sealed(folder / _FINDINGS, canonical_json(findings.to_json()).encode())
    pictures = {role: pixels_digest(volume) for role, volume in inputs.items()}
    first = next(iter(volumes.values()))
    seconds = {"infer": time.monotonic() - started, **dict(findings.timings_s)}
    with tools.database.write() as connection:
        kept = predictions.go_on(
            connection,
            turn,
            "write",
            seconds,
            model_digest=findings.model.digest_sha256,
            files={"inferred": turn.attempt},
        )
        if not kept:
            return
        predictions.tell(
            connection,
            turn.number,
            "prediction.inferred",
            seconds={stage: round(value, 3) for stage, value in findings.timings_s},
            regions={region.key: region.voxels for region in findings.regions},
            from_cache=is_hit(findings),
        )
        if first.study_uid:
            note_twins(connection, pictures, first.attributes, first.study_uid)


# -- write


def _write(tools: Tools, turn: Turn, row: RowMapping) -> None:
    started = time.monotonic()
    mask, findings = _inferred(tools, row)
    volumes = _volumes(tools, row)
    target = folder_of(tools, row) / str(turn.attempt)
    written = write_files(tools, row, volumes, mask, findings, _package(tools, row), target)
    first = next(iter(volumes.values()))
    transfers = first_transfers(tools, row["options"].get("transfer", []), first.attributes, first.study_uid)
    reach("P3")
    with tools.database.write() as connection:
        finished = predictions.finish(
            connection,
            turn,
            RunState.BUILT,
            answer=written.answer,
            files=written.files,
            transfers=transfers or None,
            seconds={"write": time.monotonic() - started},
        )
        if finished:
            predictions.tell(connection, turn.number, "prediction.completed", files=sorted(written.files))
    _clean(tools, row)


def _inferred(tools: Tools, row: RowMapping) -> tuple[Mask, Findings]:
    folder = folder_of(tools, row) / str(row["files"]["inferred"])
    said = json.loads(at_rest.read(folder / _FINDINGS))
    return unpack_mask(at_rest.read(folder / _MASK)), findings_from_json(said)


def _clean(tools: Tools, row: RowMapping) -> None:
    """What nobody needs after the end; volumes may be built again from the spool while the uploads are kept."""
    for role in row["options"].get("roles", ()):
        _volume_path(tools, row, role).unlink(missing_ok=True)
    shutil.rmtree(folder_of(tools, row) / "unpacked", ignore_errors=True)


# -- endings


def _refuse(tools: Tools, turn: Turn, refused: Refused) -> None:
    told = refused.refusal.to_json()
    with tools.database.write() as connection:
        if predictions.finish(connection, turn, RunState.REFUSED, refusal=told):
            predictions.tell(connection, turn.number, "prediction.refused", refusal=told)
        row = predictions.by_id(connection, turn.number)
    if row["state"] == RunState.REFUSED.value:
        _clean(tools, row)


def _fail(tools: Tools, turn: Turn, reason: str) -> None:
    with tools.database.write() as connection:
        if predictions.finish(connection, turn, RunState.FAILED, error=reason):
            predictions.tell(connection, turn.number, "prediction.failed", reason=reason)


def _after_death(tools: Tools, turn: Turn, row: RowMapping, reason: str) -> list[Put]:
    if tools.stopping.is_set():
        return []
    limit = tools.settings.work.max_deaths
    with tools.database.write() as connection:
        deaths = predictions.count_death(connection, turn.number, "child_deaths")
        predictions.release(connection, turn.number)
        predictions.tell(connection, turn.number, "prediction.child-died", deaths=deaths, reason=reason)
    if deaths >= limit:
        _fail(tools, turn, f"the model's process ended {deaths} times ({reason}); given up after {limit}")
        return _following(tools, turn.number)
    return [stage_put(row, f"/after-{turn.attempt}", delay_s=2.0 * deaths)]


_STAGES: Mapping[str, Callable[[Tools, Turn, RowMapping], None]] = {"read": _read, "infer": _infer, "write": _write}
_PHOTO_STAGES: Mapping[str, Callable[[Tools, Turn, RowMapping], None]] = {
    "read": read_photo,
    "infer": infer_photo,
    "write": write_photo,
}
