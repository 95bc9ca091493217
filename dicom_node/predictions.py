"""The desk for predictions by HTTP: takes what was uploaded, says who may ask for what, and hands out what came of it.

Used by the `web` process; the work is done by `dicom_node.stages.predict` in the worker.  This is where a name in a
URL becomes a model: `Predictions.model` knows the aliases of the configuration and asks `dicom_node.registry` for the
version.  A row is committed before its job is put and before the caller is answered, so an id that was given out
stays good whatever dies (I1); the reconciler puts what was not put.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from ai_engine.packages import Description, find_package, list_packages, load_package
from dicom_node import registry
from dicom_node.durable import Put
from dicom_node.record import Database, digest, predictions
from dicom_node.record.predictions import IdempotencyTaken, NewPrediction
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.attributes import ROLE_ALIASES
from dicom_node.settings import Settings
from dicom_node.spool import Spool, Upload
from dicom_node.stages.inputs import fitting_set, kind_of
from dicom_node.stages.predict import stage_put
from dicom_node.stages.prediction_files import FILES
from dicom_node.stages.transfer import takes_results
from dicom_node.turns import ROUTINE

MAX_BATCH = 50

_LAST_OF_BATCH = 40
"""However long a batch is, it goes before what only compares models."""
_SUFFIX = re.compile(r"[-_.](t1ce|t1gd|t1c|t1n|t1w|t1|t2w|t2f|t2|flair)\.nii(\.gz)?$", re.IGNORECASE)
_SUFFIX_ROLES = {"t1n": "t1", "t1w": "t1", "t2w": "t2", "t2f": "flair"}
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,62}(@[0-9A-Za-z][0-9A-Za-z.-]{0,62})?$")


@dataclass(frozen=True)
class Model:
    """What a name in a URL stands for, for one upload."""

    asked: str
    reference: str
    """``name@version``."""
    description: Description
    default_role: str = ""


@dataclass(frozen=True)
class GivenFile:
    """One uploaded file, already in the spool."""

    upload: Upload
    role: str = ""
    """As the caller said it, by the field's name or by `role`; empty: find out."""
    told_name: str = ""
    """As the caller called it: only looked at for its ending, never kept."""
    is_image_field: bool = True


@dataclass(frozen=True)
class Asked:
    """One call: who, for what, with which files; a batch has several cases."""

    owner: str
    name: str
    cases: Sequence[Sequence[GivenFile]]
    is_batch: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    idempotency_key: str | None = None
    body_sha256: str = ""


class UnknownModel(Exception):
    """There is no such name: the caller is told that there is nothing here."""


class Predictions:
    """The desk.

    Parameters
    ----------
    put
        Hands a job to the road.
    """

    def __init__(self, settings: Settings, database: Database, put: Callable[[Put], None]) -> None:
        self.settings = settings.api
        self._settings = settings
        self._database = database
        self._put = put
        self._described: dict[Path, tuple[int, Description]] = {}
        self._lock = threading.Lock()
        self.spool = Spool(settings.data.folder / "spool")

    # -- models

    def model(self, name: str, subject: str) -> Model:
        """What a name in a URL stands for.

        Parameters
        ----------
        name
            An alias of the configuration, or ``model``, ``model@version``, ``model@alias``.
        subject
            What a choice between versions must stay the same for: the digest of the upload.

        Raises
        ------
        UnknownModel
            If nothing has this name.
        Refused
            ``not-ready`` when a configured alias names a model that is not installed; as `load_package`.
        """
        alias = self.settings.aliases.get(name)
        reference = name if alias is None else alias.model
        if not _NAME.fullmatch(reference):
            raise UnknownModel
        with self._database.read() as connection:
            try:
                resolved = registry.resolve(connection, reference, subject).reference
            except Refused:
                raise UnknownModel from None
        try:
            folder = find_package(self._settings.engine.models, resolved)
        except Refused:
            if alias is None:
                raise UnknownModel from None
            raise Refused(RefusalCode.NOT_READY, f"the model {reference}", "not installed") from None
        exact = f"{folder.parent.name}@{folder.name}"
        return Model(name, exact, self._description(folder), "" if alias is None else alias.default_role)

    def models(self) -> list[dict[str, Any]]:
        """Every installed model: what it reads, what it marks, and under which names it can be asked for."""
        told = []
        for name, version, folder in list_packages(self._settings.engine.models):
            try:
                description = self._description(folder)
            except Refused as refused:
                told.append({"name": name, "version": version, "usable": False, "reason": refused.refusal.message})
                continue
            told.append(
                {
                    "name": name,
                    "version": version,
                    "usable": True,
                    "title": description.title,
                    "task": description.task.value,
                    "framework": description.framework,
                    "role_sets": [list(names) for names in description.accepted_roles],
                    "labels": [
                        {"label": entry.label, "key": entry.key, "name": entry.name} for entry in description.labels
                    ],
                    "intended_use": description.intended_use,
                    "limits": list(description.limits),
                    "licence": description.licence,
                    "aliases": sorted(a for a, alias in self.settings.aliases.items() if _names(alias.model, name)),
                }
            )
        return told

    def _description(self, folder: Path) -> Description:
        """Of a package whose every file was checked against its manifest, again when the manifest changes."""
        stamp = (folder / "manifest.json").stat().st_mtime_ns
        with self._lock:
            known = self._described.get(folder)
        if known is not None and known[0] == stamp:
            return known[1]
        description = load_package(folder, weights=False).description
        with self._lock:
            self._described[folder] = (stamp, description)
        return description

    # -- asking

    def accept(self, asked: Asked) -> list[RowMapping]:
        """Write requests down and put their jobs; their rows, in input order.

        In a batch a file that is refused is refused alone; otherwise its refusal is the answer to the call.

        Raises
        ------
        UnknownModel
        Refused
            `too-busy` and `storage-full` for the moment; `idempotency-conflict`; `input-empty`; `roles-unfilled` and
            what else can be seen before the work begins.
        """
        known = self.repeated(asked)
        if known is not None:
            return known
        self.check_admission(asked.owner, len(asked.cases))
        batch = (
            digest([asked.owner, asked.body_sha256, asked.idempotency_key, secrets.token_hex(8)])[:32]
            if asked.is_batch
            else None
        )
        new = [self._new(asked, case, position, batch) for position, case in enumerate(asked.cases)]
        try:
            with self._database.write() as connection:
                rows = predictions.add(connection, new)
        except IdempotencyTaken:
            known = self.repeated(asked)
            if known is None:
                raise
            return known
        for row in rows:
            if row["state"] in predictions.UNFINISHED:
                self._put(stage_put(row))
        return rows

    def repeated(self, asked: Asked) -> list[RowMapping] | None:
        """The rows of the same call made before, if it was.

        Raises
        ------
        Refused
            ``idempotency-conflict`` when the key stood for another call.
        """
        if asked.idempotency_key is None:
            return None
        with self._database.read() as connection:
            rows = predictions.with_idempotency_key(connection, asked.owner, asked.idempotency_key)
        if not rows:
            return None
        if any(row["body_sha256"] != asked.body_sha256 for row in rows):
            raise Refused(RefusalCode.IDEMPOTENCY_CONFLICT, "the same request again", "another one")
        return rows

    def check_admission(self, owner: str, count: int) -> None:
        """Whether there is room for more.

        Raises
        ------
        Refused
            ``storage-full`` or ``too-busy``.
        """
        data = self._settings.data
        data.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usage = shutil.disk_usage(data.folder)
        if usage.free < max(data.min_free_gb * 1e9, data.min_free_share * usage.total):
            raise Refused(RefusalCode.STORAGE_FULL)
        with self._database.read() as connection:
            everybody = predictions.waiting(connection) + count
            own = predictions.waiting(connection, owner) + count
        api = self.settings
        if everybody > api.max_waiting or own > api.max_waiting_per_key:
            raise Refused(RefusalCode.TOO_BUSY, f"at most {api.max_waiting_per_key} waiting requests", f"{own}")

    def _new(self, asked: Asked, case: Sequence[GivenFile], position: int, batch: str | None) -> NewPrediction:
        subject = digest(sorted(entry.upload.sha256 for entry in case))
        model = self.model(asked.name, subject)
        options = {key: value for key, value in asked.options.items() if key != "priority"}
        common: dict[str, Any] = {
            "owner": asked.owner,
            "asked": asked.name,
            "model": model.reference,
            "options": options,
            "body_sha256": asked.body_sha256,
            "warnings": asked.warnings,
            "urgency": int(asked.options.get("priority", ROUTINE)),
            "batch": batch,
            "position": position,
            "idempotency_key": asked.idempotency_key,
        }
        try:
            inputs = [entry for given in case for entry in self._input(given)]
            self._check_transfer(asked.options.get("transfer", ()), inputs)
            return NewPrediction(inputs=self._with_roles(model, case, inputs), **common)
        except Refused as refused:
            if not asked.is_batch:
                raise
            return NewPrediction(inputs=[], refusal=refused.refusal.to_json(), **common)

    def _check_transfer(self, wanted: Sequence[str], inputs: Sequence[Mapping[str, Any]]) -> None:
        """An archive takes DICOM objects, and of a NIfTI file there are none."""
        takes = takes_results(self._settings)
        if any(entry["kind"] == "nifti" for entry in inputs) and not all(takes[name] for name in wanted):
            raise Refused(RefusalCode.VALIDATION, "DICOM input for a transfer to an archive", "NIfTI")

    def _input(self, given: GivenFile) -> list[dict[str, Any]]:
        if given.upload.size_bytes == 0:
            raise Refused(RefusalCode.INPUT_EMPTY, "a file", "an empty one")
        kind = kind_of(self.spool.path(given.upload.sha256))
        if not kind:
            # whatever it is, the reader of what it was sent as says what is wrong with it
            kind = "dicom" if not given.is_image_field or given.told_name.lower().endswith(".dcm") else "nifti"
        return [
            {
                "role": ROLE_ALIASES.get(given.role, given.role),
                "kind": kind,
                "sha256": given.upload.sha256,
                "size_bytes": given.upload.size_bytes,
            }
        ]

    def _with_roles(
        self, model: Model, case: Sequence[GivenFile], inputs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Give every NIfTI file its role; DICOM is looked into by the worker.

        Raises
        ------
        Refused
            ``roles-unfilled`` where no role set of the model is filled; ``validation`` for a role that nobody knows.
        """
        if not inputs:
            raise Refused(RefusalCode.INPUT_EMPTY, "at least one file", "none")
        known = {entry.role for entry in model.description.inputs} | {"t1", "t1c", "t2", "flair"}
        strangers = sorted({entry["role"] for entry in inputs} - known - {""})
        if strangers:
            raise Refused(RefusalCode.VALIDATION, f"a role among: {', '.join(sorted(known))}", "another")
        if {entry["kind"] for entry in inputs} != {"nifti"}:
            if all(entry["role"] for entry in inputs):
                fitting_set(model.description, [entry["role"] for entry in inputs])
            return list(inputs)
        told = []
        for given, entry in zip(case, inputs, strict=True):
            role = entry["role"] or _role_of_name(given.told_name)
            if not role and len(inputs) == 1:
                role = model.default_role or _only_role(model.description)
            if not role:
                raise Refused(RefusalCode.ROLES_UNFILLED, "a role for every file", "a file without one")
            told.append({**entry, "role": role})
        roles = [entry["role"] for entry in told]
        if len(set(roles)) != len(roles):
            raise Refused(RefusalCode.VALIDATION, "one NIfTI file for each role", "several for one")
        fitting_set(model.description, roles)
        return told

    # -- what came of it

    def result(self, owner: str, public_id: str) -> RowMapping | None:
        """A request of this caller; None for a stranger's as for none."""
        with self._database.read() as connection:
            return predictions.owned(connection, owner, public_id)

    def again(self, owner: str, rows: Sequence[RowMapping]) -> list[RowMapping]:
        """The same requests as they are now."""
        with self._database.read() as connection:
            found = [predictions.owned(connection, owner, str(row["public_id"])) for row in rows]
        return [new if new is not None else old for new, old in zip(found, rows, strict=True)]

    def batch(self, owner: str, batch: str) -> list[RowMapping]:
        """The requests of a batch of this caller, in input order; empty for a stranger's as for none."""
        with self._database.read() as connection:
            return predictions.owned_batch(connection, owner, batch)

    def events(self, number: int, after: int) -> tuple[list[RowMapping], bool]:
        """What happened to a request behind an event's id, and whether nothing more will."""
        with self._database.read() as connection:
            state = predictions.by_id(connection, number)["state"]
            return predictions.events(connection, number, after), state not in predictions.UNFINISHED

    def cancel(self, owner: str, public_id: str) -> RowMapping | None:
        """End a request that its caller no longer wants; the row as it is now, None for a stranger's as for none."""
        with self._database.write() as connection:
            row = predictions.owned(connection, owner, public_id)
            if row is None:
                return None
            predictions.cancel(connection, row["id"])
            return predictions.by_id(connection, row["id"])

    def file(self, row: RowMapping, name: str) -> Path | None:
        """Where a file of a finished request lies; names are looked up, never joined (I9)."""
        found = (row["files"] or {}).get(name) if name in FILES and row["state"] == "built" else None
        if found is None:
            return None
        path: Path = self._settings.data.folder / "predictions" / str(row["public_id"]) / str(found)
        return path if path.is_file() else None

    def waiting(self) -> int:
        """How many requests of all callers are unfinished."""
        with self._database.read() as connection:
            return predictions.waiting(connection)

    def destinations(self) -> list[str]:
        """Names that `transfer` may use."""
        return sorted(takes_results(self._settings))


def _names(reference: str, model: str) -> bool:
    return reference.partition("@")[0] == model


def _only_role(description: Description) -> str:
    """The role of a lone file where the model leaves no choice."""
    alone = [names[0] for names in description.accepted_roles if len(names) == 1]
    return alone[0] if len(alone) == 1 else ""


def _role_of_name(told: str) -> str:
    """The role that a file's name ends in, as BraTS names its files; empty where it does not."""
    found = _SUFFIX.search(told[-64:])
    if found is None:
        return ""
    word = found[1].lower()
    return ROLE_ALIASES.get(word, _SUFFIX_ROLES.get(word, word))
