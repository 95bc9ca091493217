"""Serve: one command that supervises `listen`, `work` and `web`, each its own process.

A crash of a framework takes a child, not the node: a child that ends is started again, at once the first time and then
with a growing pause.  Both migrations are made once before any child starts.  On SIGTERM the children get a deadline to
finish what they hold; every child also ends with its parent (PR_SET_PDEATHSIG), so kill -9 leaves no orphan.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from dicom_node import durable
from dicom_node.record import Database
from dicom_node.settings import Settings

log = structlog.get_logger()

PROCESSES = ("listen", "work", "web")
GRACE_S = 25.0
FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S = 0.5, 30.0, 60.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; called in a child between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def is_running(settings: Settings) -> bool:
    """Whether a listener or a worker of another node holds this data folder (`listen`, `durable.Worker`)."""
    for lock in (settings.vault_folder / ".lock", settings.data.folder / "engine.sqlite.lock"):
        try:
            with lock.open("rb+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            return True
    return False


def migrate(settings: Settings) -> None:
    """Bring the records and the engine's tables to this version."""
    settings.data.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.records_url)
    try:
        database.migrate()
    finally:
        database.close()
    durable.migrate(settings.engine_url)


class Supervisor:
    """Keeps the node's processes running until it is told to stop."""

    def __init__(self, config: Path | None, processes: Sequence[str] = PROCESSES) -> None:
        self._config = config
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        self._pause: dict[str, float] = dict.fromkeys(processes, 0.0)
        self._due: dict[str, float] = dict.fromkeys(processes, 0.0)
        self._stopping = False

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; the exit code (0 after an orderly stop)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self._stopping:
            for name in self._pause:
                self._look_after(name)
            time.sleep(0.2)
        return self._shut_down()

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _look_after(self, name: str) -> None:
        child = self._children.get(name)
        at = time.monotonic()
        if child is not None:
            code = child.poll()
            if code is None:
                if self._pause[name] and at - self._since[name] > HEALTHY_S:
                    self._pause[name] = 0.0
                return
            del self._children[name]
            log.error("process.ended", process=name, code=code, pause_s=self._pause[name])
            self._due[name] = at + self._pause[name]
            self._pause[name] = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, self._pause[name] * 2))
        if at >= self._due[name]:
            self._start(name)

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "dicom_node.cli"]
        if self._config is not None:
            command += ["--config", str(self._config)]
        self._children[name] = subprocess.Popen([*command, name], preexec_fn=end_with_parent, stdin=subprocess.DEVNULL)
        self._since[name] = time.monotonic()
        log.info("process.started", process=name, pid=self._children[name].pid)

    def _shut_down(self) -> int:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + GRACE_S
        clean = True
        for name, child in self._children.items():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process.killed", process=name)
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                clean = False
        return 0 if clean else 1
