"""The desk of whoever is on duty: what happened and why, what waits for a person, and the acts that she may do.

Used by the pages of the portal; the command line says and does the same by itself.  Nothing that leaves here names a
patient: studies appear under their opaque ids, texts are veiled (`dicom_node.desks.veil`).  Every act is audited with
who did it and why, in the transaction that does it; its jobs are put afterwards, and the reconciler puts what was not
put.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from ai_engine.packages import list_packages, load_package
from ai_engine.packages.schema import Metric
from dicom_node.desks.veil import Veil
from dicom_node.desks.why import Why, why
from dicom_node.durable import Put
from dicom_node.record import Database, actions, analyses, pauses, registry, views
from dicom_node.record.actions import Job, UnknownItem
from dicom_node.refusals import Refused
from dicom_node.routing import RouteBook, RoutesRefused
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from dicom_node.stages.peers import Standing, peers, standing

MAX_REASON = 300
_SIZES_S = 60.0
"""How long the sizes of folders are believed: counting a large vault takes a while."""

Act = Callable[[Connection, str, str, str], list[Job]]

ACTS: Mapping[str, Act] = {
    "release": actions.release,
    "reject": actions.reject,
    "retry": actions.retry,
    "cancel": actions.cancel,
}
"""What may be done to an item of the lists, by the word in its address."""


@dataclass(frozen=True)
class Area:
    """One folder of the node: what it is for (a word of the pages), how much is in it."""

    name: str
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Disk:
    """The disk that the node's data lie on."""

    total_bytes: int
    free_bytes: int
    line_bytes: int
    """Below it nothing new is taken."""
    areas: tuple[Area, ...]


@dataclass(frozen=True)
class Found:
    """What somebody's word names.

    Attributes
    ----------
    study
        Its opaque id; empty where there is none.
    photograph
        How an analysis stands of which there is no study: received, refused, failed, withdrawn.
    """

    study: str = ""
    photograph: str = ""


class Operation:
    """The desk.

    Parameters
    ----------
    put
        Hands a job to the road.
    """

    def __init__(self, settings: Settings, database: Database, put: Callable[[Put], None]) -> None:
        self._settings = settings
        self._database = database
        self._put = put
        self._lock = threading.Lock()
        self._sizes: tuple[float, tuple[Area, ...]] | None = None

    # -- what happened

    def studies(self, limit: int, state: str = "") -> list[dict[str, Any]]:
        """The newest studies, each with the state of its worst part.

        Parameters
        ----------
        state
            Only those in this state (waiting, completed, refused, failed, held); empty: all.
        """
        with self._database.read() as connection:
            rows = views.list_studies(connection, limit)
        kept = ("id", "state", "last_activity_at", "series", "waits_for")
        return [
            {key: row[key] for key in kept}
            | {
                "runs": [{k: run[k] for k in ("result_family", "state", "publish")} for run in row["runs"]],
                "refusals": [told["code"] for told in row["refusals"] if told],
            }
            for row in rows
            if not state or row["state"] == state
        ]

    def find(self, told: str) -> Found:
        """The study that somebody names: by its UID, accession number or id, or by the number on its doctor's page."""
        with self._database.read() as connection:
            asked = analyses.by_public_id(connection, told)
            uid = told if asked is None else str(asked["study_uid"] or "")
            row = views.find_study(connection, uid) or views.by_accession(connection, told)
        if row is not None:
            return Found(study=str(row["public_id"]))
        if asked is None:
            return Found()
        is_refused = "refusal" in analyses.told_error(asked)
        return Found(photograph="refused" if is_refused else str(asked["state"]))

    def why(self, public_id: str) -> Why | None:
        """Everything about one study, and what it comes to; None when there is no such study."""
        book = self.routes()
        with self._database.read() as connection:
            row = views.find_study(connection, public_id)
            if row is None or row["public_id"] != public_id:  # an id in an address, never a UID (S23)
                return None
            return why(connection, row, book or RouteBook(schema_version=1, routes=()))

    # -- what waits

    def held(self) -> list[dict[str, Any]]:
        """What waits for a person's decision."""
        with self._database.read() as connection:
            return self._told(connection, views.held(connection))

    def jobs(self) -> list[dict[str, Any]]:
        """What runs, waits or failed; failed first in each kind."""
        with self._database.read() as connection:
            return self._told(connection, views.jobs(connection))

    def _told(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same rows with the study's opaque id, its patient veiled."""
        known: dict[str, Mapping[str, Any]] = {}
        told = []
        for row in rows:
            uid = str(row.get("study_uid") or "")
            if uid and uid not in known:
                known[uid] = views.find_study(connection, uid) or {}
            study = known.get(uid, {})
            veil = Veil(study.get("identity") or {})
            told.append(
                {key: value if key == "id" else veil(value) for key, value in row.items() if key != "study_uid"}
                | {"study": study.get("public_id", "")}
            )
        return told

    def destinations(self) -> list[Standing]:
        """How every destination fares."""
        with self._database.read() as connection:
            return standing(self._settings, connection)

    # -- acts

    def act(self, verb: str, item: str, actor: str, reason: str) -> int:
        """Release, reject, retry or cancel one item; how many jobs follow.

        Raises
        ------
        UnknownItem
            If there is no such item, or nothing of the kind can be done to it now.
        """
        with self._database.write() as connection:
            jobs = ACTS[verb](connection, item, actor, reason)
        return self._follow(jobs)

    def pause(self, name: str, actor: str, reason: str) -> int:
        """Leave a destination alone until it is resumed.

        Raises
        ------
        UnknownItem
        """
        if name not in peers(self._settings):
            raise UnknownItem(f"{name}: no such destination")
        with self._database.write() as connection:
            pauses.pause(connection, name, actor, reason)
        return 0

    def resume(self, name: str, actor: str, reason: str) -> int:
        """End a pause; how many jobs follow.

        Raises
        ------
        UnknownItem
        """
        with self._database.write() as connection:
            jobs = pauses.resume(connection, name, actor, reason)
        return self._follow(jobs)

    def _follow(self, jobs: Sequence[Job]) -> int:
        for queue, job, key, args in jobs:
            self._put(Put(queue, job, key, args))
        return len(jobs)

    # -- what there is

    def routes(self) -> RouteBook | None:
        """The routes as their file stands now; None when it is not understood."""
        try:
            return load_routes(self._settings.routes)
        except RoutesRefused:
            return None

    def models(self) -> list[dict[str, Any]]:
        """Every installed version: what it is, its figures, and where it is in force."""
        with self._database.read() as connection:
            aliases = registry.aliases(connection)
            shadows = {(row["model"], row["version"]) for row in registry.active_shadows(connection)}
        book = self.routes()
        told = []
        for name, version, folder in list_packages(self._settings.engine.models):
            in_force = [
                {"alias": str(row["alias"]), "percent": int(choice["percent"])}
                for row in aliases
                if row["model"] == name
                for choice in row["choices"]
                if choice["version"] == version
            ]
            routes = [] if book is None else [r.name for r in book.routes if r.model.partition("@")[0] == name]
            told.append(
                {
                    "name": name,
                    "version": version,
                    "in_force": in_force,
                    "is_shadow": (name, version) in shadows,
                    "routes": routes,
                    **_described(folder),
                }
            )
        return told

    def disk(self) -> Disk:
        """How full the disk is, and with what."""
        data = self._settings.data
        usage = shutil.disk_usage(data.folder)
        line = int(max(data.min_free_gb * 1e9, data.min_free_share * usage.total))
        return Disk(usage.total, usage.free, line, self._areas())

    def _areas(self) -> tuple[Area, ...]:
        with self._lock:
            if self._sizes is None or time.monotonic() - self._sizes[0] > _SIZES_S:
                folders = sorted(path for path in self._settings.data.folder.iterdir() if path.is_dir())
                self._sizes = (time.monotonic(), tuple(_area(folder) for folder in folders))
            return self._sizes[1]


def _area(folder: Path) -> Area:
    files = size = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                files, size = files + 1, size + path.stat().st_size
        except OSError:  # it went while we looked
            continue
    return Area(folder.name, files, size)


def _described(folder: Path) -> dict[str, Any]:
    """What a package says of itself; of one that cannot be trusted, why."""
    try:
        package = load_package(folder, weights=False)
    except Refused as refused:
        return {"usable": False, "reason": refused.refusal.message}
    described = package.description
    return {
        "usable": True,
        "digest": package.digest_sha256,
        "title": described.title,
        "task": described.task.value,
        "framework": described.framework,
        "intended_use": described.intended_use,
        "limits": list(described.limits),
        "words": described.words,
        "licence": described.licence,
        "figures": [
            {
                "name": one.name,
                "of": one.region if isinstance(one, Metric) else one.output,
                "group": " + ".join(one.roles) if isinstance(one, Metric) else one.group,
                "value": one.value,
                "low": one.ci95[0] if one.ci95 else None,
                "high": one.ci95[1] if one.ci95 else None,
                "n": one.n,
                "data": one.data,
            }
            for one in described.metrics
        ],
    }
