"""Pixel formats: what a header claims about its pixels, judged before a byte of them is decoded.

PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT: rescale), C.7.5.1.1.2 (pixel padding); PS3.5 section 8 and annex A
(encodings).  The decoders are a fixed, listed set; their absence is a start-time failure (`check_decoders`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.frames import CT_IMAGE, ENHANCED_CT, frame_count, unreadable
from dicom_node.volume.limits import Limits
from dicom_node.volume.part10 import NATIVE_SYNTAXES

DECODERS: Mapping[str, str] = {
    "1.2.840.10008.1.2": "native",
    "1.2.840.10008.1.2.1": "native",
    "1.2.840.10008.1.2.2": "native",
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.51": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "charls",
    "1.2.840.10008.1.2.4.81": "charls",
    "1.2.840.10008.1.2.4.90": "openjpeg",
    "1.2.840.10008.1.2.4.91": "openjpeg",
    "1.2.840.10008.1.2.4.201": "openjpeg",
    "1.2.840.10008.1.2.4.202": "openjpeg",
    "1.2.840.10008.1.2.4.203": "openjpeg",
}
"""Transfer syntax -> decoder.  native and rle are this room's own; gdcm is python-gdcm (JPEG baseline, extended,
lossless); charls is pyjpegls; openjpeg is pylibjpeg-openjpeg (JPEG 2000 and HTJ2K)."""

BLANK_AIR_HU = -900.0
"""A CT with nothing above this is air."""


_PIXEL_ATTRIBUTES = frozenset(
    {"BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Rows", "Columns", "NumberOfFrames"}
    | {"SamplesPerPixel", "PhotometricInterpretation"}
)


@dataclass(frozen=True)
class PixelFormat:
    """The image pixel module of one grey-scale image, checked."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    is_inverted: bool
    """MONOCHROME1: the lowest value is white."""

    samples = 1
    photometric = ""
    is_planar = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little endian type of one stored value."""
        return np.dtype(("<i" if self.is_signed else "<u") + str(self.bits_allocated // 8))

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def decoder(self) -> str:
        return DECODERS[self.transfer_syntax_uid]

    @property
    def is_native(self) -> bool:
        return self.transfer_syntax_uid in NATIVE_SYNTAXES


def pixel_format(header: Mapping[str, Any], limits: Limits) -> PixelFormat:
    """Judge the image pixel module of one header.

    Raises
    ------
    Refused
        pixel-format-unsupported (colour, palette, 1-bit, 32-bit, float), photometric-unsupported, dicom-malformed,
        transfer-syntax-unsupported, pixel-data-missing, decompression-bomb, too-large.
    """
    syntax = header["TransferSyntaxUID"]
    if syntax not in DECODERS:
        raise Refused(RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED, "an encoding with a listed decoder", "another one")
    broken = _PIXEL_ATTRIBUTES & set(unreadable(header))
    if broken:
        raise Refused(RefusalCode.DICOM_MALFORMED, f"a readable {min(broken)}", "bytes that are not such a value")
    rows, columns = header.get("Rows"), header.get("Columns")
    if not isinstance(rows, int) or not isinstance(columns, int) or rows < 1 or columns < 1 or not frame_count(header):
        raise Refused(
            RefusalCode.DICOM_MALFORMED, "Rows, Columns and Number of Frames of at least 1", "none, 0 or several"
        )
    _check_colour(header)
    allocated, stored, representation = (
        header.get(name) for name in ("BitsAllocated", "BitsStored", "PixelRepresentation")
    )
    if allocated not in (8, 16):
        raise Refused(RefusalCode.PIXEL_FORMAT_UNSUPPORTED, "8 or 16 bits allocated", f"{allocated}")
    high = header.get("HighBit", None if stored is None else stored - 1)
    if not isinstance(stored, int) or not 1 < stored <= allocated or high != stored - 1 or representation not in (0, 1):
        raise Refused(
            RefusalCode.PIXEL_FORMAT_UNSUPPORTED,
            "Bits Stored within Bits Allocated, High Bit one below it, Pixel Representation 0 or 1",
            f"{stored} of {allocated} bits, high bit {high}, representation {representation}",
        )
    checked = PixelFormat(
        syntax, rows, columns, allocated, stored, representation == 1,
        header["PhotometricInterpretation"] == "MONOCHROME1",
    )  # fmt: skip
    _check_size(header, checked, limits)
    return checked


def _check_colour(header: Mapping[str, Any]) -> None:
    photometric = header.get("PhotometricInterpretation", "")
    samples = header.get("SamplesPerPixel", 1)
    if samples != 1 or photometric in ("PALETTE COLOR", "RGB") or str(photometric).startswith("YBR"):
        raise Refused(RefusalCode.PIXEL_FORMAT_UNSUPPORTED, "one grey-scale sample for each pixel", "colour")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(RefusalCode.PHOTOMETRIC_UNSUPPORTED, "MONOCHROME1 or MONOCHROME2", "another or none")


def _check_size(header: Mapping[str, Any], checked: PixelFormat, limits: Limits) -> None:
    frames = frame_count(header)
    claimed = checked.frame_bytes * frames
    if checked.frame_bytes > limits.max_frame_bytes or claimed > limits.max_decoded_bytes:
        code = RefusalCode.TOO_LARGE if checked.is_native else RefusalCode.DECOMPRESSION_BOMB
        raise Refused(code, f"at most {limits.max_decoded_bytes} bytes of pixels", f"{claimed} bytes")
    stored = header.get("PixelDataLength", 0)
    if not stored:
        raise Refused(RefusalCode.PIXEL_DATA_MISSING, "pixel data", "none")
    if checked.is_native and stored not in (claimed, claimed + claimed % 2):
        raise Refused(RefusalCode.PIXEL_DATA_LENGTH, f"{claimed} bytes of pixel data", f"{stored} bytes")


@dataclass(frozen=True)
class Rescale:
    """Stored value to modality value: ``value * slope + intercept`` (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float


def rescale(attributes: Mapping[str, Any]) -> Rescale:
    """The modality transformation of one frame.

    Raises
    ------
    Refused
        rescale-invalid: unreadable, slope 0, one of the pair without the other, or a CT without the pair.
    """
    slope, intercept = attributes.get("RescaleSlope"), attributes.get("RescaleIntercept")
    if {"RescaleSlope", "RescaleIntercept"} & set(unreadable(attributes)):
        raise Refused(RefusalCode.RESCALE_INVALID, "a readable slope and intercept", "bytes that are not numbers")
    if slope is None and intercept is None:
        if attributes.get("SOPClassUID") in (CT_IMAGE, ENHANCED_CT):
            raise Refused(RefusalCode.RESCALE_INVALID, "a rescale slope and intercept for CT", "none")
        return Rescale(1.0, 0.0)
    if not isinstance(slope, float) or not isinstance(intercept, float):
        raise Refused(RefusalCode.RESCALE_INVALID, "a slope and an intercept", "one of the two, or several values")
    if slope == 0.0 or abs(slope) > 1e6 or abs(intercept) > 1e9:
        raise Refused(RefusalCode.RESCALE_INVALID, "a slope other than 0", f"slope {slope:g}")
    return Rescale(slope, intercept)


def padding_range(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Lowest and highest stored value that mean "no pixel here" (PS3.3 C.7.5.1.1.2); None without padding.

    Raises
    ------
    Refused
        dicom-malformed, when they are not one number each.
    """
    value = attributes.get("PixelPaddingValue")
    limit = attributes.get("PixelPaddingRangeLimit", value)
    if {"PixelPaddingValue", "PixelPaddingRangeLimit"} & set(unreadable(attributes)):
        raise Refused(RefusalCode.DICOM_MALFORMED, "a readable padding value", "bytes that are not such a value")
    if value is None:
        return None
    if not isinstance(value, int) or not isinstance(limit, int):
        raise Refused(RefusalCode.DICOM_MALFORMED, "one padding value and one limit", "several values")
    return min(value, limit), max(value, limit)


def modality_values(
    stored: npt.NDArray[Any], checked: PixelFormat, scale: Rescale, padding: tuple[int, int] | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
    """Modality values of one frame, and where they are not padding.

    MONOCHROME1 is inverted within the range of the stored values before rescaling, so that more is brighter.

    Parameters
    ----------
    stored
        (R, C), the stored values.

    Returns
    -------
    values, valid
        (R, C) float32, and (R, C) bool or None without a padding attribute.
    """
    valid = None
    if padding is not None:
        valid = (stored < padding[0]) | (stored > padding[1])
    values = stored.astype(np.float64)
    if checked.is_inverted:
        values = (-1.0 if checked.is_signed else float((1 << checked.bits_stored) - 1)) - values
    return (values * scale.slope + scale.intercept).astype(np.float32), valid
