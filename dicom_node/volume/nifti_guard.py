"""The parent's side of the NIfTI child: a file that a stranger sent is parsed where it can harm nothing (I8)."""

from __future__ import annotations

import json
import math
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine.geometry import Affine
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.limits import Limits
from dicom_node.volume.nifti import NiftiImage, as_volume
from dicom_node.words import Volume

COMMAND = (sys.executable, "-I", "-m", "dicom_node.volume.nifti_child")
_MAX_HEAD_BYTES = 16384
_CHUNK = 1 << 20


def read_nifti_guarded(
    path: Path | str,
    *,
    spacing_mm: Sequence[float] | None = None,
    limits: Limits = Limits(),
    max_voxels: int = 2**40,
    command: Sequence[str] = COMMAND,
) -> Volume:
    """`read_nifti` in a child without powers, bounded in memory, processor time and wall clock.

    Parameters
    ----------
    max_voxels
        Of the image, judged by its header before anything is allocated for it.
    command
        The program of the child, which tests replace by a hostile one.

    Raises
    ------
    Refused
        As `read_nifti`; `too-large` for more voxels or memory than allowed; `nifti-header-invalid` when the child
        ended without an answer or took too long.
    """
    request = {
        "memory_bytes": limits.child_memory_bytes,
        "cpu_s": limits.child_cpu_s,
        "max_bytes": limits.max_nifti_bytes,
        "max_voxels": max_voxels,
        "spacing_mm": None if spacing_mm is None else [float(one) for one in spacing_mm],
    }
    with tempfile.TemporaryDirectory(prefix="nifti-") as empty, open(path, "rb") as file:
        process = subprocess.Popen(
            [*command, json.dumps(request), str(os.getpid())],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            close_fds=True,
            start_new_session=True,
        )
        try:
            image = _image(_Pipe(process, time.monotonic() + limits.child_wall_s), max_voxels)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return as_volume(image, str(path))


def _image(pipe: _Pipe, max_voxels: int) -> NiftiImage:
    (length,) = struct.unpack("<I", pipe.read(4))
    if length > _MAX_HEAD_BYTES:
        raise _unanswered("a reader that says too much")
    head: dict[str, Any] = json.loads(pipe.read(length))
    if "refusal" in head:
        code, expected, found = (str(one) for one in head["refusal"])
        raise Refused(RefusalCode(code), expected, found)
    shape = tuple(int(one) for one in head["shape"])
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > max_voxels:
        raise _unanswered("a reader that claims an impossible image")
    array = np.empty(shape, dtype=np.float32)
    pipe.fill(array.data.cast("B"))
    affine = Affine(np.asarray(head["affine"], dtype=np.float64))
    return NiftiImage(array, affine, tuple(str(note) for note in head["notes"]))


@dataclass(frozen=True)
class _Pipe:
    """The child's answer, read until its deadline."""

    process: subprocess.Popen[bytes]
    deadline: float

    def read(self, count: int) -> bytes:
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> None:
        if self.process.stdout is None:
            raise _unanswered("no pipe from the reader")
        descriptor = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while view:
            left = self.deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _unanswered("a reader that hangs")
            count = os.readv(descriptor, [view[:_CHUNK]])
            if count == 0:
                raise _unanswered("a reader that ended")
            view = view[count:]


def _unanswered(found: str) -> Refused:
    return Refused(RefusalCode.NIFTI_HEADER_INVALID, "a file that can be read", found)
