"""A volume as a cache file: arrays as .npy, the rest as JSON, in one folder-free file pair that appears at once.

No pickle.  The array is mapped into memory when loaded, so a worker opens a large volume in a millisecond.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from dicom_node.sealing import at_rest
from dicom_node.words import SliceSource, Volume

_MAGIC = b"AINODEV1"
_ALIGNMENT = 64
_MAX_JSON_BYTES = 64 << 20


class CacheDamaged(ValueError):
    """The file is not a volume cache: build the volume again."""


def save_volume(volume: Volume, path: Path | str) -> None:
    """Write a volume to one file, which appears whole or not at all.

    Layout: magic, length of the JSON (u8), JSON, padding to 64 bytes, float32 array, bool array if there is one.
    """
    target = Path(path)
    shape = list(volume.array.shape)
    head = {
        "shape": shape,
        "has_valid": volume.valid is not None,
        "affine": volume.affine.matrix.tolist(),
        "slices": [asdict(one) for one in volume.slices],
        "study_uid": volume.study_uid,
        "series_uid": volume.series_uid,
        "frame_of_reference_uid": volume.frame_of_reference_uid,
        "modality": volume.modality,
        "attributes": dict(volume.attributes),
        "notes": list(volume.notes),
    }
    part = target.with_name(f"{target.name}.{secrets.token_hex(6)}.part")
    try:
        with open(part, "xb") as file:
            _write(file, json.dumps(head, allow_nan=False).encode(), volume)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _write(file: BinaryIO, head: bytes, volume: Volume) -> None:
    writer = at_rest.writer()
    start = _MAGIC + struct.pack("<Q", len(head)) + head
    file.write(writer.update(start + b"\0" * (-len(start) % _ALIGNMENT)))
    file.write(writer.update(np.ascontiguousarray(volume.array, dtype="<f4").data.cast("B")))
    if volume.valid is not None:
        file.write(writer.update(np.ascontiguousarray(volume.valid, dtype=np.bool_).data.cast("B")))
    file.write(writer.finish())


def load_volume(path: Path | str) -> Volume:
    """Open a volume cache; its arrays are read-only maps of the file.

    Raises
    ------
    CacheDamaged
        If the file is not one that `save_volume` wrote, or is cut.
    FileNotFoundError
        If there is none.
    """
    with at_rest.descriptor(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(_MAGIC) + 8)
        if len(start) < len(_MAGIC) + 8 or not start.startswith(_MAGIC):
            raise CacheDamaged("no volume cache")
        (length,) = struct.unpack("<Q", start[len(_MAGIC) :])
        if length > min(size, _MAX_JSON_BYTES):
            raise CacheDamaged("an impossible head")
        try:
            head: dict[str, Any] = json.loads(file.read(length))
            return _volume(file, head, len(start) + length, size)
        except (ValueError, KeyError, TypeError) as error:
            raise CacheDamaged("an unreadable head") from error


def _volume(file: BinaryIO, head: dict[str, Any], end: int, size: int) -> Volume:
    slices, rows, columns = (int(one) for one in head["shape"])
    shape = (slices, rows, columns)
    count = slices * rows * columns
    offset = end + -end % _ALIGNMENT
    if size != offset + count * 4 + (count if head["has_valid"] else 0):
        raise CacheDamaged("another size than the head says")
    array: npt.NDArray[np.float32] = np.memmap(file, dtype="<f4", mode="r", offset=offset, shape=shape)
    valid: npt.NDArray[np.bool_] | None = None
    if head["has_valid"]:
        valid = np.memmap(file, dtype=np.bool_, mode="r", offset=offset + count * 4, shape=shape)
    return Volume(
        array=array,
        valid=valid,
        affine=Affine(np.asarray(head["affine"], dtype=np.float64)),
        slices=tuple(SliceSource(**one) for one in head["slices"]),
        study_uid=head["study_uid"],
        series_uid=head["series_uid"],
        frame_of_reference_uid=head["frame_of_reference_uid"],
        modality=head["modality"],
        attributes=head["attributes"],
        notes=tuple(head["notes"]),
    )
