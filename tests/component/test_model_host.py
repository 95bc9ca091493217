"""The warm child: it answers like the engine, and whatever happens to it, the node hears it by name and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fixtures_packages import make_random_package, make_tiny_package

from ai_engine import wire
from ai_engine.faults import ChildDied, ChildFault, ChildTimeout, MemoryExceeded
from ai_engine.geometry import Affine
from ai_engine.host import HostSettings, ModelHost
from ai_engine.packages import load_package
from ai_engine.prediction import EngineSettings, InputVolume
from ai_engine.selftest import self_test
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.component

AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
SETTINGS = EngineSettings(device="cpu", threads=1)


def _volume(slices: int = 12) -> dict[str, InputVolume]:
    s, r, c = np.mgrid[:slices, :64, :60].astype(np.float64)
    head = ((s - slices / 2) / (slices * 0.6)) ** 2 + ((r - 32) / 28) ** 2 + ((c - 30) / 24) ** 2 < 1
    picture = head * 100.0 + (((r - 24) ** 2 + (c - 34) ** 2 < 30) & (abs(s - slices / 2) < 2)) * 130.0
    affine = Affine.from_axes([0, 0, 0], AXIAL, [5.0, 1.0, 1.0])
    return {"flair": InputVolume(picture.astype(np.float32), affine, modality="MR")}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_package(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def host(package: Path) -> Iterator[ModelHost]:
    with ModelHost(package, SETTINGS) as running:
        running.start()
        yield running


def test_answers_like_the_engine_in_this_process(host: ModelHost, package: Path) -> None:
    from ai_engine.engine import Engine

    here = Engine(load_package(package), SETTINGS).run(_volume())
    there = host.predict(_volume())
    assert there.mask.tobytes() == here.mask.tobytes()
    assert there.findings.regions == here.findings.regions
    assert there.findings.model == here.findings.model
    assert there.affine is not None
    assert host.identity["digest_sha256"] == load_package(package).digest_sha256


def test_stays_warm_and_refuses_without_dying(host: ModelHost) -> None:
    host.predict(_volume())
    first = host.pid
    blank = {"flair": InputVolume(np.zeros((12, 64, 60), dtype=np.float32), _volume()["flair"].affine)}
    with pytest.raises(Refused) as caught:
        host.predict(blank)
    assert caught.value.refusal.code is RefusalCode.IMAGE_BLANK
    host.predict(_volume())
    assert host.pid == first


def test_the_childs_environment_holds_no_secret(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.predict(_volume())
    environment = psutil.Process(host.pid).environ()
    assert set(environment) <= {
        "PATH", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED",
        "PYTHONDONTWRITEBYTECODE", "HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "OMP_WAIT_POLICY", "LC_CTYPE", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR",
    }  # fmt: skip
    assert [c for c in psutil.Process(host.pid).net_connections() if c.status != psutil.CONN_NONE] == []


def test_a_killed_child_is_a_death_and_the_next_call_lives(host: ModelHost) -> None:
    host.predict(_volume())
    first = host.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (first, signal.SIGKILL)).start()
    with pytest.raises(ChildDied):
        host.predict(_volume())
    assert host.pid is None
    assert np.count_nonzero(host.predict(_volume()).mask) > 0
    assert host.pid != first


def test_a_child_that_is_gone_closes_nothing_of_others(host: ModelHost) -> None:
    """Descriptors are numbers that come back: what the node opens after a death is not the dead child's to close."""
    host.start()
    assert host.pid is not None
    os.kill(host.pid, signal.SIGKILL)
    with pytest.raises(ChildDied):
        host.predict(_volume())
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # as a database would, in the numbers that are free now
    try:
        host.predict(_volume())
        for descriptor in kept:
            os.fstat(descriptor)
    finally:
        for descriptor in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def test_a_child_that_hangs_is_killed_at_the_deadline(host: ModelHost) -> None:
    host.predict(_volume())
    child = psutil.Process(host.pid)
    os.kill(child.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(ChildTimeout):
        host.predict(_volume(), timeout_s=1.0)
    assert time.monotonic() - started < 10
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_grows_past_its_limit_is_killed(package: Path) -> None:
    with ModelHost(package, SETTINGS, HostSettings(memory_limit_mb=150)) as small, pytest.raises(MemoryExceeded):
        small.predict(_volume())


def test_a_device_that_is_full_ends_the_child_which_gives_its_memory_back(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.predict(_volume())
    first, heard = host.pid, wire.read_frame
    told = {"kind": "fault", "code": "memory-exceeded", "text": "MemoryExceeded: cuda has not enough memory left"}
    monkeypatch.setattr(wire, "read_frame", lambda *given: heard(*given) and (told, {}))
    with pytest.raises(MemoryExceeded, match="cuda"):
        host.predict(_volume())
    monkeypatch.undo()
    assert host.pid is None and first is not None and not psutil.pid_exists(first)
    assert np.count_nonzero(host.predict(_volume()).mask) > 0


def test_a_package_that_changed_is_not_run(package: Path, tmp_path: Path) -> None:
    with ModelHost(package, SETTINGS, pinned_sha256="0" * 64) as other, pytest.raises(Refused) as caught:
        other.start()
    assert caught.value.refusal.code is RefusalCode.MODEL_HASH_MISMATCH


def test_a_model_that_does_not_fit_is_a_fault_in_words(tmp_path: Path) -> None:
    folder = make_random_package(
        tmp_path, patch=(32, 32), description={"inference": {"configuration": "3d_fullres", "batch": 1}}
    )
    with ModelHost(folder, SETTINGS) as broken, pytest.raises(ChildFault, match=r"model-fault.*configuration"):
        broken.start()


def test_as_many_threads_as_there_are_processors_for_it() -> None:
    """A node that is kept to some of a machine's processors does not start a thread for each of the others."""
    kept = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    asked = "from ai_engine.children import clean_environment; print(clean_environment(0)['OMP_NUM_THREADS'])"
    said = [subprocess.check_output([sys.executable, "-c", code], text=True) for code in (asked, kept + asked)]
    assert [int(number) for number in said] == [len(os.sched_getaffinity(0)), 1]


PARENT = """
import sys, time
from pathlib import Path
from ai_engine.host import ModelHost
from ai_engine.prediction import EngineSettings
host = ModelHost(Path(sys.argv[1]), EngineSettings(device="cpu", threads=1))
host.start()
print(host.pid, flush=True)
time.sleep(120)
"""


def test_kill_minus_nine_of_the_parent_leaves_no_orphan(package: Path) -> None:
    """I8: the child ends with its parent, even one that is stopped and cannot see its pipes close."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(package)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    child.suspend()
    parent.kill()
    parent.wait(10)
    _gone, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_a_starting_thread_may_end_and_the_child_lives(package: Path) -> None:
    """PR_SET_PDEATHSIG watches threads: a pool's worker that started the child may be gone the next minute."""
    with ModelHost(package, SETTINGS) as host:
        thread = threading.Thread(target=host.start)
        thread.start()
        thread.join()
        first = host.pid
        time.sleep(0.5)
        host.predict(_volume())
        assert host.pid == first


def test_the_stored_case_tells_a_changed_model(tmp_path: Path) -> None:
    """A package whose network answers otherwise than when it was made fails its own test."""
    from safetensors.numpy import save_file

    from ai_engine.engine import Engine
    from ai_engine.packages import seal_package

    volume = _volume()["flair"]
    expected = np.count_nonzero(_volume()["flair"].array > 200)
    results = []
    for name, threshold in (("same", 1.5), ("other", -2.0)):
        rule = {"self_test": {"file": "self_test.safetensors", "voxels": {1: int(expected)}, "tolerance_percent": 2}}
        root = tmp_path / name
        folder = root / "tiny-bright" / "1.0.0"
        folder.mkdir(parents=True)
        save_file({"flair": volume.array, "affine": volume.affine.matrix}, folder / "self_test.safetensors")
        make_tiny_package(root, threshold=threshold, description=rule)
        seal_package(folder)
        package = load_package(folder)
        result = self_test(package, Engine(package, SETTINGS).run)
        assert result is not None
        results.append(result.is_passed)
    assert results == [True, False]


# -- the frames --------------------------------------------------------------------------------------------------------


def _reader(data: bytes) -> Any:
    rest = bytearray(data)

    def read(count: int) -> bytes:
        if count > len(rest):
            raise EOFError
        piece = bytes(rest[:count])
        del rest[:count]
        return piece

    return read


def test_frames_come_back_as_they_went() -> None:
    arrays = {"a": np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1], "b": np.zeros((0, 2), dtype=np.uint8)}
    data = b"".join(wire.pack({"kind": "x", "text": "ä"}, arrays))
    body, found = wire.read_frame(_reader(data), 10_000)
    assert body == {"kind": "x", "text": "ä"}
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a......",
        wire.MAGIC + (2**40).to_bytes(8, "big"),
        wire.MAGIC + (4).to_bytes(8, "big") + b"{}  ",
        wire.MAGIC + (46).to_bytes(8, "big") + b'{"body": {}, "arrays": [["a","object",[3]]] } ',
        wire.MAGIC + (57).to_bytes(8, "big") + b'{"body": {}, "arrays": [["a","float32",[99999999999]]] }  ',
        wire.MAGIC + (46).to_bytes(8, "big") + b'{"body": {}, "arrays": [["a","uint8",[-3]]] }  ',
    ],
)
def test_a_frame_is_not_trusted(data: bytes) -> None:
    with pytest.raises((wire.WireError, EOFError)):
        wire.read_frame(_reader(data), 10_000)


def test_objects_do_not_travel() -> None:
    with pytest.raises(wire.WireError):
        wire.pack({}, {"a": np.array([object()])})
    with pytest.raises(ValueError, match="JSON"):
        wire.pack({"value": float("nan")}, {})
