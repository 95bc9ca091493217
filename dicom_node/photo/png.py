"""A PNG as its chunks (ISO/IEC 15948, and the animation extension of its third edition): size, depth, orientation."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from dicom_node.photo.exif import UPRIGHT, orientation_of
from dicom_node.photo.limits import PhotoLimits
from dicom_node.refusals import RefusalCode, Refused

_SIGNATURE_BYTES = 8
_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP"})
"""What the decoder is given: the picture, its transparency, its profile."""


@dataclass(frozen=True)
class PngFile:
    """What the chunks of a PNG say; `stream` is the file without the chunks that are no picture."""

    rows: int
    columns: int
    bit_depth: int
    orientation: int
    end: int
    stream: bytes


def read_png(data: bytes, limits: PhotoLimits) -> PngFile:
    """Read all chunks of a PNG up to its end chunk.

    Raises
    ------
    Refused
        image-truncated; image-decode-failed, when the chunks are not those of one picture or a check sum is not met;
        image-animated.
    """
    position, orientation = _SIGNATURE_BYTES, UPRIGHT
    header: tuple[int, int, int] | None = None
    pieces = [data[:_SIGNATURE_BYTES]]
    for _ in range(limits.max_parts):
        if position + 12 > len(data):
            raise _cut()
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _cut()
        if (header is None) != (name == b"IHDR") or (name == b"IHDR" and length != 13):
            raise _damaged("one header chunk, first")
        if name == b"IHDR":
            header = struct.unpack_from(">IIB", data, position + 8)
        elif name == b"acTL":
            raise Refused(RefusalCode.IMAGE_ANIMATED, "one still picture", "an animated PNG")
        elif name == b"eXIf":
            orientation = orientation_of(data[position + 8 : end - 4])
        if name in _KEPT:
            # here, because the decoder stops at the last row and looks at no check sum of what it reads
            if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise _damaged("chunks that meet their check sums")
            pieces.append(data[position:end])
        position = end
        if name == b"IEND" and header is not None:
            columns, rows, depth = header
            return PngFile(rows, columns, depth, orientation, end, b"".join(pieces))
    raise _damaged("fewer chunks than the limit")


def _cut() -> Refused:
    return Refused(RefusalCode.IMAGE_TRUNCATED, "a PNG up to its end chunk", "a file that ends before")


def _damaged(expected: str) -> Refused:
    return Refused(RefusalCode.IMAGE_DECODE_FAILED, f"a PNG with {expected}", "others")
