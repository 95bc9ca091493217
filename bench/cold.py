"""How long a model is cold: from the start of its process to ready, and to its first answer, with OpenVINO's cache.

    python -m bench.cold [--models FOLDER] [--model NAME ...] [--rounds N]

Three arms in turn, each a fresh process that runs the case stored with the package: without a cache of compiled
networks, with an empty one (which is filled), and with a filled one.  Wall seconds say what a user waits on this
machine now, CPU seconds what it cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ai_engine.host import ModelHost
from ai_engine.packages import find_package, list_packages, load_package
from ai_engine.packages.common import Task
from ai_engine.prediction import EngineSettings
from ai_engine.selftest import self_test
from bench.machine import about, machine, save, table

ARMS = ("no cache", "empty cache", "filled cache")


def once(folder: Path, settings: EngineSettings) -> dict[str, float]:
    """Start a child, run the stored case, end it."""
    package = load_package(folder)
    begun = time.monotonic()
    with ModelHost(folder, settings, pinned_sha256=package.digest_sha256) as host:
        host.start()
        child = psutil.Process(host.pid)
        ready_s, ready_cpu_s = time.monotonic() - begun, sum(child.cpu_times()[:2])
        found = self_test(package, host.predict)
        answer_s, answer_cpu_s = time.monotonic() - begun, sum(child.cpu_times()[:2])
    if found is not None and not found.is_passed:
        raise RuntimeError(f"{package.reference} answers its stored case otherwise on this machine")
    return {"ready_s": ready_s, "ready_cpu_s": ready_cpu_s, "answer_s": answer_s, "answer_cpu_s": answer_cpu_s}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Medians of every arm for one package, and what the cache takes on the disk."""
    taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    cache_mb = 0.0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-cold-") as cache:
            for arm in ARMS:
                where = None if arm == "no cache" else cache
                taken[arm].append(once(folder, EngineSettings(device="cpu", cache_folder=where)))
            cache_mb = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file()) / 1e6
    medians = {
        arm: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for arm, runs in taken.items()
    }
    return {"arms": medians, "runs": taken, "cache_mb": round(cache_mb, 1)}


def run(rounds: int = 3) -> None:
    """Every installed model that has a stored case, for `python -m bench`."""
    main(["--rounds", str(rounds)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    facts = machine()
    wanted = options.model or dict.fromkeys(name for name, _, _ in list_packages(options.models))
    figures, rows = {}, []
    for name in wanted:
        folder = find_package(options.models, name)
        if load_package(folder, weights=False).description.task is not Task.SEGMENTATION:
            continue
        reference = f"{folder.parent.name}@{folder.name}"
        figures[reference] = found = measure(folder, options.rounds)
        for arm in ARMS:
            row = found["arms"][arm]
            rows.append([reference, arm, *(f"{row[key]:.2f}" for key in row)])
    head = ["model", "", "ready s", "CPU s", "first answer s", "CPU s"]
    print(table("A cold model, median seconds", head, rows))
    for reference, found in figures.items():
        print(f"{reference}: the cache takes {found['cache_mb']} MB")
    print(about(facts))
    print(f"written: {save('cold', facts, figures)}")


if __name__ == "__main__":
    main()
