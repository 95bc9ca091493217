"""Variants of one volume that should not change what a model finds.

Each is what happens to real series: another declared slice step, slices in the other order, a reformatted series with
thinner slices, a head that lies turned. A turn is made by sampling the head on a turned grid of the same spacing whose
affine still says "axial", as if the patient had been turned in the scanner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.geometry import Affine
from ai_engine.prediction import InputVolume


@dataclass(frozen=True, eq=False)
class Variant:
    """A changed volume and the name of the change."""

    name: str
    volume: InputVolume


def with_declared_step(volume: InputVolume, step_mm: float) -> InputVolume:
    """The same array, declared to have another distance between its slices."""
    matrix = volume.affine.matrix.copy()
    matrix[:3, 0] *= step_mm / volume.affine.spacing_mm[0]
    return replace(volume, affine=Affine(matrix))


def in_other_order(volume: InputVolume) -> InputVolume:
    """The same head with its slices stored from the other end."""
    matrix = volume.affine.matrix.copy()
    matrix[:3, 3] += matrix[:3, 0] * (volume.array.shape[0] - 1)
    matrix[:3, 0] *= -1
    return replace(volume, array=np.ascontiguousarray(volume.array[::-1]), affine=Affine(matrix))


def with_slices_of(volume: InputVolume, step_mm: float, order: int) -> InputVolume:
    """Interpolated between slices to another step; order 1 is linear, 3 a cubic spline."""
    old = volume.affine.spacing_mm[0]
    count = int(np.floor((volume.array.shape[0] - 1) * old / step_mm)) + 1
    positions = np.arange(count) * step_mm / old
    rows, columns = volume.array.shape[1:]
    grid = np.meshgrid(positions, np.arange(rows), np.arange(columns), indexing="ij")
    array = ndimage.map_coordinates(volume.array, grid, order=order, mode="nearest").astype(np.float32)
    low = float(volume.array.min())
    return replace(with_declared_step(volume, step_mm), array=np.maximum(array, low))


def turned(volume: InputVolume, axis: int, angle_deg: float) -> InputVolume:
    """The head turned about the array axis ``axis`` (0 slice, 1 row, 2 column) through the middle of the volume."""
    spacing = np.asarray(volume.affine.spacing_mm)
    matrix = np.diag(1 / spacing) @ _turn(axis, angle_deg) @ np.diag(spacing)
    middle = (np.asarray(volume.array.shape) - 1) / 2
    low = float(volume.array.min())
    reach = _room(volume.array.shape, spacing, axis, angle_deg)
    shape = tuple(int(size) + 2 * extra for size, extra in zip(volume.array.shape, reach, strict=True))
    start = (np.asarray(shape) - 1) / 2
    array = ndimage.affine_transform(volume.array, matrix, middle - matrix @ start, shape, order=1, cval=low)
    moved = volume.affine.matrix.copy()
    moved[:3, 3] -= moved[:3, :3] @ np.asarray(reach, dtype=np.float64)
    return replace(volume, array=array.astype(np.float32), affine=Affine(moved), valid=None)


def _room(
    shape: tuple[int, ...], spacing: npt.NDArray[np.float64], axis: int, angle_deg: float
) -> tuple[int, int, int]:
    """Slices to add at both ends so that a nodding head is not cut off; pixels are plenty."""
    if axis == 0:
        return 0, 0, 0
    other = 2 if axis == 1 else 1
    half_mm = 0.35 * shape[other] * spacing[other]
    return int(np.ceil(half_mm * np.sin(np.deg2rad(abs(angle_deg))) / spacing[0])), 0, 0


def _turn(axis: int, angle_deg: float) -> npt.NDArray[np.float64]:
    first, second = (other for other in range(3) if other != axis)
    result = np.eye(3)
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    result[first, first] = result[second, second] = cosine
    result[first, second], result[second, first] = -sine, sine
    return result


def variants(volume: InputVolume) -> Iterator[Variant]:
    """All variants of a volume that are asked of a model, the unchanged one first."""
    yield Variant("as acquired", volume)
    yield Variant("slices in the other order", in_other_order(volume))
    for step in (3.0, 1.0):
        yield Variant(f"slices of {step:g} mm, linear", with_slices_of(volume, step, 1))
        yield Variant(f"slices of {step:g} mm, cubic", with_slices_of(volume, step, 3))
    for axis, name in enumerate(("slice axis", "row axis", "column axis")):
        for angle in (20.0, -20.0):
            yield Variant(f"turned {angle:+g} degrees about the {name}", turned(volume, axis, angle))
