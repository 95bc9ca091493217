"""The benchmark kit: its numbers against ones worked out apart, its load against a service that counts."""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest

from dicom_node.benchmark import Arm, compare, run, summarise
from dicom_node.benchmark.load import own_pictures
from dicom_node.benchmark.report import HEAD, figures, html, markdown
from dicom_node.benchmark.sampling import Sampler
from dicom_node.benchmark.statistics import memory_slope
from dicom_node.cli.benchmark import SMALL_BYTES, _limit_all, _one_core

pytestmark = pytest.mark.unit


def test_percentiles_and_interval_are_those_of_numpy_and_scipy() -> None:
    values = list(np.random.default_rng(1).gamma(2.0, 3.0, 30))
    told = summarise(values)
    assert [told.p50, told.p90, told.p95, told.p99] == pytest.approx(np.percentile(values, [50, 90, 95, 99]))
    assert told.mean == pytest.approx(statistics.fmean(values))
    assert told.high - told.mean == pytest.approx(2.0452 * statistics.stdev(values) / 30**0.5, rel=1e-4)  # t, 29 df


def test_two_equal_arms_do_not_differ_and_a_slower_one_does() -> None:
    quick = [1.0 + 0.01 * n for n in range(30)]
    assert compare(quick, list(quick)).p > 0.9
    slow = compare(quick, [3 * value for value in quick])
    assert slow.p < 1e-6
    assert slow.ratio_of_medians == pytest.approx(3.0)


def test_memory_that_grows_is_told_from_memory_that_wavers() -> None:
    noise = np.random.default_rng(2).normal(0, 5, 60)
    growing = [1000 + 2 * i + n for i, n in enumerate(noise)]
    assert memory_slope([[1000 + n for n in noise]]).verdict == "steady"
    assert memory_slope([growing]).verdict == "grows"
    assert memory_slope([[1.0, 2.0]]).verdict == "too few runs"
    # more users hold more pictures: a step between levels is no growth, growth within levels is
    assert memory_slope([[1000 + n for n in noise], [1500 + n for n in noise]]).verdict == "steady"
    found = memory_slope([growing, [500 + value for value in growing]])
    assert found.verdict == "grows"
    assert found.low < 200 < found.high


def test_every_request_carries_a_picture_of_its_own(picture: Path) -> None:
    made = own_pictures([picture], 20, np.random.default_rng(42))
    assert len({content for _, content in made}) == 20
    again = own_pictures([picture], 20, np.random.default_rng(42))
    assert [content for _, content in made] == [content for _, content in again]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(made[0][1]))
    assert np.count_nonzero(image.get_fdata() != nibabel.load(picture).get_fdata()) == 1


def test_a_picture_of_its_own_makes_no_more_work_than_the_original(tmp_path: Path) -> None:
    """A voxel in the air around a brain would widen the crop to what is not zero, and so the number of windows."""
    data = np.zeros((30, 30, 30), np.float32)
    data[10:14, 10:14, 10:14] = 5.0
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "brain.nii.gz")
    for _, content in own_pictures([tmp_path / "brain.nii.gz"], 20, np.random.default_rng(42)):
        made = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)
        assert np.array_equal(made != 0, data != 0) and np.count_nonzero(made != data) == 1


def test_two_arms_are_asked_alike_and_the_report_tells_them_apart(
    picture: Path, services: tuple[str, str, dict[str, int]]
) -> None:
    quick, slow, most = services
    arms = [Arm("node", quick, {}, None), Arm("other", slow, {}, None)]
    measured = run(arms, [picture], lambda _: None, users=(1, 4), warm_ups=1, runs=8)
    found = figures(measured, {"cores": 2}, {})
    node, other = found["arms"]["node"], found["arms"]["other"]
    assert [level["answered"] for level in node["levels"]] == [8, 8]
    assert all(1 < at_once <= 4 for at_once in most.values()), "together, and never more than there were users"
    one_user, four_users = found["comparisons"][0]["levels"]
    assert one_user["ratio_of_medians"] > 1.5
    assert four_users["p"] < 0.05
    assert other["class_shares"] == {"BG": 90.0, "ET": 10.0}
    level = node["levels"][0]
    assert level["waited_s"]["mean"] == pytest.approx(0.01)
    times = [answer.client_s - (answer.server_s or 0.0) - 0.01 for answer in measured["node"][0][0].answers]
    assert level["network_s"]["mean"] == pytest.approx(statistics.fmean(times))
    assert (node["model"], node["parameters"]) == ("tiny@1.0.0", 1234567)
    text, page = markdown(found), html(found)
    assert "Mann-Whitney" in text and page.count("data:image/png") == 3
    for words in ("1,234,567 parameters", "Predicted shares of the picture: BG 90.00 %, ET 10.00 %."):
        assert words in text and words in page
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") > 10]
    assert {line.count("|") for line in rows} == {len(HEAD) + 1}
    json.dumps(found)


def test_a_service_that_fails_is_counted_and_not_timed(picture: Path, services: tuple[str, str, Any]) -> None:
    measured = run(
        [Arm("node", services[0].replace("quick", "broken"), {})], [picture], lambda _: None, runs=4, users=(2,)
    )
    level = figures(measured, {}, {})["arms"]["node"]["levels"][0]
    assert (level["answered"], level["client_s"], level["errors"]) == (0, None, ["status 500"])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((12, 12, 12), np.float32), np.eye(4)), path)
    return path


@pytest.fixture
def services() -> Iterator[tuple[str, str, dict[str, int]]]:
    """A quick and a slow service in one server, and the most requests that each had at once."""
    most: dict[str, int] = {}
    now: dict[str, int] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                now[self.path] = now.get(self.path, 0) + 1
                most[self.path] = max(most.get(self.path, 0), now[self.path])
            took = {"/quick": 0.05, "/slow": 0.2}.get(self.path, 0.0)
            time.sleep(took)
            with lock:
                now[self.path] -= 1
            details = {"0": {"sigla": "BG", "porcentaje": 90.0}, "3": {"sigla": "ET", "porcentaje": 10.0}}
            said = {"success": True, "elapsed_time": took, "waiting_time": 0.01, "class_details": details}
            told = {"model": "tiny@1.0.0", "model_info": {"total_params": 1234567}}
            body = json.dumps({**said, **told}).encode()
            self.send_response(500 if self.path == "/broken" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    yield f"{base}/quick", f"{base}/slow", most
    server.shutdown()
    server.server_close()


def test_a_look_at_memory_does_not_hold_up_what_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading proportional sets twice a second made a network 1.7 times slower: they are read when memory has grown."""
    read, real = [], psutil.Process.memory_full_info
    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda self: read.append(self.pid) or real(self))
    steps = "import sys; kept = []\nfor line in sys.stdin: kept.append(bytearray(64_000_000)); print('', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", steps], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        sampler = Sampler(process.pid, every_s=0.02)

        def looks(count: int) -> int:
            wanted, deadline = len(sampler.samples) + count, time.monotonic() + 30
            while len(sampler.samples) < wanted and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(sampler.samples) >= wanted
            return len(read)

        counts = []
        with sampler.looking():
            for _ in range(2):
                print("more", file=process.stdin, flush=True)
                process.stdout.readline()
                counts += [looks(5), looks(15)]
        assert 0 < counts[0] == counts[1] < counts[2] == counts[3]
        assert sampler.samples[-1].memory_mb > sampler.proportional_peak_mb > 128
        process.stdin.close()


def test_the_small_machine_is_one_core_and_eight_gigabytes_for_a_tree_and_what_it_starts() -> None:
    inner = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", outer]) as process:
        root = psutil.Process(process.pid)
        try:
            _one_core(process.pid)
            _limit_all(process.pid)
            deadline = time.monotonic() + 30
            while sum(one.num_threads() for one in root.children()) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            for child in root.children():  # as they are where a model was loaded before
                for thread in child.threads():
                    os.sched_setaffinity(thread.id, os.sched_getaffinity(0))
            _one_core(process.pid)
            for one in (root, *root.children()):
                assert [len(os.sched_getaffinity(thread.id)) for thread in one.threads()] == [1] * one.num_threads()
                assert one.rlimit(psutil.RLIMIT_AS) == (SMALL_BYTES, SMALL_BYTES)
            assert root.children()
        finally:
            for one in (*root.children(), root):
                one.kill()
