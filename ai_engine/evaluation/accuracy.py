"""The accuracy gate: run a package in several ways on held-out cases, compare, and say which ways may be offered.

Every way runs in a fresh warm child, as in the product, so costs and memory are the product's.  The same machinery is
the lever test of the performance reference (section 3b): cost and Dice of every lever beside each other.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from ai_engine.evaluation.datasets import Dataset, DatasetError, LabelledCase, read_image, read_label, values_of
from ai_engine.evaluation.levers import OFFERED, patch_axes_of, reference_axes_of, ways
from ai_engine.evaluation.metrics import dice
from ai_engine.evaluation.variants import MeasuredCase, Ran, compare_variant, region_mask
from ai_engine.host import HostSettings, ModelHost
from ai_engine.packages import Composite, Description, Label, load_package
from ai_engine.packages.accuracy import (
    REFERENCE,
    Report,
    Rule,
    Way,
    measured_files,
)
from ai_engine.prediction import EngineSettings

Say = Callable[[str], None]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """One network and the cases that it never learnt from: the package itself, or a fold of the same recipe."""

    folder: Path
    cases: tuple[str, ...]


@dataclass(frozen=True)
class GateRequest:
    """What shall be measured.

    Attributes
    ----------
    package
        Folder of the sealed package that the report is for.
    evidence
        Networks and their held-out cases; `package` itself with cases it never saw, or folds.
    regions
        Keys of labels and composites that count; empty: all that the dataset knows.
    reference_axes
        Patch axes that the reference mirrors; None: `reference_axes_of` the package.
    """

    package: Path
    dataset: Dataset
    evidence: tuple[Evidence, ...]
    variants: tuple[str, ...] = OFFERED
    regions: tuple[str, ...] = ()
    reference_axes: tuple[int, ...] | None = None
    threads: int = 0
    rule: Rule = field(default_factory=Rule)
    reviewed: Mapping[str, str] = field(default_factory=dict)
    calibration: str = ""


def run_gate(request: GateRequest, say: Say) -> Report:
    """Measure, judge, report; writes nothing.

    Raises
    ------
    DatasetError
        If a case or sequence is missing or the dataset knows none of the regions.
    Refused, EngineFault
        If a network cannot be run or refuses a case.
    """
    package = load_package(request.package, weights=False)
    axes = reference_axes_of(package) if request.reference_axes is None else request.reference_axes
    asked = ways(package.segmentation, axes, request.variants, patch_axes_of(package))
    ran = {name: Ran(way) for name, way in asked.items()}
    cases: dict[str, MeasuredCase] = {}
    regions = {region.key: region for region in _regions(request, package.segmentation)}
    for evidence in request.evidence:
        here = _cases(request, package.segmentation, evidence.cases)
        cases |= {case.name: case for case in here}
        for name, run in ran.items():
            say(f"{name}: {run.way.words()}")
            _run(run, evidence.folder, here, regions, request.threads, say)
    variants = [
        compare_variant(name, run, ran[REFERENCE], cases, regions, request.rule, request.reviewed)
        for name, run in ran.items()
    ]
    own = all(evidence.folder.resolve() == request.package.resolve() for evidence in request.evidence)
    return Report(
        files=measured_files(package.sha256, package.segmentation),
        evidence=tuple(
            f"{_called(evidence, request.package)} on {', '.join(evidence.cases)}" for evidence in request.evidence
        ),
        same_weights=own,
        rule=request.rule,
        reviewed=dict(request.reviewed),
        machine=_machine(request.threads),
        calibration=request.calibration,
        variants=tuple(variants),
    )


def _called(evidence: Evidence, package: Path) -> str:
    if evidence.folder.resolve() == package.resolve():
        return "this package's network"
    opened = load_package(evidence.folder, weights=False)
    return f"{opened.reference} (digest {opened.digest_sha256[:12]}, a network of the same recipe)"


def _regions(request: GateRequest, description: Description) -> list[Label | Composite]:
    entries: list[Label | Composite] = [*description.composites, *description.labels]
    unknown = set(request.regions) - {entry.key for entry in entries}
    if unknown:
        raise DatasetError(f"the package has no region {sorted(unknown)[0]}")
    chosen = [entry for entry in entries if not request.regions or entry.key in request.regions]
    found = [entry for entry in chosen if values_of(entry, description, request.dataset.names) is not None]
    if not found:
        raise DatasetError("the dataset's labels name none of the package's regions")
    return found


def _cases(request: GateRequest, description: Description, names: Sequence[str]) -> list[MeasuredCase]:
    by_name = {case.name: case for case in request.dataset.cases}
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        raise DatasetError(f"no case {missing[0]} in the dataset" if missing else "no case to measure was named")
    return [_read(by_name[name], request, description) for name in names]


def _read(case: LabelledCase, request: GateRequest, description: Description) -> MeasuredCase:
    roles = [entry.role for entry in description.inputs]
    if set(roles) - set(case.images):
        raise DatasetError(f"{case.name}: sequences {', '.join(roles)} were expected")
    inputs = {role: read_image(case.images[role], case.spacing_mm) for role in roles}
    first = inputs[roles[0]]
    labels = read_label(case.label, first, request.dataset.names)
    truth = {
        entry.key: np.isin(labels, sorted(values_of(entry, description, request.dataset.names) or ()))
        for entry in _regions(request, description)
    }
    return MeasuredCase(case.name, inputs, truth, first.affine.spacing_mm)


def settings_of(way: Way, threads: int) -> EngineSettings:
    """The engine settings that run a package this way, offered or not."""
    return EngineSettings(
        device="cpu",
        backend=way.backend or "auto",
        precision=way.precision,
        threads=threads,
        step=way.step,
        mirror_axes=way.mirror_axes,
        window=way.window,
        measuring=True,
    )


def _run(
    run: Ran,
    folder: Path,
    cases: Sequence[MeasuredCase],
    regions: Mapping[str, Label | Composite],
    threads: int,
    say: Say,
) -> None:
    """Run every case in one warm child."""
    limits = HostSettings(job_timeout_s=7200, memory_limit_mb=16000)
    per_pass = _tflop_per_pass(folder, run.way)
    with ModelHost(folder, settings_of(run.way, threads), limits) as host:
        host.start()
        for case in cases:
            child = psutil.Process(host.pid)
            before, begun = sum(child.cpu_times()[:2]), time.monotonic()
            prediction = host.predict(case.inputs)
            run.wall_s.append(time.monotonic() - begun)
            run.cpu_s.append(sum(child.cpu_times()[:2]) - before)
            run.passes.append(prediction.passes)
            if per_pass is not None:
                run.tflop.append(per_pass * prediction.passes)
            run.masks[case.name] = prediction.mask
            told = "  ".join(
                f"{key} {dice(region_mask(prediction.mask, regions[key]), truth):.3f}"
                for key, truth in case.truth.items()
            )
            cost = f"{run.wall_s[-1]:.1f} s, {run.cpu_s[-1]:.1f} CPU s, {prediction.passes} passes"
            say(f"  {case.name:<24} {told}  {cost}")
        run.peak_mb = max(run.peak_mb, _peak_mb(host.pid))
        run.backend, run.precision = str(host.identity["backend"]), str(host.identity["precision"])


def _tflop_per_pass(folder: Path, way: Way) -> float | None:
    """Arithmetic of one pass; None for a window whose size depends on the case."""
    if way.window == "box":
        return None
    from ai_engine.runners.modules import flop_of, torch_module

    package = load_package(folder)
    module, window = torch_module(package)
    count = len(package.segmentation.inputs)
    return flop_of(module, count, window) * len(package.segmentation.weights) / 1e12


def _peak_mb(pid: int | None) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _machine(threads: int) -> str:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    count = threads or os.cpu_count() or 1
    return f"{processor}, {count} thread(s), load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end"
