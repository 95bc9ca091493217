"""Read: a closed revision becomes an exact volume or a photograph in the cache, or a refusal by name (queue `cpu`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ai_engine.pictures import InputPicture
from ai_engine.prediction import InputVolume
from dicom_node import files
from dicom_node.record import studies
from dicom_node.record.revisions import load_revision
from dicom_node.record.timeline import note
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.appearance import appearance
from dicom_node.stages.context import Tools
from dicom_node.stages.inputs import as_input
from dicom_node.stages.pictures import as_picture
from dicom_node.volume import (
    PICTURE_CLASSES,
    CacheDamaged,
    Limits,
    build_volume,
    load_picture,
    load_volume,
    read_picture,
    save_picture,
    save_volume,
)
from dicom_node.words import Picture, Volume

log = structlog.get_logger()

Read = TypeVar("Read", Volume, Picture)

MAX_PHOTOGRAPHS = 50
"""Of one series; each has a result of its own, and more is no series of lesions but a film."""
CACHE_BYTES = 10 * 1000**3
"""A volume that is gone is built again from the vault."""

_reading: dict[int, threading.Lock] = {}
_table = threading.Lock()


def read_revision(tools: Tools, revision_id: int) -> bool:
    """Decode one revision, once, whichever jobs ask for it at the same time; whether there is a volume or photograph.

    The refusal, or what the pictures look like, is written to the revision for routing and for the timeline.
    """
    with _table:
        lock = _reading.setdefault(revision_id, threading.Lock())
    with lock:
        return _read(tools, revision_id)


def _read(tools: Tools, revision_id: int) -> bool:
    with tools.database.read() as connection:
        revision = studies.revision_row(connection, revision_id)
    if revision["refusal"] is not None:
        return False
    if revision["appearance"] is not None:
        return True
    try:
        seen, told = _seen(tools, revision_id)
    except Refused as refused:
        with tools.database.write() as connection:
            studies.set_revision_refusal(connection, revision_id, refused.refusal.to_json())
            note(
                connection,
                "series.refused",
                revision["study_uid"],
                series_uid=revision["series_uid"],
                revision=revision["number"],
                refusal=refused.refusal.to_json(),
            )
        return False
    with tools.database.write() as connection:
        studies.set_revision_read(connection, revision_id, seen)
        note(
            connection,
            "series.read",
            revision["study_uid"],
            series_uid=revision["series_uid"],
            revision=revision["number"],
            **told,
        )
    return True


def _seen(tools: Tools, revision_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a revision looks like, for routing and for the timeline."""
    shown = photographs(tools, revision_id)
    if len(shown) > MAX_PHOTOGRAPHS:
        raise Refused(
            RefusalCode.TOO_LARGE, f"at most {MAX_PHOTOGRAPHS} photographs in a series", f"{len(shown)} photographs"
        )
    if len(shown) > 1:  # each is decoded by the run that reads it, so that a bad one is refused alone
        return {"photographs": len(shown)}, {"photographs": len(shown)}
    if shown:
        picture = load_or_read_picture(tools, revision_id, shown[0])
        size = {"rows": picture.pixels.shape[0], "columns": picture.pixels.shape[1]}
        return size, {**size, "declared": picture.declared, "notes": list(picture.notes)}
    volume = load_or_build(tools, revision_id)
    told = {
        "slices": len(volume.slices),
        "spacing_mm": [round(s, 4) for s in volume.affine.spacing_mm],
        "notes": list(volume.notes),
    }
    return appearance(volume.array, volume.affine).to_json(), told


def photographs(tools: Tools, revision_id: int) -> tuple[str, ...]:
    """SOP Instance UIDs of a revision whose objects are photographs by their class; else none."""
    with tools.database.read() as connection:
        held = load_revision(connection, revision_id).instances
    return tuple(i.uid for i in held) if all(i.sop_class_uid in PICTURE_CLASSES for i in held) else ()


def run_photograph(tools: Tools, run: Any) -> Picture | None:
    """The photograph that a run reads; None where it reads volumes.

    Raises
    ------
    Refused
        As `load_or_read_picture`.
    """
    identity = run["identity"]
    revision_id = int(identity["reference_revision"])
    if not photographs(tools, revision_id):
        return None
    return load_or_read_picture(tools, revision_id, str(identity.get("photograph", "")))


def load_or_read_picture(tools: Tools, revision_id: int, instance_uid: str = "") -> Picture:
    """One photograph of a revision: from the cache file, else decoded from the vault and cached.

    Parameters
    ----------
    instance_uid
        Which one; empty: the only one.

    Raises
    ------
    Refused
        If it is no photograph that can be trusted, or nothing says which of several.
    """
    return _from_cache(tools, revision_id, load_picture, read_picture, save_picture, instance_uid)


def case_picture(tools: Tools, run: Any) -> InputPicture:
    """What a classifier is handed for the case of a run.

    Raises
    ------
    Refused
        As `load_or_read_picture`.
    """
    picture = run_photograph(tools, run)
    if picture is None:
        raise Refused(RefusalCode.SOP_CLASS_UNSUPPORTED, "a photograph", "a volume")
    return as_picture(picture)


def _from_cache(
    tools: Tools,
    revision_id: int,
    load: Callable[[Path], Read],
    build: Callable[..., Read],
    save: Callable[[Read, Path], object],
    instance_uid: str = "",
) -> Read:
    target = cache_path(tools, revision_id, instance_uid)
    if target.exists():
        try:
            return load(target)
        except (CacheDamaged, FileNotFoundError):  # a cache may be thrown away at any time
            log.warning("cache.damaged", revision=revision_id)
    with tools.database.read() as connection:
        instances = load_revision(connection, revision_id).instances
    read = build([tools.stored(one) for one in instances if instance_uid in ("", one.uid)], limits=_limits(tools))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    save(read, target)
    return read


def _limits(tools: Tools) -> Limits:
    work = tools.settings.work
    return Limits(child_wall_s=work.decode_timeout_s, child_memory_bytes=work.decode_memory_mb * 1024**2)


def load_or_build(tools: Tools, revision_id: int) -> Volume:
    """The volume of a revision: from the cache file, else built from the vault and cached (I10: originals stay).

    Raises
    ------
    Refused
        If the series is not a volume that can be trusted.
    """
    return _from_cache(tools, revision_id, load_volume, build_volume, save_volume)


def case_inputs(tools: Tools, revisions: Mapping[str, int], reference: int) -> dict[str, InputVolume]:
    """What a model is handed for a case: a volume per role, the one on whose grid the mask will lie first.

    Raises
    ------
    Refused
        If one of the series is not a volume that can be trusted.
    """
    inputs = {}
    for role, revision_id in sorted(revisions.items(), key=lambda item: (item[1] != reference, item[0])):
        volume = load_or_build(tools, int(revision_id))
        inputs[role] = as_input(volume)
    return inputs


def trim_cache(tools: Tools, limit_bytes: int = CACHE_BYTES) -> int:
    """Remove the oldest volumes above the limit (I7); whoever reads one just now keeps it; how many were removed."""
    return files.trim(tools.volume_folder, limit_bytes)


def cache_path(tools: Tools, revision_id: int, instance_uid: str = "") -> Path:
    """Where the volume of a revision is cached, or one photograph of it."""
    return tools.volume_folder / (f"{revision_id}-{instance_uid}" if instance_uid else f"{revision_id}")
