"""A localiser: one look at half the resolution, then one window around what was seen.

The look is a pass of the same network over everything, on a grid of half the resolution, not mirrored.  Where it sees
nothing, or more than fits into one window with its margin, all overlapping windows are run as without it: a localiser
saves windows, never a case.  What lies outside the window is background, so a lesion that the look missed far from the
others is missed: what that costs is measured by the accuracy gate, and `window: located` needs one that passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network
from ai_engine.runners.tiles import Plan, sliding_window_logits

Floats = npt.NDArray[np.float32]
Box = tuple[tuple[int, int], ...]
"""First voxel and the one behind the last, along each axis."""

MARGIN = 10
"""Voxels around what was seen."""
SMALLEST_VOXELS = 1000
"""Connected parts of the look's answer below this do not pull the window."""
_BACKGROUND = np.float32(20.0)
"""Logit of background outside the window: a softmax of 1."""


def located_logits(networks: Sequence[Network], data: Floats, plan: Plan, classes: int) -> tuple[Floats, int]:
    """Logits as `sliding_window_logits`, of one window where one will do.

    Parameters
    ----------
    data
        (C, S, R, C) float32, preprocessed; the plan's patch has three numbers.

    Returns
    -------
    logits, passes
        (classes, S, R, C) float32, and how many tiles went through a network, the look's among them.
    """
    coarse, looked = half_resolution(networks, data, plan, classes)
    box = box_of(coarse)
    if box is None or not fits(box, plan):
        logits, passes = sliding_window_logits(networks, data, plan, classes)
    else:
        logits, passes = one_window(networks, data, plan, classes, box)
    return logits, looked + passes


def half_resolution(networks: Sequence[Network], data: Floats, plan: Plan, classes: int) -> tuple[Floats, int]:
    """Logits of a look at half the resolution, brought back by repetition, and its passes."""
    import torch

    even = np.pad(data, [(0, 0), *((0, size % 2) for size in data.shape[1:])])
    small = torch.nn.functional.avg_pool3d(torch.from_numpy(even)[None], 2)[0].numpy()
    logits, passes = sliding_window_logits(networks[:1], small, replace(plan, step=1.0, mirror_axes=()), classes)
    large = logits.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    return np.ascontiguousarray(large[:, : data.shape[1], : data.shape[2], : data.shape[3]]), passes


def box_of(logits: Floats) -> Box | None:
    """The box around everything that is not background and large enough; None without any."""
    from scipy import ndimage

    parts, _ = ndimage.label(logits.argmax(axis=0) > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    places = np.nonzero((sizes >= SMALLEST_VOXELS)[parts])
    return tuple((int(axis.min()), int(axis.max()) + 1) for axis in places) if places[0].size else None


def fits(box: Box, plan: Plan) -> bool:
    """Whether a box and its margin lie within one window."""
    return all(high - low + 2 * MARGIN <= side for (low, high), side in zip(box, plan.patch, strict=True))


def one_window(networks: Sequence[Network], data: Floats, plan: Plan, classes: int, box: Box) -> tuple[Floats, int]:
    """Logits of one window around a box; background everywhere else."""
    places = []
    for (low, high), side, size in zip(box, plan.patch, data.shape[1:], strict=True):
        begin = min(max(0, (low + high - side) // 2), max(0, size - side))
        places.append(slice(begin, begin + side))
    inside, passes = sliding_window_logits(networks, data[(slice(None), *places)], plan, classes)
    logits = np.zeros((classes, *data.shape[1:]), dtype=np.float32)
    logits[0] = _BACKGROUND
    logits[(slice(None), *places)] = inside
    return logits, passes
