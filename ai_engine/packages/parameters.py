"""How many weights a network has, read from the head of its safetensors file: nothing is loaded."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

_MAX_HEAD_BYTES = 64 << 20
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def count_parameters(weights: Path) -> int | None:
    """Number of trained values of one network; None where the file is no safetensors file.

    A tensor that stands in the file under several of nnU-Net's names (its decoder holds its encoder again, its blocks
    hold their layers twice) counts once; running statistics of batch normalisation are no parameters.
    """
    try:
        with open(weights, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEAD_BYTES:
                return None
            head = json.loads(file.read(length))
        sizes = {
            _first_name(name): math.prod(int(side) for side in entry["shape"])
            for name, entry in head.items()
            if name != "__metadata__" and not name.endswith(_BUFFERS)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return sum(sizes.values())


def _first_name(name: str) -> str:
    """One name for a tensor that nnU-Net's modules know by several."""
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    name = re.sub(r"\.all_modules\.0\.", ".conv.", name)
    return re.sub(r"\.all_modules\.\d+\.", ".norm.", name)
