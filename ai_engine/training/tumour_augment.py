"""Cutting of patches for ``brain-tumour``, changed in form and contrast on the way.

A patch is sampled straight from the whole volume through one affine grid, so turning, scaling, mirroring and the change
of voxel size cost one interpolation.  Contrast is changed in nnU-Net's z-scored values.  A patch of one patient may get
the tumour of another patient of the same training side (the idea of CarveMix, Zhang et al., MICCAI 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ai_engine.training.tumour_cases import OUTSIDE, PARTLESS, Study

FLOOR = -3.0
"""About the darkest z-scored value; contrast is changed relative to it."""


@dataclass(frozen=True)
class TumourAugmentation:
    """How often and how far; shares are probabilities per patch."""

    object_share: float = 0.65
    """Patches around a voxel of a part of the tumour; the others around any voxel of the brain."""
    shift: float = 0.28
    """Largest distance of that voxel from the middle, as a share of the patch."""
    mirror: tuple[float, float, float] = (0.1, 0.1, 0.5)
    """Along slices, rows, columns."""
    turn_deg: tuple[float, float, float] = (25.0, 12.0, 12.0)
    """Standard deviation about the slice, row and column axis."""
    scale_log: float = 0.18
    stretch_log: float = 0.07
    warp: float = 0.3
    warp_mm: float = 5.0
    transplant: float = 0.3
    region: float = 0.35
    region_offset: float = 0.4
    contrast: float = 0.8
    gamma_log: float = 0.35
    gain_log: float = 0.2
    offset: float = 0.25
    bias: float = 0.5
    bias_log: float = 0.12
    noise: float = 0.35
    noise_sigma: float = 0.25
    low_resolution: float = 0.3
    low_resolution_factor: tuple[float, float] = (1.5, 4.5)
    drop_flair: float = 0.35
    """How often FLAIR is left out, so that the network also learns T1 after contrast alone."""


class Volume:
    """A normalised study in memory with the places of its parts.

    Attributes
    ----------
    image, labels
        ``(1, 2, S, R, C)`` and ``(1, 1, S, R, C)`` float32.
    has_t1c
        Whether the first channel was there.
    """

    def __init__(self, name: str, study: Study, has_t1c: bool) -> None:
        self.name = name
        self.image = torch.from_numpy(np.ascontiguousarray(study.channels))[None]
        self.labels = torch.from_numpy(study.labels.astype(np.float32))[None, None]
        self.spacing_mm = np.array(study.spacing_mm)
        self.has_t1c = has_t1c
        self.parts = {int(v): _places(study.labels == v) for v in np.unique(study.labels) if v > 0}
        self.brain = _places(study.labels != OUTSIDE)


def _places(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    places = np.flatnonzero(where)
    chosen = places[np.linspace(0, len(places) - 1, min(len(places), 4000)).astype(int)]
    return np.stack(np.unravel_index(chosen, where.shape), 1).astype(np.int16)


def cut(
    volume: Volume, patch: Sequence[int], how: TumourAugmentation, random: np.random.Generator, *, on_object: bool
) -> tuple[Tensor, Tensor]:
    """Cut one patch at 1 mm: ``(1, 2, *patch)`` image and ``(1, 1, *patch)`` labels."""
    sides = np.array(patch, dtype=float)
    if on_object and volume.parts:
        kinds = sorted(volume.parts)
        places = volume.parts[kinds[random.integers(len(kinds))]]
    else:
        places = volume.brain
    place = places[random.integers(len(places))]
    matrix = _form(how, random)
    centre = place + (matrix @ (random.uniform(-how.shift, how.shift, 3) * sides)) / volume.spacing_mm
    size = np.array(volume.image.shape[2:])
    # affine_grid counts in shares of half a side, axes as x, y, z, from -1 to 1
    linear = np.diag(2 / size / volume.spacing_mm) @ matrix @ np.diag(sides / 2)
    theta = np.concatenate((linear[::-1, ::-1], (2 * (centre + 0.5) / size - 1)[::-1, None]), 1)
    grid = functional.affine_grid(torch.from_numpy(theta.copy()).float()[None], [1, 1, *patch], align_corners=False)
    if random.random() < how.warp:
        coarse = torch.randn(1, 3, 5, 5, 5) * float(how.warp_mm * random.uniform(0.3, 1))
        field = functional.interpolate(coarse, size=tuple(patch), mode="trilinear", align_corners=True)
        to_share = torch.tensor((2 / size / volume.spacing_mm)[::-1].copy()).float()
        grid = grid + field.permute(0, 2, 3, 4, 1) * to_share
    image = functional.grid_sample(volume.image, grid, mode="bilinear", align_corners=False)
    # shifted by one so that what lies beyond the volume (0) means outside
    labels = functional.grid_sample(volume.labels - OUTSIDE, grid, mode="nearest", align_corners=False) + OUTSIDE
    return image, labels


def _form(how: TumourAugmentation, random: np.random.Generator) -> npt.NDArray[np.float64]:
    matrix = np.diag(np.exp(random.normal(0, how.stretch_log, 3) + random.normal(0, how.scale_log)))
    for axis, degrees in enumerate(how.turn_deg):
        angle = math.radians(float(np.clip(random.normal(0, degrees), -60, 60)))
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix @ np.diag([-1.0 if random.random() < share else 1.0 for share in how.mirror])


def training_patch(
    groups: Mapping[str, Sequence[Volume]],
    shares: Mapping[str, float],
    patch: Sequence[int],
    how: TumourAugmentation,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor, bool]:
    """Draw source, patient and place; cut, transplant, change contrast, leave FLAIR out.

    Returns
    -------
    image, labels, partless
        ``(1, 2, *patch)`` float32; ``(1, *patch)`` int64 with OUTSIDE as background; whether the truth is an outline
        without parts.
    """
    kinds = [kind for kind in shares if groups.get(kind)]
    weights = np.array([shares[kind] for kind in kinds])
    kind = kinds[random.choice(len(kinds), p=weights / weights.sum())]
    volume = groups[kind][int(random.integers(len(groups[kind])))]
    image, labels = cut(volume, patch, how, random, on_object=random.random() < how.object_share)
    if kind != "lgg-flair" and len(groups[kind]) > 1 and random.random() < how.transplant:
        donor = groups[kind][int(random.integers(len(groups[kind])))]
        other, others = cut(donor, patch, how, random, on_object=True)
        put = (others > 0) & (labels >= 0)
        image, labels = torch.where(put, other, image), torch.where(put, others, labels)
    brain = labels >= 0
    image = _contrast(image, labels, how, random)
    if not volume.has_t1c:
        image[:, 0] = 0
    elif random.random() < how.drop_flair:
        image[:, 1] = 0
    return image * brain, labels[:, 0].clamp(0, PARTLESS).long(), not volume.has_t1c


def _contrast(image: Tensor, labels: Tensor, how: TumourAugmentation, random: np.random.Generator) -> Tensor:
    channels = [_one_contrast(image[:, index : index + 1], labels, how, random) for index in range(image.shape[1])]
    return torch.cat(channels, 1)


def _one_contrast(image: Tensor, labels: Tensor, how: TumourAugmentation, random: np.random.Generator) -> Tensor:
    size = tuple(image.shape[2:])
    if random.random() < how.region:
        offsets = torch.zeros(PARTLESS + 1)
        offsets[1:] = torch.from_numpy(random.normal(0, how.region_offset, PARTLESS)).float()
        image = image + offsets[labels.clamp(0).long()]
    if random.random() < how.low_resolution:
        factor = random.uniform(*how.low_resolution_factor)
        axis = int(random.integers(4))
        small = [max(4, int(n / factor)) if axis in (k, 3) else n for k, n in enumerate(size)]
        low = functional.interpolate(image, size=small, mode="area")
        image = functional.interpolate(low, size=size, mode="trilinear", align_corners=False)
    if random.random() < how.contrast:
        above = (image - FLOOR).clamp(1e-3) / 4.0
        gamma = math.exp(random.normal(0, how.gamma_log))
        image = above**gamma * 4.0 * math.exp(random.normal(0, how.gain_log)) + FLOOR
        image = image + random.normal(0, how.offset)
    if random.random() < how.bias:
        field = functional.interpolate(torch.randn(1, 1, 4, 4, 4), size=size, mode="trilinear", align_corners=True)
        image = (image - FLOOR) * torch.exp(field * how.bias_log) + FLOOR
    if random.random() < how.noise:
        image = image + torch.randn(image.shape) * float(random.uniform(0, how.noise_sigma))
    return image
