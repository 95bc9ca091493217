"""A decoded photograph as a cache file: its pixels as they are, the rest as JSON, whole or not at all.  No pickle."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine.findings import Code
from dicom_node import files
from dicom_node.sealing import at_rest
from dicom_node.volume.cache import CacheDamaged
from dicom_node.words import Picture

_MAGIC = b"AINODEP1"
_DIGEST_BYTES = 32
_MAX_JSON_BYTES = 16 << 20


def save_picture(picture: Picture, path: Path) -> None:
    """Write a photograph to one file: magic, sha256 of the rest, length of the JSON (u8), JSON, pixels."""
    told = {
        "shape": list(picture.pixels.shape),
        "sop_class_uid": picture.sop_class_uid,
        "sop_instance_uid": picture.sop_instance_uid,
        "series_uid": picture.series_uid,
        "study_uid": picture.study_uid,
        "modality": picture.modality,
        "path": picture.path,
        "declared": picture.declared,
        "body_site": None if picture.body_site is None else asdict(picture.body_site),
        "laterality": picture.laterality,
        "attributes": dict(picture.attributes),
        "notes": list(picture.notes),
    }
    head = json.dumps(told, allow_nan=False).encode()
    body = struct.pack("<Q", len(head)) + head + np.ascontiguousarray(picture.pixels).tobytes()
    files.write_cache(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load_picture(path: Path) -> Picture:
    """Read what `save_picture` wrote.

    Raises
    ------
    CacheDamaged
        If the file is not one that `save_picture` wrote, or has changed since.
    FileNotFoundError
        If there is none.
    """
    data = at_rest.read(path)
    start = len(_MAGIC) + _DIGEST_BYTES
    body = data[start:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        raise CacheDamaged("no cache of a photograph, or other bytes than were written")
    try:
        (length,) = struct.unpack_from("<Q", body)
        if length > _MAX_JSON_BYTES:
            raise CacheDamaged("an impossible head")
        told: dict[str, Any] = json.loads(body[8 : 8 + length])
        shape = tuple(int(side) for side in told.pop("shape"))
        pixels = np.frombuffer(body, dtype=np.uint8, offset=8 + length).reshape(shape)
        site = told.pop("body_site")
        notes = tuple(told.pop("notes"))
        return Picture(pixels=pixels, body_site=None if site is None else Code(**site), notes=notes, **told)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CacheDamaged("an unreadable head") from error
