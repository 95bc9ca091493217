"""The one affine: voxel index to patient space, and back.

Patient space is LPS (x towards the patient's left, y to the back, z to the head), in millimetres, as in
PS3.3 C.7.6.2.1.1.  Array axes are always ``(slice, row, column)``, zero-based.  NIfTI's RAS and SimpleITK's axis order
exist only inside the adapters at the bottom of this module.

Nothing here knows DICOM files, databases or networks; numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

UNIT_COSINE_TOLERANCE = 1e-3
"""How far a direction's length may be from 1, and a product of two directions from 0."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class GeometryError(ValueError):
    """The numbers do not describe a grid in space (zero or non-finite spacing, singular directions)."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A 4 x 4 matrix that maps ``(slice, row, column, 1)`` to LPS millimetres.

    Raises
    ------
    GeometryError
        If the matrix is not 4 x 4, not finite, singular, or its last row is not ``0 0 0 1``.
    """

    matrix: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4):
            raise GeometryError(f"an affine is 4 x 4; found shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise GeometryError("an affine must be finite")
        if not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
            raise GeometryError("the last row of an affine is 0 0 0 1")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
            raise GeometryError("the three axes of an affine must span space; found a singular matrix")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    # -- construction ---------------------------------------------------------------------------------------------

    @classmethod
    def from_axes(cls, origin_mm: Sequence[float], directions: npt.ArrayLike, spacing_mm: Sequence[float]) -> Affine:
        """Build from the centre of voxel (0, 0, 0), unit directions and spacing.

        Parameters
        ----------
        origin_mm
            LPS position of the centre of the first voxel.
        directions
            (3, 3); row *k* is the unit LPS vector along array axis *k* (slice, row, column).
        spacing_mm
            Distance between voxel centres along each array axis (slice, row, column).
        """
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(directions, dtype=np.float64).T * np.asarray(spacing_mm, dtype=np.float64)
        matrix[:3, 3] = origin_mm
        return cls(matrix)

    @classmethod
    def from_dicom(
        cls,
        first_position_mm: Sequence[float],
        orientation: Sequence[float],
        pixel_spacing_mm: Sequence[float],
        slice_step_mm: Sequence[float],
    ) -> Affine:
        """Build from DICOM attributes (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1).

        Parameters
        ----------
        first_position_mm
            Image Position (Patient) of slice 0.
        orientation
            Image Orientation (Patient): six cosines; the first three along a row (increasing column index).
        pixel_spacing_mm
            Pixel Spacing: between rows, then between columns.
        slice_step_mm
            LPS vector from slice 0 to slice 1.
        """
        row_cosines = np.asarray(orientation[:3], dtype=np.float64)
        column_cosines = np.asarray(orientation[3:], dtype=np.float64)
        matrix = np.eye(4)
        matrix[:3, 0] = slice_step_mm
        matrix[:3, 1] = column_cosines * pixel_spacing_mm[0]
        matrix[:3, 2] = row_cosines * pixel_spacing_mm[1]
        matrix[:3, 3] = first_position_mm
        return cls(matrix)

    # -- what it says ---------------------------------------------------------------------------------------------

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (slice, row, column)."""
        s, r, c = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(s), float(r), float(c)

    @property
    def directions(self) -> FloatArray:
        """(3, 3): row *k* is the unit LPS vector along array axis *k*."""
        return np.asarray(self.matrix[:3, :3] / np.linalg.norm(self.matrix[:3, :3], axis=0)).T

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """LPS position of the centre of voxel (0, 0, 0)."""
        x, y, z = self.matrix[:3, 3]
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel: the absolute determinant, right for sheared grids too."""
        return float(abs(np.linalg.det(self.matrix[:3, :3])))

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three axes are at right angles within `UNIT_COSINE_TOLERANCE`."""
        products = self.directions @ self.directions.T
        return bool(np.abs(products - np.eye(3)).max() <= UNIT_COSINE_TOLERANCE)

    # -- mapping --------------------------------------------------------------------------------------------------

    def to_patient(self, index: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 3)`` voxel indices (slice, row, column) to LPS millimetres."""
        points = np.asarray(index, dtype=np.float64)
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def to_index(self, points_mm: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 3)`` LPS millimetres to fractional voxel indices (slice, row, column)."""
        points = np.asarray(points_mm, dtype=np.float64) - self.matrix[:3, 3]
        return np.asarray(points @ np.linalg.inv(self.matrix[:3, :3]).T)

    def rearranged(self, axes: Sequence[int], flips: Sequence[bool], shape: Sequence[int]) -> Affine:
        """The affine of ``rearrange(array, axes, flips)`` for an array of this shape.

        `axes` says which old axis becomes new axis 0, 1, 2; `flips` says which *new* axes are reversed afterwards.
        """
        matrix = self.matrix.copy()
        matrix[:3, :3] = self.matrix[:3, list(axes)]
        for new_axis, flip in enumerate(flips):
            if flip:
                matrix[:3, 3] += matrix[:3, new_axis] * (shape[axes[new_axis]] - 1)
                matrix[:3, new_axis] *= -1
        return Affine(matrix)

    def close_to(self, other: Affine, tolerance_mm: float = 1e-4) -> bool:
        """Whether both matrices agree in every entry within `tolerance_mm`."""
        return bool(np.abs(self.matrix - other.matrix).max() <= tolerance_mm)

    # -- adapters: the only place where other conventions exist ---------------------------------------------------

    def to_nifti(self) -> FloatArray:
        """4 x 4 RAS affine for an array stored with axes ``(column, row, slice)``, as NIfTI wants it."""
        return np.asarray(_LPS_TO_RAS @ self.matrix[:, [2, 1, 0, 3]])

    @classmethod
    def from_nifti(cls, ras: npt.ArrayLike) -> Affine:
        """From a NIfTI RAS affine over ``(i, j, k)``; transpose the array to ``(k, j, i)`` to go with it."""
        return cls((_LPS_TO_RAS @ np.asarray(ras, dtype=np.float64))[:, [2, 1, 0, 3]])

    def to_simpleitk(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Origin, spacing and direction as SimpleITK wants them for ``GetImageFromArray`` of a (S, R, C) array."""
        s, r, c = self.spacing_mm
        direction = self.directions[::-1].T
        return self.origin_mm, (c, r, s), tuple(float(v) for v in direction.ravel())

    @classmethod
    def from_simpleitk(cls, origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> Affine:
        """The inverse of `to_simpleitk`."""
        axes = np.asarray(direction, dtype=np.float64).reshape(3, 3).T[::-1]
        return cls.from_axes(origin, axes, list(spacing)[::-1])


def rearrange(array: npt.NDArray[np.generic], axes: Sequence[int], flips: Sequence[bool]) -> npt.NDArray[np.generic]:
    """Transpose a (S, R, C) array to `axes`, then reverse the new axes named by `flips` (a view)."""
    moved = np.transpose(array, axes)
    return moved[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def closest_axes(affine: Affine, targets: npt.ArrayLike) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which axes and flips bring an array nearest to target directions.

    Parameters
    ----------
    targets
        (3, 3); row *k* is the LPS direction wanted for new axis *k*, e.g. ``[[0,0,1],[0,1,0],[1,0,0]]`` for axial
        slices from feet to head, rows to the back, columns to the left.

    Returns
    -------
    axes, flips
        Arguments for `rearrange` and `Affine.rearranged`.
    """
    cosines = np.asarray(targets, dtype=np.float64) @ affine.directions.T
    best: tuple[float, tuple[int, int, int]] = (-1.0, (0, 1, 2))
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        score = float(sum(abs(cosines[k, order[k]]) for k in range(3)))
        if score > best[0] + 1e-12:
            best = (score, order)
    order = best[1]
    return order, (bool(cosines[0, order[0]] < 0), bool(cosines[1, order[1]] < 0), bool(cosines[2, order[2]] < 0))
