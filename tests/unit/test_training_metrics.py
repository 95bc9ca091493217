"""The numbers of an evaluation, and the variants of a volume."""

from __future__ import annotations

import numpy as np
import pytest

from ai_engine.evaluation.behaviour import in_other_order, turned, variants, with_declared_step, with_slices_of
from ai_engine.evaluation.metrics import bootstrap_mean, dice, false_voxels, precision_recall
from ai_engine.phantom import Lesion, axial_grid, synthesise_head
from ai_engine.prediction import InputVolume

pytestmark = pytest.mark.unit


def _mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((4, 6, 6), dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_dice_precision_recall() -> None:
    truth, found = _mask((0, 0, 0), (0, 0, 1)), _mask((0, 0, 1), (0, 0, 2), (3, 5, 5))
    assert dice(found, truth) == pytest.approx(0.4)
    assert precision_recall(found, truth) == (pytest.approx(1 / 3), 0.5)
    assert false_voxels(found, truth) == 1
    assert dice(_mask(), _mask()) == 1.0
    assert precision_recall(_mask(), _mask()) == (1.0, 1.0)


def test_the_interval_holds_the_mean_and_repeats() -> None:
    mean = bootstrap_mean([0.7, 0.8, 0.9, 0.85])
    assert mean.low < mean.value < mean.high
    assert mean == bootstrap_mean([0.7, 0.8, 0.9, 0.85])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def _volume() -> tuple[InputVolume, float]:
    head = synthesise_head(8, shape=(24, 96, 96), spacing_mm=(6, 2.4, 2.4), lesion=Lesion(roughness=0.0))
    return InputVolume(head.truth().astype(np.float32), head.affine), head.true_volume_mm3 / 1000


def test_variants_keep_the_volume_of_a_body() -> None:
    volume, true_ml = _volume()
    for variant in variants(volume):
        voxel_ml = float(np.prod(variant.volume.affine.spacing_mm)) / 1000
        allowed = 0.16 if "slices of" in variant.name else 0.03  # a mask is no picture: interpolation moves its edge
        assert (variant.volume.array > 0.5).sum() * voxel_ml == pytest.approx(true_ml, rel=allowed), variant.name


def test_the_other_order_is_the_same_place() -> None:
    volume, _ = _volume()
    flipped = in_other_order(volume)
    first = np.argwhere(volume.array > 0.5)[0]
    there = flipped.affine.matrix @ [23 - first[0], first[1], first[2], 1]
    assert np.allclose(there, volume.affine.matrix @ [*first, 1])


def test_only_the_declared_step_changes() -> None:
    volume, _ = _volume()
    changed = with_declared_step(volume, 3.0)
    assert changed.affine.spacing_mm == pytest.approx((3.0, 2.4, 2.4))
    assert changed.array is volume.array


def test_thinner_slices_cover_the_same_length() -> None:
    volume, _ = _volume()
    thin = with_slices_of(volume, 1.0, 1)
    assert thin.array.shape[0] == 23 * 6 + 1


def test_a_turned_head_has_room() -> None:
    grid = axial_grid((10, 60, 60), (6, 4, 4))
    volume = InputVolume(np.ones((10, 60, 60), dtype=np.float32), grid)
    assert turned(volume, 2, 20.0).array.shape[0] > 10
    assert turned(volume, 0, 20.0).array.shape[0] == 10
