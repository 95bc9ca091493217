"""Photographs for tests, made from numbers: every kind of file holds a picture whose four corners are known."""

from __future__ import annotations

import io
import struct
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from dicom_node.body_sites import body_site
from dicom_node.photo import Importer, Occasion, Patient

IMPORTER = Importer(uuid.UUID("6f2f7c1e-2f7b-5d0a-9a53-0d4c2c8f0001"), "1.0.0", "test-node")
PATIENT = Patient("P-17", "HOSPITAL", "Muster^Erika", "19600229", "F")
CREATED = "2026-11-22T10:20:30.123456+01:00"
KNOWN_OF_DERMOSCOPIC = (
    "Unrecognized defined term <DMS>",
    "</FrameOfReferenceUID(0020,0052)> - Missing attribute",
    "</PositionReferenceIndicator(0020,1040)> - Missing attribute",
)
"""Noise of the validator's table of 2022: the module table has had no Frame of Reference since."""

ImageFile.MAXBLOCK = 4_000_000
"""Pillow gives libjpeg a buffer of this size; with ``optimize`` noise of quality 100 must fit into it whole."""


def occasion(**changes: Any) -> Occasion:
    """One that says everything."""
    known: dict[str, Any] = {"order": "A-1", "body_site": body_site("back"), "declared": "dermoscopic"}
    return Occasion(CREATED, **{**known, **changes})


def scene(rows: int = 240, columns: int = 320) -> npt.NDArray[np.uint8]:
    """Skin with a dark lesion; the four corners are red, green, blue and white, clockwise from the top left."""
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    skin = np.stack(
        [205 + 20 * np.sin(row / 37), 160 + 15 * np.cos(column / 29), 140 + 10 * np.sin((row + column) / 51)]
    )
    lesion = ((row - rows / 2) / (rows / 5)) ** 2 + ((column - columns / 2) / (columns / 6)) ** 2 < 1
    skin[:, lesion] *= 0.4
    picture = np.clip(skin, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()
    for corner, colour in zip(
        ((0, 0), (0, -40), (-40, -40), (-40, 0)), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)), strict=True
    ):
        top, left = corner
        picture[top : top + 40 or None, left : left + 40 or None] = colour
    return picture


def saved(picture: npt.NDArray[Any] | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """A file of a picture."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 92, **options}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """One JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments behind its start."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif(orientation: int = 1, *, text: bytes = b"") -> bytes:
    """An EXIF block (TIFF, big endian) with an orientation, a maker's name and a GPS directory with a latitude."""
    maker = text or b"SECRET-CAMERA\0"
    entries = [
        struct.pack(">HHII", 0x010F, 2, len(maker), 8 + 2 + 3 * 12 + 4),
        struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0),
        struct.pack(">HHII", 0x8825, 4, 1, 8 + 2 + 3 * 12 + 4 + len(maker)),
    ]
    gps = struct.pack(">H", 1) + struct.pack(">HHI4s", 0x0001, 2, 4, b"GPS\0") + b"\0\0\0\0"
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", 3) + b"".join(entries) + b"\0\0\0\0" + maker + gps


def turned(picture: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """What a camera held in this orientation would have stored of an upright picture (Exif 2.32)."""
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    return np.ascontiguousarray(stored)


def corners(pixels: npt.NDArray[np.uint8]) -> list[str]:
    """Names of the corners' colours, clockwise from the top left."""
    names = []
    for row, column in ((15, 15), (15, -15), (-15, -15), (-15, 15)):
        r, g, b = (int(value) for value in pixels[row, column])
        names.append(
            "white" if min(r, g, b) > 200 else "red" if r > 200 else "green" if g > 200 else "blue" if b > 200 else "?"
        )
    return names


UPRIGHT = ["red", "green", "blue", "white"]


def lesion(side: int = 640) -> Image.Image:
    """A picture with enough grain and light to stand out in nothing."""
    noise = np.random.default_rng(7).normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(scene(side, side).astype(float) + noise, 0, 255).astype(np.uint8))


def as_file(picture: Image.Image, name: str = "lesion.jpg") -> Any:
    """A picture as a browser's page is given it from the gallery."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": saved(picture, quality=95)}
