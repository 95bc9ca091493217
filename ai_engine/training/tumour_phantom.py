"""Synthetic skull-stripped brains with tumours in parts, as T1 after contrast and FLAIR.

The head is :mod:`ai_engine.phantom`'s; tumour and grey values are drawn anew for each one: nested bodies with wavy
surfaces, with and without an enhancing wall, with and without a core, sometimes two.  What is bright without being
tumour (vessels and dura after contrast, the rim of the ventricles in FLAIR) is there too, unlabelled.

They teach what the parts mean relative to each other.  They are no likeness of patients.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ai_engine.phantom import Tissue, synthesise_head
from ai_engine.training.tumour_cases import CORE, ENHANCING, OEDEMA, Floats, Labels, Study

SPACING_MM = 1.5
SHAPE = (96, 118, 98)


def synthetic_study(seed: int) -> Study:
    """Draw head, tumour and pictures of one seed; ``(2, 96, 118, 98)`` at 1.5 mm."""
    random = np.random.default_rng((seed, 11))
    head = synthesise_head(seed, shape=SHAPE, spacing_mm=(SPACING_MM,) * 3)
    tissue = head.labels()
    brain = np.isin(tissue, (Tissue.CSF, Tissue.GREY, Tissue.WHITE, Tissue.DURA))
    brain = ndimage.binary_opening(brain, iterations=2)
    parts, _ = ndimage.label(brain)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    brain = parts == sizes.argmax()
    labels = np.zeros(SHAPE, dtype=np.int8)
    for _ in range(1 + int(random.random() < 0.3)):
        _draw_tumour(labels, brain, tissue, random)
    return Study(_pictures(tissue, brain, labels, random), labels, (SPACING_MM,) * 3)


def _waves(random: np.random.Generator, length: float) -> Floats:
    """A smooth random field of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(random.normal(size=SHAPE).astype(np.float32), length)
    return np.asarray(field / field.std(), dtype=np.float32)


def _draw_tumour(labels: Labels, brain: np.ndarray, tissue: np.ndarray, random: np.random.Generator) -> None:
    deep = ndimage.distance_transform_edt(brain)
    places = np.argwhere((deep > 6) & (tissue != Tissue.CSF))
    center = places[random.integers(len(places))]
    radii = random.uniform(7, 24, 3) * random.uniform(0.7, 1.1) / SPACING_MM
    grid = np.indices(SHAPE, dtype=np.float32)
    distance = np.sqrt(sum(((grid[axis] - center[axis]) / radii[axis]) ** 2 for axis in range(3)))
    share = distance * np.exp(0.13 * _waves(random, 4) + 0.1 * _waves(random, 1.6))
    body = brain & (share < 1) & ~((tissue == Tissue.CSF) & (random.random() < 0.7))
    kind = random.choice(4, p=(0.5, 0.15, 0.25, 0.1))
    labels[body] = OEDEMA
    inner = random.uniform(0.35, 0.9)
    wall = random.uniform(0.06, 0.3)
    if kind == 0:  # a wall around a core
        labels[body & (share < inner)] = ENHANCING
        labels[body & (share < inner - wall - 0.06 * _waves(random, 1.5))] = CORE
    elif kind == 1:  # solid
        labels[body & (share < inner)] = ENHANCING
    elif kind == 2:  # nothing, or specks, enhance
        labels[body & (share < random.uniform(0.6, 1.1))] = CORE
        if random.random() < 0.5:
            labels[body & (share < inner) & (_waves(random, 2) > 1.9)] = ENHANCING


def _pictures(tissue: np.ndarray, brain: np.ndarray, labels: Labels, random: np.random.Generator) -> Floats:
    def table(csf: float, grey: float, white: float) -> Floats:
        values = np.zeros(32, dtype=np.float32)
        values[[Tissue.CSF, Tissue.GREY, Tissue.WHITE, Tissue.DURA]] = csf, grey, white, grey
        return np.asarray(values[tissue] * np.exp(0.04 * _waves(random, 1.2)), dtype=np.float32)

    def mark(picture: Floats, where: np.ndarray, low: float, high: float, texture: float = 0.1) -> None:
        level = random.uniform(low, high)
        picture[where] = (level * (1 + texture * _waves(random, 1.5)))[where]

    contrast = table(random.uniform(0.25, 0.5), random.uniform(0.75, 0.95), random.uniform(0.95, 1.1))
    flair = table(random.uniform(0.1, 0.4), random.uniform(1.0, 1.25), random.uniform(0.8, 1.0))
    for _ in range(int(random.integers(3, 9))):  # vessels after contrast: thin and bright, no tumour
        line = np.abs(_waves(random, 5)) + np.abs(_waves(random, 5))
        contrast[line < 0.10] = random.uniform(1.2, 2.0)
    edge = brain & ~ndimage.binary_erosion(brain, iterations=1)
    contrast[edge & (_waves(random, 3) > 1.0)] = random.uniform(1.1, 1.9)
    rim = ndimage.binary_dilation(ndimage.binary_opening(tissue == Tissue.CSF, iterations=3)) & (tissue == Tissue.WHITE)
    flair[rim] *= random.uniform(1.0, 1.5)
    mark(contrast, labels == OEDEMA, 0.7, 0.95)
    mark(flair, labels == OEDEMA, 1.4, 2.3)
    has_wall = bool((labels == ENHANCING).any())
    mark(contrast, labels == CORE, 0.35 if has_wall else 0.6, 0.9)
    mark(flair, labels == CORE, 0.6 if has_wall else 1.2, 1.9, 0.2)
    mark(contrast, labels == ENHANCING, 1.25, 2.2, 0.15)
    mark(flair, labels == ENHANCING, 1.1, 2.0, 0.15)
    pictures = []
    for picture in (contrast, flair):
        soft = ndimage.gaussian_filter(picture * brain, random.uniform(0.3, 0.8))
        shaded = soft * np.exp(random.uniform(0, 0.15) * _waves(random, 20))
        noisy = shaded + random.normal(0, random.uniform(0.01, 0.05), SHAPE)
        pictures.append(np.where(brain, np.maximum(noisy, 0.01), 0))
    return np.stack(pictures).astype(np.float32)
