"""A localiser saves windows and never a case: one window where one will do, all of them otherwise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ai_engine.runners.localiser import located_logits
from ai_engine.runners.scores import softmax
from ai_engine.runners.tiles import Plan, sliding_window_logits

pytestmark = pytest.mark.unit

Floats = npt.NDArray[np.float32]
SHAPE, PLAN = (60, 75, 62), Plan((40, 40, 40), 0.5)


class Bright:
    """A network that marks what is bright, voxel by voxel, and counts how often it is asked."""

    batch = 1

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, tiles: Floats) -> Floats:
        self.asked += 1
        marked = np.where(tiles[:, :1] > 0.5, 8.0, -8.0).astype(np.float32)
        return np.concatenate([-marked, marked], axis=1)


def head(*balls: tuple[tuple[int, int, int], int]) -> Floats:
    """(1, S, R, C): dark, with bright balls of a centre and a radius in voxels."""
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    made = np.zeros((1, *SHAPE), np.float32)
    for (cz, cy, cx), radius in balls:
        made[0][(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1.0
    return made


@pytest.mark.parametrize("centre", [(30, 36, 30), (9, 9, 52), (50, 66, 9)])
def test_one_window_says_the_same_as_all_of_them(centre: tuple[int, int, int]) -> None:
    data, all_asked, asked = head((centre, 8)), Bright(), Bright()
    expected, passes = sliding_window_logits([all_asked], data, PLAN, 2)
    logits, fewer = located_logits([asked], data, PLAN, 2)
    assert np.array_equal(logits.argmax(0), expected.argmax(0)) and logits.argmax(0).sum() > 1000
    assert (passes, fewer) == (all_asked.asked, asked.asked) and fewer == 2 < passes
    assert softmax(logits)[0][expected.argmax(0) == 0].min() > 0.999, "outside the window nothing is in doubt"


@pytest.mark.parametrize(
    "balls",
    [
        pytest.param((), id="nothing is seen"),
        pytest.param((((30, 36, 30), 16),), id="it does not fit with its margin"),
        pytest.param((((10, 10, 10), 7), ((50, 60, 50), 7)), id="two lesions far from each other"),
    ],
)
def test_where_one_window_will_not_do_all_are_run(balls: tuple[tuple[tuple[int, int, int], int], ...]) -> None:
    data, network = head(*balls), Bright()
    expected, passes = sliding_window_logits([Bright()], data, PLAN, 2)
    logits, more = located_logits([network], data, PLAN, 2)
    assert np.array_equal(logits, expected)
    assert more == passes + 1 == network.asked


def test_a_speck_far_from_the_lesion_pulls_no_window_and_is_lost() -> None:
    """What the gate's clause of newly missed lesions is there for."""
    data = head(((30, 36, 30), 8), ((4, 4, 4), 3))
    logits, passes = located_logits([Bright()], data, PLAN, 2)
    assert passes == 2 and logits.argmax(0)[30, 36, 30] == 1 and logits.argmax(0)[4, 4, 4] == 0


def test_mirroring_and_folds_are_those_of_the_plan() -> None:
    networks = [Bright(), Bright()]
    _, passes = located_logits(networks, head(((30, 36, 30), 8)), Plan(PLAN.patch, 0.5, (2,)), 2)
    assert passes == 1 + 2 * 2 and [one.asked for one in networks] == [1 + 2, 2], "the look is one pass of one network"
