"""CPU, memory and GPU of a tree of processes while requests run, each sample under the run that was being answered.

Whoever looks must not disturb.  Proportional set sizes are read from the page tables, and the process waits meanwhile
wherever it needs memory: twice a second that made a network 1.7 times slower (measured).  So a look takes CPU time and
resident sets, which the kernel has at hand, and asks for proportional sets only when the resident ones have grown by a
twentieth over what they were at the last time: in the warm-up, and hardly ever afterwards.
"""

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
GROWN = 1.05
"""Proportional sets are read anew when the resident ones are so many times as large: their peak is known as well."""


@dataclass(frozen=True)
class Sample:
    """One look at the processes."""

    at_s: float
    run_ids: tuple[str, ...]
    cpu_percent: float
    """Of one core; 200 is two cores at work."""
    memory_mb: float
    """Sum of resident sets: a page shared by n processes counts n times."""
    gpu_percent: float | None
    gpu_memory_mb: float | None


@dataclass
class Sampler:
    """Looks every half second at the process `pid` and its children, on this machine only.

    Attributes
    ----------
    proportional_peak_mb
        The most that the proportional sets came to together, within `GROWN`: a page shared by n processes counts as one
        n-th in each.
    """

    pid: int
    every_s: float = EVERY_S
    proportional_peak_mb: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read_at: float = 0.0

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
        """The resident sets now."""
        return usage(self.pid)[1]

    def _look(self, over: threading.Event) -> None:
        (before, _), seen_at = usage(self.pid), time.monotonic()
        while not over.wait(self.every_s):
            now, (used, resident) = time.monotonic(), usage(self.pid)
            if resident > GROWN * self._read_at:
                self._read_at = resident
                self.proportional_peak_mb = max(self.proportional_peak_mb, proportional_mb(self.pid))
            gpu = gpu_now()
            with self._lock:
                ids = tuple(sorted(self.running))
            cpu = 100 * max(0.0, used - before) / (now - seen_at)
            self.samples.append(Sample(now, ids, cpu, resident, *gpu))
            before, seen_at = used, now


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds and MB of resident sets of the processes that live now, as the kernel has them at hand."""
    seconds, resident = 0.0, 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            resident += process.memory_info().rss
    return seconds, resident / 1e6


def proportional_mb(pid: int) -> float:
    """Sum of proportional set sizes in MB; the processes are held up while their page tables are read."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


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
