"""The nursery (I8): its children are what interpreters of their own would be, and it never sees a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicom_node import nursery
from dicom_node.photo import decode as photo_decode
from dicom_node.photo.decode import decode_photo
from dicom_node.volume import check_decoders
from dicom_node.volume.codecs import FrameSpec
from dicom_node.volume.decode import CHILD_COMMAND, Child
from dicom_node.volume.limits import Limits
from tests.fixtures_photo import drawn_lesion, jpeg

pytestmark = [pytest.mark.unit, pytest.mark.skipif(sys.platform != "linux", reason="handles of processes are Linux's")]

MARKER = b"a-name-that-stands-nowhere-else-7301"


@pytest.fixture
def kept() -> Iterator[nursery.Nursery]:
    with nursery.kept():
        assert nursery._kept is not None
        yield nursery._kept


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def descriptors(pid: int | str) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


def status(pid: int, field: str) -> str:
    return re.search(rf"^{field}:\s*(.+)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1]  # type: ignore[index]


def holds_marker(pid: int) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            first, last = (int(one, 16) for one in place.split("-"))
            memory.seek(first)
            if MARKER in memory.read(last - first):
                return True
    return False


def test_a_photograph_is_decoded_as_by_an_interpreter_of_its_own(kept: nursery.Nursery) -> None:
    data = jpeg(drawn_lesion(seed=3))
    forked = decode_photo(data)
    assert kept.is_alive and forked == decode_photo(
        data, command=(sys.executable, "-I", "-B", "-m", "dicom_node.photo.child")
    )
    assert check_decoders() == []


def test_a_child_has_its_own_pipes_an_empty_folder_and_nothing_else(kept: nursery.Nursery) -> None:
    with Child(Limits()) as child:
        child.start([FrameSpec("native", "", 1, 1, 8, 8, False, False)])
        assert status(child.pid, "PPid") == str(kept.pid)
        links = {os.readlink(f"/proc/{child.pid}/fd/{one}") for one in descriptors(child.pid)}
        assert all(link.startswith("pipe:") for link in links), "no way to anything but its parent and itself"
        assert os.listdir(f"/proc/{child.pid}/cwd") == []
        assert os.getsid(child.pid) == child.pid
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()
        assert b"HOME=" not in environment and b"PATH=" not in environment
        assert child.is_filtered and status(child.pid, "Seccomp") == "2"


def test_nothing_of_a_picture_is_in_the_nursery(kept: nursery.Nursery) -> None:
    data = jpeg(drawn_lesion(seed=4))
    marked = data[:2] + b"\xff\xfe" + (len(MARKER) + 2).to_bytes(2, "big") + MARKER + data[2:]
    decode_photo(marked)
    assert holds_marker(os.getpid()), "the search finds what is there"
    assert not holds_marker(kept.pid)


def test_how_a_child_ended_is_told(kept: nursery.Nursery, tmp_path: Path) -> None:
    child = nursery.start(CHILD_COMMAND, str(tmp_path))
    assert child.stdin is not None and child.stdout is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.05)
    child.stdin.close()
    assert child.wait(timeout=20) == 0 == child.wait()
    child.stdout.close()
    for number in (signal.SIGSEGV, signal.SIGKILL):
        child = nursery.start(CHILD_COMMAND, str(tmp_path))
        os.kill(child.pid, number)
        assert child.wait(timeout=20) == -number
        child.kill()  # that it is gone already is no fault
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            stream.close()


def test_many_at_once_leave_nothing_behind(kept: nursery.Nursery) -> None:
    pictures = [jpeg(drawn_lesion(seed=seed)) for seed in range(8)]
    decode_photo(pictures[0])
    before = descriptors("self")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(decode_photo, pictures * 3))
    assert found[:8] == found[8:16] == found[16:] and len({one.payload for one in found}) == 8
    assert descriptors("self") == before
    assert len(descriptors(kept.pid)) < 10
    wait_for(lambda: Path(f"/proc/{kept.pid}/task/{kept.pid}/children").read_text() == "")


def test_a_nursery_that_ended_is_done_without_and_then_replaced(kept: nursery.Nursery) -> None:
    data = jpeg(drawn_lesion(seed=5))
    os.kill(kept.pid, signal.SIGKILL)
    wait_for(lambda: not kept.is_alive)
    assert decode_photo(data).is_untouched
    nursery.look_after()
    assert nursery._kept is not None and nursery._kept.is_alive and nursery._kept.pid != kept.pid
    with Child(Limits()) as child:
        child.start([FrameSpec("native", "", 1, 1, 8, 8, False, False)])
        assert status(child.pid, "PPid") == str(nursery._kept.pid)


def test_a_picture_is_not_to_blame_for_a_nursery_that_goes_while_it_is_decoded(
    kept: nursery.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(drawn_lesion(seed=6))
    fork, fill, forked = kept.fork, photo_decode._filled, list[object]()
    reading, writing = os.pipe()

    def fork_and_go(*told: Any) -> Any:
        forked.append(fork(*told))
        if kept.is_alive:
            os.kill(kept.pid, signal.SIGKILL)
        return forked[-1]

    def first_nothing(file: Any, seen: Any) -> Any:
        """The first child waits for a picture that does not come, until its nursery goes."""
        return fill(file, seen) if forked else open(reading, "rb", closefd=False)

    monkeypatch.setattr(kept, "fork", fork_and_go)
    monkeypatch.setattr(photo_decode, "_filled", first_nothing)
    try:
        assert decode_photo(data).is_untouched
    finally:
        os.close(reading)
        os.close(writing)
    assert forked[0] is not None and forked[1:] == [None]


def test_all_of_it_ends_with_whoever_keeps_it(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import time
        from dicom_node import nursery
        with nursery.kept():
            child = nursery.start({CHILD_COMMAND!r}, {str(tmp_path)!r})
            print(nursery._kept.pid, child.pid, flush=True)
            time.sleep(600)
    """)
    keeper = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    pids = [int(one) for one in keeper.stdout.readline().split()]
    assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    keeper.kill()
    keeper.wait()
    keeper.stdout.close()

    def gone(pid: int) -> bool:
        try:
            return status(pid, "State").startswith("Z")
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(lambda: all(gone(pid) for pid in pids))
