"""A JPEG as its segments (ISO/IEC 10918-1 annex B): size, sampling, colours, orientation, profile; the stream alone.

Pure bounded reading of markers; no sample is decoded here.  What is written into a DICOM object (JPEG Baseline transfer
syntax) is the stream as the camera made it, its entropy-coded data untouched, without what is no picture: application
segments but Adobe's, comments, and whatever hangs on behind the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from dicom_node.photo.exif import UPRIGHT, orientation_of
from dicom_node.photo.limits import PhotoLimits
from dicom_node.refusals import RefusalCode, Refused

BASELINE = 0xC0
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_ICC = b"ICC_PROFILE\0"
_EXIF = b"Exif\0\0"
_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


@dataclass
class JpegStream:
    """What the markers of a JPEG say.

    Attributes
    ----------
    process
        Marker of the frame: 0xC0 baseline, 0xC2 progressive and so on.
    components
        (identifier, horizontal, vertical sampling factor) of each.
    end
        Offset behind the end marker.
    """

    rows: int = 0
    columns: int = 0
    process: int = 0
    precision: int = 0
    components: tuple[tuple[int, int, int], ...] = ()
    is_jfif: bool = False
    adobe_transform: int | None = None
    orientation: int = UPRIGHT
    end: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) of what belongs to the picture, in order."""
    profiles: dict[int, bytes] = field(default_factory=dict)
    """Parts of the ICC profile by their number."""
    has_exif: bool = False

    @property
    def profile(self) -> bytes:
        """The ICC profile (ICC.1 B.4), empty when there is none or a part of it is missing."""
        if sorted(self.profiles) != list(range(1, len(self.profiles) + 1)):
            return b""
        return b"".join(part for _, part in sorted(self.profiles.items()))

    @property
    def sampling(self) -> str:
        """``4:4:4``, ``4:2:2``, ``4:2:0``, or empty for any other."""
        factors = tuple((h, v) for _, h, v in self.components)
        if factors[1:] != ((1, 1), (1, 1)):
            return ""
        return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}.get(factors[0], "")

    @property
    def photometric(self) -> str:
        """Photometric Interpretation under which the stream may stand as it is; empty where it may not.

        Readers know the colours by JFIF, else by Adobe's segment, else by the components' names.  JFIF is dropped, so
        only a stream that says the same without it is kept.  Of YCbCr under lossy compression the VL Image module knows
        YBR_FULL_422 alone (PS3.3 C.8.12.1.1.1), whatever the stream's own sampling, which its decoder sees.
        """
        if self.process != BASELINE or self.precision != 8 or len(self.components) != 3 or not self.sampling:
            return ""
        names = bytes(name for name, _, _ in self.components)
        is_rgb = names == b"RGB" if self.adobe_transform is None else self.adobe_transform == 0
        if is_rgb and (self.is_jfif or self.sampling != "4:4:4"):
            return ""
        return "RGB" if is_rgb else "YBR_FULL_422"

    def stream(self, data: bytes) -> bytes:
        """The picture alone, as it is archived."""
        return b"".join(data[start:end] for start, end in self.pieces)

    def for_decoder(self, data: bytes) -> bytes:
        """The picture alone, with the JFIF mark it came with: decoders tell colours by it."""
        stream = self.stream(data)
        return stream[:2] + _JFIF + stream[2:] if self.is_jfif else stream


def read_jpeg(data: bytes, limits: PhotoLimits) -> JpegStream:
    """Read all segments of a JPEG up to its end marker.

    Raises
    ------
    Refused
        image-truncated, without an end; image-decode-failed, when the markers are not those of one picture.
    """
    found = JpegStream(pieces=[(0, 2)])
    position, has_scan = 2, False
    for _ in range(limits.max_parts):
        start = position
        marker, position = _marker(data, position)
        if marker == _EOI:
            if not found.process or not has_scan:
                raise _damaged("a frame and a scan", "none")
            found.pieces.append((position - 2, position))
            found.end = position
            return found
        if marker not in _ALONE:
            position = _segment(found, data, marker, start, position)
            has_scan = has_scan or marker == _SOS
    raise _damaged("fewer segments", "more than the limit")


def _segment(found: JpegStream, data: bytes, marker: int, start: int, position: int) -> int:
    """Take one segment, and the compressed data behind a scan's header; where the next marker is."""
    if marker == _SOI:
        raise _damaged("one picture", "the beginning of another in it")
    if position + 2 > len(data):
        raise _cut()
    (length,) = struct.unpack_from(">H", data, position)
    end = position + int(length)
    if length < 2:
        raise _damaged("segments with their length", "another length")
    if end > len(data):
        raise _cut()
    body = data[position + 2 : end]
    if marker in _FRAMES:
        _frame(found, marker, body)
    if _is_kept(found, marker, body):
        found.pieces.append((start, end))
    if marker != _SOS:
        return end
    scan_end = _scan_end(data, end)
    found.pieces.append((end, scan_end))
    return scan_end


def _marker(data: bytes, position: int) -> tuple[int, int]:
    """The next marker, and where its segment begins; fill bytes may stand before it."""
    if position + 2 > len(data):
        raise _cut()
    if data[position] != 0xFF:
        raise _damaged("a marker", "other bytes between segments")
    while data[position + 1] == 0xFF:
        position += 1
        if position + 2 > len(data):
            raise _cut()
    return data[position + 1], position + 2


def _scan_end(data: bytes, position: int) -> int:
    """Where entropy-coded data end: at the first marker that is neither a stuffed byte nor a restart."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 2 > len(data):
            raise _cut()
        follower = data[position + 1]
        if follower == 0 or 0xD0 <= follower <= 0xD7:
            position += 2
        elif follower == 0xFF:
            position += 1
        else:
            return position


def _frame(found: JpegStream, marker: int, body: bytes) -> None:
    if found.process:
        raise _damaged("one frame", "several")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise _damaged("a frame header", "another length")
    found.process = marker
    found.precision, found.rows, found.columns = struct.unpack_from(">BHH", body)
    found.components = tuple(
        (body[place], body[place + 1] >> 4, body[place + 1] & 15) for place in range(6, len(body), 3)
    )


def _is_kept(found: JpegStream, marker: int, body: bytes) -> bool:
    """Whether a segment belongs to the picture; takes from the others what is needed of them."""
    if marker == _APP0 and body.startswith(b"JFIF\0"):
        found.is_jfif = True
    elif marker == _APP1 and body.startswith(_EXIF) and not found.has_exif:
        found.has_exif = True
        found.orientation = orientation_of(body[len(_EXIF) :])
    elif marker == _APP2 and body.startswith(_ICC) and len(body) > len(_ICC) + 2:
        found.profiles.setdefault(body[len(_ICC)], body[len(_ICC) + 2 :])
    elif marker == _APP14 and body.startswith(b"Adobe") and len(body) == 12:
        if found.adobe_transform is not None:
            return False
        found.adobe_transform = body[11]
        return True
    return not (0xE0 <= marker <= 0xEF or marker == _COMMENT)


def _cut() -> Refused:
    return Refused(RefusalCode.IMAGE_TRUNCATED, "a JPEG up to its end marker", "a file that ends before")


def _damaged(expected: str, found: str) -> Refused:
    return Refused(RefusalCode.IMAGE_DECODE_FAILED, f"a JPEG with {expected}", found)
