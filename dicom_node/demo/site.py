"""A whole small site in one folder, for the demonstration, the system tests and the bench: Orthanc, node, keys, ports.

Everything listens on loopback, on ports that are free at that moment; configuration and credentials are generated and
left in the folder, so that a newcomer can read what was configured.  Whatever is started here is stopped here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from dicom_node.demo.found import Archive
from dicom_node.demo.sending import Peer
from dicom_node.demo.study import ISSUER
from dicom_node.orthanc import Modality, OrthancChild, OrthancUnavailable
from dicom_node.record import Database, keys, views
from dicom_node.refusals import PeerTrouble
from dicom_node.settings import Settings, SettingsRefused, load_settings

STARTING_S = 180.0
"""How long the node may take until it is ready; the first start compiles the model for this processor."""
STOPPING_S = 40.0
ORGANISATION = "Demonstration"


def free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True)
class SiteOptions:
    """What a site is made from.

    `changes` are laid over the generated settings, section by section.
    """

    folder: Path
    models: Path = Path("models")
    routes: Path = Path("config/routes.yaml")
    viewer: Path | None = None
    publish: str = "all"
    only: tuple[str, ...] = ()
    """Names of the routes that are switched on; all of them where none is named."""
    destinations: tuple[str, ...] = ("pacs",)
    """Where every route publishes; those besides ``pacs`` stand in `changes`."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stable_age_s: int = 2
    process: str = "serve"
    """`serve` for the whole node, or one of its processes alone."""


class Site:
    """Orthanc and node, started together.  Use as a context manager.

    Raises
    ------
    SettingsRefused
        If routes or models are not there.
    PeerTrouble
        If one of the two does not come up in time.
    """

    def __init__(self, options: SiteOptions) -> None:
        self.options = options
        self.folder = options.folder.absolute()
        self.config = self.folder / "node.yaml"
        self.http_port, self.dicom_port, self.door_port, self.web_port = free_ports(4)
        self.api_key = ""
        self.orthanc = OrthancChild(
            folder=self.folder / "orthanc",
            http_port=self.http_port,
            dicom_port=self.dicom_port,
            node_port=self.door_port,
            modalities={"demo": Modality("DEMO", 104)},
            stable_age_s=options.stable_age_s,
        )
        self._node: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None
        self._settings: Settings | None = None

    # -- where things are

    @property
    def orthanc_peer(self) -> Peer:
        """Orthanc's DICOM listener."""
        return Peer("ORTHANC", "127.0.0.1", self.dicom_port)

    @property
    def node_peer(self) -> Peer:
        """The node's own DICOM listener."""
        return Peer("AINODE", "127.0.0.1", self.door_port)

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    @property
    def settings(self) -> Settings:
        """The settings the node runs under."""
        if self._settings is None:
            self._settings = load_settings(self.config)
        return self._settings

    @property
    def node_pid(self) -> int:
        """Process id of the supervisor; 0 when it does not run."""
        return 0 if self._node is None else self._node.pid

    def archive(self) -> Archive:
        """A reader of the archive, with the credentials of this site."""
        password = self.orthanc.password_file.read_text(encoding="utf-8").strip()
        return Archive(self.orthanc.dicomweb_url, self.orthanc.username, password)

    # -- life

    def __enter__(self) -> Site:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Write the configuration, start Orthanc, start the node; does not wait for the node (see `wait_ready`)."""
        self._write_configuration()
        try:
            self.orthanc.start()
        except OrthancUnavailable as unavailable:
            raise PeerTrouble(str(unavailable)) from None
        self.start_node()

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        routes = self.folder / "routes.yaml"
        routes.write_text(_published(self.options), encoding="utf-8")
        sections = self._sections(routes)
        for name, values in self.options.changes.items():
            sections[name] = {**sections.get(name, {}), **values}
        head = "# Generated for this demonstration; config/node.yaml has the comments.\n"
        self.config.write_text(head + yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")

    def _sections(self, routes: Path) -> dict[str, Any]:
        if not self.options.models.is_dir():
            raise SettingsRefused(f"no models in {self.options.models}: run this in the repository, or give --models.")
        web: dict[str, Any] = {"port": self.web_port}
        if self.options.viewer is not None:
            web["viewer_folder"] = str(self.options.viewer.absolute())
        orthanc = {"username": self.orthanc.username, "password_file": str(self.orthanc.password_file)}
        return {
            "node": {"organisation": ORGANISATION, "contact": "nobody (synthetic data)"},
            "data": {"folder": str(self.folder / "data"), "min_free_gb": 0.5},
            "door": {
                "port": self.door_port,
                "senders": [
                    {"ae_title": "ORTHANC", "address": "127.0.0.1", "is_archive": True},
                    {"ae_title": "DEMO", "address": "127.0.0.1"},
                ],
            },
            "gather": {"quiet_s": 3.0, "cap_s": 10.0, "study_quiet_s": 8.0},
            "orthanc": {"url": self.orthanc.url, "dicom_port": self.dicom_port, **orthanc},
            "routes": str(routes),
            "engine": {"models": str(self.options.models.absolute())},
            "web": web,
            "destinations": {"pacs": {"kind": "stow", "url": self.orthanc.dicomweb_url, **orthanc}},
            "report": {"issuers": {ISSUER: "urn:ainode:demo:patients"}},
        }

    def start_node(self) -> None:
        """Start `ai-node serve` (or the process asked for) in a process of its own; its log goes to `log`."""
        # the node ends with us even when we are killed; setpriv is part of every Debian (util-linux)
        setpriv = shutil.which("setpriv")
        tied = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with self.log.open("ab") as log:
            self._node = subprocess.Popen(
                [*tied, sys.executable, "-m", "dicom_node.cli", "--config", str(self.config), self.options.process],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            )

    def wait_ready(self, timeout_s: float = STARTING_S) -> None:
        """Wait until /readyz says so, then make an API key for reading reports."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._node is None or self._node.poll() is not None:
                raise SettingsRefused(f"the node did not start; the end of its log:\n{self.log_tail()}")
            try:
                if httpx.get(f"{self.web_url}/readyz", timeout=5.0, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        else:
            raise PeerTrouble(f"the node was not ready within {timeout_s:.0f} s; see {self.log}")
        if not self.api_key:
            name = f"demo-{secrets.token_hex(3)}"
            self.api_key = keys.create(self.database, name, ["fhir:read", "predict:run"], actor="demo")

    def stop_node(self) -> int | None:
        """SIGTERM to the supervisor, which stops its children; its exit code, or None if it did not run."""
        if self._node is None:
            return None
        if self._node.poll() is None:
            self._node.terminate()
            try:
                self._node.wait(STOPPING_S)
            except subprocess.TimeoutExpired:
                self._node.kill()
        code = self._node.wait()
        self._node = None
        return code

    def stop(self) -> int | None:
        """Stop node, then Orthanc."""
        if self._database is not None:
            self._database.close()
            self._database = None
        code = self.stop_node()
        self.orthanc.stop()
        return code

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the node's log; it holds no patient data."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    # -- the record, read only

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database(self.settings.records_url)
        return self._database

    def story(self, study_uid: str) -> dict[str, Any] | None:
        """What `ai-node study show UID --json` says; None before the study was seen."""
        with self.database.read() as connection:
            row = views.find_study(connection, study_uid)
            return None if row is None else views.story(connection, row)

    def is_idle(self) -> bool:
        """Whether no run and no delivery is open."""
        with self.database.read() as connection:
            return not views.jobs(connection)


def _published(options: SiteOptions) -> str:
    """The shipped routes, switched on: a demonstration that publishes nothing would show nothing."""
    try:
        book = yaml.safe_load(options.routes.read_text(encoding="utf-8"))
    except OSError:
        raise SettingsRefused(f"no routes in {options.routes}: run this in the repository, or give --routes.") from None
    for route in book["routes"]:
        route["publish"] = options.publish
        route["destinations"] = list(options.destinations)
        if options.only:
            route["enabled"] = route["name"] in options.only
    return "# config/routes.yaml, switched on for this demonstration.\n" + str(yaml.safe_dump(book, sort_keys=False))
