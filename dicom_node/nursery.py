"""A nursery: one process that has the decoders loaded, and forks a guarded child for every file (invariant I8).

An interpreter that loads numpy and the decoders takes longer than most photographs take to decode.  The nursery loads
them once and never sees a file: each child begins as empty of other people's pictures as a fresh interpreter, holds
nothing but its own pipes, and gives up its powers as ever (`dicom_node.lockdown`).  What it costs: children of one
nursery share the layout of their memory (docs/decisions).

A process that lives long keeps one (`kept`).  Where none is kept, for programs that it does not know, and when it has
ended, `start` starts an interpreter.  Everything ends with the process that started it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, BinaryIO, NoReturn, Protocol

import structlog

from dicom_node.lockdown import die_with_parent

log = structlog.get_logger(__name__)

DECODERS = ("dicom_node.photo.child", "dicom_node.volume.child", "dicom_node.volume.nifti_child")
"""The programs that wait here; each has `main`, and may have `preload`."""

PROGRAM = (sys.executable, "-I", "-m")
"""Isolated from environment variables and the working folder; a module's name and its arguments follow."""

_ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_PATIENCE_S = 20.0
_MOST_BYTES = 1 << 16


class Started(Protocol):
    """A child as whoever started it sees it: what `subprocess.Popen` says, as far as it is used."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def start(command: Sequence[str], folder: str, stdin: BinaryIO | None = None) -> Started:
    """Start a child with nothing: no environment, an empty folder, no descriptor but its own three.

    Parameters
    ----------
    command
        The program; its parent's process id is added as the last argument.
    folder
        Empty, and its working folder.
    stdin
        An opened file; None: a pipe.
    """
    nursery = _kept
    if nursery is not None and tuple(command[:3]) == PROGRAM and command[3] in DECODERS:
        forked = nursery.fork(command[3], command[4:], folder, stdin)
        if forked is not None:
            return forked
    return subprocess.Popen(
        [*command, str(os.getpid())],
        stdin=subprocess.PIPE if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_ENVIRONMENT,
        close_fds=True,
        start_new_session=True,
    )


class Nursery:
    """The parent's side; start it from a thread that lives as long as the process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_PATIENCE_S)
        with theirs:
            self._process = subprocess.Popen(
                [*PROGRAM, "dicom_node.nursery", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, module: str, arguments: Sequence[str], folder: str, stdin: BinaryIO | None) -> Nursling | None:
        """A child of this program; None when the nursery is gone."""
        with contextlib.ExitStack() as theirs:

            def pipe() -> tuple[int, int]:
                reading, writing = os.pipe()
                return reading, writing

            in_read, in_write = (stdin.fileno(), None) if stdin is not None else pipe()
            if in_write is not None:
                theirs.callback(os.close, in_read)
            (out_read, out_write), (status_read, status_write) = pipe(), pipe()
            theirs.callback(os.close, out_write)
            theirs.callback(os.close, status_write)
            order = json.dumps([module, list(arguments), folder]).encode()
            with self._lock:
                answer, handles = b"", list[int]()
                with contextlib.suppress(OSError):  # it is gone, or hangs, which is as bad
                    socket.send_fds(self._channel, [order], [in_read, out_write, status_write])
                    answer, handles, _, _ = socket.recv_fds(self._channel, 64, 1)
        if answer and handles:
            return Nursling(int(answer), handles[0], status_read, in_write, out_read)
        for descriptor in (in_write, out_read, status_read):
            if descriptor is not None:
                os.close(descriptor)
        self.end()
        log.warning("nursery.ended")
        return None

    def end(self) -> None:
        """End it, and with it every child that is left."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


class Nursling:
    """A forked child: `Started`."""

    def __init__(self, pid: int, handle: int, status: int, stdin: int | None, stdout: int) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = None if stdin is None else os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb", buffering=0)
        self._handle, self._status = handle, status
        self._code: int | None = None

    def kill(self) -> None:
        """SIGKILL, by a handle that no other process can come to have."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for the signal that ended it.

        Raises
        ------
        subprocess.TimeoutExpired
            If it lives on.
        """
        if self._code is None:
            ready = select.poll()
            ready.register(self._status, select.POLLIN)
            if not ready.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("nursling", timeout or 0.0)
            told = os.read(self._status, 4)
            # nobody is left to tell it: the nursery is gone, and its children went with it
            self._code = struct.unpack("<i", told)[0] if len(told) == 4 else -int(signal.SIGKILL)
            os.close(self._status)
            os.close(self._handle)
        return self._code


_kept: Nursery | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Keep a nursery for this process; from a thread that lives until the end of it."""
    global _kept
    if sys.platform != "linux":  # its handles and its end with the parent are Linux's
        yield
        return
    _kept = Nursery()
    try:
        yield
    finally:
        gone, _kept = _kept, None
        gone.end()


def look_after() -> None:
    """Put another one in the place of one that has ended; from the thread that keeps it."""
    global _kept
    if _kept is not None and not _kept.is_alive:
        _kept.end()
        _kept = Nursery()


# -- the nursery itself


def main() -> int:
    """Load what children need, then fork one for each order until the channel closes."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    for name in DECODERS:
        getattr(importlib.import_module(name), "preload", lambda: None)()
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy every page of what was loaded here
    bell, rung = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(rung, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(rung)
    waiting = select.poll()
    for descriptor in (bell, channel.fileno()):
        waiting.register(descriptor, select.POLLIN)
    living: dict[int, int] = {}
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == bell:
                with contextlib.suppress(BlockingIOError):
                    os.read(bell, 4096)
                _reap(living)
                continue
            order, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3)
            if not order:
                return 0
            pid, status = _fork(order, descriptors)
            living[pid] = status
            handle = os.pidfd_open(pid)
            socket.send_fds(channel, [str(pid).encode()], [handle])
            os.close(handle)


def _fork(order: bytes, descriptors: Sequence[int]) -> tuple[int, int]:
    """Fork; the child's process id, and where its status is to be told."""
    reading, writing, status = descriptors
    parent = os.getpid()  # asked of the child, it would be somebody else's where this process is gone by then
    pid = os.fork()
    if pid == 0:
        _be_child(order, reading, writing, parent)
    os.close(reading)
    os.close(writing)
    return pid, status


def _be_child(order: bytes, reading: int, writing: int, parent: int) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(reading, 0)
        os.dup2(writing, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        module, arguments, folder = json.loads(order)
        os.chdir(folder)
        sys.argv = [module, *arguments, str(parent)]
        code = int(importlib.import_module(module).main())
    finally:
        os._exit(code)  # nothing of the nursery is tidied up here, and nothing of it is heard of


def _reap(living: dict[int, int]) -> None:
    """Tell those who wait how their children ended."""
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = living.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(told, struct.pack("<i", os.waitstatus_to_exitcode(status)))
        os.close(told)


if __name__ == "__main__":
    sys.exit(main())
