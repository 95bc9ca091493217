"""``ai-node benchmark``: how a running node answers, by the thesis's protocol, beside another one in the same run."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import typer

from dicom_node.cli.common import JSON_OPTION, Exit, emit, err, make_folder, out, settings, stop

SMALL_BYTES = 8 * 1000**3
MORE_CORES = (
    "the node was started on several cores, and OpenVINO binds the threads of a loaded model to its own at every case: "
    "for figures of one core start it as `taskset -c 0 ai-node serve`"
)


def benchmark(
    images: list[Path] = typer.Argument(..., exists=True, dir_okay=False, help="NIfTI pictures to send."),
    url: str = typer.Option(..., "--url", help="Predict resource, e.g. http://127.0.0.1:8080/api/v1/predict/nnUNet."),
    key_file: Path | None = typer.Option(None, "--key-file", exists=True, dir_okay=False, help="File with an API key."),
    pid: int = typer.Option(0, "--pid", help="Process of the node on this machine, to watch CPU and memory."),
    against: str = typer.Option("", "--against", help="URL of another service of the same kind."),
    rival: str = typer.Option("", "--rival", help="NAME@VERSION: start the re-created design with this package."),
    role: str = typer.Option("t1c", "--role", help="Which sequence the pictures are, for --rival."),
    users: str = typer.Option("1,2,4,8", "--users", help="Users at once, level by level."),
    warm_ups: int = typer.Option(3, "--warm-ups", min=0),
    runs: int = typer.Option(30, "--runs", min=1, help="Measured requests per level."),
    seed: int = typer.Option(42, "--seed"),
    small: bool = typer.Option(False, "--small", help="Give --pid and --rival one core and their processes 8 GB."),
    folder: Path = typer.Option(Path("benchmark"), "--out", help="Where benchmark.md, .html and .json go."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Times, throughput, memory and predicted shares of a running node; local or remote.

    3 warm-ups, 30 runs, seed 42, then 1, 2, 4 and 8 users; mean and sd, 95 % interval, P50 to P99, Mann-Whitney U
    against a second arm in the same run. The re-created design is one lock, first come first served, one resident
    PyTorch model, mirroring on, with the same weights.

    Example: ai-node benchmark case.nii.gz --url http://127.0.0.1:8080/api/v1/predict/nnUNet --rival brain-tumour
    """
    from dicom_node.benchmark import Arm, run
    from dicom_node.benchmark.report import figures, html, markdown

    try:
        levels = tuple(int(part) for part in users.split(","))
    except ValueError:
        stop(Exit.USAGE, f"--users: whole numbers with commas between expected, found {users!r}")
    if any(level < 1 for level in levels):
        stop(Exit.USAGE, f"--users: numbers from 1 on expected, found {users!r}")
    if not url.startswith(("http://", "https://")):
        stop(Exit.USAGE, f"--url: expected http://… or https://…, found {url!r}")
    if pid and not psutil.pid_exists(pid):
        stop(Exit.USAGE, f"--pid: no process {pid} on this machine; `pgrep -f 'ai-node serve'` shows the node's")
    make_folder(folder)
    headers = {"X-API-Key": key_file.read_text(encoding="utf-8").strip()} if key_file else {}
    arms = [Arm("node", url, headers, pid or None)]
    models: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        if small and pid:
            if len(os.sched_getaffinity(pid)) > 1:
                err.print(MORE_CORES, markup=False, soft_wrap=True)
            _one_core(pid)
            _limit_all(pid)
        if against:
            arms.append(Arm("other", against, {}))
        if rival:
            address, process, facts = stack.enter_context(_started_rival(rival, role, small=small))
            arms.append(Arm("re-created design", address, {}, process))
            models["re-created design"] = facts
        measured = run(
            arms,
            images,
            lambda line: err.print(line, markup=False),
            users=levels,
            warm_ups=warm_ups,
            runs=runs,
            seed=seed,
        )
    facts = {"cores": 1 if small else os.cpu_count(), "python": sys.version.split()[0], "runs": runs, "seed": seed}
    models["node"] = _weights(measured["node"][0])
    found = figures(measured, facts, models)
    (folder / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(found), encoding="utf-8")
    (folder / "benchmark.html").write_text(html(found), encoding="utf-8")
    emit(found) if as_json else out.print(markdown(found), markup=False, soft_wrap=True)
    if not any(level.answers and level.answers[0].is_good for level in measured["node"][0]):
        stop(Exit.UNREACHABLE, "the node answered no request with a result: look at the errors in the table")


def _weights(levels: Any) -> dict[str, Any]:
    """The size of the weights of the model that answered, where its package is installed here too."""
    from ai_engine.packages import find_package, load_package
    from dicom_node.refusals import Refused

    answered = {answer.model for level in levels for answer in level.answers if answer.model}
    if len(answered) != 1:
        return {}
    try:
        package = load_package(find_package(settings().engine.models, answered.pop()), weights=False)
    except Refused:
        return {}
    return {"file_mb": _file_mb(package)}


def _file_mb(package: Any) -> float:
    weights = package.segmentation.weights
    return round(sum(Path(package.folder / name).stat().st_size for name in weights) / 1e6, 1)


@contextlib.contextmanager
def _started_rival(reference: str, role: str, *, small: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The re-created design as a child on a free port of loopback; its address, process and model facts."""
    from ai_engine.packages import find_package, load_package

    package = load_package(find_package(settings().engine.models, reference), weights=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = 1 if small else (os.cpu_count() or 1)
    command = [sys.executable, "-m", "dicom_node.benchmark.rival", str(package.folder), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--threads", str(threads), "--role", role], preexec_fn=_limit_memory if small else None
    )
    try:
        if small:
            _one_core(process.pid)
        _wait_for(f"http://127.0.0.1:{port}/livez", process)
        facts = {"model": package.reference, "file_mb": _file_mb(package), "precision": "f32"}
        yield f"http://127.0.0.1:{port}/api/v1/predict/nnUNet", process.pid, facts
    finally:
        process.terminate()
        process.wait(20)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (SMALL_BYTES, SMALL_BYTES))


def _one_core(pid: int) -> None:
    """Let a process and all below it run on one core only: every thread, for the kernel knows no affinity of more."""
    root = psutil.Process(pid)
    core = {min(os.sched_getaffinity(pid))}
    for process in [root, *root.children(recursive=True)]:
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, core)


def _limit_all(pid: int) -> None:
    """Let every process of a tree, and what they start from now on, hold at most 8 GB each."""
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        process.rlimit(psutil.RLIMIT_AS, (SMALL_BYTES, SMALL_BYTES))


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        if process.poll() is not None:
            stop(Exit.FAULT, f"the re-created design ended at its start with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    stop(Exit.FAULT, "the re-created design did not start within three minutes")
