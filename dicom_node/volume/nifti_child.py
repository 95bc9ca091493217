"""The child that reads one uploaded NIfTI file: ``python -I -m dicom_node.volume.nifti_child REQUEST PARENT_PID``.

Standard input is the opened file, standard output a pipe; REQUEST is JSON of numbers.  Before it looks at a byte the
child gives up its powers (I8).  It answers: length (u4) and JSON, which is a refusal or shape, affine and notes; then,
if it is no refusal, the (S, R, C) float32 values.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any, BinaryIO

from dicom_node.lockdown import die_with_parent, forbid_system_calls, limit_resources
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.limits import Limits
from dicom_node.volume.nifti import NiftiImage, file_bytes, parse_nifti


def main() -> int:
    """Read one file; returns the exit status."""
    die_with_parent(int(sys.argv[-1]))
    request = json.loads(sys.argv[-2])
    with os.fdopen(0, "rb", closefd=False) as file, os.fdopen(1, "wb", closefd=False) as answer:
        limit_resources(request["memory_bytes"], request["cpu_s"])
        forbid_system_calls()
        try:
            image = _read(file, request)
        except Refused as refused:
            told = refused.refusal
            return _say(answer, {"refusal": [told.code.value, told.expected, told.found]})
        except MemoryError:
            allowed = f"an image that fits into {request['memory_bytes']} bytes"
            return _say(answer, {"refusal": [RefusalCode.TOO_LARGE.value, allowed, "a larger one"]})
        head = {
            "shape": list(image.array.shape),
            "affine": image.affine.matrix.tolist(),
            "notes": list(image.notes),
        }
        _say(answer, head)
        answer.write(image.array.data.cast("B"))
        answer.flush()
    return 0


def _read(file: BinaryIO, request: dict[str, Any]) -> NiftiImage:
    limits = Limits(max_nifti_bytes=request["max_bytes"])
    return parse_nifti(file_bytes(file, limits), request["spacing_mm"], request["max_voxels"])


def _say(answer: BinaryIO, told: dict[str, Any]) -> int:
    data = json.dumps(told, allow_nan=False).encode()
    answer.write(struct.pack("<I", len(data)) + data)
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
