"""The shipped brain-flair on synthetic studies: the lesion of the demonstration is found, and nothing where none is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_engine.engine import Engine
from ai_engine.evaluation.metrics import dice
from ai_engine.packages import find_package, load_package
from ai_engine.phantom import Lesion, synthesise_head
from ai_engine.prediction import EngineSettings, InputVolume

pytestmark = pytest.mark.component

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_package(find_package(MODELS, "brain-flair")), EngineSettings(device="cpu"))


def _found(engine: Engine, seed: int, lesion: Lesion | None) -> tuple[np.ndarray, np.ndarray]:
    head = synthesise_head(seed, lesion=lesion)
    volume = InputVolume(head.render("flair", noise=0.025), head.affine, modality="MR")
    return engine.run({"flair": volume}).mask > 0, head.truth()


@pytest.mark.parametrize("seed", [1, 7])
def test_the_lesion_of_a_synthetic_study_is_found(engine: Engine, seed: int) -> None:
    found, truth = _found(engine, seed, Lesion())
    assert dice(found, truth) >= 0.7


@pytest.mark.parametrize("seed", [2, 8])
def test_nothing_is_found_in_a_synthetic_head_without_a_lesion(engine: Engine, seed: int) -> None:
    found, _ = _found(engine, seed, None)
    assert not found.any()
