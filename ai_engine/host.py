"""The parent's side of the warm model child: start once, ask many times, watch time and memory.

A crash of a framework takes the child, not the node (hardening I8, I11).  `ModelHost.predict` raises `ChildDied`,
`ChildTimeout` or `MemoryExceeded` when the child is gone, so that whoever counts the deaths of a run can; the next call
starts a fresh child.  RLIMITs are not used here: CPU seconds add up over a healthy child's life and an address-space
limit breaks CUDA; the parent watches the resident set instead.

Importing this module needs neither torch nor openvino nor nnunetv2.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai_engine import wire
from ai_engine.faults import ChildDied, ChildFault, EngineFault, MemoryExceeded
from ai_engine.findings import findings_from_json
from ai_engine.host_process import Child, Watch
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings, InputVolume, Prediction
from dicom_node.refusals import Refusal, RefusalCode, Refused

if TYPE_CHECKING:
    from typing import NoReturn

MAX_PICTURES = 16
"""Pictures of one call, however many a package would take together."""

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
        self._child: Child | None = None
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

    def _running(self, is_wanted: Callable[[], bool] | None = None) -> Child:
        if self._child is not None and self._child.is_alive:
            return self._child
        if self._child is not None:
            self._child.end()
        self._child = child = _starter.submit(Child, self._settings.threads).result()
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
        child: Child,
        body: Mapping[str, Any],
        arrays: Mapping[str, wire.Array],
        timeout_s: float,
        limit: int,
        is_wanted: Callable[[], bool] | None = None,
    ) -> tuple[dict[str, Any], dict[str, wire.Array]]:
        watch = Watch(child, time.monotonic() + timeout_s, self._limits.memory_limit_mb, is_wanted)
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
