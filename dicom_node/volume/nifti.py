"""NIfTI files in and out, for `ai-node predict`: ``.nii`` and ``.nii.gz``, read strictly, written so that all agree.

Out of `read_nifti` comes an LPS `Volume` with axes (slice, row, column) = (k, j, i).
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from dicom_node.files import write_durably
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.volume.limits import Limits
from dicom_node.volume.nifti_header import (
    CORNER_TOLERANCE_MM,
    NIFTI_DTYPES,
    UNIT_MM,
    Header,
    quaternion,
    rotation,
)
from dicom_node.words import SliceSource, Volume

_CHUNK_BYTES = 1 << 20


def read_nifti(
    path: Path | str,
    *,
    spacing_mm: Sequence[float] | None = None,
    limits: Limits = Limits(),
) -> Volume:
    """Read one three-dimensional NIfTI image.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file.
    spacing_mm
        (x, y, z) as the caller declares it; needed when the header does not say that lengths are millimetres, and then
        put in place of the header's spacing (directions and the first voxel's place stay).

    Returns
    -------
    Volume
        (S, R, C) float32 = (k, j, i); affine in LPS millimetres.

    Raises
    ------
    Refused
        input-empty, not-nifti, nifti-truncated, nifti-header-invalid, nifti-size-mismatch, nifti-dimensions,
        nifti-datatype-unsupported, nifti-values-invalid, nifti-units-missing, nifti-orientation-missing,
        nifti-orientation-conflict, nifti-not-orthogonal, gzip-damaged, too-large, image-blank.
    """
    with at_rest.descriptor(path) as file:
        read = parse_nifti(file_bytes(file, limits), spacing_mm)
    return as_volume(read, str(path))


@dataclass(frozen=True, eq=False)
class NiftiImage:
    """What a file says: (S, R, C) float32 = (k, j, i), affine in LPS millimetres, and notes for readers."""

    array: npt.NDArray[np.float32]
    affine: Affine
    notes: tuple[str, ...]


def parse_nifti(data: bytes, spacing_mm: Sequence[float] | None, max_voxels: int = 2**40) -> NiftiImage:
    """Judge the header of an uncompressed file, then its values; refusals as `read_nifti`."""
    header = Header.parse(data)
    shape = header.shape()
    if math.prod(shape) > max_voxels:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {max_voxels} voxels", f"{math.prod(shape)} voxels")
    dtype = header.dtype()
    offset = header.data_offset(len(data), shape, dtype)
    spacing, notes = header.spacing(spacing_mm)
    affine = header.affine(shape, spacing)
    values = np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=offset)
    array = header.scaled(values).reshape(shape[::-1])
    if array.min() == array.max():
        raise Refused(RefusalCode.IMAGE_BLANK, "an image that shows something", "one value everywhere")
    return NiftiImage(array, affine, notes)


def as_volume(image: NiftiImage, path: str) -> Volume:
    """A NIfTI image as the rest of the node knows volumes."""
    return Volume(
        array=image.array,
        valid=None,
        affine=image.affine,
        slices=tuple(SliceSource("", "", path, number) for number in range(1, image.array.shape[0] + 1)),
        study_uid="",
        series_uid="",
        frame_of_reference_uid="",
        modality="",
        attributes={},
        notes=image.notes,
    )


# -- bytes -----------------------------------------------------------------------------------------------------------


def file_bytes(file: BinaryIO, limits: Limits) -> bytes:
    """The uncompressed bytes of an open file, bounded before they are read."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise Refused(RefusalCode.INPUT_EMPTY, "a NIfTI file", "an empty file")
    if size > limits.max_nifti_bytes:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_nifti_bytes} bytes", f"{size} bytes")
    data = file.read(limits.max_nifti_bytes + 1)
    if data[:2] == b"\x1f\x8b":
        return _inflated(data, limits.max_nifti_bytes)
    return data


def _inflated(data: bytes, cap: int) -> bytes:
    """One gzip member, whole, with the right check sum, and nothing behind it."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    pieces: list[bytes] = []
    total = 0
    rest = data
    try:
        while rest and not stream.eof:
            piece = stream.decompress(rest, _CHUNK_BYTES)
            rest = stream.unconsumed_tail
            total += len(piece)
            if total > cap:
                raise Refused(RefusalCode.DECOMPRESSION_BOMB, f"at most {cap} bytes uncompressed", "more")
            pieces.append(piece)
    except zlib.error as error:
        raise Refused(RefusalCode.GZIP_DAMAGED, "a gzip stream with the right check sum", "a damaged one") from error
    if not stream.eof:
        raise Refused(RefusalCode.GZIP_DAMAGED, "a gzip stream with its end", "one that is cut off")
    if stream.unused_data:
        raise Refused(RefusalCode.GZIP_DAMAGED, "one gzip member", "more bytes behind it")
    return b"".join(pieces)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_nifti(mask: npt.NDArray[Any], affine: Affine, path: Path | str) -> None:
    """Write what `nifti_bytes` makes, gzipped when the name ends in ``.gz``; the file appears whole or not at all."""
    target = Path(path)
    write_durably(target, nifti_bytes(mask, affine, is_gzipped=target.name.endswith(".gz")))


def nifti_bytes(mask: npt.NDArray[Any], affine: Affine, *, is_gzipped: bool = True) -> bytes:
    """A (S, R, C) array as NIfTI-1.

    sform carries the affine (code 1, scanner); qform too, unless its three 32-bit numbers cannot say it within half of
    `CORNER_TOLERANCE_MM` (rotations near 180 degrees).  Lengths are millimetres.  The same input gives the same bytes.

    Parameters
    ----------
    mask
        (S, R, C); uint8, int16, uint16, int32, float32 or float64.
    affine
        (slice, row, column) to LPS millimetres; must be at right angles.
    """
    codes = {np.dtype(name).newbyteorder("="): code for code, name in NIFTI_DTYPES.items()}
    if mask.ndim != 3 or mask.dtype.newbyteorder("=") not in codes:
        raise ValueError(f"a (S, R, C) array of u8, i16, u16, i32, f32 or f64; found {mask.ndim}-D {mask.dtype}")
    if not affine.is_orthogonal:
        raise ValueError("a NIfTI qform needs axes at right angles")
    ras = affine.to_nifti()
    spacing = np.linalg.norm(ras[:3, :3], axis=0)
    handed, turn = quaternion(ras[:3, :3] / spacing)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *mask.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, codes[mask.dtype.newbyteorder("=")], mask.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<fff", header, 108, 352.0, 1.0, 0.0)
    struct.pack_into("<B", header, 123, UNIT_MM)
    said = rotation(*(float(one) for one in np.asarray(turn, dtype=np.float32))) * [1.0, 1.0, handed] * spacing
    off_mm = np.abs((said - ras[:3, :3]) @ np.asarray(mask.shape[::-1])).max()
    struct.pack_into("<hh", header, 252, int(off_mm <= CORNER_TOLERANCE_MM / 2), 1)
    struct.pack_into("<3f3f", header, 256, *turn, *ras[:3, 3])
    struct.pack_into("<12f", header, 280, *ras[:3].ravel())
    header[344:348] = b"n+1\0"
    body = np.ascontiguousarray(mask.astype(mask.dtype.newbyteorder("<"), copy=False)).tobytes()
    data = bytes(header) + body
    return gzip.compress(data, 6, mtime=0) if is_gzipped else data
