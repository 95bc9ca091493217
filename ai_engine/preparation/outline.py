"""The outline of a brain in axial FLAIR slices, near where it is expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]

TISSUE = 0.5
"""Share of the median of the sure brain below which a voxel is fluid, bone or air."""
FURROW_MM = 4.0
"""Furrows narrower than twice this are closed."""
OUTSIDE_MM = 12.0
"""What is farther outside the expected outline is sure to be no brain."""
AROUND_MM = 20.0
"""How much around the expected brain is looked at."""
DARK = 0.6
"""Share of the slice's brain median that counts as dark, for the score."""


@dataclass(frozen=True)
class Band:
    """How far the outline may lie from the expected one.

    Attributes
    ----------
    inside_mm
        Deeper than this is sure to be brain.
    outside_mm
        Farther out than this is no brain.
    bridge_mm
        Connections thinner than twice this are cut.
    """

    inside_mm: float
    outside_mm: float
    bridge_mm: float


def outline(head: Floats, expected: Mask, spacing_mm: Spacing, band: Band) -> Mask:
    """The brain: bright enough, this side of the dark ring, and joined to the sure brain.

    Parameters
    ----------
    head
        (S, R, C) axial, any unit.
    expected
        (S, R, C) where the brain is expected.
    """
    whole = np.zeros(head.shape, dtype=np.bool_)
    if not expected.any():
        return whole
    index = np.argwhere(expected)
    margin = np.ceil(np.array([AROUND_MM / side for side in spacing_mm])).astype(int)
    low, high = np.maximum(index.min(axis=0) - margin, 0), index.max(axis=0) + margin + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    whole[box] = _outline(head[box], expected[box], spacing_mm, band)
    return whole


def _outline(head: Floats, expected: Mask, spacing_mm: Spacing, band: Band) -> Mask:
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(expected, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~expected, sampling=spacing_mm)
    core = inside > min(band.inside_mm + 4, 0.6 * inside.max())
    tissue = (head > TISSUE * np.median(head[core])) & (outside < band.outside_mm)
    joined = _joined(tissue, inside > min(band.inside_mm, 0.6 * inside.max()), spacing_mm, band.bridge_mm)
    return _this_side(head, joined, expected, spacing_mm, band)


def _joined(tissue: Mask, sure: Mask, spacing_mm: Spacing, bridge_mm: float) -> Mask:
    """Tissue joined to the sure brain by more than a thin bridge, furrows closed."""
    from scipy import ndimage

    flat = (1e3, spacing_mm[1], spacing_mm[2])  # within slices only: their step is coarser than a bridge
    thick = (ndimage.distance_transform_edt(tissue, sampling=flat) > bridge_mm) | (sure & tissue)
    parts, _ = ndimage.label(thick)
    sizes = np.bincount(parts.ravel())
    kept = [part for part in np.unique(parts[sure & thick]) if part and sizes[part] > 0.02 * sizes[1:].sum()]
    grown = ndimage.distance_transform_edt(~np.isin(parts, kept), sampling=flat) <= bridge_mm + 0.5
    whole = (tissue & grown) | sure
    dilated = ndimage.distance_transform_edt(~whole, sampling=flat) <= FURROW_MM
    dilated = np.stack([ndimage.binary_fill_holes(plane) for plane in dilated])
    whole |= ndimage.distance_transform_edt(dilated, sampling=flat) > FURROW_MM
    return np.stack([ndimage.binary_fill_holes(plane) for plane in whole])


def _this_side(head: Floats, joined: Mask, expected: Mask, spacing_mm: Spacing, band: Band) -> Mask:
    """What lies on the brain's side of the dark ring, slice by slice."""
    from scipy import ndimage
    from skimage.segmentation import watershed

    pixel = spacing_mm[1:]
    result = np.zeros(head.shape, dtype=np.bool_)
    for number in np.flatnonzero(expected.any(axis=(1, 2))):
        depth = ndimage.distance_transform_edt(np.pad(expected[number], 1), sampling=pixel)[1:-1, 1:-1]
        beyond = ndimage.distance_transform_edt(~expected[number], sampling=pixel)
        markers = (depth > min(band.inside_mm, 0.6 * depth.max())).astype(np.int32)
        markers[beyond > max(band.outside_mm, OUTSIDE_MM)] = 2
        smooth = ndimage.gaussian_filter(head[number], [0.8 / side for side in pixel])
        plane = (watershed(-smooth, markers) == 1) & joined[number]
        opened = ndimage.distance_transform_edt(plane, sampling=pixel) > 2.0
        plane &= ndimage.distance_transform_edt(~opened, sampling=pixel) <= 2.2
        result[number] = ndimage.binary_fill_holes(plane)
    return result


def dark_outside(head: Floats, mask: Mask, spacing_mm: Spacing) -> float:
    """Share of the outline with a dark pixel within about 5 mm outside it, over slices with more than 20 cm²."""
    from scipy import ndimage

    pixel = spacing_mm[1:]
    found = []
    for plane, inside in zip(head, mask, strict=True):
        if np.count_nonzero(inside) * pixel[0] * pixel[1] < 2000:
            continue
        depth = ndimage.distance_transform_edt(inside, sampling=pixel)
        smooth = ndimage.gaussian_filter(plane, [0.8 / side for side in pixel])
        level = float(np.median(plane[depth > 10])) if (depth > 10).any() else float(np.median(plane[inside]))
        around = [round(9 / side) | 1 for side in pixel]
        lowest = ndimage.minimum_filter(np.where(inside, np.float32(np.inf), smooth), size=around)
        rim = (depth > 0) & (depth <= 1.01 * max(pixel))
        found.append(lowest[rim] < DARK * level)
    return float(np.concatenate(found).mean()) if found else 0.0
