"""Sliding windows as nnU-Net lays them: same steps, same Gaussian weights, same mirroring; our own calls.

nnU-Net adds up in half precision; here it is float32, so results differ from the shipped program by its rounding only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network
from ai_engine.faults import OutputNotFinite

Floats = npt.NDArray[np.float32]
Window = tuple[slice | int, ...]


@dataclass(frozen=True)
class Plan:
    """How the windows are laid: patch in voxels (2 or 3 numbers), step as a share of it, mirrored patch axes."""

    patch: tuple[int, ...]
    step: float
    mirror_axes: tuple[int, ...] = ()

    @property
    def passes_per_window(self) -> int:
        return int(2 ** len(self.mirror_axes))


def sliding_window_logits(networks: Sequence[Network], data: Floats, plan: Plan, classes: int) -> tuple[Floats, int]:
    """Average logits over overlapping windows.

    Parameters
    ----------
    networks
        One per fold; their logits are averaged, as nnU-Net averages folds.
    data
        (C, S, R, C) float32, preprocessed.  With a patch of two numbers every slice is a picture of its own.

    Returns
    -------
    logits, passes
        (classes, S, R, C) float32, and how many tiles went through a network.

    Raises
    ------
    OutputNotFinite
        If the network answered with NaN or infinity.
    """
    padded, inner = _pad(data, plan.patch)
    windows = list(_windows(padded.shape[1:], plan))
    gaussian = _gaussian(plan.patch)
    total = np.zeros((classes, *padded.shape[1:]), dtype=np.float32)
    weight = np.zeros(padded.shape[1:], dtype=np.float32)
    for network in networks:
        for group in _groups(windows, network.batch):
            tiles = np.zeros((network.batch, data.shape[0], *plan.patch), dtype=np.float32)
            for index, window in enumerate(group):
                tiles[index] = padded[(slice(None), *window)]
            answers = _mirrored(network, tiles, plan.mirror_axes)
            for index, window in enumerate(group):
                total[(slice(None), *window)] += answers[index] * gaussian
                weight[window] += gaussian
    total /= weight
    if not np.isfinite(total).all():
        raise OutputNotFinite("the network answered with values that are not finite")
    return total[(slice(None), *inner)], len(windows) * plan.passes_per_window * len(networks)


def _groups(windows: Sequence[Window], size: int) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


def _mirrored(network: Network, tiles: Floats, axes: tuple[int, ...]) -> Floats:
    """The mean over all mirrored copies; added up in one array, because each of these is tens of megabytes."""
    if not axes:
        return network(tiles)
    answer = np.array(network(tiles), dtype=np.float32)
    combinations = [
        tuple(axis + 2 for axis in chosen)
        for count in range(1, len(axes) + 1)
        for chosen in itertools.combinations(axes, count)
    ]
    for flipped in combinations:
        answer += np.flip(network(np.flip(tiles, flipped)), flipped)
    answer /= np.float32(len(combinations) + 1)
    return answer


def _pad(data: Floats, patch: tuple[int, ...]) -> tuple[Floats, tuple[slice, ...]]:
    """Zeros around the data where it is smaller than the patch, the larger half after it (nnU-Net's pad_nd_image)."""
    spatial = data.shape[1:]
    own = len(spatial) - len(patch)
    wanted = [*spatial[:own], *(max(p, n) for p, n in zip(patch, spatial[own:], strict=True))]
    before = [(new - old) // 2 for new, old in zip(wanted, spatial, strict=True)]
    widths = [(0, 0), *((b, new - old - b) for b, new, old in zip(before, wanted, spatial, strict=True))]
    inner = tuple(slice(b, b + old) for b, old in zip(before, spatial, strict=True))
    return np.pad(data, widths), inner


def _windows(shape: tuple[int, ...], plan: Plan) -> Iterator[Window]:
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    leading = shape[: len(shape) - len(plan.patch)]
    steps = compute_steps_for_sliding_window(shape[len(leading) :], plan.patch, plan.step)
    for index in itertools.product(*(range(size) for size in leading)):
        for corner in itertools.product(*steps):
            yield (*index, *(slice(at, at + size) for at, size in zip(corner, plan.patch, strict=True)))


def _gaussian(patch: tuple[int, ...]) -> Floats:
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    weights = compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu")
    )
    return np.asarray(weights.numpy(), dtype=np.float32)
