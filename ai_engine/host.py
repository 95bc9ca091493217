"""The parent's side of the warm model child: start once, ask many times, watch time and memory.

A crash of a framework takes the child, not the node (hardening I8, I11).  `ModelHost.predict` raises `ChildDied`,
`ChildTimeout` or `MemoryExceeded` when the child is gone, so that whoever counts the deaths of a run can; the next call
starts a fresh child.  RLIMITs are not used here: CPU seconds add up over a healthy child's life and an address-space
limit breaks CUDA; the parent watches the resident set instead.

Importing this module needs neither torch nor openvino nor nnunetv2.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ai_engine import wire
from ai_engine.children import clean_environment
from ai_engine.faults import ChildDied, ChildFault, ChildTimeout, EngineFault, MemoryExceeded, Unwanted
from ai_engine.findings import findings_from_json
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings, InputVolume, Prediction
from dicom_node.refusals import Refusal, RefusalCode, Refused

if TYPE_CHECKING:
    from typing import NoReturn

MAX_PICTURES = 16
"""Pictures of one call, however many a package would take together."""

_CHECK_EVERY_S = 0.2
_ASK_EVERY_S = 0.5
_PIECE = 1024**2
_ANSWER_EXTRA_BYTES = 1024

_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model-child-starter")
"""PR_SET_PDEATHSIG follows the *thread* that started the child: this one lives as long as the process does."""


@dataclass(frozen=True)
class HostSettings:
    """How a child is kept.

    Attributes
    ----------
    start_timeout_s
        From start until the model is loaded and compiled.
    job_timeout_s
        Wall clock of one job.
    memory_limit_mb
        Resident set of the child; above it the child is killed.
    """

    start_timeout_s: float = 600.0
    job_timeout_s: float = 900.0
    memory_limit_mb: int = 6000


class ModelHost:
    """One model, kept warm in a child process.

    Parameters
    ----------
    package_folder
        The folder of a sealed package.
    settings
        How the model is run.
    host
        Limits of the child.
    pinned_sha256
        The model digest that the child must find; None accepts what the manifest says.

    Notes
    -----
    Calls are served one at a time; `predict` may be called from several threads.
    """

    def __init__(
        self,
        package_folder: Path,
        settings: EngineSettings | None = None,
        host: HostSettings | None = None,
        *,
        pinned_sha256: str | None = None,
    ) -> None:
        self._folder = package_folder
        self._settings = settings or EngineSettings()
        self._limits = host or HostSettings()
        self._pinned = pinned_sha256
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._ready: dict[str, Any] = {}

    def start(self, is_wanted: Callable[[], bool] | None = None) -> None:
        """Load the model now rather than with the first job.

        Parameters
        ----------
        is_wanted
            As for `predict`.

        Raises
        ------
        Refused
            If the package is not to be trusted.
        ChildFault, ChildDied, ChildTimeout, MemoryExceeded
            If it cannot be loaded.
        Unwanted
            If `is_wanted` said no.
        """
        with self._lock:
            self._running(is_wanted)

    def predict(
        self,
        inputs: Mapping[str, InputVolume],
        *,
        timeout_s: float | None = None,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Run one case in the child; see `ai_engine.engine.Engine.run`.

        Parameters
        ----------
        is_wanted
            Asked twice a second while the child computes; once it says False the child is ended.

        Raises
        ------
        Refused
            If the input is not what the package was made for.
        ChildFault
            If the run failed and the child lives on.
        ChildDied, ChildTimeout, MemoryExceeded
            If the child is gone; the next call starts another.
        Unwanted
            If `is_wanted` said no.
        """
        with self._lock:
            child = self._running()
            told = {role: [volume.modality, volume.age_years, volume.body_part] for role, volume in inputs.items()}
            body = {"kind": "predict", "inputs": told}
            arrays: dict[str, wire.Array] = {}
            for role, volume in inputs.items():
                arrays[f"{role}/array"] = np.asarray(volume.array, dtype=np.float32)
                arrays[f"{role}/affine"] = volume.affine.matrix
                if volume.valid is not None:
                    arrays[f"{role}/valid"] = np.asarray(volume.valid, dtype=np.bool_)
            first = next(iter(inputs.values()))
            limit_s = timeout_s or self._limits.job_timeout_s
            answer, returned = self._ask(child, body, arrays, limit_s, first.array.size, is_wanted)
        return _prediction(answer, returned, first)

    def classify(
        self,
        pictures: Sequence[InputPicture],
        *,
        timeout_s: float | None = None,
        is_wanted: Callable[[], bool] | None = None,
    ) -> list[PictureAnswer | Refusal]:
        """Answer several pictures in the child; see `ai_engine.classification.ClassifierEngine.run`.

        Parameters
        ----------
        pictures
            At most `MAX_PICTURES`.
        is_wanted
            As for `predict`.

        Raises
        ------
        ChildFault, ChildDied, ChildTimeout, MemoryExceeded, Unwanted
            As `predict`.
        """
        with self._lock:
            child = self._running()
            body = {"kind": "classify", "pictures": [_told(picture) for picture in pictures]}
            arrays: dict[str, wire.Array] = {str(number): one.pixels for number, one in enumerate(pictures)}
            limit_s = timeout_s or self._limits.job_timeout_s
            limit = sum(one.pixels.size for one in pictures)
            answer, returned = self._ask(child, body, arrays, limit_s, limit, is_wanted)
        return _answers(answer, returned, len(pictures))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the loaded child says it is (`ModelIdentity` as a mapping); empty before the first start."""
        return dict(self._ready.get("identity", {}))

    @property
    def pid(self) -> int | None:
        """The child's process id, None when none runs."""
        return self._child.process.pid if self._child is not None and self._child.is_alive else None

    def close(self) -> None:
        """End the child: its pipes are closed, and it is killed if that is not enough."""
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None

    def __enter__(self) -> ModelHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self, is_wanted: Callable[[], bool] | None = None) -> _Child:
        if self._child is not None and self._child.is_alive:
            return self._child
        if self._child is not None:
            self._child.end()
        self._child = child = _starter.submit(_Child, self._settings.threads).result()
        order = {"folder": str(self._folder), "digest_sha256": self._pinned, "settings": asdict(self._settings)}
        try:
            self._ready, _ = self._ask(child, order, {}, self._limits.start_timeout_s, 0, is_wanted)
        except (Refused, EngineFault):
            child.end()
            self._child = None
            raise
        return child

    def _ask(
        self,
        child: _Child,
        body: Mapping[str, Any],
        arrays: Mapping[str, wire.Array],
        timeout_s: float,
        limit: int,
        is_wanted: Callable[[], bool] | None = None,
    ) -> tuple[dict[str, Any], dict[str, wire.Array]]:
        watch = _Watch(child, time.monotonic() + timeout_s, self._limits.memory_limit_mb, is_wanted)
        try:
            child.send(wire.pack(body, arrays), watch)
            answer, returned = wire.read_frame(
                lambda count: child.read_exactly(count, watch), limit + _ANSWER_EXTRA_BYTES
            )
        except wire.WireError as error:
            child.end()
            raise ChildDied(f"the model child answered nonsense: {error}") from error
        if answer.get("kind") == "refused":
            _refuse(answer)
        if answer.get("kind") == "fault" and answer.get("code") == MemoryExceeded.code:
            child.end()  # what it holds of the device's memory comes back with its end
            raise MemoryExceeded(str(answer.get("text")))
        if answer.get("kind") == "fault":
            raise ChildFault(f"{answer.get('code')}: {answer.get('text')}")
        return answer, returned


class _Child:
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

    def send(self, buffers: list[memoryview], watch: _Watch) -> None:
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

    def read_exactly(self, count: int, watch: _Watch) -> bytes:
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
    def _wait(descriptor: int, event: int, watch: _Watch) -> None:
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


class _Watch:
    """Deadline and memory of one job, and whether it is wanted; kills the child when one of them ends it."""

    def __init__(
        self, child: _Child, deadline: float, memory_limit_mb: int, is_wanted: Callable[[], bool] | None
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


def _refuse(answer: Mapping[str, Any]) -> NoReturn:
    refusal = _refusal(answer["refusal"])
    raise Refused(refusal.code, refusal.expected, refusal.found)


def _refusal(told: Mapping[str, Any]) -> Refusal:
    return Refusal(RefusalCode(told["code"]), str(told["expected"]), str(told["found"]))


def _told(picture: InputPicture) -> dict[str, Any]:
    """What travels of a picture beside its pixels."""
    return {
        "declared": picture.declared,
        "modality": picture.modality,
        "age_years": picture.age_years,
        "sex": picture.sex,
        "body_site": None if picture.body_site is None else asdict(picture.body_site),
    }


def _answers(
    answer: Mapping[str, Any], returned: Mapping[str, wire.Array], count: int
) -> list[PictureAnswer | Refusal]:
    told = answer.get("answers", [])
    if len(told) != count or any(array.dtype != np.uint8 or array.ndim != 2 for array in returned.values()):
        raise ChildFault("the model child did not answer every picture, or with heat maps of another kind")
    return [
        _refusal(one["refusal"])
        if "refusal" in one
        else PictureAnswer(
            findings_from_json(one["findings"]),
            returned.get(str(number)),
            dict(one["quality"]),
            {str(stage): float(seconds) for stage, seconds in one["timings_s"].items()},
        )
        for number, one in enumerate(told)
    ]


def _prediction(answer: Mapping[str, Any], returned: Mapping[str, wire.Array], first: InputVolume) -> Prediction:
    mask = returned.get("mask")
    if mask is None or mask.dtype != np.uint8 or mask.shape != first.array.shape:
        raise ChildFault("the model child's mask has another shape or kind than its input")
    return Prediction(
        mask=mask,
        affine=first.affine,
        findings=findings_from_json(answer["findings"]),
        timings_s={str(stage): float(seconds) for stage, seconds in answer["timings_s"].items()},
        passes=int(answer["passes"]),
    )
