"""The process of a warm model child: its pipes, the end of its error output, and the watch over each of its jobs.

`ai_engine.host` says what travels through the pipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from ai_engine.children import clean_environment
from ai_engine.faults import ChildDied, ChildTimeout, MemoryExceeded, Unwanted

if TYPE_CHECKING:
    from typing import NoReturn

_CHECK_EVERY_S = 0.2
_ASK_EVERY_S = 0.5
_PIECE = 1024**2


class Child:
    """The process, its pipes and the end of its error output."""

    def __init__(self, threads: int) -> None:
        request_read, self._request = os.pipe()
        self._answer, answer_write = os.pipe()
        lifeline_read, self._lifeline = os.pipe()
        theirs = (request_read, answer_write, lifeline_read)
        self._open = [self._request, self._answer, self._lifeline]
        for pipe in (self._request, self._answer):
            _widen(pipe)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ai_engine.host_child", *map(str, theirs), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=theirs,
                env=clean_environment(threads),
                start_new_session=True,
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        os.set_blocking(self._request, False)
        os.set_blocking(self._answer, False)
        self.resident = psutil.Process(self.process.pid)
        self._last_words: deque[bytes] = deque(maxlen=64)
        threading.Thread(target=self._listen, name="model-child-stderr", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def send(self, buffers: list[memoryview], watch: Watch) -> None:
        """Write all buffers, giving up when the watch does."""
        for buffer in buffers:
            done = 0
            while done < len(buffer):
                self._wait(self._request, selectors.EVENT_WRITE, watch)
                try:
                    done += os.write(self._request, buffer[done : done + _PIECE])
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    watch.died()

    def read_exactly(self, count: int, watch: Watch) -> bytes:
        """Read exactly `count` bytes, giving up when the watch does."""
        pieces = bytearray()
        while len(pieces) < count:
            self._wait(self._answer, selectors.EVENT_READ, watch)
            try:
                piece = os.read(self._answer, min(_PIECE, count - len(pieces)))
            except BlockingIOError:
                continue
            if not piece:
                watch.died()
            pieces += piece
        return bytes(pieces)

    def end(self) -> None:
        """Close the pipes, kill, reap; asked again, nothing.

        A descriptor is closed once: the next file that the node opens, perhaps its database, gets the same number.
        """
        while self._open:
            os.close(self._open.pop())
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def last_words(self) -> str:
        """The end of what the child wrote to its error output: evidence for a fault of ours."""
        return b"".join(self._last_words).decode("utf-8", "replace")[-2000:]

    def _listen(self) -> None:
        stream = self.process.stderr
        if stream is not None:
            for line in stream:
                self._last_words.append(line[:1000])

    @staticmethod
    def _wait(descriptor: int, event: int, watch: Watch) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            while not selector.select(_CHECK_EVERY_S):
                watch.check()
        watch.check()


def _widen(pipe: int) -> None:
    """Let a pipe hold a mebibyte where the kernel can: sixteen times fewer turns of both sides for a volume."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # the user's pipes are bounded together; the usual size does too
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIECE)


class Watch:
    """Deadline and memory of one job, and whether it is wanted; kills the child when one of them ends it."""

    def __init__(
        self, child: Child, deadline: float, memory_limit_mb: int, is_wanted: Callable[[], bool] | None
    ) -> None:
        self._child, self._deadline, self._limit_mb, self._is_wanted = child, deadline, memory_limit_mb, is_wanted
        self._next_look = self._next_question = 0.0

    def check(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            self._child.end()
            raise ChildTimeout("the model child was killed: the job took longer than its wall clock allows")
        if now < self._next_look:
            return
        self._next_look = now + _CHECK_EVERY_S
        if self._is_wanted is not None and now >= self._next_question:
            self._next_question = now + _ASK_EVERY_S
            self._ask_whether_wanted(self._is_wanted)
        try:
            used = self._child.resident.memory_info().rss // 1024**2
        except psutil.Error:
            return  # it is gone or going; reading its pipe tells which
        if used > self._limit_mb:
            self._child.end()
            raise MemoryExceeded(f"the model child was killed: {used} MB used, {self._limit_mb} MB allowed")

    def _ask_whether_wanted(self, is_wanted: Callable[[], bool]) -> None:
        try:
            wanted = is_wanted()
        except BaseException:
            self._child.end()  # a child in the middle of a job answers the next question with this one's answer
            raise
        if not wanted:
            self._child.end()
            raise Unwanted("the model child was ended: nobody wants the answer any more")

    def died(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.process.wait(5)
        code, words = self._child.process.returncode, self._child.last_words()
        self._child.end()
        raise ChildDied(f"the model child ended with status {code}" + (f": {words}" if words else ""))
