"""How long the engine takes: one FLAIR of 26 and one of 155 slices, on one and on two cores.

    python bench/engine.py [--model NAME] [--models FOLDER] [--runs N] [--json]

Every arm runs in a fresh warm child, so that thread counts do not mix; the first case of a child is not counted.
Wall seconds say what a user waits on this machine now, CPU seconds what it cost: on a busy machine trust the latter.
The pictures are synthetic ellipsoids; speed does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ai_engine.geometry import Affine
from ai_engine.host import ModelHost
from ai_engine.packages import find_package, load_package
from ai_engine.prediction import EngineSettings, InputVolume

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
CASES = {
    "26 x 256 x 256, 5 mm": ((26, 256, 256), (5.0, 0.9, 0.9)),
    "155 x 240 x 240, 1 mm": ((155, 240, 240), (1.0, 1.0, 1.0)),
}


def head(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> InputVolume:
    """A grey ellipsoid with a brighter one inside, and noise."""
    s, r, c = (
        np.linspace(-1, 1, n)[tuple(slice(None) if i == k else None for i in range(3))] for k, n in enumerate(shape)
    )
    picture = np.random.default_rng(42).normal(10, 3, shape)
    picture += 100 * ((s / 0.95) ** 2 + (r / 0.8) ** 2 + (c / 0.65) ** 2 < 1)
    picture += 120 * (((s - 0.1) / 0.3) ** 2 + ((r - 0.2) / 0.2) ** 2 + ((c - 0.2) / 0.2) ** 2 < 1)
    return InputVolume(picture.astype(np.float32), Affine.from_axes([0, 0, 0], AXIAL, spacing), modality="MR")


def measure(folder: Path, volume: InputVolume, settings: EngineSettings, runs: int) -> dict[str, Any]:
    """Start a child, run one case unmeasured and `runs` measured ones."""
    role = load_package(folder, weights=False).description.inputs[0].role
    with ModelHost(folder, settings) as host:
        started = time.monotonic()
        host.start()
        start_s = time.monotonic() - started
        host.predict({role: volume})
        child = psutil.Process(host.pid)
        wall, cpu, stages = [], [], []
        for _ in range(runs):
            before, begun = sum(child.cpu_times()[:2]), time.monotonic()
            prediction = host.predict({role: volume})
            wall.append(time.monotonic() - begun)
            cpu.append(sum(child.cpu_times()[:2]) - before)
            stages.append(prediction.timings_s)
        return {
            "start_s": start_s,
            "wall_s": statistics.median(wall),
            "wall_sd_s": statistics.stdev(wall) if runs > 1 else 0.0,
            "cpu_s": statistics.median(cpu),
            "stages_s": {stage: statistics.median(run[stage] for run in stages) for stage in stages[0]},
            "passes": prediction.passes,
            "precision": host.identity["precision"],
            "peak_mb": _peak_mb(child.pid),
        }


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(rounds: int = 3) -> None:
    """The shipped model at its shipped settings, for `python -m bench`."""
    main(["--runs", str(rounds)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Time one model in its warm child: threads and precisions, wall and CPU seconds, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="brain-flair")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    folder = find_package(options.models, options.model)
    reports = []
    for case, (shape, spacing) in CASES.items():
        volume = head(shape, spacing)
        for threads in (1, 2):
            for precision in ("f32", "bf16"):
                settings = EngineSettings(
                    device="cpu",
                    threads=threads,
                    precision=precision,
                    mirroring=False if options.no_mirroring else None,
                )
                report = {"case": case, "threads": threads, "asked": precision}
                report |= measure(folder, volume, settings, options.runs)
                reports.append(report)
                if not options.json:
                    stages = "  ".join(f"{name} {seconds:.2f}" for name, seconds in report["stages_s"].items())
                    print(
                        f"{case}, {threads} thread(s), {report['precision']}: wall {report['wall_s']:.2f} s, "
                        f"CPU {report['cpu_s']:.2f} s, {report['passes']} passes, peak {report['peak_mb']:.0f} MB, "
                        f"start {report['start_s']:.1f} s\n    {stages}",
                        flush=True,
                    )
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"model": folder.parent.name, "version": folder.name, "load": load, "runs": reports}))
    else:
        print(f"load average at the end: {load:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
