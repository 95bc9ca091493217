"""The input gate: refuse by name what a model was not made for, before anything is computed (hardening I6, 4.2).

Checks what the description declares, on the arrays themselves: modality, size, blankness, orientation, spacing, slices,
extent, skull.  A refusal says what was expected and what was found, in numbers and standard terms only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai_engine.geometry import Affine, closest_axes, rearrange
from ai_engine.packages import Description, Input
from ai_engine.prediction import InputVolume
from ai_engine.runners.intensity import is_skull_stripped
from dicom_node.refusals import RefusalCode, Refused

MAX_VOXELS = 120_000_000
"""A volume larger than this is refused: 32-bit copies of it alone would pass the memory limits."""

DIRECTIONS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}
"""Where an axis letter points, in patient coordinates (LPS)."""
SPACING_TOLERANCE = 1e-3
"""Relative; limits are meant, not their decimal rounding."""


@dataclass(frozen=True)
class Turn:
    """How a volume is turned to the model's axes: arguments for `rearrange`, and back."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def back(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Arguments for `rearrange` that undo it."""
        inverse = sorted(range(3), key=lambda axis: self.axes[axis])
        first, second, third = inverse
        return (first, second, third), (self.flips[first], self.flips[second], self.flips[third])


def check_input(volume: InputVolume, rule: Input, description: Description) -> Turn:
    """Check one volume against its declaration.

    Returns
    -------
    How to turn it to the model's axes.

    Raises
    ------
    Refused
        ``modality-unsupported``, ``too-large``, ``image-blank``, ``orientation-unsupported``, ``protocol-unsupported``,
        ``too-few-slices`` or ``out-of-distribution``.
    """
    if volume.modality and volume.modality not in rule.modality:
        raise Refused(RefusalCode.MODALITY_UNSUPPORTED, expected=" or ".join(rule.modality), found="another modality")
    if volume.array.size > MAX_VOXELS:
        raise Refused(RefusalCode.TOO_LARGE, expected=f"at most {MAX_VOXELS} voxels", found=f"{volume.array.size}")
    if min(volume.array.shape) < 2:
        raise Refused(RefusalCode.TOO_FEW_SLICES, expected="a volume", found=f"{min(volume.array.shape)} slice")
    turn = _turn(volume.affine, description)
    turned = volume.affine.rearranged(turn.axes, turn.flips, volume.array.shape)
    shape = tuple(volume.array.shape[axis] for axis in turn.axes)
    _check_grid(turned, (shape[0], shape[1], shape[2]), rule, is_turned=turn.axes[0] != 0)
    check_not_blank(volume)
    _check_skull(volume, rule)
    check_patient(volume, description)
    return turn


def check_patient(volume: InputVolume, description: Description) -> None:
    """Refuse a patient's age or a body part that the model was not made for, where the images state it.

    The refusal names limits only, never the patient's own age.
    """
    wanted = description.patient
    age, part = volume.age_years, volume.body_part.strip().upper()
    if wanted.age_years is not None and age is not None and not wanted.age_years[0] <= age <= wanted.age_years[1]:
        raise Refused(
            RefusalCode.OUT_OF_DISTRIBUTION,
            expected=f"a patient of {wanted.age_years[0]:g} to {wanted.age_years[1]:g} years",
            found="another age",
        )
    if wanted.body_parts and part and part not in wanted.body_parts:
        raise Refused(
            RefusalCode.OUT_OF_DISTRIBUTION,
            expected=f"body part {' or '.join(wanted.body_parts)}",
            found="another body part",
        )


def check_not_blank(volume: InputVolume) -> None:
    """Refuse a constant picture, one with values that are not finite, and one that is nearly all one value."""
    values = volume.array if volume.valid is None else volume.array[volume.valid]
    if values.size == 0:
        raise Refused(RefusalCode.IMAGE_BLANK, expected="pixels that are not padding", found="none")
    if not np.isfinite(values).all():
        raise Refused(RefusalCode.IMAGE_BLANK, expected="finite pixel values", found="NaN or infinity")
    low = values.min()
    share = float(np.count_nonzero(values != low)) / volume.array.size
    if share < 0.005:
        raise Refused(RefusalCode.IMAGE_BLANK, expected="a picture", found=f"{100 * share:.1f} % of pixels differ")


_AXIAL = np.array([DIRECTIONS[letter] for letter in "SPL"])
_SKULL_WORDS = {"native": "a native head with its skull", "stripped": "a skull-stripped brain"}


def _check_skull(volume: InputVolume, rule: Input) -> None:
    """Refuse a head with or without its skull where the package was made for the other."""
    if rule.skull == "any":
        return
    axes, flips = closest_axes(volume.affine, _AXIAL)
    array = volume.array if volume.valid is None else np.where(volume.valid, volume.array, volume.array.min())
    axial = np.asarray(rearrange(array, axes, flips), dtype=np.float32)
    spacing = volume.affine.spacing_mm
    found = "stripped" if is_skull_stripped(axial, (spacing[axes[0]], spacing[axes[1]], spacing[axes[2]])) else "native"
    if found != rule.skull:
        raise Refused(RefusalCode.OUT_OF_DISTRIBUTION, expected=_SKULL_WORDS[rule.skull], found=_SKULL_WORDS[found])


def _turn(affine: Affine, description: Description) -> Turn:
    targets = np.array([DIRECTIONS[letter] for letter in description.axes])
    axes, flips = closest_axes(affine, targets)
    cosines = np.array(
        [abs(float(targets[axis] @ affine.directions[axes[axis]])) for axis in range(3)],
    )
    tilt = float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
    if tilt > description.max_tilt_deg:
        raise Refused(
            RefusalCode.ORIENTATION_UNSUPPORTED,
            expected=f"axes within {description.max_tilt_deg:g} degrees of {description.axes}",
            found=f"{tilt:.0f} degrees",
        )
    return Turn(axes, flips)


def _check_grid(affine: Affine, shape: tuple[int, int, int], rule: Input, *, is_turned: bool) -> None:
    step, row, column = affine.spacing_mm
    low, high = rule.spacing_in_plane_mm
    if not _within(min(row, column), max(row, column), (low, high)):
        raise Refused(
            RefusalCode.ORIENTATION_UNSUPPORTED if is_turned else RefusalCode.PROTOCOL_UNSUPPORTED,
            expected=f"{low:g} to {high:g} mm between pixels in the model's slice plane",
            found=f"{row:.2f} x {column:.2f} mm",
        )
    if not _within(step, step, rule.slice_step_mm):
        raise Refused(
            RefusalCode.PROTOCOL_UNSUPPORTED,
            expected=f"{rule.slice_step_mm[0]:g} to {rule.slice_step_mm[1]:g} mm between slices",
            found=f"{step:.2f} mm",
        )
    if shape[0] < rule.min_slices:
        raise Refused(
            RefusalCode.TOO_FEW_SLICES, expected=f"at least {rule.min_slices} slices", found=f"{shape[0]} slices"
        )
    sides = (shape[1] * row, shape[2] * column)
    if rule.extent_in_plane_mm is not None and not _within(min(sides), max(sides), rule.extent_in_plane_mm):
        raise Refused(
            RefusalCode.OUT_OF_DISTRIBUTION,
            expected=f"slices of {rule.extent_in_plane_mm[0]:g} to {rule.extent_in_plane_mm[1]:g} mm a side",
            found=f"{sides[0]:.0f} x {sides[1]:.0f} mm",
        )


def _within(low: float, high: float, limits: tuple[float, float]) -> bool:
    return low >= limits[0] * (1 - SPACING_TOLERANCE) and high <= limits[1] * (1 + SPACING_TOLERANCE)
