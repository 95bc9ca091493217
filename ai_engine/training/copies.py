"""Copies of a head for training: cut along tilted planes, in other slice thicknesses, or without its skull.

Names of copies are the name of the case, a mark and a number; :func:`base_name` finds the way back, so that every copy
stays on its patient's side of the split.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.runners.intensity import standardise_flair
from ai_engine.training.cases import Pair

OBLIQUE_MARK = "__oblique"
TILTED_MARK = "__tilted"
STRIPPED_MARK = "__stripped"
_COPY = re.compile(r"__(oblique|tilted|stripped)\d+$")

TILT_DEG = 30.0
"""Greatest nod and turn of a tilted copy."""
ASSUMED_STEP_MM = (4.0, 7.0)
"""Steps drawn for tilted copies of thick slices: what a tilt looks like depends on a step that is not known."""


def base_name(name: str) -> str:
    """Name of the case that a copy was made of; the name itself if it is none."""
    return _COPY.sub("", name)


def kind_of_copy(name: str) -> str:
    """``oblique``, ``tilted``, ``stripped``, or nothing for the case itself."""
    found = _COPY.search(name)
    return found.group(1) if found else ""


def oblique_copy(pair: Pair, angles_deg: tuple[float, float, float], step_mm: float, in_plane_mm: float) -> Pair:
    """Cut the head along tilted planes through its centre.

    Parameters
    ----------
    angles_deg
        Rotation about the slice, row and column axes of space.
    step_mm, in_plane_mm
        Spacing of the new grid. Where the new step is longer than the old, slices are averaged over the step first.
    """
    spacing = np.array(pair.spacing_mm)
    image = pair.image
    if step_mm > 1.5 * spacing[0]:
        image = ndimage.uniform_filter1d(image, max(1, round(0.8 * step_mm / spacing[0])), axis=0)
    target = np.array([step_mm, in_plane_mm, in_plane_mm])
    shape = np.array(pair.image.shape)
    size = np.ceil(shape * spacing / target).astype(int)
    matrix = np.diag(1 / spacing) @ rotation(angles_deg) @ np.diag(target)
    offset = (shape - 1) / 2 - matrix @ ((size - 1) / 2)
    cut = ndimage.affine_transform(image, matrix, offset, tuple(size), order=1)
    mask = ndimage.affine_transform(pair.mask.astype(np.float32), matrix, offset, tuple(size), order=1) > 0.5
    full = np.flatnonzero((cut > 0.05 * np.percentile(cut, 99)).mean((1, 2)) > 0.01)
    if full.size:
        cut, mask = cut[full[0] : full[-1] + 1], mask[full[0] : full[-1] + 1]
    return Pair(cut.astype(np.float32), mask, (step_mm, in_plane_mm, in_plane_mm))


def rotation(angles_deg: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def tilted_copy(pair: Pair, *, random: np.random.Generator, in_plane_mm: float) -> Pair:
    """Cut the head along planes that are nodded and turned by up to :data:`TILT_DEG` degrees, in a drawn thickness.

    Thick slices are given a drawn step of :data:`ASSUMED_STEP_MM`, because the tilt shears them by it. Thin ones
    become, with equal chance, tilted slices of 1 to 2 mm, tilted slices of 3 to 6 mm, or axial slices of 3 to 6 mm that
    are tilted only afterwards: the last is what a reformatted series of a thick-slice acquisition looks like.
    """
    roll = float(random.uniform(-10, 10))
    nod, turn = (float(angle) for angle in random.uniform(-TILT_DEG, TILT_DEG, 2))
    angles = (roll, nod, turn)
    if pair.spacing_mm[0] >= 2:
        step = float(random.uniform(*ASSUMED_STEP_MM))
        return oblique_copy(Pair(pair.image, pair.mask, (step, *pair.spacing_mm[1:])), angles, step, in_plane_mm)
    kind = int(random.integers(3))
    step = float(random.uniform(1, 2) if kind == 0 else random.uniform(3, 6))
    if kind == 2:
        pair = oblique_copy(pair, (0.0, 0.0, 0.0), step, in_plane_mm)
    return oblique_copy(pair, angles, step, in_plane_mm)


def stripped_copy(pair: Pair, *, random: np.random.Generator, in_plane_mm: float) -> Pair:
    """The same head with everything outside the brain set to zero; every second one tilted besides."""
    bare = Pair(np.where(brain_mask(pair), pair.image, pair.image.min()), pair.mask, pair.spacing_mm)
    return tilted_copy(bare, random=random, in_plane_mm=in_plane_mm) if random.random() < 0.5 else bare


def brain_mask(pair: Pair) -> npt.NDArray[np.bool_]:
    """Where the brain is in a native FLAIR, roughly: good enough to make training heads, not to measure a brain.

    Tissue is parted from the scalp by opening it slice by slice (skull and fluid are dark, fat is bright). From the
    slice with the most brain upwards and downwards, the large parts within the outline of the slice before are kept,
    closed and filled. The marked region always belongs to the brain.

    Returns
    -------
    ``(S, R, C)`` bool.
    """
    picture = standardise_flair(pair.image)
    in_plane = pair.spacing_mm[1:]
    tissue = ((picture > 0.4) & (picture < 2.0)) | pair.mask
    depth = np.stack([_depth(ndimage.binary_fill_holes(_closed(slice_, 3)), in_plane) for slice_ in picture > 0.4])
    inner = np.stack([_depth(part & (deep > 8), in_plane) > 3.5 for part, deep in zip(tissue, depth, strict=True)])
    middle = int(np.argmax((inner & (depth > 25)).sum((1, 2))))
    brain = np.zeros(tissue.shape, dtype=bool)
    for indices in (range(middle, len(tissue)), range(middle - 1, -1, -1)):
        near = depth[middle] > 0 if indices.start == middle else brain[middle]
        for index in indices:
            parts, count = ndimage.label(inner[index] & near)
            if count == 0:
                break
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept = (sizes > 0.2 * sizes.max())[parts]
            grown = (_depth(~kept, in_plane) < 4.5) & (depth[index] > 6)
            brain[index] = ndimage.binary_fill_holes(_closed(grown, 6))
            near = _depth(~brain[index], in_plane) < 2.0
    return np.asarray(brain | pair.mask)


def _depth(part: npt.NDArray[np.bool_], spacing_mm: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Distance to the nearest pixel outside the part, in mm."""
    return np.asarray(ndimage.distance_transform_edt(part, sampling=spacing_mm))


def _closed(part: npt.NDArray[np.bool_], pixels: int) -> npt.NDArray[np.bool_]:
    return np.asarray(ndimage.binary_closing(np.pad(part, pixels), iterations=pixels)[pixels:-pixels, pixels:-pixels])
