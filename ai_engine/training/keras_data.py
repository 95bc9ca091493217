"""What ``brain-tumour-tf`` learns from: four sequences of *brats* with their parts, as patches of a fixed size.

Studies are prepared by the function that the runner uses (`ai_engine.runners.keras_unet.prepare`).  A patch is cut
around a voxel of a chosen kind (a part of the tumour, anywhere in the brain), mirrored, sometimes turned and
scaled, and its grey values are changed channel by channel inside the brain.  Outside the brain stays exactly zero.

Guaranteed: the same generator state gives the same patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.packages.schema import Preparation
from ai_engine.runners.keras_unet import prepare
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.nifti import read_axial
from ai_engine.training.tumour_cases import CONVENTIONS, TumourCase, tumour_cases

ROLES = ("t1c", "t1", "t2", "flair")
"""In the order of the network's channels."""
ROLE_SETS = (ROLES, ("t1c", "flair"), ("t1c",))
"""What may come together; the network learns with the other channels zero everywhere."""
SUFFIXES: Mapping[str, str] = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"}
"""Roles as the files of *brats* spell them."""

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Size = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class TumourStudy:
    """One patient: ``(channel, S, R, C)`` as read, labels 0 to 3 ``(S, R, C)``; axial, rows back, columns left."""

    name: str
    channels: Floats
    labels: Labels
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Places:
    """Where patches of each kind may be centred."""

    parts: tuple[npt.NDArray[np.int64], ...]
    brain: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drawing:
    """How patches are cut and changed; shares are probabilities per patch or per channel."""

    part_share: float = 0.6
    """Centred on a part of the tumour, every part as often; else anywhere in the brain."""
    turn_share: float = 0.4
    turn_deg: float = 20.0
    scale: tuple[float, float] = (0.8, 1.25)
    level_share: float = 0.5
    level: float = 0.15
    slope: tuple[float, float] = (0.75, 1.3)
    gamma_share: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)
    blur_share: float = 0.15
    noise_share: float = 0.2
    noise: float = 0.12
    set_shares: tuple[float, ...] = (0.65, 0.1, 0.25)
    """How often a patch shows each of `ROLE_SETS`."""


def brats_studies(folder: Path) -> list[TumourCase]:
    """The cases of *brats* below a folder, in the order of their table."""
    return [case for case in tumour_cases(folder) if case.source == "brats"]


def read_tumour_study(case: TumourCase) -> TumourStudy:
    """Read the four sequences and the labels, by name of the parts, turned to axial LPS; nothing is resampled.

    Raises
    ------
    TrainingDataError
        If a file is missing, sizes differ, or a label is not in the case's convention.
    """
    folder, stem = case.labels.parent, case.labels.name.removesuffix("_seg.nii.gz")
    pictures = []
    spacing = (1.0, 1.0, 1.0)
    for role in ROLES:
        path = folder / f"{stem}_{SUFFIXES[role]}.nii.bz2"
        if not path.is_file():
            raise TrainingDataError(f"{case.name}: no file for {role}")
        picture, spacing = read_axial(path)
        pictures.append(picture)
    drawn, _ = read_axial(case.labels)
    if any(picture.shape != drawn.shape for picture in pictures):
        raise TrainingDataError(f"{case.name}: pictures and labels differ in size")
    values = np.rint(drawn).astype(np.int16)
    meaning = CONVENTIONS[case.convention]
    strange = set(np.unique(values).tolist()) - set(meaning)
    if strange:
        raise TrainingDataError(f"{case.name}: label {sorted(strange)[0]} is not in convention {case.convention!r}")
    labels = np.zeros(values.shape, dtype=np.uint8)
    for value, label in meaning.items():
        labels[values == value] = label
    return TumourStudy(case.name, np.stack(pictures), labels, spacing)


class Patches:
    """An endless source of patches from prepared studies."""

    def __init__(self, studies: Sequence[TumourStudy], rule: Preparation, drawing: Drawing, seed: int) -> None:
        self._drawing = drawing
        self.random = np.random.default_rng(seed)
        self._volumes = []
        for study in studies:
            prepared = prepare(study.channels, study.spacing_mm, rule)
            labels = study.labels[prepared.box]
            self._volumes.append((prepared.data, labels, _places(prepared.data, labels)))

    def draw(self, count: int, size: Size) -> tuple[Floats, npt.NDArray[np.int32]]:
        """``(N, S, R, C, channel)`` float32 and ``(N, S, R, C)`` labels."""
        pairs = [self._one(size) for _ in range(count)]
        data = np.stack([np.moveaxis(picture, 0, -1) for picture, _ in pairs])
        return np.ascontiguousarray(data), np.stack([labels for _, labels in pairs]).astype(np.int32)

    def _one(self, size: Size) -> tuple[Floats, Labels]:
        random, how = self.random, self._drawing
        data, labels, places = self._volumes[random.integers(len(self._volumes))]
        here = places.brain
        present = [part for part in places.parts if len(part)]
        if present and random.random() < how.part_share:
            here = present[random.integers(len(present))]
        centre = np.array(np.unravel_index(here[random.integers(len(here))], labels.shape), dtype=np.float64)
        centre += random.uniform(-0.25, 0.25, 3) * np.array(size)
        if random.random() < how.turn_share:
            picture, parts = self._turned(data, labels, centre, size)
        else:
            picture, parts = _cut(data, labels, np.rint(centre).astype(int), size)
        for axis in range(3):
            if random.random() < 0.5:
                picture, parts = np.flip(picture, axis + 1), np.flip(parts, axis)
        picture = self._regrey(np.ascontiguousarray(picture))
        shown = ROLE_SETS[random.choice(len(ROLE_SETS), p=how.set_shares)]
        picture[[index for index, role in enumerate(ROLES) if role not in shown]] = 0
        return picture, parts

    def _turned(
        self, data: Floats, labels: Labels, centre: npt.NDArray[np.float64], size: Size
    ) -> tuple[Floats, Labels]:
        random, how = self.random, self._drawing
        matrix = np.eye(3) / np.exp(random.uniform(*np.log(how.scale)))
        for axis, angle in enumerate(np.deg2rad(random.uniform(-how.turn_deg, how.turn_deg, 3))):
            first, second = (other for other in range(3) if other != axis)
            turn = np.eye(3)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        offset = centre - matrix @ ((np.array(size) - 1) / 2)
        picture = np.stack([ndimage.affine_transform(channel, matrix, offset, size, order=1) for channel in data])
        parts = ndimage.affine_transform(labels, matrix, offset, size, order=0)
        outside = ndimage.affine_transform(data[0], matrix, offset, size, order=0) == 0
        picture[:, outside] = 0
        return picture, parts

    def _regrey(self, picture: Floats) -> Floats:
        random, how = self.random, self._drawing
        inside = picture != 0
        for channel, own in zip(picture, inside, strict=True):
            if random.random() < how.level_share:
                channel *= np.float32(np.exp(random.uniform(*np.log(how.slope))))
                channel += np.float32(random.normal(0, how.level))
            if random.random() < how.gamma_share and own.any():
                low, high = float(channel[own].min()), float(channel[own].max())
                share = np.clip((channel - low) / max(high - low, 1e-6), 0, 1)
                channel[:] = low + (high - low) * share ** np.float32(np.exp(random.uniform(*np.log(how.gamma))))
            if random.random() < how.blur_share:
                channel[:] = ndimage.gaussian_filter(channel, float(random.uniform(0.4, 1.0)))
            if random.random() < how.noise_share:
                channel += random.normal(0, how.noise, channel.shape).astype(np.float32)
        picture[~inside] = 0
        return picture


def _places(data: Floats, labels: Labels) -> _Places:
    flat = labels.ravel()
    brain = np.flatnonzero((data != 0).any(0).ravel())
    return _Places(tuple(np.flatnonzero(flat == part) for part in (1, 2, 3)), brain)


def _cut(data: Floats, labels: Labels, centre: npt.NDArray[np.int64], size: Size) -> tuple[Floats, Labels]:
    """A box around a voxel; zeros where it hangs over."""
    picture = np.zeros((len(data), *size), dtype=np.float32)
    parts = np.zeros(size, dtype=np.uint8)
    source, target = [], []
    for middle, wide, whole in zip(centre, size, labels.shape, strict=True):
        start = int(middle) - wide // 2
        low, high = max(0, start), min(whole, start + wide)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    picture[(slice(None), *target)] = data[(slice(None), *source)]
    parts[tuple(target)] = labels[tuple(source)]
    return picture, parts
