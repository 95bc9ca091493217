"""A WebP as its chunks (RFC 9649): size, whether it was compressed with loss, orientation."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_node.photo.exif import UPRIGHT, orientation_of
from dicom_node.photo.limits import PhotoLimits
from dicom_node.refusals import RefusalCode, Refused

_HEADER_BYTES = 12
_KEY_FRAME = b"\x9d\x01\x2a"
_LOSSLESS_SIGNATURE = 0x2F


@dataclass(frozen=True)
class WebpFile:
    """What the chunks of a WebP say."""

    rows: int
    columns: int
    is_lossy: bool
    orientation: int
    picture_bytes: int
    """Of the compressed picture itself."""
    end: int


def read_webp(data: bytes, limits: PhotoLimits) -> WebpFile:
    """Read all chunks of a still WebP.

    Raises
    ------
    Refused
        image-truncated; image-decode-failed, when the chunks are not those of one picture; image-animated.
    """
    if len(data) < _HEADER_BYTES + 8:
        raise _cut()
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise _cut()
    position, orientation = _HEADER_BYTES, UPRIGHT
    canvas: tuple[int, int] | None = None
    picture: tuple[int, int, bool, int] | None = None
    for _ in range(limits.max_parts):
        if position + 8 > end:
            break
        name, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if len(body) < length:
            raise _cut()
        if name in (b"ANIM", b"ANMF"):
            raise Refused(RefusalCode.IMAGE_ANIMATED, "one still picture", "an animated WebP")
        if name == b"VP8X" and length >= 10:
            canvas = _three_bytes(body, 7) + 1, _three_bytes(body, 4) + 1
        elif name in (b"VP8 ", b"VP8L"):
            if picture is not None:
                raise _damaged("one picture", "several")
            picture = *_size(name, body), name == b"VP8 ", length
        elif name == b"EXIF":
            orientation = orientation_of(body.removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    if picture is None:
        raise _damaged("a picture", "none")
    rows, columns, is_lossy, size = picture
    if canvas not in (None, (rows, columns)):
        raise _damaged("a canvas of the size of its picture", "another size")
    return WebpFile(rows, columns, is_lossy, orientation, size, end)


def _size(name: bytes, body: bytes) -> tuple[int, int]:
    """(rows, columns) from the head of the bitstream (RFC 6386 9.1; RFC 9649 3.4)."""
    if name == b"VP8 ":
        if len(body) < 10 or body[3:6] != _KEY_FRAME:
            raise _damaged("a key frame", "none")
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    if len(body) < 5 or body[0] != _LOSSLESS_SIGNATURE:
        raise _damaged("a lossless picture's signature", "none")
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1


def _three_bytes(body: bytes, position: int) -> int:
    return int.from_bytes(body[position : position + 3], "little")


def _cut() -> Refused:
    return Refused(RefusalCode.IMAGE_TRUNCATED, "a WebP as long as its header says", "a file that ends before")


def _damaged(expected: str, found: str) -> Refused:
    return Refused(RefusalCode.IMAGE_DECODE_FAILED, f"a WebP with {expected}", found)
