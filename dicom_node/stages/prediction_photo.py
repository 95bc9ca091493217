"""A photograph that somebody asks about over HTTP: it goes the way of every photograph, object first.

    read      what was uploaded becomes a DICOM object (`dicom_node.photo.wrap`)                  (queue `cpu`)
    infer     the picture is decoded out of that object and goes through the quality gate and the model
    write     heat map, PDF, SR and FHIR report, checked; without a patient there is nobody to file them for

So the model never sees the upload itself, and a photograph says the same here, from the command line and by C-STORE.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from ai_engine.findings import Findings, findings_from_json
from dicom_node import files
from dicom_node.failpoints import reach
from dicom_node.photo import Importer, PhotoClass, PhotoLimits, wrap
from dicom_node.record import canonical_json, predictions
from dicom_node.record.predictions import Turn
from dicom_node.refusals import Refusal, Refused
from dicom_node.sealing import at_rest
from dicom_node.stages.context import Mask, Tools, pack_mask, unpack_mask
from dicom_node.stages.pictures import as_picture
from dicom_node.stages.prediction_cache import is_hit, picture_digest
from dicom_node.stages.prediction_facts import local_time, occasion_of, patient_of
from dicom_node.stages.prediction_photo_files import write_photo_files
from dicom_node.stages.prediction_places import UploadsGone, folder_of, is_wanted, spool_of
from dicom_node.stages.prediction_words import PHOTO
from dicom_node.stages.transfer import first_transfers
from dicom_node.stages.twins import note_twins
from dicom_node.volume import CacheDamaged, Limits, load_picture, read_picture, save_picture
from dicom_node.words import Picture, RunState

_FINDINGS, _HEAT_MAP = "findings.json", "heat.bin"


def read_photo(tools: Tools, turn: Turn, row: RowMapping) -> None:
    """The upload becomes a DICOM object, the same bytes however often this is begun."""
    started = time.monotonic()
    (upload,) = row["inputs"]
    path = spool_of(tools).path(upload["sha256"])
    if not path.is_file():
        raise UploadsGone
    said, work = row["options"]["photo"], tools.settings.work
    wrapped = wrap(
        at_rest.read(path),
        patient_of(said, row["public_id"]),
        occasion_of(said, local_time(tools.settings.node, row["created_at"])),
        Importer(uuid.UUID(tools.site_namespace), tools.version, tools.node_instance),
        photo_class=_class_of(said["declared"], tools),
        claimed=said["claimed"],
        limits=PhotoLimits(
            max_bytes=tools.settings.api.max_photo_mb * 1_000_000,
            child_memory_bytes=min(work.decode_memory_mb, 2048) * 1024**2,
            child_wall_s=work.decode_timeout_s,
        ),
    )
    files.write_sealed(photo_path(tools, row), wrapped.data)
    picture = _decoded(tools, row)
    tools.volume_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_picture(picture, _cache_path(tools, row))
    reach("P1")
    notes = list(dict.fromkeys((*wrapped.notes, *picture.notes)))
    options = {**row["options"], "kind": "photo", "roles": [upload["role"]], "notes": notes}
    seconds = {"read": time.monotonic() - started}
    study_uid = wrapped.study_uid if said["patient"] else None
    with tools.database.write() as connection:
        if predictions.go_on(connection, turn, "infer", seconds, options=options, study_uid=study_uid):
            predictions.tell(
                connection,
                turn.number,
                "prediction.was-read",
                roles=[upload["role"]],
                shape=[wrapped.rows, wrapped.columns],
                seconds=round(seconds["read"], 3),
            )


def infer_photo(tools: Tools, turn: Turn, row: RowMapping) -> None:
    """The model is asked about the picture in the object; what the quality gate refuses has no answer of any kind."""
    started = time.monotonic()
    picture = _picture(tools, row)
    reach("P2")
    asked = as_picture(picture)
    (answer,) = tools.models.classify(row["model"], [asked], lambda: is_wanted(tools, turn))
    if isinstance(answer, Refusal):
        raise Refused(answer.code, answer.expected, answer.found)
    folder = folder_of(tools, row) / str(turn.attempt)
    said = {"findings": answer.findings.to_json(), "quality": dict(answer.quality)}
    if answer.heat_map is not None:
        files.write_sealed(folder / _HEAT_MAP, pack_mask(answer.heat_map))
    files.write_sealed(folder / _FINDINGS, canonical_json(said).encode())
    seconds = {"infer": time.monotonic() - started, **dict(answer.timings_s)}
    with tools.database.write() as connection:
        kept = predictions.go_on(
            connection,
            turn,
            "write",
            seconds,
            model_digest=answer.findings.model.digest_sha256,
            files={"inferred": turn.attempt},
        )
        if not kept:
            return
        predictions.tell(
            connection,
            turn.number,
            "prediction.inferred",
            seconds={stage: round(value, 3) for stage, value in answer.timings_s.items()},
            regions={},
            from_cache=is_hit(answer.findings),
        )
        if row["study_uid"]:
            seen = {row["options"]["roles"][0]: picture_digest(asked)}
            note_twins(connection, seen, picture.attributes, row["study_uid"])


def write_photo(tools: Tools, turn: Turn, row: RowMapping) -> None:
    """Everything that can be fetched, and the transfers: the photograph itself only where a route publishes it."""
    started = time.monotonic()
    findings, quality, heat_map = _inferred(tools, row)
    picture = _picture(tools, row)
    target = folder_of(tools, row) / str(turn.attempt)
    written = write_photo_files(tools, row, picture, heat_map, findings, quality, target)
    wanted = list(row["options"].get("transfer", []))
    route = tools.photo_routes.get(findings.model.name)
    archive = route.archive if route is not None and written.is_of_somebody else None
    if archive is not None:
        wanted = [*(name for name in wanted if name != archive), archive]
    transfers = first_transfers(tools, wanted, picture.attributes, picture.study_uid)
    if archive is not None:  # the archive forwards it, and the road does the rest: no result of ours goes there twice
        transfers[archive] = {**transfers[archive], "files": [PHOTO]}
    reach("P3")
    with tools.database.write() as connection:
        finished = predictions.finish(
            connection,
            turn,
            RunState.BUILT,
            answer=written.answer,
            files={**written.files, PHOTO: PHOTO} if written.is_of_somebody else written.files,
            transfers=transfers or None,
            seconds={"write": time.monotonic() - started},
        )
        if finished:
            predictions.tell(connection, turn.number, "prediction.completed", files=sorted(written.files))
    _cache_path(tools, row).unlink(missing_ok=True)


def photo_path(tools: Tools, row: RowMapping) -> Path:
    """The DICOM object of the photograph."""
    return folder_of(tools, row) / PHOTO


def _class_of(declared: str, tools: Tools) -> PhotoClass:
    """What the site stores photographs as; only one that its sender calls dermoscopic becomes a dermoscopic object."""
    return PhotoClass(tools.settings.photos.store_as) if declared == "dermoscopic" else PhotoClass.VL_PHOTOGRAPHIC


def _picture(tools: Tools, row: RowMapping) -> Picture:
    """The picture that reading left in the cache, or decoded again: a cache may be thrown away at any time."""
    try:
        return load_picture(_cache_path(tools, row))
    except (CacheDamaged, FileNotFoundError):
        return _decoded(tools, row)


def _cache_path(tools: Tools, row: RowMapping) -> Path:
    return tools.volume_folder / f"p{row['id']}-{row['inputs'][0]['role']}"


def _decoded(tools: Tools, row: RowMapping) -> Picture:
    work = tools.settings.work
    limits = Limits(child_wall_s=work.decode_timeout_s, child_memory_bytes=work.decode_memory_mb * 1024**2)
    return read_picture(photo_path(tools, row).absolute(), limits=limits)


def _inferred(tools: Tools, row: RowMapping) -> tuple[Findings, dict[str, Any], Mask | None]:
    folder = folder_of(tools, row) / str(row["files"]["inferred"])
    said = json.loads(at_rest.read(folder / _FINDINGS))
    heat = folder / _HEAT_MAP
    return (
        findings_from_json(said["findings"]),
        dict(said["quality"]),
        unpack_mask(at_rest.read(heat)) if heat.is_file() else None,
    )
