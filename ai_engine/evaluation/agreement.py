"""How one mask agrees with the truth, region by region, in the measures that the field reports.

Dice and IoU (Taha and Hanbury 2015), sensitivity and specificity by voxel, the 95th percentile of the symmetric surface
distance (Hausdorff, in mm), surface Dice at a tolerance (Nikolov et al. 2018), and the error of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """One region of one case.

    Attributes
    ----------
    dice, iou, surface_dice
        1.0 where both masks are empty (`both_empty`), 0.0 where one is.
    sensitivity
        None where the truth is empty; `specificity` is over the whole image.
    hd95_mm
        None where either mask is empty: there is no distance to nothing.
    volume_error_percent
        None where the truth is empty.
    """

    dice: float
    iou: float
    sensitivity: float | None
    specificity: float | None
    hd95_mm: float | None
    surface_dice: float
    truth_ml: float
    predicted_ml: float
    volume_error_ml: float
    volume_error_percent: float | None
    both_empty: bool


def agreement(predicted: Mask, truth: Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float) -> Agreement:
    """Compare two masks.

    Parameters
    ----------
    predicted, truth
        (S, R, C) bool on one grid.
    spacing_mm
        Of slice, row and column.
    tolerance_mm
        How far a surface may lie off and still count as right.
    """
    both, found, wanted = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
    outside = truth.size - wanted
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    union, total = found + wanted - both, found + wanted
    there, back = _surface_distances(predicted, truth, spacing_mm)
    distances = np.concatenate([there, back])
    return Agreement(
        dice=2 * both / total if total else 1.0,
        iou=both / union if union else 1.0,
        sensitivity=both / wanted if wanted else None,
        specificity=(outside - (found - both)) / outside if outside else None,
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))) if there.size and back.size else None,
        surface_dice=float((distances <= tolerance_mm).mean()) if there.size and back.size else float(total == 0),
        truth_ml=wanted * voxel_ml,
        predicted_ml=found * voxel_ml,
        volume_error_ml=(found - wanted) * voxel_ml,
        volume_error_percent=100.0 * (found - wanted) / wanted if wanted else None,
        both_empty=total == 0,
    )


def _surface_distances(
    predicted: Mask, truth: Mask, spacing_mm: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distances in mm from every surface voxel of one mask to the other's surface, both ways; empty where one is."""
    nothing = np.zeros(0)
    if not predicted.any() or not truth.any():
        return nothing, nothing
    box = ndimage.find_objects((predicted | truth).astype(np.uint8))[0]
    one, other = (np.pad(mask[box], 1) for mask in (predicted, truth))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    to_other = ndimage.distance_transform_edt(~edges[1], sampling=spacing_mm)
    to_one = ndimage.distance_transform_edt(~edges[0], sampling=spacing_mm)
    return to_other[edges[0]], to_one[edges[1]]
