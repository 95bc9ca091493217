"""Three planes of a result: the right slices, the right way round, whatever way the series was stored."""

from __future__ import annotations

import itertools
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ai_engine.geometry import Affine
from dicom_node.results.planes import planes, three_planes
from dicom_node.words import SliceSource, Volume
from tests.fixtures_results import findings_of

WORDS = {"axial": "axial", "coronal": "coronal", "sagittal": "sagittal"}
SHAPE = (12, 20, 16)
"""Voxels towards the feet-to-head, front-to-back and right-to-left axis before the axes are shuffled."""


def volume_of(shape: tuple[int, ...], affine: Affine | None = None) -> Volume:
    """A volume of noise, of which only the grid matters."""
    noise = np.random.default_rng(3).normal(100.0, 20.0, shape).astype(np.float32)
    slices = tuple(SliceSource("1.2.840.10008.5.1.4.1.1.4", f"2.25.{n + 1}", "") for n in range(shape[0]))
    return Volume(noise, None, affine or Affine(np.eye(4)), slices, "2.25.7", "2.25.8", "2.25.9", "MR")


def patient() -> npt.NDArray[np.uint8]:
    """Labels in patient axes (head, posterior, left): 1 in the left front near the feet."""
    made = np.zeros(SHAPE, np.uint8)
    made[1:4, 2:7, 11:15] = 1
    return made


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_the_planes_are_as_radiologists_read_them(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    units = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])  # head, posterior, left in LPS
    steps = np.array([3.0, 1.0, 2.0])
    matrix = np.eye(4)
    stored = patient().transpose(order)
    for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[:3, axis] = units[source] * steps[source] * sign
        if sign < 0:
            stored = np.flip(stored, axis)
    volume = volume_of(stored.shape, Affine(matrix))
    found = {plane.name: plane for plane in planes(volume, np.ascontiguousarray(stored))}
    assert list(found) == ["axial", "coronal", "sagittal"]
    axial, coronal, sagittal = (found[name].of(stored) for name in found)
    assert axial.shape == (20, 16) and coronal.shape == (12, 16) and sagittal.shape == (12, 20)
    # left of the patient on the right of the screen, front up, head up
    assert np.array_equal(np.argwhere(axial)[[0, -1]], [[2, 11], [6, 14]])
    assert np.array_equal(np.argwhere(coronal)[[0, -1]], [[8, 11], [10, 14]])
    assert np.array_equal(np.argwhere(sagittal)[[0, -1]], [[8, 2], [10, 6]])


def test_the_picture_shows_the_colours_of_the_regions_and_is_the_same_twice() -> None:
    mask = np.zeros((8, 40, 40), np.uint8)
    mask[2:5, 10:20, 12:30] = 1
    volume = volume_of(mask.shape)
    regions = findings_of(mask, volume.affine).regions
    first = three_planes(volume, mask, regions, "UNREVIEWED", WORDS)
    assert first == three_planes(volume, mask, regions, "UNREVIEWED", WORDS)
    pixels = np.asarray(Image.open(BytesIO(first)).convert("RGB")).reshape(-1, 3)
    colour = next(region.color_rgb for region in regions if region.label == 1)
    assert (pixels == colour).all(axis=1).sum() > 300


def test_an_empty_mask_shows_the_middle() -> None:
    mask = np.zeros((8, 40, 30), np.uint8)
    assert sorted(plane.index for plane in planes(volume_of(mask.shape), mask)) == [3, 14, 19]
