"""A rigid motion between two patient spaces, and volumes carried through it.

Everything is in LPS millimetres (`ai_engine.geometry`); SimpleITK's own conventions stay inside this module and
`ai_engine.preparation.registration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine, FloatArray

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Rigid:
    """A rotation and a translation: points of one space to points of another.

    Attributes
    ----------
    matrix
        4 x 4, LPS mm to LPS mm.
    """

    matrix: FloatArray

    @classmethod
    def identity(cls) -> Rigid:
        """No motion."""
        return cls(np.eye(4))

    @classmethod
    def about(cls, centre_mm: npt.ArrayLike, rotation_deg: npt.ArrayLike, translation_mm: npt.ArrayLike) -> Rigid:
        """Turn about a centre by a rotation vector (axis times angle in degrees), then shift.

        Parameters
        ----------
        centre_mm, translation_mm
            LPS.
        rotation_deg
            (3,); its direction is the axis, its length the angle.
        """
        from scipy.spatial.transform import Rotation

        centre = np.asarray(centre_mm, dtype=np.float64)
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(np.asarray(rotation_deg, dtype=np.float64), degrees=True).as_matrix()
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.asarray(translation_mm, dtype=np.float64)
        return cls(matrix)

    def __call__(self, points_mm: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 3)`` points."""
        return np.asarray(np.asarray(points_mm, dtype=np.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def after(self, first: Rigid) -> Rigid:
        """The motion that does `first`, then this."""
        return Rigid(self.matrix @ first.matrix)

    def inverse(self) -> Rigid:
        """The way back."""
        return Rigid(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64))

    @property
    def angle_deg(self) -> float:
        """How far it turns."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.matrix[:3, :3]) - 1) / 2, -1.0, 1.0))))

    def to_simpleitk(self) -> Any:
        """The same as a SimpleITK transform."""
        import SimpleITK as sitk

        transform = sitk.AffineTransform(3)
        transform.SetMatrix(self.matrix[:3, :3].ravel().tolist())
        transform.SetTranslation(self.matrix[:3, 3].tolist())
        return transform

    @classmethod
    def from_simpleitk(cls, transform: Any) -> Rigid:
        """From any SimpleITK transform that is rigid."""
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        matrix = np.eye(4)
        for axis in range(3):
            unit = np.eye(3)[axis].tolist()
            matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
        matrix[:3, 3] = origin
        return cls(matrix)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: a shape (S, R, C) and an affine."""

    shape: Shape
    affine: Affine

    @classmethod
    def of(cls, array: npt.NDArray[Any], affine: Affine) -> Grid:
        """The grid of an array."""
        slices, rows, columns = array.shape
        return cls((slices, rows, columns), affine)

    @property
    def centre_mm(self) -> FloatArray:
        """LPS position of the middle."""
        return self.affine.to_patient((np.array(self.shape) - 1) / 2)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both are one grid."""
        return self.shape == other.shape and self.affine.close_to(other.affine, tolerance_mm)


def in_one_order() -> Any:
    """A SimpleITK registration method that adds up in one order, so that the same input gives the same bits.

    The number of *work units* decides, not that of threads: with several units, which is the default whatever the
    number of threads, their parts of the metric are added as they finish, and results of the same input differed by
    3e-6 on a busy machine.
    """
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    return method


def as_image(array: npt.NDArray[Any], affine: Affine) -> Any:
    """A SimpleITK image of a (S, R, C) array."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    origin, spacing, direction = affine.to_simpleitk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def carry(
    array: npt.NDArray[Any],
    affine: Affine,
    target: Grid,
    motion: Rigid | None = None,
    *,
    how: Literal["linear", "nearest"] = "linear",
    outside: float = 0.0,
) -> npt.NDArray[Any]:
    """Sample a volume on another grid.

    Parameters
    ----------
    array, affine
        (S, R, C) and where it lies.
    motion
        Maps points of the target's space to points of the volume's space; None is no motion.
    outside
        Value where the volume has none.

    Returns
    -------
    Array of the target's shape; float32 for ``linear``, the input's type for ``nearest``.
    """
    import SimpleITK as sitk

    values = array.astype(np.float32, copy=False) if how == "linear" else array
    origin, spacing, direction = target.affine.to_simpleitk()
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize([int(size) for size in target.shape[::-1]])
    filter_.SetOutputOrigin(origin)
    filter_.SetOutputSpacing(spacing)
    filter_.SetOutputDirection(direction)
    filter_.SetInterpolator(sitk.sitkLinear if how == "linear" else sitk.sitkNearestNeighbor)
    filter_.SetDefaultPixelValue(float(outside))
    filter_.SetTransform((motion or Rigid.identity()).to_simpleitk())
    return np.asarray(sitk.GetArrayFromImage(filter_.Execute(as_image(values, affine))))
