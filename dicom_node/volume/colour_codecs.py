"""The decoders of colour pictures, as the child calls them: bytes in, (rows, columns, 3) uint8 sRGB out.

PS3.3 C.7.6.3.1.2 (photometric interpretations), C.11.15 (ICC profile); PS3.5 8.2.1, annexes A and G.  The photometric
interpretation of the DICOM header decides what the samples of a codestream mean; a codestream whose own markers say
otherwise is a failure, because no reader could know which of the two is right.
"""

from __future__ import annotations

import importlib
import io
import struct
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.volume.codecs import (
    JPEG_FRAMES,
    JPEG_LS_FRAME,
    DecodeFailure,
    FrameSpec,
    check_jpeg,
    check_jpeg_2000,
    gdcm_samples,
    unpack_bits,
)

_SEQUENTIAL = frozenset({0xC0, 0xC1})
_LOSSLESS = frozenset({0xC3})

Pixels = npt.NDArray[np.uint8]


def decode_colour(spec: FrameSpec, encoded: bytes) -> Pixels:
    """Decode one picture to (rows, columns, 3) sRGB.

    Parameters
    ----------
    encoded
        The ICC profile's `spec.icc_bytes` bytes, if it has one, and the encoded frame.

    Raises
    ------
    DecodeFailure
        If the bytes are not such a picture.
    """
    profile, frame = encoded[: spec.icc_bytes], encoded[spec.icc_bytes :]
    samples = _samples(spec, frame)
    # libjpeg and OpenJPEG undo the transformation that they know from the codestream; the others give samples as stored
    if spec.photometric == "YBR_FULL" and spec.decoder != "pillow":
        samples = _rgb_of_ybr(samples)
    return _to_srgb(samples, profile) if profile else samples


def _samples(spec: FrameSpec, frame: bytes) -> Pixels:
    if spec.decoder == "native":
        return _native(spec, frame)
    if spec.decoder == "rle":
        return _rle(spec, frame)
    if spec.decoder == "pillow":
        return _pillow(spec, frame)
    if spec.decoder == "gdcm":
        check_jpeg(spec, frame, _LOSSLESS & JPEG_FRAMES)
        return _gdcm(spec, frame)
    if spec.decoder == "charls":
        check_jpeg(spec, frame, frozenset({JPEG_LS_FRAME}))
        return _charls(spec, frame)
    if spec.decoder == "openjpeg":
        return _openjpeg(spec, frame)
    raise DecodeFailure("no decoder of this name")


# -- own decoders ----------------------------------------------------------------------------------------------------


def _native(spec: FrameSpec, frame: bytes) -> Pixels:
    if len(frame) != spec.frame_bytes:
        raise DecodeFailure("another number of bytes than the header says")
    return _arranged(np.frombuffer(frame, dtype=np.uint8), spec, is_planar=spec.is_planar)


def _rle(spec: FrameSpec, frame: bytes) -> Pixels:
    """RLE (PS3.5 annex G): one segment for each sample, each exactly one plane long."""
    if len(frame) < 64:
        raise DecodeFailure("an RLE header that is cut off")
    count, *offsets = struct.unpack("<16I", frame[:64])
    if count != 3:
        raise DecodeFailure("another number of RLE segments than samples of a pixel")
    bounds = [*offsets[:3], len(frame)]
    if bounds[0] != 64 or any(not 64 <= bounds[i] < bounds[i + 1] <= len(frame) for i in range(3)):
        raise DecodeFailure("RLE segments out of order or out of bounds")
    size = spec.rows * spec.columns
    planes = b"".join(unpack_bits(frame, bounds[i], bounds[i + 1], size) for i in range(3))
    return _arranged(np.frombuffer(planes, dtype=np.uint8), spec, is_planar=True)


def _arranged(values: npt.NDArray[Any], spec: FrameSpec, *, is_planar: bool) -> Pixels:
    if is_planar:
        planes = values.reshape(3, spec.rows, spec.columns)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    return values.reshape(spec.rows, spec.columns, 3)


def _rgb_of_ybr(samples: Pixels) -> Pixels:
    """RGB of YBR_FULL (PS3.3 C.7.6.3.1.2), rounded to the nearest."""
    luma, blue, red = (samples[..., channel].astype(np.float32) for channel in range(3))
    blue -= 128.0
    red -= 128.0
    rgb = np.stack((luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue), axis=-1)
    rounded: Pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


# -- libraries -------------------------------------------------------------------------------------------------------


def _pillow(spec: FrameSpec, frame: bytes) -> Pixels:
    """JPEG baseline and extended, 8 bits, by libjpeg-turbo: accurate integer DCT, smooth upsampling of chroma."""
    if check_jpeg(spec, frame, _SEQUENTIAL) != 8:
        raise DecodeFailure("a codestream of another depth than the header says")
    image: ModuleType = importlib.import_module("PIL.Image")
    with image.open(io.BytesIO(_with_known_colours(spec, frame)), formats=["JPEG"]) as picture:
        if picture.size != (spec.columns, spec.rows) or picture.mode != "RGB":
            raise DecodeFailure("a codestream of another size than the header says")
        decoded: Pixels = np.array(picture, dtype=np.uint8)
    return decoded


def _with_known_colours(spec: FrameSpec, frame: bytes) -> bytes:
    """The codestream with one Adobe marker (T.872 6.5.3) that says what the DICOM header says, and no other APPn."""
    is_rgb = spec.photometric == "RGB"
    pieces = [b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + (b"\x00" if is_rgb else b"\x01")]
    position = 2
    while True:
        while frame[position + 1] == 0xFF:
            position += 1
        marker = frame[position + 1]
        if marker == 0xDA or position + 4 > len(frame):
            break
        end = position + 2 + struct.unpack_from(">H", frame, position + 2)[0]
        body = frame[position + 4 : end]
        if marker == 0xE0 and body.startswith(b"JFIF\0") and is_rgb:
            raise DecodeFailure("a codestream of other colours than the header says")
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12 and (body[11] == 0) != is_rgb:
            raise DecodeFailure("a codestream of other colours than the header says")
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            pieces.append(frame[position:end])
        position = end
    return b"".join((*pieces, frame[position:]))


def _gdcm(spec: FrameSpec, frame: bytes) -> Pixels:
    # asked for RGB it changes no sample: what the samples mean is decided here
    return _counted(gdcm_samples(spec, frame, "RGB", (3, 8, 8, 7, 0)), spec, is_planar=False)


def _charls(spec: FrameSpec, frame: bytes) -> Pixels:
    jpeg_ls: ModuleType = importlib.import_module("jpeg_ls")
    buffer, info = jpeg_ls.decode_pixel_data(frame)
    return _counted(bytes(buffer), spec, is_planar=int(info["interleave_mode"]) == 0)


def _openjpeg(spec: FrameSpec, frame: bytes) -> Pixels:
    if check_jpeg_2000(spec, frame) != 8:
        raise DecodeFailure("a codestream of another depth than the header says")
    has_transformation = _multiple_component_transformation(frame)
    if has_transformation if spec.photometric == "YBR_FULL" else spec.photometric != "RGB" and not has_transformation:
        raise DecodeFailure("a codestream of other colours than the header says")
    utils: ModuleType = importlib.import_module("openjpeg.utils")
    values = np.asarray(utils.decode(frame))
    if values.shape != (spec.rows, spec.columns, 3) or values.dtype.itemsize != 1:
        raise DecodeFailure("another number of decoded bytes than the header says")
    return values.astype(np.uint8, copy=False)


def _multiple_component_transformation(frame: bytes) -> bool:
    """Whether the codestream's COD segment (T.800 A.6.1) names one; the decoder undoes it by itself."""
    position = frame.find(b"\xff\x4f\xff\x51") + 2
    while position + 9 <= len(frame) and frame[position] == 0xFF and frame[position + 1] != 0x90:
        if frame[position + 1] == 0x52:
            return frame[position + 8] == 1
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    raise DecodeFailure("a JPEG 2000 header that is cut off")


def _counted(raw: bytes, spec: FrameSpec, *, is_planar: bool) -> Pixels:
    if len(raw) != spec.frame_bytes:
        raise DecodeFailure("another number of decoded bytes than the header says")
    return _arranged(np.frombuffer(raw, dtype=np.uint8), spec, is_planar=is_planar)


def _to_srgb(samples: Pixels, profile: bytes) -> Pixels:
    """Colours of the profile's space as sRGB, relative to the medium's white (Little CMS)."""
    cms: ModuleType = importlib.import_module("PIL.ImageCms")
    image: ModuleType = importlib.import_module("PIL.Image")
    try:
        source = cms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB":
            raise DecodeFailure("a colour profile that is not of RGB")
        if is_srgb(cms.getProfileDescription(source)):
            return samples
        changed = cms.profileToProfile(
            image.fromarray(samples),
            source,
            cms.createProfile("sRGB"),
            renderingIntent=cms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (cms.PyCMSError, OSError) as error:
        raise DecodeFailure("a colour profile that cannot be read") from error
    return np.array(changed, dtype=np.uint8)


def is_srgb(description: str) -> bool:
    """Whether a profile's own description says that it is sRGB: nothing is converted then, not even by one level."""
    return description.strip().lower().startswith("srgb")
