"""A Keras model by `model.predict`, and the same weights as we call them: same windows, same case, arms in turn.

    python -m bench.keras [--model brain-tumour-tf] [--models FOLDER] [--data BRATS] [--case NAME] [--rounds N]

Every arm is a process of its own that has read the case before the clock starts; what is timed is preparation, windows,
network, and the mask on the input's grid.  *predict* is Keras' own call of the very same layers and weights in
TensorFlow (float32, its default threading, no determinism asked); the others are the product's engine.  Windows, steps
and passes are equal in all arms, so the ratio is the engine's alone.  Dice is against truth, agreement against
*predict*.
Without data the case is a synthetic brain of the usual size and there is no truth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ai_engine.geometry import Affine
from ai_engine.packages import find_package, load_package
from ai_engine.packages.store import INT8
from ai_engine.prediction import EngineSettings, InputVolume
from bench.machine import about, machine, peak_rates, resident_peak_mb, save, table

ARMS: Mapping[str, tuple[str, str]] = {
    "predict": ("tensorflow", "f32"),
    "OpenVINO f32": ("openvino", "f32"),
    "OpenVINO bf16": ("openvino", "bf16"),
    "OpenVINO int8": ("openvino", "int8"),
}
AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def synthetic(roles: Sequence[str]) -> dict[str, InputVolume]:
    """A brain of 139 x 175 x 139 mm with a ball in it, in a picture of 155 x 240 x 240, the rest zero."""
    shape, half = (155, 240, 240), (69.5, 87.5, 69.5)
    grid = [axis - (size - 1) / 2 for axis, size in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True)]
    brain = sum((axis / side) ** 2 for axis, side in zip(grid, half, strict=True)) < 1
    ball = (grid[0] - 20) ** 2 + (grid[1] - 15) ** 2 + (grid[2] - 20) ** 2 < 20**2
    random = np.random.default_rng(42)
    affine = Affine.from_axes([0, 0, 0], AXIAL, (1.0, 1.0, 1.0))
    return {
        role: InputVolume(
            (brain * (100 + 40 * ball + random.normal(0, 5, shape))).astype(np.float32), affine, modality="MR"
        )
        for role in roles
    }


def read(data: Path | None, name: str, folder: Path) -> tuple[dict[str, InputVolume], dict[str, Any]]:
    """The inputs of a case, and region to truth where there is one."""
    from ai_engine.evaluation.datasets import open_dataset, read_image, read_label, values_of

    description = load_package(folder, weights=False).segmentation
    roles = [entry.role for entry in description.inputs]
    if data is None:
        return synthetic(roles), {}
    dataset = open_dataset(data)
    case = next(case for case in dataset.cases if case.name == name)
    inputs = {role: read_image(case.images[role]) for role in roles}
    labels = read_label(case.label, inputs[roles[0]], dataset.names)
    truth = {
        entry.key: np.isin(labels, sorted(values_of(entry, description, dataset.names) or ()))
        for entry in (*description.composites, *description.labels)
    }
    return inputs, truth


def arm(name: str, folder: Path, data: Path | None, case: str, threads: int, scratch: Path) -> None:
    """One arm's process: reads the case, then runs it once for every line on standard input; answers in JSON lines."""
    backend, precision = ARMS[name]
    if name == "predict":
        import ai_engine.backends.tensorflow as keras_backend

        keras_backend._set_up = lambda _tf, _threads: None  # as Keras comes: no determinism, its own threading
    from ai_engine.engine import Engine

    inputs, _ = read(data, case, folder)
    settings = EngineSettings(
        device="cpu", backend=backend, precision=precision, threads=threads, measuring=True, mirroring=False
    )
    engine = Engine(load_package(folder), settings)
    for _ in sys.stdin:
        cpu, begun = time.process_time(), time.monotonic()
        prediction = engine.run(inputs)
        answer = {
            "wall_s": time.monotonic() - begun,
            "cpu_s": time.process_time() - cpu,
            "network_s": prediction.timings_s["network"],
            "passes": prediction.passes,
            "precision": engine.identity.precision,
            "backend": engine.identity.backend,
        }
        np.save(scratch / f"{name}.npy", prediction.mask)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Arm:
    """The parent's side of one arm."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path, scratch: Path) -> None:
        command = [sys.executable, "-m", "bench.keras", "--arm", name, "--package", str(folder), "--case", options.case]
        command += ["--threads", str(options.threads), "--scratch", str(scratch)]
        command += ["--data", str(options.data)] if options.data is not None else []
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_WAIT_POLICY": "PASSIVE"}
        self.name, self.runs = name, list[dict[str, Any]]()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def run(self, *, counts: bool) -> dict[str, Any]:
        """Run the case once; the first run of an arm does not count."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the arm has no pipes")
        stdin.write("run\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if counts:
            self.runs.append(found)
        return found

    def peak_mb(self) -> float:
        """Highest resident set of the arm's process."""
        return resident_peak_mb(self._process.pid)

    def close(self) -> None:
        """End the process by closing its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all arms in turn and put them beside each other."""
    from ai_engine.evaluation.metrics import dice
    from ai_engine.runners.modules import flop_of, torch_module

    folder = options.package or find_package(options.models, options.model)
    package = load_package(folder)
    entries = {entry.key: entry for entry in (*package.segmentation.composites, *package.segmentation.labels)}
    _, truth = read(options.data, options.case, folder)
    module, window = torch_module(package)
    per_pass = flop_of(module, len(package.segmentation.inputs), window) / 1e12
    names = [name for name in ARMS if name != "OpenVINO int8" or INT8[0] in package.sha256]
    facts, rates = machine(), peak_rates()
    with tempfile.TemporaryDirectory() as scratch:
        arms = [Arm(name, options, folder, Path(scratch)) for name in names]
        for one in arms:
            one.run(counts=False)
        for number in range(options.rounds):
            for one in arms[number % len(arms) :] + arms[: number % len(arms)]:
                one.run(counts=True)
        masks = {name: np.load(Path(scratch) / f"{name}.npy") for name in names}
        rows = []
        for one in arms:
            mask, runs = masks[one.name], one.runs
            row = {
                "arm": one.name,
                "backend": runs[0]["backend"],
                "precision": runs[0]["precision"],
                "passes": runs[0]["passes"],
                "tflop": round(per_pass * runs[0]["passes"], 3),
                "wall_s": _spread([run["wall_s"] for run in runs]),
                "cpu_s": _spread([run["cpu_s"] for run in runs]),
                "network_s": _spread([run["network_s"] for run in runs]),
                "peak_mb": round(one.peak_mb()),
                "agreement": round(float((mask == masks["predict"]).mean()), 6),
                "dice": {key: round(dice(_inside(mask, entries[key]), found), 4) for key, found in truth.items()},
            }
            rows.append(row)
        for one in arms:
            one.close()
    base = rows[0]
    for row in rows:
        rate = rates.get(row["precision"])
        row["share_of_peak"] = round(1000 * row["tflop"] / row["network_s"]["median"] / rate, 3) if rate else None
        for key in ("wall_s", "cpu_s", "network_s"):
            row[f"{key}_ratio"] = round(base[key]["median"] / row[key]["median"], 2)
    return {
        "machine": facts,
        "model": package.reference,
        "digest": package.digest_sha256,
        "case": options.case if options.data is not None else "synthetic",
        "threads": options.threads or os.cpu_count(),
        "rounds": options.rounds,
        "tflop_per_pass": round(per_pass, 4),
        "peak_gflops": rates,
        "load_at_end": round(psutil.getloadavg()[0], 2),
        "arms": rows,
    }


def _inside(mask: Any, entry: Any) -> Any:
    return np.isin(mask, getattr(entry, "labels", None) or (entry.label,))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "best": round(min(values), 3),
        "sd": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The comparison as a table."""
    keys = [key for key in ("whole_tumour", "tumour_core", "enhancing_tumour") if key in found["arms"][0]["dice"]]
    head = ["arm", "passes", "TFLOP", "wall s", "CPU s", "network s", "gain: wall", "CPU", "network"]
    head += ["peak MB", "share of peak"]
    head += [f"Dice {key}" for key in keys] + ["equal voxels"]
    rows = []
    for row in found["arms"]:
        cells = [f"{row['arm']} ({row['precision']})", str(row["passes"]), f"{row['tflop']:.2f}"]
        cells += [f"{row[key]['median']:.2f}" for key in ("wall_s", "cpu_s", "network_s")]
        cells += [f"{row[f'{key}_ratio']:.2f}" for key in ("wall_s", "cpu_s", "network_s")]
        share = row["share_of_peak"]
        cells += [f"{row['peak_mb']}", "-" if share is None else f"{100 * share:.0f} %"]
        cells += [*(f"{row['dice'][key]:.4f}" for key in keys), f"{row['agreement']:.5f}"]
        rows.append(cells)
    title = (
        f"{found['model']}, case {found['case']}: `model.predict` and the same weights through our engine "
        f"({found['threads']} threads, medians of {found['rounds']} rounds, arms in turn)"
    )
    return table(title, head, rows) + "\n" + about(found["machine"])


def run(rounds: int = 3) -> None:
    """For `python -m bench`."""
    main(["--rounds", str(rounds)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line; with `--arm` this is one arm's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="brain-tumour-tf")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--package", type=Path, help="folder of one package version")
    parser.add_argument("--data", type=Path, help="tree of BraTS cases")
    parser.add_argument("--case", default="Brats18_2013_3_1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.arm is not None:
        arm(options.arm, options.package, options.data, options.case, options.threads, options.scratch)
        return
    beside = Path(os.environ.get("AI_NODE_TEST_DATA", "../shared/data")) / "brain" / "brats"
    if options.data is None and beside.is_dir():
        options.data = beside
    found = compare(options)
    print(markdown(found))
    save("keras", found.pop("machine"), found)


if __name__ == "__main__":
    main()
