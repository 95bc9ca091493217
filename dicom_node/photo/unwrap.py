"""The other way round: the picture out of an object that this room made, as a file that every browser shows.

An untouched JPEG comes out as the stream that went in, without what wrapping left behind (EXIF, place, comments), and
with its colour profile again (ICC.1 B.4).  Pixels become a JPEG for the eye, or a PNG where not one of them may change.
For objects of this node alone, out of its own vault: nothing here guards against a stranger's.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGBaseline8Bit

_ICC = b"ICC_PROFILE\0"
_PART_BYTES = 65_519
"""What is left of a segment's 65,535 bytes for the profile."""
_QUALITY = 90


def unwrap(data: bytes, *, is_exact: bool = False) -> tuple[str, bytes]:
    """The picture of a wrapped photograph.

    Parameters
    ----------
    data
        The Part 10 file that `wrap` made.
    is_exact
        Not one pixel may differ: pixels become PNG, which is large.

    Returns
    -------
    tuple
        Media type, and the bytes of the file.
    """
    target = dcmread(BytesIO(data))
    if target.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        (stream,) = generate_frames(target.PixelData, number_of_frames=1)
        return "image/jpeg", _with_profile(stream, _profile(target))
    return _encoded(target, is_exact=is_exact)


def _profile(target: Dataset) -> bytes:
    """The colour profile without the pad byte: its first four bytes say how long it is (ICC.1 7.2.2)."""
    stored = bytes(target.get("ICCProfile", b""))
    return stored[: int.from_bytes(stored[:4], "big")]


def _encoded(target: Dataset, *, is_exact: bool) -> tuple[str, bytes]:
    size = (int(target.Columns), int(target.Rows))
    picture = Image.frombytes("RGB", size, bytes(target.PixelData)[: 3 * size[0] * size[1]])
    buffer = BytesIO()
    if is_exact:
        picture.save(buffer, "PNG", compress_level=1)
        return "image/png", buffer.getvalue()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "image/jpeg", buffer.getvalue()


def _with_profile(stream: bytes, profile: bytes) -> bytes:
    """The stream with the profile in application segments behind its first marker."""
    stream = stream[: stream.rindex(b"\xff\xd9") + 2]  # the pad byte of an odd length is no part of it
    parts = [profile[start : start + _PART_BYTES] for start in range(0, len(profile), _PART_BYTES)]
    segments = b"".join(
        b"\xff\xe2" + (16 + len(part)).to_bytes(2, "big") + _ICC + bytes((number, len(parts))) + part
        for number, part in enumerate(parts, start=1)
    )
    return stream[:2] + segments + stream[2:]
