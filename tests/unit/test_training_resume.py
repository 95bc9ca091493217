"""A tiny training: it runs, it stops, and what resumes is what would have gone on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ai_engine.phantom import Lesion, synthesise_head
from ai_engine.training.augment import Augmentation
from ai_engine.training.cases import Pair, Split
from ai_engine.training.prepare import (
    CONFIGURATION,
    compact_plans,
    dataset_description,
    dataset_folder,
    prepare,
    save_case,
)
from ai_engine.training.report import write_report
from ai_engine.training.trainer import (
    BEFORE_MERGE_FILE,
    STATE_FILE,
    FlairTrainer,
    TrainingSettings,
    rate_at,
    sampling_probabilities,
)

pytestmark = pytest.mark.unit

NAME = "Dataset999_Tiny"
SETTINGS = TrainingSettings(  # so long that the clock does not change the learning rate
    minutes=1e12, iterations_per_epoch=2, augmentation=replace(Augmentation(), output=(64, 64)), warm_up_iterations=2
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    plans = compact_plans(NAME, patch=(64, 64), batch_size=2, spacing_mm=(4.0, 4.0))
    description = dataset_description("flair", "lesion", 3)
    split = Split(("a", "b"), ("c",), ())
    prepare([], split, tmp_path, plans, description, intensity="standardise_flair")
    store = dataset_folder(tmp_path, NAME) / plans["configurations"][CONFIGURATION]["data_identifier"]
    for seed, name in enumerate("abc"):
        head = synthesise_head(seed, shape=(6, 60, 60), spacing_mm=(18, 4, 4), lesion=Lesion())
        save_case(
            Pair(head.render("flair"), head.truth(), (18, 4, 4)), name, store, plans, description, "standardise_flair"
        )
    return tmp_path


def _trainer(work: Path) -> FlairTrainer:
    return FlairTrainer(work, NAME, SETTINGS, sources=dict.fromkeys("abc", "own"), say=lambda line: None)


def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(work: Path) -> None:
    whole = _trainer(work)
    whole.run(max_iterations=4)
    (work / STATE_FILE).unlink()
    first = _trainer(work)
    first.run(max_iterations=2)
    second = _trainer(work)
    assert second.resume()
    assert second.iteration == 2
    second.run(max_iterations=2)
    assert second.iteration == whole.iteration == 4
    for name, value in whole.ema.items():
        assert torch.equal(value, second.ema[name]), name


def test_a_training_leaves_state_history_and_report(work: Path) -> None:
    trainer = _trainer(work)
    assert not trainer.resume()
    trainer.run(max_iterations=2)
    assert (work / STATE_FILE).exists()
    page = write_report(work, "tiny")
    assert page is not None and page.exists()
    assert (work / "curves.png").stat().st_size > 1000
    assert set(trainer.validate()) == {"c"}


def test_a_training_that_took_the_validation_patients_in_remembers_it(work: Path) -> None:
    settings = replace(SETTINGS, merge_validation_at=0.0)
    sources = dict.fromkeys("abc", "own")
    first = FlairTrainer(work, NAME, settings, sources=sources, say=lambda line: None)
    first.run(max_iterations=1)
    before = (work / BEFORE_MERGE_FILE).read_bytes()
    second = FlairTrainer(work, NAME, settings, sources=sources, say=lambda line: None)
    second.resume()
    second.run(max_iterations=1)
    assert second.iteration == 2
    assert (work / BEFORE_MERGE_FILE).read_bytes() == before
    assert [entry["merged"] for entry in second.history if "dice" in entry] == [False, True, True]


def test_groups_get_their_shares() -> None:
    names = ["a", "b", "c__oblique0"]
    sources = {"a": "x", "b": "x", "c": "y"}
    shares = sampling_probabilities(names, sources, {"x": 0.8, "y-oblique": 0.2})
    assert np.allclose(shares, [0.4, 0.4, 0.2])


def test_the_rate_warms_up_and_falls() -> None:
    rates = [rate_at(progress, 10_000, SETTINGS) for progress in (0.0, 0.5, 1.0)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[0] > rates[1] > rates[2] > 0
    assert rate_at(0.0, 0, SETTINGS) == pytest.approx(0.5)
