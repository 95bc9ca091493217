"""What was measured on what: versions, processor, load; and the memory of a tree of processes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from dicom_node.benchmark.sampling import Sampler

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dicom-ai-node", "pynetdicom", "pydicom", "openvino", "torch", "nnunetv2", "highdicom", "dbos")


def machine() -> dict[str, Any]:
    """Versions and machine, and how busy it was at the start: figures from a busy machine are no figures."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "fsync_ms": round(1000 * fsync_s(), 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "orthanc": _first_line(["Orthanc", "--version"]),
        "dcmtk": _first_line(["storescp", "--version"]),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def fsync_s(times: int = 40) -> float:
    """Seconds that one fsync of a fresh 128 KiB file takes here, median; an acknowledgement waits for three."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(times):
            with (Path(folder) / str(number)).open("wb") as file:
                file.write(os.urandom(1 << 17))
                file.flush()
                begin = time.perf_counter()
                os.fsync(file.fileno())
                taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _first_line(command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "absent"
    return (said.stdout + said.stderr).strip().splitlines()[0].strip("$ ")[:100]


@contextlib.contextmanager
def memory_of(pid: int) -> Iterator[Sampler]:
    """Watch a process and its children without holding them up: see `Sampler.proportional_peak_mb`."""
    sampler = Sampler(pid, every_s=0.25)
    with sampler.looking():
        yield sampler


def peak_rates() -> dict[str, float]:
    """GFLOP/s of a large matrix product on all cores, f32 and bf16: what this machine can do at most."""
    import torch

    rates = {}
    for name, kind in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(3072, 3072).to(kind), torch.rand(3072, 3072).to(kind)
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - begun)
        rates[name] = 2 * 3072**3 / best / 1e9
    return rates


def resident_peak_mb(pid: int | None) -> float:
    """Highest resident set that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def about(facts: dict[str, Any]) -> str:
    """One paragraph under every table."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB; "
        f"load at start {facts['load_at_start']}, one fsync {facts['fsync_ms']} ms; "
        f"Python {facts['python']}; {facts['orthanc']}; {facts['dcmtk']}; "
        + ", ".join(f"{name} {facts[name]}" for name in PACKAGES)
        + f"; {facts['at']}\n"
    )


def save(name: str, facts: dict[str, Any], figures: Any) -> Path:
    """Write the figures beside the others."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": facts, "figures": figures}, indent=2) + "\n", encoding="utf-8")
    return path
