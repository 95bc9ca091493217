"""Our resampling against nnU-Net's own function, voxel by voxel."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from ai_engine.runners import resampling
from ai_engine.runners.resampling import REPLACED, same_resampling
from ai_engine.runners.scores import half, largest

pytestmark = pytest.mark.unit

Floats = np.ndarray[Any, np.dtype[np.float32]]


def _theirs(**options: Any) -> Any:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    return partial(resample_data_or_seg_to_shape, **options)


def _picture(shape: tuple[int, ...], seed: int = 5) -> Floats:
    """Noise with flat parts and steps, so that splines overshoot and must be cut off."""
    random = np.random.default_rng(seed)
    values = random.normal(size=shape) * 3
    values[values < 0] = 0
    values[..., ::7] = 2.5
    return values.astype(np.float32)


def _refuse(*_: Any) -> Any:
    raise AssertionError("nnU-Net's own function was called where ours stands for it")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "new", "current", "wanted", "force"),
    [
        pytest.param((2, 9, 40, 44), (9, 43, 46), (1, 1, 1), (1, 0.94, 0.96), None, id="2d plan, even voxels"),
        pytest.param((1, 7, 48, 40), (7, 20, 31), (5, 1, 1), (5, 2.4, 1.3), None, id="2d plan, thick slices"),
        pytest.param((1, 40, 36, 6), (31, 44, 6), (1, 1, 6), (1.3, 0.8, 6), None, id="thick along the last axis"),
        pytest.param((2, 20, 30, 24), (26, 22, 31), (1.5, 1, 1.1), (1.1, 1.3, 0.9), None, id="3d plan, all axes"),
        pytest.param((1, 20, 30, 24), (14, 30, 24), (1, 1, 1), (1.4, 1, 1), False, id="first axis alone"),
        pytest.param((1, 6, 30, 24), (6, 33, 29), (4, 1, 1), (4, 0.9, 0.8), False, id="never slice by slice"),
    ],
)
def test_equals_nnunets_function_to_the_last_place(
    shape: tuple[int, ...],
    new: tuple[int, ...],
    current: tuple[float, ...],
    wanted: tuple[float, ...],
    force: bool | None,
    order: int,
) -> None:
    options = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": force}
    picture = _picture(shape)
    theirs = _theirs(**options)(picture.copy(), new, current, wanted)
    ours = same_resampling(REPLACED, options, _refuse)(picture, new, current, wanted)
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape == (shape[0], *new)
    # before rounding to float32 they differ by the order of summation alone, which near zero is all that is left
    off, summation = np.abs(ours.astype(np.float64) - theirs), 1e-14 * np.abs(picture).max()
    assert (off <= np.maximum(np.spacing(np.abs(theirs)), summation)).all()
    assert np.mean(off > summation) < 1e-3, "only where half a last place is met exactly, as midway between two voxels"
    assert ours.min() >= picture.min()
    assert ours.max() <= picture.max()


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    resample, picture = same_resampling(REPLACED, options, _refuse), _picture((1, 11, 30, 30))
    made = []
    for voxels in (1, 4 * 900, 1 << 30):
        monkeypatch.setattr(resampling, "_SLAB_VOXELS", voxels)
        made.append(resample(picture, (11, 34, 28), (1, 1, 1), (1, 0.9, 1.1)).tobytes())
    assert len(set(made)) == 1


def test_a_picture_that_keeps_its_shape_is_left_alone() -> None:
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    picture = _picture((1, 4, 10, 12))
    assert same_resampling(REPLACED, options, _refuse)(picture, (4, 10, 12), (1, 1, 1), (1, 1, 1)) is picture


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resample_torch_fornnunet", {"is_seg": False}),
        ("no_resampling_hack", {}),
        (REPLACED, {"is_seg": True, "order": 1}),
        (REPLACED, {"is_seg": False, "order": 0}),
        (REPLACED, {"is_seg": False, "order": 5}),
    ],
)
def test_what_is_not_known_to_be_equal_stays_nnunets(name: str, options: dict[str, Any]) -> None:
    theirs = _theirs(**options)
    assert same_resampling(name, options, theirs) is theirs


def test_a_thick_axis_that_changes_stays_nnunets() -> None:
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    picture, arguments = _picture((1, 6, 20, 20)), ((10, 22, 22), (5, 1, 1), (3, 0.9, 0.9))
    theirs = _theirs(**options)
    assert np.array_equal(
        same_resampling(REPLACED, options, theirs)(picture, *arguments), theirs(picture.copy(), *arguments)
    )


def test_largest_is_argmax_with_the_first_of_equals() -> None:
    values = np.random.default_rng(0).integers(0, 4, size=(5, 30, 30)).astype(np.float32)
    assert np.array_equal(largest(values), values.argmax(axis=0))


def test_half_rounds_as_numpy_does() -> None:
    values = np.concatenate([np.random.default_rng(0).random(9999), [0, 1, 2**-14, 3e-8, 0.5 + 2**-12]])
    assert np.array_equal(half(values.astype(np.float32)), values.astype(np.float32).astype(np.float16))
