"""The decoders, as the child calls them: one frame of bytes in, one array of stored values out, or a named failure.

PS3.5 8.2 and annexes A and G.  Before a native library sees a codestream, its own header (JPEG SOF, JPEG-LS SOF55,
JPEG 2000 SIZ, RLE header) must claim exactly the frame that the DICOM header claims: a codestream cannot make a decoder
allocate more.  Warnings are failures, whether a library raises them or prints them.

numpy and the decoder libraries only; every library is imported by `load`, before the child locks itself down.
"""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

_MODULES = {
    "native": (),
    "rle": (),
    "gdcm": ("gdcm",),
    "charls": ("jpeg_ls",),
    "openjpeg": ("openjpeg", "openjpeg.utils"),
    "pillow": ("PIL.JpegImagePlugin",),
    "lcms": ("PIL.ImageCms",),
}
DECODERS = tuple(_MODULES)
_GDCM_SYNTAXES = frozenset({f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)})
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC3})
"""Baseline, extended sequential, lossless (T.81 table B.1): what the accepted transfer syntaxes may hold."""
JPEG_LS_FRAME = 0xF7

Array = npt.NDArray[Any]


_EXTENDED_SYNTAX = "1.2.840.10008.1.2.4.51"
_HARMLESS = frozenset({b"Unsupported JPEG data precision 12", b"Invalid SOS parameters for sequential JPEG"})
"""What GDCM prints about good 12-bit JPEG extended frames: that it first tries its 8-bit library, and that the spectral
selection, which a sequential process does not use (T.81 B.2.3), is not the usual one."""


class DecodeFailure(Exception):
    """A frame is not what its header says.  The text is one of a fixed few and holds no input data."""


@dataclass(frozen=True)
class FrameSpec:
    """What the DICOM header claims about one encoded frame."""

    decoder: str
    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    is_big_endian: bool
    samples: int = 1
    """3 for a colour picture; what stands below is for those only."""
    photometric: str = ""
    is_planar: bool = False
    icc_bytes: int = 0
    """Length of the ICC profile that comes before the frame's bytes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(("<i" if self.is_signed else "<u") + str(self.bits_allocated // 8))

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


def load(decoder: str) -> None:
    """Import what a decoder needs.

    Raises
    ------
    ImportError
        If its library is not installed.
    """
    for name in _MODULES[decoder]:
        importlib.import_module(name)
    if decoder == "pillow":
        importlib.import_module("PIL.Image").preinit()  # imports what `open` would otherwise import behind the lock


def decode(spec: FrameSpec, encoded: bytes) -> Array:
    """Decode one frame to (R, C) stored values of `spec.dtype`: high bits masked, sign extended.

    Raises
    ------
    DecodeFailure
        If the bytes are not such a frame.
    """
    if spec.samples != 1:
        from dicom_node.volume.colour_codecs import decode_colour

        return decode_colour(spec, encoded)
    if spec.decoder == "native":
        return _masked(_native(spec, encoded), spec, spec.bits_stored)
    if spec.decoder == "rle":
        return _masked(_rle(spec, encoded), spec, spec.bits_stored)
    if spec.decoder == "gdcm":
        precision = check_jpeg(spec, encoded, JPEG_FRAMES)
        return _masked(_gdcm(spec, encoded, precision), spec, precision)
    if spec.decoder == "charls":
        precision = check_jpeg(spec, encoded, frozenset({JPEG_LS_FRAME}))
        return _masked(_charls(spec, encoded), spec, precision)
    if spec.decoder == "openjpeg":
        precision = check_jpeg_2000(spec, encoded)
        return _masked(_openjpeg(spec, encoded), spec, precision)
    raise DecodeFailure("no decoder of this name")


def is_harmless(spec: FrameSpec, messages: bytes) -> bool:
    """Whether what a decoder printed is nothing, or one of the few messages that good frames cause."""
    lines = {line.strip() for line in messages.split(b"\n")} - {b""}
    return not lines or (spec.transfer_syntax_uid == _EXTENDED_SYNTAX and lines <= _HARMLESS)


def _masked(values: Array, spec: FrameSpec, precision: int) -> Array:
    """Keep the low bits of each value and extend the sign from the highest of them.

    Bits above Bits Stored are no pixel (PS3.5 8.1.1: overlays, or dirt), and a codestream of lower precision than Bits
    Stored has its sign bit at its own precision.  Whether there is a sign bit, the header says.
    """
    bits = spec.bits_allocated
    precision = min(precision, spec.bits_stored)
    unsigned = values.astype(f"<i{max(values.itemsize, 4)}", copy=False).astype("<i8") & ((1 << precision) - 1)
    if spec.is_signed:
        sign = 1 << (precision - 1)
        unsigned = (unsigned ^ sign) - sign
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    else:
        low, high = 0, (1 << bits) - 1
    if unsigned.size and (unsigned.min() < low or unsigned.max() > high):
        raise DecodeFailure("a value that does not fit Bits Allocated")
    return unsigned.astype(spec.dtype)


# -- own decoders ----------------------------------------------------------------------------------------------------


def _native(spec: FrameSpec, encoded: bytes) -> Array:
    if len(encoded) != spec.frame_bytes:
        raise DecodeFailure("another number of bytes than the header says")
    order = ">" if spec.is_big_endian else "<"
    return np.frombuffer(encoded, dtype=f"{order}u{spec.bits_allocated // 8}").reshape(spec.rows, spec.columns)


def _rle(spec: FrameSpec, encoded: bytes) -> Array:
    """RLE (PS3.5 annex G), strictly: exactly one segment for each byte of a sample, each exactly one plane long."""
    planes = spec.bits_allocated // 8
    if len(encoded) < 64:
        raise DecodeFailure("an RLE header that is cut off")
    count, *offsets = struct.unpack("<16I", encoded[:64])
    if count != planes:
        raise DecodeFailure("another number of RLE segments than bytes in a sample")
    starts = offsets[:count]
    ends = [*starts[1:], len(encoded)]
    if starts[0] != 64 or any(not 64 <= start < end <= len(encoded) for start, end in zip(starts, ends, strict=True)):
        raise DecodeFailure("RLE segments out of order or out of bounds")
    size = spec.rows * spec.columns
    values = np.zeros(size, dtype="<u4")
    for start, end in zip(starts, ends, strict=True):
        plane = np.frombuffer(unpack_bits(encoded, start, end, size), dtype=np.uint8)
        values = (values << 8) | plane
    return values.reshape(spec.rows, spec.columns)


def unpack_bits(encoded: bytes, position: int, end: int, size: int) -> bytes:
    """PackBits (PS3.5 G.3.1) of one segment; at most one byte of padding may follow."""
    pieces: list[bytes] = []
    length = 0
    while length < size:
        if position >= end:
            raise DecodeFailure("an RLE segment that is too short")
        code = encoded[position]
        position += 1
        if code < 128:
            piece = encoded[position : position + code + 1]
            if position + code + 1 > end:
                raise DecodeFailure("an RLE run that goes past its segment")
            position += code + 1
        elif code > 128:
            if position >= end:
                raise DecodeFailure("an RLE run that goes past its segment")
            piece = encoded[position : position + 1] * (257 - code)
            position += 1
        else:
            continue
        pieces.append(piece)
        length += len(piece)
    if length != size:
        raise DecodeFailure("an RLE segment that is too long")
    if end - position > 1 or any(encoded[position:end]):
        raise DecodeFailure("bytes after an RLE segment")
    return b"".join(pieces)


# -- codestream headers ----------------------------------------------------------------------------------------------


def check_jpeg(spec: FrameSpec, encoded: bytes, frames: frozenset[int]) -> int:
    """Compare the frame header of a JPEG or JPEG-LS codestream (T.81 B.2.2, T.87 C.2.2); returns its precision."""
    if encoded[:2] != b"\xff\xd8":
        raise DecodeFailure("no JPEG codestream")
    if not encoded.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise DecodeFailure("a JPEG codestream without its end")  # CharLS would search for it for many seconds
    position = 2
    while position + 4 <= len(encoded):
        if encoded[position] != 0xFF:
            raise DecodeFailure("a damaged JPEG header")
        marker = encoded[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack_from(">H", encoded, position + 2)
        if marker in frames:
            if position + 10 > len(encoded):
                break
            precision, rows, columns, components = struct.unpack_from(">BHHB", encoded, position + 4)
            _check_claim(spec, rows, columns, components, precision)
            return int(precision)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC)) or marker in (0xDA, 0xD9, 0xF7) or length < 2:
            raise DecodeFailure("another JPEG process than the transfer syntax says")
        position += 2 + length
    raise DecodeFailure("a JPEG header that is cut off")


def check_jpeg_2000(spec: FrameSpec, encoded: bytes) -> int:
    """Compare the SIZ segment of a JPEG 2000 codestream (T.800 A.5.1); returns its precision."""
    start = 0
    if encoded[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        start = encoded.find(b"\xff\x4f\xff\x51")
    if start < 0 or encoded[start : start + 4] != b"\xff\x4f\xff\x51" or len(encoded) < start + 45:
        raise DecodeFailure("no JPEG 2000 codestream")
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">4I", encoded, start + 8)
    components, depth, x_step, y_step = struct.unpack_from(">HBBB", encoded, start + 40)
    if (x_step, y_step) != (1, 1) or x_offset > x_size or y_offset > y_size:
        raise DecodeFailure("a subsampled or impossible JPEG 2000 grid")
    precision = int(depth & 0x7F) + 1
    _check_claim(spec, y_size - y_offset, x_size - x_offset, components, precision)
    return precision


def _check_claim(spec: FrameSpec, rows: int, columns: int, components: int, precision: int) -> None:
    if (rows, columns, components) != (spec.rows, spec.columns, spec.samples):
        raise DecodeFailure("a codestream of another size than the header says")
    if not 2 <= precision <= spec.bits_allocated:
        raise DecodeFailure("a codestream of another depth than the header says")


# -- libraries -------------------------------------------------------------------------------------------------------


def _gdcm(spec: FrameSpec, encoded: bytes, precision: int) -> Array:
    if spec.transfer_syntax_uid not in _GDCM_SYNTAXES:
        raise DecodeFailure("no decoder of this name")
    allocated = 8 if precision <= 8 else 16
    raw = gdcm_samples(spec, encoded, "MONOCHROME2", (1, allocated, precision, precision - 1, 0))
    return _shaped(raw, spec, allocated)


def gdcm_samples(
    spec: FrameSpec, encoded: bytes, photometric: str, pixel_format: tuple[int, int, int, int, int]
) -> bytes:
    """One frame's samples as GDCM decodes them, asked for as `photometric`; unchecked.

    Parameters
    ----------
    pixel_format
        Samples per Pixel, Bits Allocated, Bits Stored, High Bit, Pixel Representation.
    """
    gdcm: ModuleType = importlib.import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((spec.columns, spec.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(spec.transfer_syntax_uid)))
    image.SetPixelFormat(gdcm.PixelFormat(*pixel_format))
    buffer = image.GetBuffer()
    return buffer.encode("utf-8", "surrogateescape") if isinstance(buffer, str) else bytes(buffer)


def _charls(spec: FrameSpec, encoded: bytes) -> Array:
    jpeg_ls: ModuleType = importlib.import_module("jpeg_ls")
    buffer, info = jpeg_ls.decode_pixel_data(encoded)
    return _shaped(bytes(buffer), spec, 8 if info["bits_per_sample"] <= 8 else 16)


def _openjpeg(spec: FrameSpec, encoded: bytes) -> Array:
    utils: ModuleType = importlib.import_module("openjpeg.utils")
    return np.asarray(utils.decode(encoded)).reshape(spec.rows, spec.columns)


def _shaped(raw: bytes, spec: FrameSpec, allocated: int) -> Array:
    if len(raw) != spec.rows * spec.columns * allocated // 8:
        raise DecodeFailure("another number of decoded bytes than the header says")
    return np.frombuffer(raw, dtype=f"<u{allocated // 8}").reshape(spec.rows, spec.columns)
