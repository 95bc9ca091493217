"""The models of this installation, kept warm in child processes (the `Models` that the stages are handed).

At most `engine.keep_warm` children live at once; the least recently used one ends first.  What a reference such as
``brain-flair`` stands for is settled when it is first used and holds until the process ends, so that a run is inferred
by the version that it was decided for; a model that is imported later is found by the next start.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from ai_engine.faults import ChildDied as EngineChildDied
from ai_engine.faults import ChildTimeout, MemoryExceeded
from ai_engine.findings import Findings
from ai_engine.host import HostSettings, ModelHost
from ai_engine.packages import find_package, load_package
from ai_engine.packages.schema import Description
from ai_engine.prediction import EngineSettings, InputVolume
from dicom_node.record import digest
from dicom_node.routing import RouteBook
from dicom_node.settings import EngineSection, Settings
from dicom_node.stages.context import ChildDied, Mask, ModelDescription


def engine_settings(section: EngineSection) -> EngineSettings:
    """The engine's own settings for the configured ones."""
    return EngineSettings(device=section.device, precision=section.precision, threads=section.threads)


def check_models(settings: Settings, routes: RouteBook) -> None:
    """Check every file of every model that a route names against its manifest, before anything listens (I25).

    Raises
    ------
    Refused
        With the name of the model that is missing or not as its manifest says.
    """
    for route in routes.routes:
        if route.enabled:
            load_package(find_package(settings.engine.models, route.model), weights=False)


class WarmModels:
    """Model hosts by reference, started when they are first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._packages: dict[str, tuple[Path, Description, str]] = {}
        self._hosts: OrderedDict[Path, ModelHost] = OrderedDict()
        self._described: dict[Path, ModelDescription] = {}
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
        host = self._host(reference)
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
        )
        with self._lock:
            self._described[folder] = told
        return told

    def predict(self, reference: str, inputs: Mapping[str, InputVolume]) -> tuple[Mask, Findings]:
        """Run one case.

        Raises
        ------
        Refused
            If the input is not what the model was made for.
        ChildDied
            If the child ended, hung or grew past its limit.
        """
        try:
            prediction = self._host(reference).predict(inputs)
        except (EngineChildDied, ChildTimeout, MemoryExceeded) as death:
            raise ChildDied(death.code) from death
        return prediction.mask, prediction.findings

    def close(self) -> None:
        """End every child."""
        with self._lock:
            hosts = list(self._hosts.values())
            self._hosts.clear()
        for host in hosts:
            host.close()

    def _package(self, reference: str) -> tuple[Path, Description, str]:
        with self._lock:
            if reference not in self._packages:
                folder = find_package(self._settings.engine.models, reference)
                package = load_package(folder, weights=False)
                self._packages[reference] = (folder, package.description, package.digest_sha256)
            return self._packages[reference]

    def _host(self, reference: str) -> ModelHost:
        section = self._settings.engine
        folder, _, digest_sha256 = self._package(reference)
        with self._lock:
            host = self._hosts.get(folder)
            if host is not None:
                self._hosts.move_to_end(folder)
                return host
            host = ModelHost(
                folder,
                engine_settings(section),
                HostSettings(job_timeout_s=section.timeout_s, memory_limit_mb=section.memory_limit_mb),
                pinned_sha256=digest_sha256,
            )
            self._hosts[folder] = host
            leaving = []
            while len(self._hosts) > section.keep_warm:
                leaving.append(self._hosts.popitem(last=False)[1])
        for old in leaving:
            old.close()
        return host
