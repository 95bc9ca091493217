"""Frames between the node and its model child: one JSON header and arrays, no pickle.

A frame is ``MAGIC``, the header's length (8 bytes, big endian), the header (JSON, UTF-8), then the arrays' bytes in the
order in which ``header["arrays"]`` lists them as ``[name, dtype, shape]``.  Dtypes are from a closed list and sizes are
checked against a limit before anything is allocated, because the reader does not trust the other side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"AIN1"
PREFIX = len(MAGIC) + 8
MAX_HEADER = 16 * 1024**2
MAX_ARRAYS = 32
DTYPES = {"float32": 4, "float64": 8, "uint8": 1, "bool": 1}

Array = npt.NDArray[Any]


class WireError(ValueError):
    """The bytes are no frame, or a larger one than is allowed."""


def pack(body: Mapping[str, Any], arrays: Mapping[str, Array]) -> list[memoryview]:
    """The buffers of a frame, in order; arrays are not copied when they are contiguous already."""
    listed = []
    buffers = []
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise WireError(f"dtype {array.dtype.name} does not travel")
        flat = np.ascontiguousarray(array)
        listed.append([name, array.dtype.name, list(array.shape)])
        buffers.append(flat.reshape(-1).view(np.uint8).data)
    header = json.dumps({"body": dict(body), "arrays": listed}, allow_nan=False).encode()
    return [memoryview(MAGIC + len(header).to_bytes(8, "big") + header), *buffers]


def header_length(prefix: bytes) -> int:
    """The length of the header that follows this prefix.

    Raises
    ------
    WireError
        If it is no prefix of ours or the header is too long.
    """
    if len(prefix) != PREFIX or prefix[: len(MAGIC)] != MAGIC:
        raise WireError("a frame was expected")
    length = int.from_bytes(prefix[len(MAGIC) :], "big")
    if length > MAX_HEADER:
        raise WireError("the frame's header is too long")
    return length


def parse_header(data: bytes, limit_bytes: int) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...], int]]]:
    """Body, and name, dtype, shape and byte count of each array.

    Raises
    ------
    WireError
        If the header is malformed or the arrays together are larger than `limit_bytes`.
    """
    try:
        header = json.loads(data)
        body = header["body"]
        listed = []
        for name, dtype, shape in header["arrays"]:
            sizes = tuple(int(size) for size in shape)
            if dtype not in DTYPES or any(size < 0 for size in sizes) or len(sizes) > 4:
                raise WireError("an array of unknown kind")
            listed.append((str(name), str(dtype), sizes, math.prod(sizes) * DTYPES[dtype]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError("the frame's header is malformed") from error
    if not isinstance(body, dict) or len(listed) > MAX_ARRAYS or sum(size for *_, size in listed) > limit_bytes:
        raise WireError("the frame is larger than allowed")
    return body, listed


def read_frame(read_exactly: Callable[[int], bytes], limit_bytes: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one frame through a function that gives exactly n bytes or raises."""
    body, listed = parse_header(read_exactly(header_length(read_exactly(PREFIX))), limit_bytes)
    arrays = {}
    for name, dtype, shape, size in listed:
        arrays[name] = np.frombuffer(read_exactly(size), dtype=dtype).reshape(shape)
    return body, arrays
