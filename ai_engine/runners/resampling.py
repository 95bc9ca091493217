"""nnU-Net's default resampling, to the same numbers in a tenth of the time.

nnU-Net resamples with ``skimage.transform.resize``: a spline through every voxel with three axes at once, although only
two change in a 2D configuration.  That interpolation is linear and acts axis by axis, so it *is* one matrix for each
axis, and the matrix is found by asking the same function about unit vectors.  Multiplying by it in double precision
differs from the original by the order of the summation alone: at most 1e-14 of the largest value before rounding to
float32, so at most one unit in the last place after it, and nearly always none (``docs/decisions``, tested against
nnU-Net's function).

Anything else that a plan may name is left to nnU-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Resample = Callable[[Any, Sequence[int], Sequence[float], Sequence[float]], Any]

REPLACED = "resample_data_or_seg_to_shape"
"""The function of nnU-Net that `same_resampling` stands for."""

_SLAB_VOXELS = 1 << 19
"""Voxels that are multiplied at once: their double-precision copies stay in the processor's cache."""


def same_resampling(name: str, options: Mapping[str, Any], theirs: Resample) -> Resample:
    """A function that gives what `theirs` gives: our own where it is known to be equal, else `theirs`.

    Parameters
    ----------
    name, options
        As the plan has them, ``resampling_fn_data`` and ``resampling_fn_data_kwargs`` or those of the probabilities.
    theirs
        nnU-Net's function with the options bound.
    """
    order = options.get("order", 3)
    if name != REPLACED or options.get("is_seg", False) or order not in (1, 2, 3):
        return theirs
    threshold = options.get("separate_z_anisotropy_threshold")
    extra = {} if threshold is None else {"separate_z_anisotropy_threshold": threshold}

    def resample(
        data: Any, new_shape: Sequence[int], current_spacing: Sequence[float], new_spacing: Sequence[float]
    ) -> Any:
        from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

        new = tuple(int(size) for size in new_shape)
        is_separate, axis = determine_do_sep_z_and_axis(
            options.get("force_separate_z", False), current_spacing, new_spacing, **extra
        )
        if not isinstance(data, np.ndarray) or data.dtype != np.float32:
            return theirs(data, new_shape, current_spacing, new_spacing)
        if new == data.shape[1:]:
            return data
        if not is_separate:
            return _whole(data, new, order)
        if data.shape[1 + int(axis)] != new[int(axis)]:
            return theirs(data, new_shape, current_spacing, new_spacing)  # nearest slice along the thick axis
        return _slice_by_slice(data, new, int(axis), order)

    return resample


def _whole(data: Floats, new: Shape, order: int) -> Floats:
    """One spline through each channel as a whole, cut off at that channel's own range as skimage does."""
    made = np.empty((data.shape[0], *new), dtype=np.float32)
    for channel, values in enumerate(data):
        _fill(made[channel], values, order, values.min(keepdims=True), values.max(keepdims=True))
    return made


def _slice_by_slice(data: Floats, new: Shape, axis: int, order: int) -> Floats:
    """One spline through each slice across `axis`, which keeps its size, cut off at that slice's own range."""
    made = np.empty((data.shape[0], *new), dtype=np.float32)
    for channel, values in enumerate(data):
        slices = np.ascontiguousarray(np.moveaxis(values, axis, 0))
        low, high = (reduce(axis=(1, 2), keepdims=True) for reduce in (slices.min, slices.max))
        _fill(np.moveaxis(made[channel], axis, 0), slices, order, low, high)
    return made


def _fill(target: Floats, values: Floats, order: int, low: Floats, high: Floats) -> None:
    """Resample (S, R, C) `values` into `target`, clipped to `low`..`high` (broadcast over (S, R, C))."""
    import torch

    if target.shape[0] != values.shape[0]:  # along the first axis before, because slabs are cut across it
        along = _matrix(values.shape[0], target.shape[0], order)
        source = (along @ torch.from_numpy(np.ascontiguousarray(values)).double().flatten(1)).unflatten(
            1, values.shape[1:]
        )
    else:
        source = torch.from_numpy(np.ascontiguousarray(values))
    bounds = [torch.from_numpy(bound).double().expand(target.shape[0], 1, 1) for bound in (low, high)]

    def one(slab: slice) -> None:
        made = _in_plane(source[slab].double(), target.shape[1:], order)
        target[slab] = made.clamp_(bounds[0][slab], bounds[1][slab]).float().numpy()

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(one, _slabs(source.shape)):
            pass


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    depth = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        yield slice(start, start + depth)


def _in_plane(slab: torch.Tensor, new: Shape, order: int) -> torch.Tensor:
    """Resample the two last axes of (S, R, C) double-precision values."""
    import torch

    if order == 1:  # the matrix has two numbers in a row: torch's bilinear resampling takes only these
        return torch.nn.functional.interpolate(slab[None], size=new, mode="bilinear", align_corners=False)[0]
    if slab.shape[1] != new[0]:
        slab = torch.matmul(_matrix(slab.shape[1], new[0], order), slab)
    if slab.shape[2] != new[1]:
        slab = torch.matmul(slab, _matrix(slab.shape[2], new[1], order).T)
    return slab


@lru_cache(maxsize=32)
def _matrix(old: int, new: int, order: int) -> torch.Tensor:
    """(new, old) matrix of the resampling of one axis: its columns are the answers to the unit vectors."""
    import torch
    from skimage.transform import resize

    columns = [
        resize(unit, (new,), order, mode="edge", anti_aliasing=False, clip=False) for unit in np.eye(old, dtype=float)
    ]
    return torch.from_numpy(np.ascontiguousarray(np.stack(columns, axis=1)))
