"""Requests as clients of the thesis send them: one picture in the form field ``image``, one answer, timed from outside.

Every request carries a picture of its own (one voxel differs), so that no cache answers for a model.
"""

from __future__ import annotations

import gzip
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np

from ai_engine.labelled_files import open_nifti
from dicom_node.benchmark.sampling import Sampler

WARM_UPS, RUNS, SEED = 3, 30, 42
USERS = (1, 2, 4, 8)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """One service under test.

    Attributes
    ----------
    url
        Address of its predict resource, e.g. ``http://127.0.0.1:8080/api/v1/predict/nnUNet``.
    headers
        Credentials.
    pid
        Its process on this machine, to be watched; None for a remote service.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    pid: int | None = None


@dataclass(frozen=True)
class Answer:
    """One request.

    Attributes
    ----------
    client_s
        From sending to the whole answer.
    server_s
        What the service says that it took (``elapsed_time``); None when it does not say.
    waited_s
        What it says that the request waited for its turn (``waiting_time``); None when it does not say.
    model, parameters
        As the service says; empty and None when it does not.
    shares
        Class abbreviation to percent of voxels, as the service counted.
    """

    run_id: str
    users: int
    status: int
    client_s: float
    server_s: float | None
    shares: Mapping[str, float]
    memory_mb: float | None
    waited_s: float | None = None
    model: str = ""
    parameters: int | None = None
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Whether there was an answer with a result."""
        return self.status == 200 and not self.error


@dataclass(frozen=True)
class Level:
    """What one arm did with a number of users at once."""

    users: int
    answers: tuple[Answer, ...]
    wall_s: float

    @property
    def images_per_hour(self) -> float:
        """Good answers over the time that all of them took together."""
        return 3600 * sum(answer.is_good for answer in self.answers) / self.wall_s if self.wall_s else 0.0


def run(
    arms: Sequence[Arm],
    pictures: Sequence[Path],
    say: Say,
    *,
    users: Sequence[int] = USERS,
    warm_ups: int = WARM_UPS,
    runs: int = RUNS,
    seed: int = SEED,
    timeout_s: float = 3600.0,
) -> dict[str, tuple[tuple[Level, ...], Sampler | None]]:
    """Ask every arm at every level of load; arms take turns level by level, so that both meet the same machine.

    Parameters
    ----------
    pictures
        NIfTI files; which one a request carries is drawn with `seed`, the same for all arms.
    runs
        Measured requests per arm and level, shared among its users.

    Returns
    -------
    dict
        Per arm its levels in the order of `users`, and the samples of its processes where it runs here.
    """
    samplers = {arm.name: None if arm.pid is None else Sampler(arm.pid) for arm in arms}
    levels: dict[str, list[Level]] = {arm.name: [] for arm in arms}
    random = np.random.default_rng(seed)
    for arm in arms:
        sampler = samplers[arm.name]
        with sampler.looking() if sampler is not None else nullcontext():  # memory reaches its peak for the first time
            for content in own_pictures(pictures, warm_ups, random):
                _ask(arm, content, 1, sampler, timeout_s)
        say(f"{arm.name}: {warm_ups} warm-up requests done")
    for count in users:
        contents = own_pictures(pictures, runs, random)
        for arm in arms:
            level = _level(arm, contents, count, samplers[arm.name], timeout_s)
            levels[arm.name].append(level)
            good = sum(answer.is_good for answer in level.answers)
            say(f"{arm.name}, {count} user(s): {good}/{runs} answered in {level.wall_s:.1f} s")
    return {arm.name: (tuple(levels[arm.name]), samplers[arm.name]) for arm in arms}


def own_pictures(pictures: Sequence[Path], count: int, random: np.random.Generator) -> list[tuple[str, bytes]]:
    """File names and contents for `count` requests: pictures drawn at random, each made different from all others."""
    made = []
    for index in random.integers(0, len(pictures), count):
        path = pictures[int(index)]
        image = open_nifti(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
        # a voxel of the picture, not of the nothing around it: the crop to what is not zero stays as it is
        inside = np.flatnonzero(data) if data.any() else np.arange(data.size)
        little = (float(np.abs(data).max()) or 1.0) * random.integers(1_000, 1_000_000) / 1e7
        data.flat[inside[random.integers(0, inside.size)]] += little
        header = image.header.copy()
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
        plain = nibabel.Nifti1Image(data, image.affine, header).to_bytes()
        made.append((path.name.split(".nii")[0] + ".nii.gz", gzip.compress(plain, 1, mtime=0)))
    return made


def _level(
    arm: Arm, contents: Sequence[tuple[str, bytes]], users: int, sampler: Sampler | None, timeout_s: float
) -> Level:
    waiting: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    for content in contents:
        waiting.put(content)
    answers: list[Answer] = []

    def user() -> None:
        while True:
            try:
                content = waiting.get_nowait()
            except queue.Empty:
                return
            answers.append(_ask(arm, content, users, sampler, timeout_s))

    threads = [threading.Thread(target=user, name=f"user-{n}") for n in range(users)]
    with sampler.looking() if sampler is not None else nullcontext():
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.monotonic() - begun
    return Level(users, tuple(answers), wall)


def _ask(arm: Arm, content: tuple[str, bytes], users: int, sampler: Sampler | None, timeout_s: float) -> Answer:
    run_id = uuid.uuid4().hex
    headers = {**arm.headers, "X-Run-Id": run_id}
    begun = time.monotonic()
    status, body, error = 0, {}, ""
    with sampler.during(run_id) if sampler is not None else nullcontext():
        try:
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                said = client.post(arm.url, headers=headers, files={"image": content})
            status = said.status_code
            body = said.json()
        except (httpx.HTTPError, ValueError) as trouble:
            error = type(trouble).__name__
        client_s = time.monotonic() - begun
    memory = sampler.memory_mb() if sampler is not None else None
    if status == 200 and not body.get("success", False):
        error = "answered without success"
    said_all = body if isinstance(body, dict) else {}
    return Answer(
        run_id,
        users,
        status,
        client_s,
        _seconds(said_all.get("elapsed_time")),
        _shares(body),
        memory,
        waited_s=_seconds(said_all.get("waiting_time")),
        model=str(said_all.get("model") or ""),
        parameters=_whole(said_all.get("model_info")),
        error=error,
    )


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else float(str(value).split()[0].rstrip("s"))
    except (ValueError, IndexError):
        return None


def _whole(told: Any) -> int | None:
    count = told.get("total_params") if isinstance(told, dict) else None
    return count if isinstance(count, int) else None


def _shares(body: Any) -> dict[str, float]:
    details = body.get("class_details") if isinstance(body, dict) else None
    if not isinstance(details, dict):
        return {}
    return {
        str(entry.get("sigla", key)): float(entry["porcentaje"])
        for key, entry in details.items()
        if isinstance(entry, dict) and isinstance(entry.get("porcentaje"), (int, float))
    }
