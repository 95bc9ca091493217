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

from ai_engine.packages import AnyDescription, Classification, find_package, list_packages, load_package
from dicom_node import registry
from dicom_node.desks.uploads import GivenFile, Model, inputs_of
from dicom_node.durable import Put
from dicom_node.record import Database, audit, digest, now, predictions
from dicom_node.record.predictions import IdempotencyTaken, NewPrediction
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from dicom_node.stages.prediction_facts import issuer_of, occasion_of, patient_of
from dicom_node.stages.prediction_words import FILES, check_transfer, stage_put, takes_results, transfer_puts
from dicom_node.turns import ROUTINE

MAX_BATCH = 50

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,62}(@[0-9A-Za-z][0-9A-Za-z.-]{0,62})?$")


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
    actor: str = ""
    """Who asks, as the audit log names it."""
    photo: Mapping[str, Any] | None = None
    """Of the route for photographs: what the caller says about the one in `cases`."""
    language: str = "en"
    """Of the page of a photograph."""


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
        self._described: dict[Path, tuple[int, AnyDescription]] = {}
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
                    **_answers(description),
                    "intended_use": description.intended_use,
                    "limits": list(description.limits),
                    "licence": description.licence,
                    "aliases": sorted(a for a, alias in self.settings.aliases.items() if _names(alias.model, name)),
                }
            )
        return told

    def _description(self, folder: Path) -> AnyDescription:
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
        batch = secrets.token_hex(16) if asked.is_batch else None
        new = [self._new(asked, case, position, batch) for position, case in enumerate(asked.cases)]
        try:
            with self._database.write() as connection:
                rows = predictions.add(connection, new)
                ids = [str(row["public_id"]) for row in rows]
                audit.append(connection, asked.actor, "prediction-asked", None, ids=ids, model=rows[0]["model"])
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
        same = (asked.body_sha256, asked.name, asked.is_batch)
        if any((row["body_sha256"], row["asked"], row["batch"] is not None) != same for row in rows):
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
        if asked.photo is not None:
            options |= {"photo": self._photo_facts(asked.photo, model), "language": asked.language}
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
        if asked.photo is not None:
            (one,) = case
            role = model.description.inputs[0].role
            upload = {"sha256": one.upload.sha256, "size_bytes": one.upload.size_bytes}
            return NewPrediction(inputs=[{"role": role, "kind": "photo", **upload}], **common)
        try:
            if isinstance(model.description, Classification):
                raise Refused(RefusalCode.VALIDATION, "POST /api/v1/predict/skin-lesion for photographs", asked.name)
            inputs = inputs_of(self.spool, model, case)
            is_nifti = any(entry["kind"] == "nifti" for entry in inputs)
            check_transfer(asked.options.get("transfer", ()), takes_results(self._settings), is_nifti=is_nifti)
            return NewPrediction(inputs=inputs, **common)
        except Refused as refused:
            if not asked.is_batch:
                raise
            return NewPrediction(inputs=[], refusal=refused.refusal.to_json(), **common)

    def _photo_facts(self, said: Mapping[str, Any], model: Model) -> dict[str, Any]:
        """What the caller says, judged before anything is promised, with the issuer that DICOM writes for his system.

        Raises
        ------
        Refused
            ``validation``, ``patient-unidentified``; ``not-ready`` where the name stands for no model of photographs.
        """
        if not isinstance(model.description, Classification):
            raise Refused(RefusalCode.NOT_READY, f"a model that reads photographs as {model.asked}", "another model")
        told = dict(said)
        if told["patient"] is not None:
            issuer = issuer_of(told["patient"]["system"], self._settings.report.issuers)
            told["patient"] = {**told["patient"], "issuer": issuer}
        patient_of(told, "")
        occasion_of(told, now())
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

    def cancel(self, owner: str, public_id: str, actor: str) -> RowMapping | None:
        """End a request that its caller no longer wants; the row as it is now, None for a stranger's as for none."""
        with self._database.write() as connection:
            row = predictions.owned(connection, owner, public_id)
            if row is None:
                return None
            is_over = predictions.cancel(connection, row["id"])
            if is_over:
                audit.append(connection, actor, "prediction-cancelled", row["study_uid"], ids=[public_id])
            row = predictions.by_id(connection, row["id"])
        if is_over:  # whoever is to be called back is told of this end too
            for put in transfer_puts(row, f"/at-{row['current_attempt']}"):
                self._put(put)
        return row

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

    def webhooks(self) -> list[str]:
        """Names that `callback` may use."""
        return sorted(self._settings.webhooks)

    @property
    def language(self) -> str:
        """In which callers are answered who ask for none."""
        return self._settings.node.language

    def destinations(self) -> list[str]:
        """Names that `transfer` may use."""
        return sorted(takes_results(self._settings))


def _names(reference: str, model: str) -> bool:
    return reference.partition("@")[0] == model


def _answers(description: AnyDescription) -> dict[str, Any]:
    """What a model says: labels of a mask, or outputs about a whole picture."""
    if isinstance(description, Classification):
        outputs = [
            {"key": entry.key, "name": entry.code.meaning, "threshold": entry.threshold}
            for entry in description.outputs
        ]
        return {"outputs": outputs}
    labels = [{"label": entry.label, "key": entry.key, "name": entry.name} for entry in description.labels]
    return {"labels": labels}
