"""The prediction cache: what a model said about the same arrays under the same settings is not computed again.

Key: digest of every input (pixels, padding, geometry, modality), of the model, of its settings with the precision in
force, and of this program's version.  Nothing in the key and nothing in a file names a patient: objects and identities
are built afterwards, for the patient at hand.  A file that is damaged, or was written by another version, is a miss;
the cache may be deleted at any time.  Bounded by bytes; the longest unused file goes first (I7).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from ai_engine.findings import Findings, findings_from_json
from ai_engine.geometry import Affine
from ai_engine.pictures import InputPicture
from ai_engine.prediction import InputVolume
from dicom_node import files, logs
from dicom_node.record import canonical_json, digest
from dicom_node.sealing import at_rest
from dicom_node.stages.context import Mask, pack_mask, unpack_mask

log = structlog.get_logger()

FORM = "1"
"""Part of every key: another form of file is another cache."""
PROGRAM = importlib.metadata.version("dicom-ai-node")
"""Part of every key: another version of the program may answer otherwise with the same model."""
HIT = "cache"
"""The only stage in the timings of an answer that came from here."""

_DIGEST_BYTES = 32


class PredictionCache:
    """Files of one folder, at most `limit_bytes` together.

    Parameters
    ----------
    limit_bytes
        0 switches the cache off.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def load(self, key: str) -> tuple[Mask, Findings] | None:
        """What was said under this key, with the time this look took in place of the timings; None for a miss."""
        if not self._limit:
            return None
        started = time.monotonic()
        path = self._folder / key
        try:
            data = at_rest.read(path)
            found = _parse(data)
            os.utime(path)  # the clock of "least recently used"; atime is off on many file systems
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, struct.error) as error:
            log.warning("prediction-cache.damaged", error=logs.named(error))
            path.unlink(missing_ok=True)
            return None
        mask, findings = found
        return mask, replace(findings, timings_s=((HIT, time.monotonic() - started),))

    def keep(self, key: str, mask: Mask, findings: Findings) -> None:
        """Keep an answer; one that is larger than the whole cache is not kept, and a full disk is no fault here."""
        head = canonical_json(replace(findings, timings_s=()).to_json()).encode()
        body = struct.pack("<Q", len(head)) + head + pack_mask(mask)
        data = hashlib.sha256(body).digest() + body
        if not self._limit or len(data) > self._limit:
            return
        try:
            files.write_sealed(self._folder / key, data)
        except OSError as error:
            log.warning("prediction-cache.not-kept", error=logs.named(error))
            return
        self.trim()

    def trim(self) -> int:
        """Remove the longest unused files above the limit; how many were removed."""
        return files.trim(self._folder, self._limit)


def is_hit(findings: Findings) -> bool:
    """Whether an answer came out of the cache."""
    return [stage for stage, _ in findings.timings_s] == [HIT]


def cache_key(model_digest: str, settings_digest: str, inputs: Mapping[str, InputVolume]) -> str:
    """The name of an answer: inputs by role, the one on whose grid the mask lies, model and settings."""
    told = {role: input_digest(volume) for role, volume in inputs.items()}
    reference = next(iter(inputs), "")
    made_by = {"form": FORM, "program": PROGRAM, "model": model_digest, "settings": settings_digest}
    return digest({**made_by, "inputs": told, "reference": reference})


def input_digest(volume: InputVolume) -> str:
    """Digest of everything a model may see of one input.

    Every field of `InputVolume` counts, those that are added later too.

    Raises
    ------
    TypeError
        For a field of a kind that has no one spelling here: a fault of ours, found by the first test.
    """
    return digest({field.name: _told(getattr(volume, field.name)) for field in fields(volume)})


def pixels_digest(volume: InputVolume) -> str:
    """Digest of the picture alone: the same in another place or under another name."""
    return digest(_told(volume.array))


def picture_digest(picture: InputPicture) -> str:
    """Digest of a photograph's pixels alone: the same under another name."""
    return digest(_told(picture.pixels))


def _told(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        plain = np.ascontiguousarray(value)
        return [plain.dtype.str, list(plain.shape), hashlib.sha256(plain.data).hexdigest()]
    if isinstance(value, Affine):
        return _told(value.matrix)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_told(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _told(one) for key, one in value.items()}
    raise TypeError(f"an input field of type {type(value).__name__} has no digest")


def _parse(data: bytes) -> tuple[Mask, Findings]:
    sha256, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != sha256:
        raise ValueError("other bytes than were kept")
    (length,) = struct.unpack_from("<Q", body)
    head = json.loads(body[8 : 8 + length])
    return unpack_mask(body[8 + length :]), findings_from_json(head)
