"""The shipped brain-tumour end to end on one case of 240 x 240 x 155: its framework's own procedure and its default.

    python -m bench.tumour [--model brain-tumour] [--case FOLDER] [--rounds N] [--threads N]

Four rows of the same weights on the same skull-stripped, co-registered case:

1. the procedure as the framework ships it (every axis that training mirrored, step 0.5) in PyTorch, float32;
2. the same procedure through our engine in bf16: row 1 over row 2 is the engine's gain;
3. the package's default, warm (model loaded, arrays in memory, mask back): row 2 over row 3 is the procedure's gain;
4. the package's default, cold: from the start of ``ai-node predict`` on NIfTI files to the mask on disk.

Equal voxels are against row 1.  Dice and its loss are the package's own gate report's, on patients that the measured
networks never learnt from; the shipped network learnt from all there are.  The share of the peak is that of a large
bf16 (f32 in row 1) matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil

from ai_engine.evaluation.levers import reference_axes_of
from ai_engine.host import HostSettings, ModelHost
from ai_engine.packages import ModelPackage, find_package, load_package
from ai_engine.packages.accuracy import Way, report_of, way_of
from ai_engine.prediction import EngineSettings, InputVolume
from bench.machine import about, machine, peak_rates, resident_peak_mb, save, table
from bench.shipped import CHANNELS, timed, write_case

Row = dict[str, Any]


def warm(folder: Path, inputs: Mapping[str, InputVolume], settings: EngineSettings, rounds: int) -> tuple[Row, Any]:
    """One way of running in a warm child; the first case does not count.  Medians, and the mask."""
    with ModelHost(folder, settings, HostSettings(job_timeout_s=3600, memory_limit_mb=16000)) as host:
        host.start()
        child = psutil.Process(host.pid)
        runs: list[Row] = []
        for number in range(rounds + 1):
            before, begun = sum(child.cpu_times()[:2]), time.monotonic()
            prediction = host.predict(inputs)
            run = {
                "wall_s": time.monotonic() - begun,
                "cpu_s": sum(child.cpu_times()[:2]) - before,
                "network_s": prediction.timings_s["network"],
            }
            runs += [run] if number else []
        row: Row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row["runs"] = runs
        row |= {
            "passes": prediction.passes,
            "precision": host.identity["precision"],
            "peak_mb": resident_peak_mb(child.pid),
        }
        return row, prediction.mask


def cold(reference: str, models: Path, case: Mapping[str, Path], out: Path, threads: int) -> Row:
    """`ai-node predict` in a fresh process, from its start to the mask on disk; memory of the whole tree."""
    command = [sys.executable, "-m", "dicom_node.cli", "predict"]
    command += [f"{role}={path}" for role, path in case.items()]
    command += ["--model", reference, "--out", str(out)]
    environment = {"AI_NODE__ENGINE__MODELS": str(models.resolve()), "AI_NODE__ENGINE__THREADS": str(threads)}
    return dict(timed(command, environment))


def gated(package: ModelPackage, way: Way) -> str:
    """Dice and loss of a way in the package's gate report, in words."""
    report = report_of(package)
    found = report.find(way) if report is not None else None
    if found is None:
        return "not measured"
    return "; ".join(f"{key} {region.dice:.3f} ({region.loss:+.4f})" for key, region in found.regions.items())


def compare(folder: Path, case: Path, rounds: int, threads: int) -> Row:
    """All four rows in one run."""
    from ai_engine.evaluation.datasets import read_image
    from ai_engine.runners.modules import flop_of, torch_module

    package = load_package(folder)
    description, axes = package.segmentation, reference_axes_of(package)
    module, window = torch_module(package)
    tera = flop_of(module, len(description.inputs), window) * len(description.weights) / 1e12
    roles = [entry.role for entry in description.inputs]
    rates = peak_rates()
    with tempfile.TemporaryDirectory() as name:
        written = write_case(case, Path(name) / "case")
        files = {role: written[role] for role in roles if role in CHANNELS}
        inputs = {role: read_image(path) for role, path in files.items()}
        usual = EngineSettings(device="cpu", threads=threads)
        full = EngineSettings(device="cpu", threads=threads, mirror_axes=axes, step=0.5, window="patch", measuring=True)
        shipped = replace(full, backend="torch", precision="f32")
        engine = replace(full, precision="bf16")
        rows: list[Row] = []
        masks: list[Any] = []
        for label, settings, count in (
            ("as shipped, PyTorch", shipped, 1),
            ("same procedure, our engine", engine, rounds),
            ("package's default, warm", usual, rounds),
        ):
            row, mask = warm(folder, inputs, settings, count)
            way = way_of(description, settings)
            row |= {"row": label, "way": way.words(), "gate": gated(package, way)}
            rows.append(row)
            masks.append(mask)
        last = cold(package.reference, folder.parents[1], files, Path(name) / "out", threads)
        mask = np.asarray(nibabel.load(Path(name) / "out" / "mask.nii.gz").dataobj).transpose(2, 1, 0)
        kept = {key: rows[-1][key] for key in ("passes", "precision", "way", "gate")}
        rows.append({**last, **kept, "row": "package's default, cold"})
        masks.append(mask)
    for row, mask in zip(rows, masks, strict=True):
        row["tflop"] = tera * row["passes"]
        row["equal"] = float((mask == masks[0]).mean())
        labelled = (mask > 0) | (masks[0] > 0)
        row["equal_where_labelled"] = float((mask == masks[0])[labelled].mean()) if labelled.any() else 1.0
        if "network_s" in row:
            row["share_of_peak"] = row["tflop"] * 1000 / row["network_s"] / rates.get(row["precision"], rates["f32"])
    return {"model": package.reference, "case": case.name, "threads": threads, "peak_gflops": rates, "rows": rows}


def markdown(found: Row) -> str:
    """The rows as a table, ratios against the first."""
    head = ["", "way", "ran as", "passes", "TFLOP", "wall s", "CPU s", "gain: wall", "CPU", "peak MB", "share of peak"]
    head += ["equal where labelled", "Dice on held-out patients (loss)"]
    base, lines = found["rows"][0], []
    for row in found["rows"]:
        cells = [row["row"], row["way"], row["precision"], str(row["passes"]), f"{row['tflop']:.2f}"]
        cells += [f"{row[key]:.1f}" for key in ("wall_s", "cpu_s")]
        cells += [f"{base[key] / row[key]:.1f}" for key in ("wall_s", "cpu_s")]
        cells += [f"{row['peak_mb']:.0f}", f"{100 * row['share_of_peak']:.0f} %" if "share_of_peak" in row else "-"]
        cells += [f"{row['equal_where_labelled']:.4f}", row["gate"]]
        lines.append(cells)
    title = f"{found['model']}, case {found['case']}, {found['threads']} threads"
    return table(title, head, lines)


def run(rounds: int = 3) -> None:
    """For `python -m bench`."""
    main(["--rounds", str(rounds)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("AI_NODE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--model", default="brain-tumour")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--case", type=Path, default=data / "brain" / "brats" / "Brats18_2013_3_1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    facts = machine()
    found = compare(find_package(options.models, options.model), options.case, options.rounds, options.threads)
    print(markdown(found))
    print(about(facts))
    save("tumour", facts, found)


if __name__ == "__main__":
    main()
