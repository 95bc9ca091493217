"""What is done to a mask after the network, label by label, and in words what that took away or added.

Each step is a package setting that states its measured effect (`ai_engine.packages.Postprocessing`).  Order: small
components, then largest only, then holes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ai_engine.gate import DIRECTIONS
from ai_engine.geometry import Affine, closest_axes
from ai_engine.packages import Description, Postprocessing

Labels = npt.NDArray[np.uint8]


def postprocess(mask: Labels, affine: Affine, description: Description) -> tuple[Labels, Mapping[int, tuple[str, ...]]]:
    """Apply every label's post-processing.

    Parameters
    ----------
    mask
        (S, R, C) uint8 of label values.  Not changed.

    Returns
    -------
    mask, removed
        The new mask, and per label what was done to it in words with numbers; nothing done, no words.
    """
    result = mask.copy()
    words: dict[int, tuple[str, ...]] = {}
    for entry in description.labels:
        words[entry.label] = _one(result, entry.label, affine, description.axes, entry.postprocessing)
    return result, words


def _one(mask: Labels, label: int, affine: Affine, model_axes: str, rule: Postprocessing) -> tuple[str, ...]:
    words = []
    voxel_mm3 = affine.voxel_volume_mm3
    if rule.min_component_mm3 > 0 or rule.min_component_mm2 > 0 or rule.keep_largest:
        slice_axis = closest_axes(affine, [DIRECTIONS[letter] for letter in model_axes])[0][0]
        words += _drop_components(mask, label, voxel_mm3, voxel_mm3 / affine.spacing_mm[slice_axis], rule)
    if rule.fill_holes:
        words += _fill(mask, label, voxel_mm3)
    return tuple(words)


def _drop_components(mask: Labels, label: int, voxel_mm3: float, pixel_mm2: float, rule: Postprocessing) -> list[str]:
    import cc3d

    components, count = cc3d.connected_components(mask == label, connectivity=26, return_N=True)
    if count == 0:
        return []
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    small = np.zeros(count, dtype=bool)
    words = []
    for unit, voxel_size, least in (
        ("mm3", voxel_mm3, rule.min_component_mm3),
        ("mm2 summed over slices", pixel_mm2, rule.min_component_mm2),
    ):
        found = ~small & (sizes * voxel_size < least)
        if found.any():
            words.append(_words(int(found.sum()), f"under {least:g} {unit}", int(sizes[found].sum()), voxel_mm3))
        small |= found
    dropped = small.copy()
    if rule.keep_largest and (~small).sum() > 1:
        others = ~small
        others[int(np.where(small, -1, sizes).argmax())] = False
        words.append(_words(int(others.sum()), "beside the largest", int(sizes[others].sum()), voxel_mm3))
        dropped |= others
    if dropped.any():
        mask[np.isin(components, np.flatnonzero(dropped) + 1)] = 0
    return words


def _fill(mask: Labels, label: int, voxel_mm3: float) -> list[str]:
    from scipy import ndimage

    added = 0
    for plane in mask:
        own = plane == label
        if own.any():
            holes = ndimage.binary_fill_holes(own) & (plane == 0)
            added += int(holes.sum())
            plane[holes] = label
    return [f"holes filled in slice planes: {added} voxels, {added * voxel_mm3 / 1000:.2f} mL added"] if added else []


def _words(count: int, which: str, voxels: int, voxel_mm3: float) -> str:
    noun = "component" if count == 1 else "components"
    return f"{count} {noun} {which} removed: {voxels} voxels, {voxels * voxel_mm3 / 1000:.2f} mL"
