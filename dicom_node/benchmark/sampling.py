"""CPU, memory and GPU of a tree of processes while requests run, each sample under the run that was being answered."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

EVERY_S = 0.5


@dataclass(frozen=True)
class Sample:
    """One look at the processes."""

    at_s: float
    run_ids: tuple[str, ...]
    cpu_percent: float
    """Of one core; 200 is two cores at work."""
    memory_mb: float
    """Sum of proportional set sizes."""
    gpu_percent: float | None
    gpu_memory_mb: float | None


@dataclass
class Sampler:
    """Looks every half second at the process `pid` and its children, on this machine only."""

    pid: int
    samples: list[Sample] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def during(self, run_id: str) -> Iterator[None]:
        """Mark samples with a run's id while it lasts."""
        with self._lock:
            self.running.add(run_id)
        try:
            yield
        finally:
            with self._lock:
                self.running.discard(run_id)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Take samples until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(over,), name="sampler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(5)

    def memory_mb(self) -> float:
        """What the processes use now."""
        return memory_of(self.pid)

    def _look(self, over: threading.Event) -> None:
        before, seen_at = cpu_seconds(self.pid), time.monotonic()
        while not over.wait(EVERY_S):
            now, used = time.monotonic(), cpu_seconds(self.pid)
            gpu = gpu_now()
            with self._lock:
                ids = tuple(sorted(self.running))
            cpu = 100 * max(0.0, used - before) / (now - seen_at)
            self.samples.append(Sample(now, ids, cpu, memory_of(self.pid), *gpu))
            before, seen_at = used, now


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def memory_of(pid: int) -> float:
    """Sum of proportional set sizes in MB: a page shared by n processes counts as one n-th in each."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU seconds of the processes that live now."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def gpu_now() -> tuple[float | None, float | None]:
    """Use and memory of the first GPU by nvidia-smi; (None, None) where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, None
    query = [tool, "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        use, memory = said.splitlines()[0].split(",")
        return float(use), float(memory)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None, None
