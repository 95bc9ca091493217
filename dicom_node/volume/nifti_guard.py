"""The parent's side of the NIfTI child: a file that a stranger sent is parsed where it can harm nothing (I8)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine.geometry import Affine
from dicom_node.guard import Answer, Ended, Unanswered, guarded
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.volume.limits import Limits
from dicom_node.volume.nifti import NiftiImage, as_volume
from dicom_node.words import Volume

COMMAND = (sys.executable, "-I", "-m", "dicom_node.volume.nifti_child")
_MAX_HEAD_BYTES = 16384


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
    program = [*command, json.dumps(request)]
    try:
        try:
            image = _asked(program, path, limits, max_voxels)
        except Ended:  # perhaps no fault of the file: the memory was short, or the nursery went
            image = _asked(program, path, limits, max_voxels)
    except Unanswered as unanswered:
        raise _unreadable(str(unanswered)) from None
    return as_volume(image, str(path))


def _asked(program: Sequence[str], path: Path | str, limits: Limits, max_voxels: int) -> NiftiImage:
    with at_rest.descriptor(path) as file, guarded(program, file, limits.child_wall_s) as answer:
        return _image(answer, max_voxels)


def _image(answer: Answer, max_voxels: int) -> NiftiImage:
    head: dict[str, Any] = json.loads(answer.message(_MAX_HEAD_BYTES))
    if "refusal" in head:
        code, expected, found = (str(one) for one in head["refusal"])
        raise Refused(RefusalCode(code), expected, found)
    shape = tuple(int(one) for one in head["shape"])
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > max_voxels:
        raise _unreadable("a reader that claims an impossible image")
    array = np.empty(shape, dtype=np.float32)
    answer.fill(array.data.cast("B"))
    affine = Affine(np.asarray(head["affine"], dtype=np.float64))
    return NiftiImage(array, affine, tuple(str(note) for note in head["notes"]))


def _unreadable(found: str) -> Refused:
    return Refused(RefusalCode.NIFTI_HEADER_INVALID, "a file that can be read", found)
