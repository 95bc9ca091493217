"""The models of this installation, kept warm in child processes (the `Models` that the stages are handed).

Children stay within `engine.warm_memory_mb`; the least recently used one ends first, and none that is at work.  The
road asks for exact versions, which `dicom_node.registry` has chosen.  What a bare name stands for that no alias covers
is settled when it is first used and holds until the process ends.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ai_engine.faults import ChildDied as EngineChildDied
from ai_engine.faults import ChildTimeout, MemoryExceeded
from ai_engine.faults import Unwanted as EngineUnwanted
from ai_engine.findings import Findings
from ai_engine.host import MAX_PICTURES, HostSettings, ModelHost
from ai_engine.packages import Classification, DescriptionError, find_package, load_package
from ai_engine.packages.schema import AnyDescription
from ai_engine.packages.site import read_override, with_override
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings, InputVolume
from dicom_node.record import Database, digest
from dicom_node.refusals import Refusal, RefusalCode, Refused
from dicom_node.registry import in_force, roles_of
from dicom_node.routing import Route, RouteBook
from dicom_node.settings import EngineSection, Settings
from dicom_node.stages.context import ChildDied, Mask, ModelDescription, Unwanted
from dicom_node.stages.prediction_cache import PredictionCache, cache_key


def engine_settings(section: EngineSection, runner: str = "keras", name: str = "") -> EngineSettings:
    """The engine's own settings for the configured ones; TensorFlow is meant for packages of runner ``keras``.

    Parameters
    ----------
    name
        Of the model, for a site's own thresholds.
    """
    backend = "auto" if section.backend == "tensorflow" and runner != "keras" else section.backend
    override = section.site_overrides.get(name) if runner == "classifier" else None
    return EngineSettings(
        device=section.device,
        backend=backend,
        precision=section.precision,
        threads=section.threads,
        site_override=None if override is None else str(override.absolute()),
    )


def check_models(settings: Settings, routes: RouteBook, database: Database) -> None:
    """Check every file of every model that a route may choose against its manifest, before anything listens (I25).

    A version that an alias stands for must also be the very package that was put in force, and each must read every
    role set that a route gives it (I22).

    Parameters
    ----------
    database
        The records with the aliases.

    Raises
    ------
    Refused
        With the name of the model that is missing or not as its manifest or its alias says, of the route whose role
        sets it does not read, or of the model whose site override was made for another package.
    """
    with database.read() as connection:
        wanted = [(route, in_force(connection, route.model)) for route in routes.routes if route.enabled]
    reads: dict[tuple[str, str | None], tuple[frozenset[str], ...]] = {}
    for route, versions in wanted:
        for reference, digest_sha256 in versions.items():
            if (reference, digest_sha256) not in reads:
                folder = find_package(settings.engine.models, reference)
                package = load_package(folder, pinned_sha256=digest_sha256, weights=False)
                reads[reference, digest_sha256] = roles_of(package.description)
            _check_roles(route, reference, reads[reference, digest_sha256], settings.routes.name)
    for name, path in settings.engine.site_overrides.items():
        _check_override(settings, database, name, path)


def _check_override(settings: Settings, database: Database, name: str, path: Path) -> None:
    """Refuse a site's thresholds that were not made for the very package that answers under this name."""
    with database.read() as connection:
        versions = in_force(connection, name)
    for reference, digest_sha256 in versions.items():
        folder = find_package(settings.engine.models, reference)
        package = load_package(folder, pinned_sha256=digest_sha256, weights=False)
        try:
            with_override(package.classification, package.digest_sha256, read_override(path)[0])
        except DescriptionError as error:
            raise Refused(
                RefusalCode.MODEL_UNTRUSTED,
                expected=f"engine.site_overrides: a file for {name} that was made with {package.reference}",
                found=str(error)[:1000],
            ) from None


def _check_roles(route: Route, reference: str, reads: Sequence[frozenset[str]], file: str) -> None:
    """Refuse a route whose role sets its model does not read."""
    wrong = [roles for roles in route.role_sets if frozenset(roles) not in reads]
    if wrong:
        told = " or ".join("[" + ", ".join(sorted(roles)) + "]" for roles in reads)
        raise Refused(
            RefusalCode.VALIDATION,
            expected=f"role_sets of route {route.name} in {file} that {reference} reads: {told}",
            found=" and ".join("[" + ", ".join(roles) + "]" for roles in wrong),
        )


class WarmModels:
    """Model hosts by package, started when they are first needed, ended when the memory is wanted for another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._packages: dict[str, tuple[Path, AnyDescription, str]] = {}
        self._hosts: OrderedDict[Path, ModelHost] = OrderedDict()
        self._in_use: Counter[Path] = Counter()
        self._used_mb: dict[Path, int] = {}
        self._described: dict[Path, ModelDescription] = {}
        self._cache = PredictionCache(
            settings.data.folder / "cache" / "predictions", settings.engine.cache_mb * 1_000_000
        )
        self._lock = threading.Lock()

    def describe(self, reference: str) -> ModelDescription:
        """What decides a run key about a model as it runs here: loads it, so that the precision is the one in force.

        Raises
        ------
        Refused
            If the package is absent or not to be trusted.
        """
        folder, description, _ = self._package(reference)
        with self._lock:
            known = self._described.get(folder)
        if known is not None:
            return known
        with self._host(reference) as host:
            if not host.identity:
                host.start()
            identity = dict(host.identity)
        roles = tuple(entry.role for entry in description.inputs)
        in_force = {key: identity[key] for key in ("backend", "device", "precision", "settings")}
        told = ModelDescription(
            name=description.name,
            version=description.version,
            digest_sha256=str(identity["digest_sha256"]),
            settings_sha256=digest(in_force),
            roles=roles,
            reference_role=roles[0],
            pictures_at_once=_pictures_at_once(description),
        )
        with self._lock:
            self._described[folder] = told
        return told

    def predict(
        self, reference: str, inputs: Mapping[str, InputVolume], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Mask, Findings]:
        """Run one case, or say again what the model said about the same arrays before (`prediction_cache.is_hit`).

        The one place where a model is called: for the road, for trials, for requests by HTTP.

        Parameters
        ----------
        is_wanted
            Asked while the network computes; once it says False the child is ended, and its next case starts another.

        Raises
        ------
        Refused
            If the input is not what the model was made for.
        ChildDied
            If the child ended, hung or grew past its limit.
        Unwanted
            If `is_wanted` said no.
        """
        try:
            described = self.describe(reference)
            key = cache_key(described.digest_sha256, described.settings_sha256, inputs)
            known = self._cache.load(key)
            if known is not None:
                return known
            with self._host(reference) as host:
                prediction = host.predict(inputs, is_wanted=is_wanted)
        except (EngineChildDied, ChildTimeout, MemoryExceeded) as death:
            raise ChildDied(death.code) from death
        except EngineUnwanted as unwanted:
            raise Unwanted from unwanted
        self._cache.keep(key, prediction.mask, prediction.findings)
        return prediction.mask, prediction.findings

    def classify(
        self, reference: str, pictures: Sequence[InputPicture], is_wanted: Callable[[], bool] | None = None
    ) -> list[PictureAnswer | Refusal]:
        """Answer pictures, each or the reason why not; for the road, for requests by HTTP and for the command line.

        Raises
        ------
        ChildDied, Unwanted
            As `predict`.
        """
        try:
            with self._host(reference) as host:
                return host.classify(pictures, is_wanted=is_wanted)
        except (EngineChildDied, ChildTimeout, MemoryExceeded) as death:
            raise ChildDied(death.code) from death
        except EngineUnwanted as unwanted:
            raise Unwanted from unwanted

    def has_room(self, reference: str) -> bool:
        """Whether a model is loaded, or would fit into the memory budget beside those that are.

        Raises
        ------
        Refused
            If the package is absent or not to be trusted.
        """
        folder, _, _ = self._package(reference)
        with self._lock:
            return folder in self._hosts or self._total_mb() + self._need_mb(folder) <= self._budget_mb()

    def warm(self) -> list[str]:
        """The packages that are loaded now, as ``name@version``, the longest unused first."""
        with self._lock:
            return [f"{folder.parent.name}@{folder.name}" for folder in self._hosts]

    def close(self) -> None:
        """End every child."""
        with self._lock:
            hosts = list(self._hosts.values())
            self._hosts.clear()
        for host in hosts:
            host.close()

    def _package(self, reference: str) -> tuple[Path, AnyDescription, str]:
        with self._lock:
            if reference not in self._packages:
                folder = find_package(self._settings.engine.models, reference)
                package = load_package(folder, weights=False)
                self._packages[reference] = (folder, package.description, package.digest_sha256)
            return self._packages[reference]

    @contextmanager
    def _host(self, reference: str) -> Iterator[ModelHost]:
        """The host of a package, which no other package pushes out while it is in use."""
        section = self._settings.engine
        folder, description, digest_sha256 = self._package(reference)
        with self._lock:
            leaving = [] if folder in self._hosts else self._make_room(folder)
            if folder not in self._hosts:
                self._hosts[folder] = ModelHost(
                    folder,
                    engine_settings(section, description.runner, description.name),
                    HostSettings(job_timeout_s=section.timeout_s, memory_limit_mb=section.memory_limit_mb),
                    pinned_sha256=digest_sha256,
                )
            self._hosts.move_to_end(folder)
            self._in_use[folder] += 1
            host = self._hosts[folder]
        for old in leaving:
            old.close()
        try:
            yield host
        finally:
            with self._lock:
                self._in_use[folder] -= 1
                used = resident_mb(host.pid)
                if used:
                    self._used_mb[folder] = used

    def _make_room(self, folder: Path) -> list[ModelHost]:
        """Take out the longest unused hosts until another fits into the budget; those in use stay."""
        leaving = []
        for old in list(self._hosts):
            if self._total_mb() + self._need_mb(folder) <= self._budget_mb():
                break
            if not self._in_use[old]:
                leaving.append(self._hosts.pop(old))
        return leaving

    def _budget_mb(self) -> int:
        return self._settings.engine.warm_memory_mb

    def _need_mb(self, folder: Path) -> int:
        return self._used_mb.get(folder) or expected_mb(folder)

    def _total_mb(self) -> int:
        return sum(self._need_mb(kept) for kept in self._hosts)


def _pictures_at_once(description: AnyDescription) -> int:
    """How many photographs go into one call; 0 for a model of volumes."""
    return min(description.network.batch, MAX_PICTURES) if isinstance(description, Classification) else 0


def expected_mb(folder: Path) -> int:
    """What a model's child will need before it has ever run: the frameworks, and its weights several times over."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return 700 + 8 * weights // 1024**2


def resident_mb(pid: int | None) -> int:
    """The resident set of a process in MB; 0 when it is gone."""
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss // 1024**2)
    except psutil.Error:
        return 0
