"""The NIfTI header, judged in bytes before anything else (nifti1.h of January 2007, nifti2.h).

Libraries disagree about odd headers (zero slope, unset orientation, units, sizes that lie), so no library reads them
here.  RAS and (i, j, k) exist only in this module and `dicom_node.volume.nifti`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine, GeometryError
from dicom_node.refusals import RefusalCode, Refused

NIFTI_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 512: "u2"}
MAX_DIM = 2048
SPACING_RANGE_MM = (0.05, 20.0)
CORNER_TOLERANCE_MM = 0.1
"""sform and qform must put every corner of the grid at the same place within this."""
ORTHOGONAL_TOLERANCE = 1e-3
UNIT_MM = 2


_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 512


def is_nifti_head(head: bytes) -> bool:
    """Whether these first bytes (348 or more) are meant as a NIfTI header, good or bad."""
    return head[:4] in _SIZES or head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def starts_as_nifti(start: bytes) -> bool:
    """Whether a file that starts so is NIfTI, plain or in gzip."""
    if not start.startswith(_GZIP):
        return is_nifti_head(start[:_HEAD_BYTES])
    try:
        return is_nifti_head(zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(start, _HEAD_BYTES))
    except zlib.error:
        return False


@dataclass(frozen=True)
class _Layout:
    """Where NIfTI-1 and NIfTI-2 keep the same fields: (offset, struct code without byte order)."""

    size: int
    magics: tuple[bytes, ...]
    pair_magics: tuple[bytes, ...]
    magic_at: int
    minimal_offset: int
    fields: dict[str, tuple[int, str]]


_NIFTI_1 = _Layout(
    348, (b"n+1\0",), (b"ni1\0",), 344, 352,
    {
        "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
        "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"), "qform_code": (252, "h"),
        "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow": (280, "12f"),
    },
)  # fmt: skip
_NIFTI_2 = _Layout(
    540, (b"n+2\0\r\n\x1a\n",), (b"ni2\0\r\n\x1a\n",), 4, 544,
    {
        "dim": (16, "8q"), "datatype": (12, "h"), "bitpix": (14, "h"), "pixdim": (104, "8d"), "vox_offset": (168, "q"),
        "scl_slope": (176, "d"), "scl_inter": (184, "d"), "xyzt_units": (500, "i"), "qform_code": (344, "i"),
        "sform_code": (348, "i"), "quatern": (352, "3d"), "qoffset": (376, "3d"), "srow": (400, "12d"),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The fields that count, each judged where it is used."""

    layout: _Layout
    order: str
    values: dict[str, tuple[Any, ...]]

    @classmethod
    def parse(cls, data: bytes) -> Header:
        if len(data) < 4:
            raise Refused(RefusalCode.NOT_NIFTI, "a NIfTI header", f"{len(data)} bytes")
        for order in "<>":
            (size,) = struct.unpack_from(order + "i", data)
            layout = {348: _NIFTI_1, 540: _NIFTI_2}.get(size)
            if layout is not None:
                break
        else:
            raise Refused(RefusalCode.NOT_NIFTI, "a header size of 348 or 540", "another number")
        if len(data) < layout.size:
            raise Refused(RefusalCode.NIFTI_TRUNCATED, f"{layout.size} bytes of header", f"{len(data)} bytes")
        magic = data[layout.magic_at : layout.magic_at + len(layout.magics[0])]
        if magic in layout.pair_magics:
            raise Refused(RefusalCode.NOT_NIFTI, "a single .nii file", "a header of a .hdr/.img pair")
        if magic not in layout.magics:
            raise Refused(RefusalCode.NOT_NIFTI, "the NIfTI magic", "another")
        values = {name: struct.unpack_from(order + code, data, at) for name, (at, code) in layout.fields.items()}
        return cls(layout, order, values)

    def shape(self) -> tuple[int, int, int]:
        """(i, j, k)."""
        dim = self.values["dim"]
        if not 3 <= dim[0] <= 7 or any(one != 1 for one in dim[4 : dim[0] + 1]):
            raise Refused(RefusalCode.NIFTI_DIMENSIONS, "three dimensions", f"{dim[0]} dimensions")
        if any(not 1 <= one <= MAX_DIM for one in dim[1:4]):
            raise Refused(RefusalCode.NIFTI_DIMENSIONS, f"1 to {MAX_DIM} voxels on each axis", "another number")
        return int(dim[1]), int(dim[2]), int(dim[3])

    def dtype(self) -> np.dtype[Any]:
        code = self.values["datatype"][0]
        if code not in NIFTI_DTYPES:
            raise Refused(RefusalCode.NIFTI_DATATYPE_UNSUPPORTED, "u8, i16, u16, i32, f32 or f64", f"code {code}")
        dtype = np.dtype(self.order + NIFTI_DTYPES[code])
        if self.values["bitpix"][0] != dtype.itemsize * 8:
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, f"bitpix {dtype.itemsize * 8}", "another number")
        return dtype

    def data_offset(self, size: int, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
        offset = self.values["vox_offset"][0]
        minimal = self.layout.minimal_offset
        if not math.isfinite(offset) or offset < minimal or offset != int(offset) or offset > size:
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, f"a whole vox_offset from {minimal} to the end", "another")
        expected = int(offset) + math.prod(shape) * dtype.itemsize
        if size < expected:
            raise Refused(RefusalCode.NIFTI_TRUNCATED, f"{expected} bytes", f"{size} bytes")
        if size > expected:
            raise Refused(RefusalCode.NIFTI_SIZE_MISMATCH, f"{expected} bytes", f"{size} bytes")
        return int(offset)

    def spacing(self, declared_mm: Sequence[float] | None) -> tuple[tuple[float, float, float], tuple[str, ...]]:
        """Spacing along (i, j, k), and a note when the caller declared it."""
        low, high = SPACING_RANGE_MM
        units = int(self.values["xyzt_units"][0]) & 7
        if declared_mm is not None:
            if len(declared_mm) != 3 or not all(math.isfinite(one) and low <= one <= high for one in declared_mm):
                raise Refused(RefusalCode.VALIDATION, f"three spacings of {low} to {high} mm", "others")
            x, y, z = (float(one) for one in declared_mm)
            return (x, y, z), (f"spacing {x:g} x {y:g} x {z:g} mm declared by the caller",)
        if units != UNIT_MM:
            found = {0: "unknown", 1: "metre", 3: "micrometre"}.get(units, "another")
            raise Refused(RefusalCode.NIFTI_UNITS_MISSING, "lengths in millimetres", f"unit {found}")
        pixdim = self.values["pixdim"][1:4]
        if not all(math.isfinite(one) and low <= one <= high for one in pixdim):
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, f"pixdim of {low} to {high} mm", "another number")
        return (float(pixdim[0]), float(pixdim[1]), float(pixdim[2])), ()

    def affine(self, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Affine:
        """LPS affine over (k, j, i)."""
        sform = self._sform() if self.values["sform_code"][0] > 0 else None
        qform = self._qform() if self.values["qform_code"][0] > 0 else None
        if sform is None and qform is None:
            raise Refused(RefusalCode.NIFTI_ORIENTATION_MISSING, "a qform or sform code above 0", "neither")
        if sform is not None and qform is not None:
            corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
            corners[:, :3] *= np.asarray(shape) - 1
            apart = float(np.abs(corners @ (sform - qform).T).max())
            if not apart <= CORNER_TOLERANCE_MM:
                raise Refused(
                    RefusalCode.NIFTI_ORIENTATION_CONFLICT,
                    f"sform and qform within {CORNER_TOLERANCE_MM} mm at all corners",
                    f"{apart:.2f} mm apart",
                )
        ras = sform if sform is not None else qform
        if ras is None or not np.isfinite(ras).all():
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "a finite affine", "another")
        return self._checked(np.array(ras), spacing)

    def _checked(self, ras: npt.NDArray[np.float64], spacing: tuple[float, float, float]) -> Affine:
        lengths = np.linalg.norm(ras[:3, :3], axis=0)
        if lengths.min() < 1e-6:
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "an affine whose axes span space", "a singular one")
        directions = ras[:3, :3] / lengths
        if np.abs(directions.T @ directions - np.eye(3)).max() > ORTHOGONAL_TOLERANCE:
            raise Refused(RefusalCode.NIFTI_NOT_ORTHOGONAL, "axes at right angles", "a shear")
        declared = not np.allclose(lengths, spacing, rtol=1e-3, atol=1e-4)
        if declared and int(self.values["xyzt_units"][0]) & 7 == UNIT_MM and self._is_header_spacing(spacing):
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "pixdim equal to the affine's spacing", "another spacing")
        if declared:
            ras[:3, :3] = directions * spacing
        try:
            return Affine.from_nifti(ras)
        except GeometryError as error:
            raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "an affine whose axes span space", "another") from error

    def _is_header_spacing(self, spacing: tuple[float, float, float]) -> bool:
        return bool(np.array_equal(np.asarray(spacing), np.asarray(self.values["pixdim"][1:4], dtype=np.float64)))

    def _sform(self) -> npt.NDArray[np.float64]:
        return np.vstack([np.asarray(self.values["srow"], dtype=np.float64).reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])

    def _qform(self) -> npt.NDArray[np.float64]:
        """nifti1.h, method 2: quaternion (b, c, d), handedness in pixdim[0], spacing in pixdim[1..3]."""
        turn = rotation(*(float(one) for one in self.values["quatern"]))
        pixdim = np.asarray(self.values["pixdim"], dtype=np.float64)
        handed = -1.0 if pixdim[0] < 0 else 1.0
        matrix = np.eye(4)
        matrix[:3, :3] = turn * (pixdim[1:4] * [1.0, 1.0, handed])
        matrix[:3, 3] = self.values["qoffset"]
        return matrix

    def scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Slope 0 or NaN means unscaled, and the intercept is then ignored (nifti1.h, scl_slope)."""
        slope, intercept = float(self.values["scl_slope"][0]), float(self.values["scl_inter"][0])
        out = values.astype(np.float64 if values.dtype.kind == "f" and values.dtype.itemsize == 8 else np.float32)
        if slope != 0.0 and not math.isnan(slope):
            if not math.isfinite(slope) or not math.isfinite(intercept):
                raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "a finite slope and intercept", "another")
            out = values.astype(np.float64) * slope + intercept
        if not np.isfinite(out).all() or np.abs(out).max() > np.finfo(np.float32).max:
            raise Refused(RefusalCode.NIFTI_VALUES_INVALID, "finite values", "NaN or infinity")
        return out.astype(np.float32)


_HALF_TURN = 3 * float(np.finfo(np.float32).eps)
"""Rounding of three 32-bit numbers: below it the rotation is a half turn, as the NIfTI library and nibabel take it."""


def rotation(b: float, c: float, d: float) -> npt.NDArray[np.float64]:
    """The rotation of the quaternion whose (b, c, d) a header keeps (nifti1.h, method 2)."""
    square = 1.0 - (b * b + c * c + d * d)
    if not math.isfinite(square) or square < -1e-5:
        raise Refused(RefusalCode.NIFTI_HEADER_INVALID, "a unit quaternion", "another")
    if square < _HALF_TURN:
        length = math.sqrt(b * b + c * c + d * d)
        b, c, d = b / length, c / length, d / length
        square = 0.0
    a = math.sqrt(square)
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def quaternion(directions: npt.NDArray[np.float64]) -> tuple[float, tuple[float, float, float]]:
    """Handedness and (b, c, d) of a rotation, perhaps with a reflection of its third axis (nifti1.h)."""
    handed = 1.0 if np.linalg.det(directions) > 0 else -1.0
    r = directions * [1.0, 1.0, handed]
    # The symmetric 4 x 4 form whose largest eigenvector is the quaternion (a, b, c, d): stable for every rotation.
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], 0.0, 0.0, 0.0],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], 0.0, 0.0],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0.0],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    vectors = np.linalg.eigh(k, UPLO="L")[1]
    a, b, c, d = vectors[:, -1]
    if a < 0:
        b, c, d = -b, -c, -d
    return handed, (float(b), float(c), float(d))
