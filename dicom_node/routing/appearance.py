"""What small pictures of the series say where headers are silent: bright or dark fluid, enhancement after contrast.

The pictures are made here from decoded volumes handed in: averaged onto one lattice fixed in patient space (LPS, so two
series of a study need no registration to be laid over each other), coarse enough that a movement of a few millimetres
between series does not matter.  No pixel is decoded here.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.geometry import Affine

STEP_MM = 4.0
"""Edge of a lattice cell; lattice points lie on whole multiples of it."""
MAX_CELLS = 100
"""Of the lattice along one axis: 400 mm."""
MIN_CELLS = 4000
"""Common cells inside the head (256 mL) below which nothing is compared."""
BINS = 20
FAR = 4.0
"""Robust standard deviations from the prediction that count as far."""
NO_ENHANCEMENT = 0.8
SURE_ENHANCEMENT = 1.2
"""Percent of cells; see `compare_t1` for what was measured."""

FloatArray = npt.NDArray[np.float32]


class Enhancement(StrEnum):
    """Which of two T1-weighted series was acquired after contrast."""

    FIRST = "first"
    SECOND = "second"
    NONE = "none"
    UNCLEAR = "unclear"


@dataclass(frozen=True, eq=False)
class Appearance:
    """A coarse picture of one series on the common lattice.

    Attributes
    ----------
    cells
        (Z, Y, X) float32, 0 to 255 of the series' own range (0.5th to 99.8th percentile); NaN where the series has no
        voxel.  Axes run towards the head, the back and the left.
    corner
        Lattice index (z, y, x) of ``cells[0, 0, 0]``; its centre lies at ``corner * STEP_MM`` in LPS (z, y, x).
    """

    cells: FloatArray
    corner: tuple[int, int, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; a cell costs less than a byte."""
        coded = np.where(np.isfinite(self.cells), np.clip(np.round(self.cells), 0, 254) + 1, 0).astype(np.uint8)
        packed = base64.b64encode(zlib.compress(coded.tobytes(), 9)).decode("ascii")
        return {"step_mm": STEP_MM, "corner": list(self.corner), "shape": list(coded.shape), "cells": packed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Appearance:
        """The inverse of `to_json`, within half a grey step.

        Raises
        ------
        ValueError
            Another lattice, or cells that do not fill the shape.
        """
        shape = tuple(int(n) for n in value["shape"])
        if value["step_mm"] != STEP_MM or len(shape) != 3 or not all(1 <= n <= MAX_CELLS for n in shape):
            raise ValueError("the stored picture is on another lattice")
        size = int(np.prod(shape))
        try:
            raw = zlib.decompressobj().decompress(base64.b64decode(value["cells"], validate=True), size + 1)
        except zlib.error as error:
            raise ValueError("the stored picture is damaged") from error
        if len(raw) != size:
            raise ValueError("the stored picture does not fill its shape")
        coded = np.frombuffer(raw, dtype=np.uint8).reshape(shape).astype(np.float32)
        z, y, x = (int(n) for n in value["corner"])
        return cls(np.where(coded > 0, coded - 1, np.nan).astype(np.float32), (z, y, x))


def appearance(array: npt.NDArray[Any], affine: Affine) -> Appearance:
    """Average a volume onto the lattice.

    Parameters
    ----------
    array
        (S, R, C) modality values.
    affine
        Of the array, to LPS millimetres.

    Returns
    -------
    Appearance
        Of at most `MAX_CELLS` cells along each axis, around the middle of a larger volume.

    Raises
    ------
    ValueError
        Not three-dimensional.
    """
    if array.ndim != 3 or min(array.shape) < 1:
        raise ValueError(f"a volume (S, R, C) is expected; found shape {array.shape}")
    array, affine = _coarser(array, affine)
    low, high = np.percentile(array, [0.5, 99.8])
    scaled = np.clip((array - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.float32)
    ends = [(0, n - 1) for n in array.shape]
    corners = affine.to_patient(list(itertools.product(*ends)))
    first = np.floor(corners.min(axis=0)[::-1] / STEP_MM).astype(int)
    last = np.ceil(corners.max(axis=0)[::-1] / STEP_MM).astype(int)
    surplus = np.maximum(last - first + 1 - MAX_CELLS, 0)
    first, last = first + surplus // 2, last - (surplus - surplus // 2)
    cells = _sample(scaled, affine, first, last - first + 1)
    return Appearance(cells, (int(first[0]), int(first[1]), int(first[2])))


def _coarser(array: npt.NDArray[Any], affine: Affine) -> tuple[FloatArray, Affine]:
    """Means of blocks of voxels, at most half a cell wide; what is left over at the far edges is dropped."""
    block = [
        max(1, min(int(STEP_MM / 2 / spacing), size))
        for spacing, size in zip(affine.spacing_mm, array.shape, strict=True)
    ]
    s, r, c = (size // b for size, b in zip(array.shape, block, strict=True))
    whole = array[: s * block[0], : r * block[1], : c * block[2]]
    means = whole.reshape(s, block[0], r, block[1], c, block[2]).mean(axis=(1, 3, 5), dtype=np.float32)
    matrix = affine.matrix.copy()
    matrix[:3, 3] += matrix[:3, :3] @ [(b - 1) / 2 for b in block]
    matrix[:3, :3] *= block
    return np.asarray(means, dtype=np.float32), Affine(matrix)


def _sample(array: FloatArray, affine: Affine, first: npt.NDArray[Any], shape: npt.NDArray[Any]) -> FloatArray:
    """Values at the lattice points after smoothing to about a cell's size; NaN outside the volume."""
    sigma = [max(0.0, STEP_MM / spacing - 1.0) * 0.4 for spacing in affine.spacing_mm]
    smooth = ndimage.gaussian_filter(array, sigma)
    z, y, x = np.meshgrid(*[(np.arange(n) + f) * STEP_MM for n, f in zip(shape, first, strict=True)], indexing="ij")
    index = affine.to_index(np.stack([x, y, z], axis=-1))
    sampled = ndimage.map_coordinates(
        smooth, np.moveaxis(index, -1, 0), order=1, mode="constant", cval=np.nan, prefilter=False
    )
    return np.asarray(sampled, dtype=np.float32)


def compare_t1(first: Appearance, second: Appearance) -> Enhancement:
    """Which of two T1-weighted series of one kind (same sequence, same fat suppression) follows contrast.

    The values of one are predicted from those of the other by their common relation over the head; contrast shows as
    cells far above the prediction in the one, and the same cells far below it the other way round.  The score is the
    share of such cells in percent, both ways, upper minus lower.

    Measured: 2.2 to 9.1 on nine pairs of skull-stripped studies (BraTS 2018, 2023), 6.2 on a native pair with movement
    between the series; -0.6 to 0.5 for a series against itself after rotation by up to 6 degrees, shift by 6 mm, change
    of gain along the head by 30 % and added noise.
    """
    pair = _on_common_cells(first, second)
    if pair is None:
        return Enhancement.UNCLEAR
    forth, back = _residual(pair[0], pair[1]), _residual(pair[1], pair[0])
    score = 100.0 * (_tails(forth) - _tails(back))
    if abs(score) < NO_ENHANCEMENT:
        return Enhancement.NONE
    if abs(score) < SURE_ENHANCEMENT:
        return Enhancement.UNCLEAR
    return Enhancement.SECOND if score > 0 else Enhancement.FIRST


def follows_contrast(candidate: Appearance, before: Appearance, after: Appearance) -> bool | None:
    """Whether a T1-weighted series of another kind is bright where a pair of one kind enhances.

    `before` and `after` show which cells enhance; the candidate is predicted from `before`, and its surplus in
    those cells is compared with its surplus elsewhere: the chance that an enhancing cell has the larger one.

    Measured on a native study: 0.95 for a fat-suppressed 3D series after contrast, 0.43 for a 3D series before it.
    """
    cells = _on_common_cells(before, after, candidate)
    if cells is None or compare_t1(before, after) is not Enhancement.SECOND:
        return None
    enhancement, surplus = _residual(cells[0], cells[1]), _residual(cells[0], cells[2])
    enhancing = surplus[enhancement > np.quantile(enhancement, 0.98)]
    elsewhere = np.sort(surplus[np.abs(enhancement) < 1.0])
    if enhancing.size < 50 or elsewhere.size < 500:
        return None
    chance = float(np.mean(np.searchsorted(elsewhere, enhancing) / elsewhere.size))
    if chance >= 0.8:
        return True
    return False if chance <= 0.6 else None


def resemblance(first: Appearance, second: Appearance) -> float | None:
    """Rank correlation of two pictures over the head: near 1 for two series of one weighting; None when not comparable.

    Measured on a native study: 0.92 for two FLAIR series before and after contrast, 0.80 to 0.89 among fat-suppressed
    T1 series, 0.79 for the nearest pair of different weightings (T1 without fat suppression and FLAIR).
    """
    cells = _on_common_cells(first, second)
    if cells is None:
        return None
    from scipy.stats import rankdata  # slow to import; every command would wait for it, and few studies need it

    ranks = [rankdata(values) for values in cells]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _tails(residual: FloatArray) -> float:
    return float((residual > FAR).mean() - (residual < -FAR).mean())


def _residual(given: FloatArray, wanted: FloatArray) -> FloatArray:
    """`wanted` minus its median among cells of equal `given`, in robust standard deviations."""
    edges = np.quantile(given, np.linspace(0.0, 1.0, BINS + 1))
    place = np.clip(np.searchsorted(edges, given, side="right") - 1, 0, BINS - 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    filled = [b for b in range(BINS) if np.any(place == b)]
    medians = [float(np.median(wanted[place == b])) for b in filled]
    residual = wanted - np.interp(given, centres[filled], medians)
    spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    return np.asarray(residual / max(spread, 1e-3), dtype=np.float32)


def _on_common_cells(*pictures: Appearance) -> tuple[FloatArray, ...] | None:
    """Values of each picture in the cells that lie inside the head in all of them; None when there are too few."""
    low = np.max([p.corner for p in pictures], axis=0)
    high = np.min([np.add(p.corner, p.cells.shape) for p in pictures], axis=0)
    if (high <= low).any():
        return None
    boxes = [p.cells[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, p.corner, strict=True))] for p in pictures]
    inside = np.logical_and.reduce([_head(box) for box in boxes])
    if int(inside.sum()) < MIN_CELLS:
        return None
    return tuple(box[inside] for box in boxes)


def _head(cells: FloatArray) -> npt.NDArray[np.bool_]:
    """The largest body brighter than air, with its holes filled, where there are values."""
    known = np.isfinite(cells)
    if not known.any():
        return known
    bright = known & (np.nan_to_num(cells) > 0.15 * float(np.percentile(cells[known], 90)))
    labels, count = ndimage.label(ndimage.binary_opening(bright))
    if count == 0:
        return np.zeros_like(known)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(largest) & known)
