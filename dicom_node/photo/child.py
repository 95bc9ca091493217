"""The child that decodes one photograph: ``python -I -m dicom_node.photo.child REQUEST PARENT_PID``.

Standard input is the colour profile that the parent found, if any, and the picture's own bytes; standard output a pipe;
REQUEST is JSON of numbers and of the kind of file.  Before it looks at a byte the child gives up its powers (I8).  It
answers: length (u4) and JSON, which is a refusal or what was found; then, unless the stream is to stay as it is, the
(rows, columns, 3) uint8 sRGB pixels, upright.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  (imported before the lock)

from dicom_node.lockdown import die_with_parent, forbid_system_calls, limit_resources
from dicom_node.photo.colours import profile_facts, upright_srgb
from dicom_node.refusals import RefusalCode, Refused

Answer = tuple[dict[str, Any], npt.NDArray[np.uint8] | None]


def preload() -> None:
    """Load what every photograph needs, for a process that forks such children (`dicom_node.nursery`)."""
    Image.preinit()


def main() -> int:
    """Decode one photograph; returns the exit status."""
    die_with_parent(int(sys.argv[-1]))
    request = json.loads(sys.argv[-2])
    Image.preinit()
    with os.fdopen(0, "rb", closefd=False) as file, os.fdopen(1, "wb", closefd=False) as answer:
        limit_resources(request["memory_bytes"], request["cpu_s"])
        forbid_system_calls()
        head, pixels = _answer(file.read(), request)
        _say(answer, head)
        if pixels is not None:
            answer.write(pixels.data.cast("B"))
            answer.flush()
    return 0


def _answer(data: bytes, request: dict[str, Any]) -> Answer:
    try:
        return _decoded(data[: request["profile_bytes"]], data[request["profile_bytes"] :], request)
    except Refused as refused:
        told = refused.refusal
        return {"refusal": [told.code.value, told.expected, told.found]}, None
    except MemoryError:
        return {"refusal": [RefusalCode.IMAGE_TOO_LARGE.value, "a picture that fits into memory", "a larger one"]}, None
    except Exception as error:  # the boundary: whatever a decoder raises is a damaged picture
        is_cut = isinstance(error, OSError) and "truncated" in str(error)
        code = RefusalCode.IMAGE_TRUNCATED if is_cut else RefusalCode.IMAGE_DECODE_FAILED
        return {"refusal": [code.value, f"a whole {request['kind']}", f"{type(error).__name__} in the decoder"]}, None


def _decoded(profile: bytes, data: bytes, request: dict[str, Any]) -> Answer:
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    with Image.open(io.BytesIO(data), formats=[request["kind"]]) as image:
        if getattr(image, "n_frames", 1) != 1:
            raise Refused(RefusalCode.IMAGE_ANIMATED, "one still picture", "several")
        if image.size != (request["columns"], request["rows"]):
            raise Refused(RefusalCode.IMAGE_DECODE_FAILED, "a picture of the size that its header says", "another size")
        image.load()
        if request["stays"]:
            if image.mode != "RGB":
                raise Refused(RefusalCode.IMAGE_DECODE_FAILED, "a colour JPEG", "another")
            return {"profile": profile_facts(profile)}, None
        found = profile or image.info.get("icc_profile") or b""
        pixels, notes = upright_srgb(image, found, request["orientation"])
    return {"rows": pixels.shape[0], "columns": pixels.shape[1], "notes": notes}, np.ascontiguousarray(pixels)


def _say(answer: BinaryIO, told: dict[str, Any]) -> None:
    data = json.dumps(told, allow_nan=False).encode()
    answer.write(struct.pack("<I", len(data)) + data)
    answer.flush()


if __name__ == "__main__":
    sys.exit(main())
