"""The one thing that is read of a photograph's EXIF: how it was held (Exif 2.32, tag 0x0112)."""

from __future__ import annotations

import struct

UPRIGHT = 1
_ORIENTATION = 0x0112
_SHORT = 3


def orientation_of(tiff: bytes) -> int:
    """Orientation 1 to 8 of an EXIF block (a TIFF header and its first directory).

    1, upright, where it says nothing that can be read: so do all viewers, and the picture is as it lies in the file.
    """
    if tiff[:4] not in (b"II*\0", b"MM\0*") or len(tiff) < 8:
        return UPRIGHT
    order = "<" if tiff[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    if offset + 2 > len(tiff):
        return UPRIGHT
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for place in range(offset + 2, min(offset + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, place)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
