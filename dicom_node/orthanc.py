"""Orthanc as a child process: for the demonstration, for `make up` and for tests.

The configuration is the shipped and commented one (`orthanc/orthanc.json`) with folders, ports, credentials and known
modalities of this child.  The child listens on free ports, keeps its database in the folder it is given, gets a
generated password that is kept in a file only its owner may read, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import structlog

log = structlog.get_logger(__name__)

TEMPLATE_FOLDER = Path(__file__).resolve().parent.parent / "orthanc"
READY_S = 30.0
GONE_S = 15.0
USER = "ainode"
PASSWORD_VARIABLE = "AINODE_ORTHANC_PASSWORD"

_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*')


class OrthancUnavailable(Exception):
    """Orthanc is not installed, did not start, or did not become ready; the text says what to do."""


@dataclass(frozen=True)
class Modality:
    """A peer that Orthanc knows."""

    ae_title: str
    port: int
    host: str = "127.0.0.1"
    may_store: bool = True


@dataclass
class OrthancChild:
    """One Orthanc of our own.

    Parameters
    ----------
    folder
        For its database, configuration, log and password; made if absent.
    http_port, dicom_port
        Where it listens; the caller finds free ones.
    node_ae, node_port
        The node that stable series are forwarded to.
    ae_title
        Its own AE title.
    modalities
        Further peers by name, for example the sender of a test.
    stable_age_s
        Seconds without a new instance after which a series is stable.
    options
        Top-level options that replace those of the template.
    binary
        Path of the program; default: the one on the search path or Debian's.
    """

    folder: Path
    http_port: int
    dicom_port: int
    node_ae: str = "AINODE"
    node_port: int = 11112
    node_host: str = "127.0.0.1"
    ae_title: str = "ORTHANC"
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    stable_age_s: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    binary: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    username = USER

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    @property
    def password_file(self) -> Path:
        return self.folder / "orthanc-password"

    @property
    def log_file(self) -> Path:
        return self.folder / "orthanc.log"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def client(self) -> httpx.Client:
        """An HTTP client with the child's credentials."""
        auth = httpx.BasicAuth(self.username, self.password_file.read_text(encoding="utf-8").strip())
        return httpx.Client(base_url=self.url, auth=auth, timeout=10.0, trust_env=False)

    def __enter__(self) -> OrthancChild:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises
        ------
        OrthancUnavailable
            If it is not installed, ends at once, or does not answer in time.
        """
        program = self._program()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        configuration = self._write_configuration()
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TCP_NODELAY": "1", "HOME": str(self.folder)}
        environment["LANG"] = "C.UTF-8"
        environment[PASSWORD_VARIABLE] = self._password()
        # the child ends with us even when we are killed; setpriv is part of every Debian (util-linux)
        setpriv = shutil.which("setpriv")
        command = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, str(program), str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it by its pid and wait until it is gone: a second one on the same port would not start."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=GONE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=GONE_S)

    def _program(self) -> Path:
        found = self.binary or next(
            (Path(p) for p in (shutil.which("Orthanc"), "/usr/sbin/Orthanc") if p and Path(p).is_file()), None
        )
        if found is None or not found.is_file():
            raise OrthancUnavailable("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
        return found

    def _password(self) -> str:
        if not self.password_file.is_file():
            handle = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
        return self.password_file.read_text(encoding="utf-8").strip()

    def _write_configuration(self) -> Path:
        values = read_template(TEMPLATE_FOLDER / "orthanc.json")
        modalities = {"ainode": Modality(self.node_ae, self.node_port, self.node_host), **self.modalities}
        values |= {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "StableAge": self.stable_age_s,
            "LuaScripts": [str(TEMPLATE_FOLDER / "forward.lua")],
            "DicomModalities": {
                name: {
                    "AET": m.ae_title,
                    "Host": m.host,
                    "Port": m.port,
                    "AllowEcho": True,
                    "AllowStore": m.may_store,
                    "AllowFind": True,
                    "AllowMove": False,
                    "AllowGet": False,
                }
                for name, m in modalities.items()
            },
            "AiNode": {"Modality": "ainode", "AeTitle": self.node_ae},
            **self.options,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(values, indent=2), encoding="utf-8")
        return path

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        with self.client() as client:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    raise OrthancUnavailable(f"Orthanc ended at once; its log is {self.log_file}")
                try:
                    if client.get("/system").status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise OrthancUnavailable(f"Orthanc did not answer within {READY_S:.0f} s; its log is {self.log_file}")


def read_template(path: Path) -> dict[str, Any]:
    """Read Orthanc's kind of JSON: with ``//`` comments, which are no part of any string."""
    text = path.read_text(encoding="utf-8")
    values = json.loads(_COMMENT.sub(lambda m: m.group() if m.group().startswith('"') else "", text))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected one JSON object")
    return values
