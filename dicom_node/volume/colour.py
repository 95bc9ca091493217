"""Colour formats: what a photograph's header claims about its pixels, judged before a byte of them is decoded.

PS3.3 C.7.6.3 (image pixel), C.8.12.1 (VL image), A.8.1 (secondary capture); PS3.5 section 8.2 and annex A.  Read are
three samples of eight bits, one frame.  Grey, palette, sixteen-bit and subsampled native pixels are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.frames import frame_count, unreadable
from dicom_node.volume.limits import Limits
from dicom_node.volume.part10 import NATIVE_SYNTAXES
from dicom_node.volume.pixels import DECODERS

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
VL_ENDOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.1"
PICTURE_CLASSES = frozenset({VL_PHOTOGRAPHIC, DERMOSCOPIC_PHOTOGRAPHY, SECONDARY_CAPTURE})

_JPEG = "1.2.840.10008.1.2.4."
COLOUR_DECODERS: Mapping[str, str] = {**DECODERS, f"{_JPEG}50": "pillow", f"{_JPEG}51": "pillow"}
"""Transfer syntax -> decoder of colour pictures.  As for grey ones, but for JPEG baseline and extended: pillow, that is
libjpeg-turbo, with which most of the world looks at its photographs."""

_PLAIN = frozenset({"RGB", "YBR_FULL"})
_PHOTOMETRIC: Mapping[str, frozenset[str]] = {
    "pillow": _PLAIN | {"YBR_FULL_422"},
    "openjpeg": _PLAIN | {"YBR_RCT", "YBR_ICT"},
}
"""Photometric interpretations by decoder; `_PLAIN` for the others."""

_ATTRIBUTES = frozenset(
    {"BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Rows", "Columns", "NumberOfFrames"}
    | {"SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"}
)


@dataclass(frozen=True)
class ColourFormat:
    """The image pixel module of one colour picture, checked."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    photometric: str
    is_planar: bool

    bits_allocated = bits_stored = 8
    is_signed = False
    samples = 3
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, self.columns, self.samples

    @property
    def frame_bytes(self) -> int:
        """Bytes of the decoded picture."""
        return self.rows * self.columns * self.samples

    @property
    def decoder(self) -> str:
        return COLOUR_DECODERS[self.transfer_syntax_uid]

    @property
    def is_native(self) -> bool:
        return self.transfer_syntax_uid in NATIVE_SYNTAXES


def colour_format(header: Mapping[str, Any], limits: Limits) -> ColourFormat:
    """Judge class and image pixel module of one header.

    Raises
    ------
    Refused
        sop-class-unsupported, transfer-syntax-unsupported, image-animated (several frames), pixel-format-unsupported
        (grey, 16 bits), photometric-unsupported (palette, subsampled native), dicom-malformed, pixel-data-missing,
        pixel-data-length, image-too-large.
    """
    _check_class(header)
    syntax = header["TransferSyntaxUID"]
    if syntax not in COLOUR_DECODERS:
        raise Refused(RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED, "an encoding with a listed decoder", "another one")
    broken = _ATTRIBUTES & set(unreadable(header))
    if broken:
        raise Refused(RefusalCode.DICOM_MALFORMED, f"a readable {min(broken)}", "bytes that are not such a value")
    rows, columns = header.get("Rows"), header.get("Columns")
    if not isinstance(rows, int) or not isinstance(columns, int) or rows < 1 or columns < 1 or not frame_count(header):
        raise Refused(
            RefusalCode.DICOM_MALFORMED, "Rows, Columns and Number of Frames of at least 1", "none, 0 or several"
        )
    if frame_count(header) != 1:
        raise Refused(RefusalCode.IMAGE_ANIMATED, "one frame", f"{frame_count(header)} frames")
    photometric = _photometric(header, COLOUR_DECODERS[syntax])
    claimed = ColourFormat(syntax, rows, columns, photometric, header.get("PlanarConfiguration") == 1)
    _check_size(header, claimed, limits)
    return claimed


def _check_class(header: Mapping[str, Any]) -> None:
    sop_class = header.get("SOPClassUID")
    if sop_class == VL_ENDOSCOPIC:
        raise Refused(RefusalCode.SOP_CLASS_UNSUPPORTED, "a photograph of skin", "VL Endoscopic Image Storage")
    if sop_class not in PICTURE_CLASSES:
        raise Refused(
            RefusalCode.SOP_CLASS_UNSUPPORTED,
            "VL Photographic, Dermoscopic Photography or Secondary Capture Image Storage",
            "another SOP class",
        )


def _photometric(header: Mapping[str, Any], decoder: str) -> str:
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        raise Refused(RefusalCode.PHOTOMETRIC_UNSUPPORTED, "RGB or YBR", "PALETTE COLOR")
    if header.get("SamplesPerPixel") != 3:
        raise Refused(
            RefusalCode.PIXEL_FORMAT_UNSUPPORTED, "three colour samples for each pixel", "one, or another number"
        )
    found = tuple(header.get(name) for name in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"))
    if found != (8, 8, 7, 0):
        raise Refused(
            RefusalCode.PIXEL_FORMAT_UNSUPPORTED, "8 unsigned bits for each sample", "another depth or representation"
        )
    if header.get("PlanarConfiguration") not in (0, 1):
        raise Refused(RefusalCode.DICOM_MALFORMED, "Planar Configuration 0 or 1", "none or another")
    allowed = _PHOTOMETRIC.get(decoder, _PLAIN)
    if photometric not in allowed:
        raise Refused(
            RefusalCode.PHOTOMETRIC_UNSUPPORTED, " or ".join(sorted(allowed)) + " in this encoding", "another one"
        )
    return photometric


def _check_size(header: Mapping[str, Any], claimed: ColourFormat, limits: Limits) -> None:
    pixels = claimed.rows * claimed.columns
    if pixels > limits.max_picture_pixels:
        raise Refused(RefusalCode.IMAGE_TOO_LARGE, f"at most {limits.max_picture_pixels} pixels", f"{pixels} pixels")
    stored = header.get("PixelDataLength", 0)
    if not stored:
        raise Refused(RefusalCode.PIXEL_DATA_MISSING, "pixel data", "none")
    size = claimed.frame_bytes
    if claimed.is_native and stored not in (size, size + size % 2):
        raise Refused(RefusalCode.PIXEL_DATA_LENGTH, f"{size} bytes of pixel data", f"{stored} bytes")
