"""Real volumes displaced by known motions and cut into thick slices.

The ground of `ai_engine.preparation.measure` and of the tests: registration is judged by the error at targets inside
the brain against a motion that is known because it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from ai_engine.preparation.rigid import Grid, Rigid, carry

Floats = npt.NDArray[np.float32]

MAX_ANGLE_DEG = 15.0
MAX_SHIFT_MM = 20.0


@dataclass(frozen=True, eq=False)
class Head:
    """A volume from a file: (S, R, C) and where it lies."""

    array: Floats
    affine: Affine


def read_head(path: Path, spacing_mm: tuple[float, float, float] | None = None) -> Head:
    """Read a NIfTI file, ``.nii.bz2`` too; `spacing_mm` (slice, row, column) where the file does not know its own."""
    import nibabel

    image = nibabel.load(path)
    array = np.ascontiguousarray(np.asarray(image.get_fdata(dtype=np.float32)).transpose(2, 1, 0))
    affine = Affine.from_nifti(image.affine)
    if spacing_mm is not None:
        affine = Affine.from_axes((0.0, 0.0, 0.0), affine.directions, spacing_mm)
    return Head(array, affine)


def known_motion(random: np.random.Generator, centre_mm: npt.ArrayLike, *, share: float | None = None) -> Rigid:
    """Draw a motion up to the limits: 15 degrees about any axis through the centre, 20 mm in any direction.

    Parameters
    ----------
    share
        Of the limits; drawn between 0.3 and 1 where not given.
    """
    axis, way = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
    angle, shift = (random.uniform(0.3, 1, 2)) if share is None else (share, share)
    return Rigid.about(centre_mm, axis * angle * MAX_ANGLE_DEG, way * shift * MAX_SHIFT_MM)


def acquired(head: Head, motion: Rigid, step_mm: float = 5.0) -> Head:
    """What a scanner would have measured of the displaced head in slices of this thickness.

    Parameters
    ----------
    motion
        From the head's old space to its new one.

    Returns
    -------
    Axial slices on the old axes, wide enough for the motion, each the mean of five planes across its thickness.
    """
    margin = 25.0
    slice_step, row_step, column_step = head.affine.spacing_mm
    size = np.array(head.array.shape) * (slice_step, row_step, column_step) + 2 * margin
    spacing = (step_mm, row_step, column_step)
    shape = np.ceil(size / np.array(spacing)).astype(int)
    first = head.affine.to_patient(-margin / np.array(head.affine.spacing_mm))
    total: Any = 0.0
    for part in np.linspace(-0.4, 0.4, 5):
        origin = first + head.affine.directions[0] * part * step_mm
        grid = Grid((shape[0], shape[1], shape[2]), Affine.from_axes(origin.tolist(), head.affine.directions, spacing))
        total = total + carry(head.array, head.affine, grid, motion.inverse())
    return Head(
        np.asarray(total / 5, dtype=np.float32), Affine.from_axes(first.tolist(), head.affine.directions, spacing)
    )


def target_error_mm(found: Rigid, true: Rigid, targets_mm: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median and worst distance between where targets were found and where they are."""
    distance = np.linalg.norm(found(targets_mm) - true(targets_mm), axis=1)
    return float(np.median(distance)), float(distance.max())
