"""The decoding child (I8): what a taken-over decoder can do is nothing, and the parent stays well."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from volume_series import series, write, write_all

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume import Limits, build_volume, check_decoders, decode_in_child
from dicom_node.volume.decode import CHILD_ATTEMPTS, Child, EncodedFrame, decode_frames
from dicom_node.volume.header import read_object
from dicom_node.volume.pixels import DECODERS, pixel_format

pytestmark = pytest.mark.unit

HOSTILE = Path(__file__).with_name("hostile_child.py")
QUICK = Limits(child_wall_s=2.0, child_cpu_s=1, child_memory_bytes=1 << 30)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system call filter is Linux's")


@pytest.fixture
def frame(tmp_path) -> EncodedFrame:
    stored = read_object(write(series(1)[0], tmp_path / "one.dcm"))
    assert stored.pixels is not None
    return EncodedFrame(pixel_format(stored.header, Limits()), stored.pixels)


def outcome(deed, frame, limits=QUICK):
    with pytest.raises(Refused) as caught:
        decode_frames([frame], lambda *_: None, limits=limits, command=(sys.executable, "-I", str(HOSTILE), deed))
    assert caught.value.refusal.code is RefusalCode.PIXEL_DECODE_FAILED
    return caught.value.refusal.found


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_a_decoder_that_hangs_is_killed_in_time(frame):
    before = children()
    started = time.monotonic()
    assert outcome("hang", frame) == "a decoder that hangs"
    assert time.monotonic() - started < 4
    assert children() == before


def test_a_decoder_that_burns_is_ended_by_its_cpu_limit(frame):
    assert outcome("burn", frame, replace(QUICK, child_wall_s=20.0)) == "a decoder that needs more"


def test_a_decoder_that_takes_all_memory_leaves_the_parent_small(frame):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outcome("allocate", frame, replace(QUICK, child_wall_s=20.0, child_cpu_s=20)) == "MemoryError in the decoder"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("deed", ["crash", "segfault"])
def test_a_decoder_that_crashes_is_tried_three_times(frame, deed):
    found = outcome(deed, frame)
    assert found.startswith("a decoder ended by SIG") or found == "PermissionError in the decoder"


def test_attempts_are_counted(frame, monkeypatch):
    starts = []
    enter = Child.__enter__
    monkeypatch.setattr(Child, "__enter__", lambda self: (starts.append(1), enter(self))[1])
    outcome("segfault", frame)
    assert len(starts) == CHILD_ATTEMPTS == 3
    starts.clear()
    outcome("hang", frame)
    assert len(starts) == 1


def test_a_decoder_that_leaves(frame):
    assert outcome("leave", frame) == "a decoder that left with status 3"


@linux_only
@pytest.mark.parametrize(
    "deed",
    ["fork", "thread", "spawn", "write_file", "write_elsewhere", "read_secret", "connect", "unix_socket", "kill_parent",
     "raise_limits"],
)  # fmt: skip
def test_a_taken_over_decoder_can_do_nothing(frame, deed):
    assert outcome(deed, frame) in ("PermissionError in the decoder", "RuntimeError in the decoder",
                                    "ValueError in the decoder", "OSError in the decoder")  # fmt: skip
    assert not Path(f"{HOSTILE}.written").exists()


def test_the_environment_is_empty_and_so_is_the_folder(frame, monkeypatch):
    monkeypatch.setenv("AI_NODE__SECRET", "hidden")
    found = outcome("report_environment", frame)
    assert found in ("nothing to find", "PermissionError in the decoder")


@pytest.mark.parametrize(
    ("deed", "found"),
    [("print_warning", "a message of the decoder"), ("python_warning", "UserWarning in the decoder"),
     ("answer_too_much", "an answer of the decoder that is too long"),
     ("answer_little", "a decoder that left with status 0")],
)  # fmt: skip
def test_warnings_and_false_answers(frame, deed, found):
    assert outcome(deed, frame) == found


def test_the_real_child_filters_system_calls(frame):
    with Child(Limits()) as child:
        child.start([frame.spec])
        assert child.is_filtered is (sys.platform == "linux")
        values = child.decode(frame)
    assert values.shape == (frame.format.rows, frame.format.columns)


def test_the_child_ends_when_its_pipe_closes_and_is_never_left(frame):
    with Child(Limits()) as child:
        child.start([frame.spec, frame.spec])
        child.decode(frame)
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_dies_with_a_parent_that_is_killed(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time
        from dicom_node.volume.decode import Child, EncodedFrame
        from dicom_node.volume.header import read_object
        from dicom_node.volume.limits import Limits
        from dicom_node.volume.pixels import pixel_format
        stored = read_object({str(write(series(1)[0], tmp_path / "one.dcm"))!r})
        frame = EncodedFrame(pixel_format(stored.header, Limits()), stored.pixels)
        child = Child(Limits(), (sys.executable, "-I", {str(HOSTILE)!r}, "burn")).__enter__()
        child.start([frame.spec])
        print(child.pid, flush=True)
        child.decode(frame)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_all_decoders_are_there_and_listed():
    assert check_decoders() == []
    assert set(DECODERS.values()) == {"native", "rle", "gdcm", "charls", "openjpeg"}


def test_missing_decoders_are_named(monkeypatch):
    monkeypatch.setitem(DECODERS, "1.2.3", "unheard-of")
    assert check_decoders() == ["unheard-of"]


def test_many_slices_are_decoded_fast(tmp_path):
    paths = write_all(series(155, rows=64, columns=64), tmp_path)
    started = time.monotonic()
    arrays = decode_in_child(paths)
    assert len(arrays) == 155
    assert time.monotonic() - started < 5  # well below a second on a quiet machine


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    volume = build_volume(write_all(series(), tmp_path / "series"))
    assert np.isfinite(volume.array).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["series"]
