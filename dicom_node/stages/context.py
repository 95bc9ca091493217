"""What every stage of the road is handed: settings, records, models, and who this installation is."""

from __future__ import annotations

import json
import os
import secrets
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, RowMapping

from ai_engine.findings import Findings
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import InputVolume
from dicom_node import files
from dicom_node.record import Database, removals
from dicom_node.record.runs import Attempt, add_artefact, artefact
from dicom_node.refusals import Refusal
from dicom_node.settings import Settings
from dicom_node.words import Grade, Instance, RunIdentity

Mask = npt.NDArray[np.uint8]

MASK, HEAT_MAP, FINDINGS = "mask", "heat-map", "findings"
"""What a run leaves for everything after it: findings, and a mask or (of a photograph) where the network looked."""


@dataclass(frozen=True)
class ModelDescription:
    """What decides a run key about a model as it would run here and now."""

    name: str
    version: str
    digest_sha256: str
    settings_sha256: str
    """Digest of step, mirroring, backend, device and the precision read back from the compiled network."""
    roles: tuple[str, ...]
    reference_role: str
    """The role on whose grid the result lies."""
    pictures_at_once: int = 0
    """Of a model that reads photographs: how many it answers in one call.  0: it reads volumes."""


class ChildDied(Exception):
    """The model's child process ended, hung or grew past its limit; counted, and retried a bounded number of times."""


class Unwanted(Exception):
    """The work was interrupted because nobody wants its result any more: cancelled, superseded, or taken over."""


class Models(Protocol):
    """The models of this installation, kept warm in child processes."""

    def describe(self, reference: str) -> ModelDescription: ...
    def predict(
        self, reference: str, inputs: Mapping[str, InputVolume], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Mask, Findings]: ...
    def classify(
        self, reference: str, pictures: Sequence[InputPicture], is_wanted: Callable[[], bool] | None = None
    ) -> list[PictureAnswer | Refusal]: ...
    def has_room(self, reference: str) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PhotoRoute:
    """What the routes say about the photographs of one model.

    Attributes
    ----------
    archive
        Destination that forwards what it is sent: where a photograph goes that came in beside the road and whose route
        publishes.  None where nothing is published.
    """

    result_family: str
    archive: str | None = None


@dataclass(frozen=True)
class Tools:
    """Handed to every stage."""

    settings: Settings
    database: Database
    models: Models
    site_namespace: str
    node_instance: str
    version: str
    worker: str = field(default_factory=lambda: f"{os.getpid()}-{secrets.token_hex(4)}")
    stood_in_for: frozenset[str] = frozenset()
    """Routes for which another one stands in when their model refuses the images."""
    photo_routes: Mapping[str, PhotoRoute] = field(default_factory=dict)
    """Name of a model -> what the routes say about its photographs."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set once the worker was told to stop: what fails from then on is no fault and no death."""

    @property
    def artefact_folder(self) -> Path:
        return self.settings.data.folder / "artefacts"

    @property
    def volume_folder(self) -> Path:
        return self.settings.data.folder / "cache" / "volumes"

    def vault_path(self, relative: str) -> Path:
        """A stored file of the vault."""
        return self.settings.data.folder / relative

    def stored(self, instance: Instance) -> Path:
        """The stored file of an instance.

        Raises
        ------
        Refused
            ``removed`` when it was deleted.
        """
        if instance.removed_at:
            raise removals.removed(instance.removed_at)
        return self.vault_path(instance.path)

    # -- artefacts: bytes named by their digest, rows only while the attempt is current ----------------------------

    def keep_bytes(self, *data: bytes) -> None:
        """Write artefacts' bytes ahead of their rows, so that no disk is waited for while the record is locked."""
        for one in data:
            files.keep(self.artefact_folder, one)

    def keep(self, connection: Connection, attempt: Attempt, kind: str, data: bytes, **columns: Any) -> bool:
        """Keep an artefact's bytes, then its row; False when the attempt was stale."""
        sha256, path = files.keep(self.artefact_folder, data)
        return add_artefact(connection, attempt, kind, sha256, path, **columns)

    def load(self, connection: Connection, run_id: int, kind: str) -> bytes | None:
        """The bytes of a run's artefact, compared with their digest; None where there never was one.

        Raises
        ------
        Refused
            ``removed`` when it was deleted.
        """
        row = artefact(connection, run_id, kind)
        return None if row is None else files.load(self.artefact_folder, *removals.place(row))


def identity_of(run: RowMapping | Mapping[str, Any]) -> RunIdentity:
    """What a run's objects say about themselves, out of its row."""
    told = dict(run["identity"]["results"])
    told["grade"] = Grade(told["grade"])
    told["notes"] = tuple(told["notes"])
    return RunIdentity(**told, run_key=run["run_key"], created=run["created_at"])


def pack_mask(mask: Mask) -> bytes:
    """A (S, R, C) uint8 mask, or a (rows, columns) uint8 heat map, as bytes: a JSON line with the shape, then zlib.

    The same mask is the same bytes.
    """
    head = json.dumps({"shape": list(mask.shape)}).encode() + b"\n"
    return head + zlib.compress(np.ascontiguousarray(mask, dtype=np.uint8).tobytes(), level=6)


def unpack_mask(data: bytes) -> Mask:
    """The inverse of `pack_mask`."""
    head, body = data.split(b"\n", 1)
    shape: Sequence[int] = json.loads(head)["shape"]
    return np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(shape)
