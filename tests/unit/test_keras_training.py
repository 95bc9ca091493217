"""The training of brain-tumour-tf in small: it learns, it goes on after a stop, and what it writes is a package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai_engine.packages import load_package
from ai_engine.packages.schema import Preparation
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.keras_data import ROLE_SETS, ROLES, Drawing, Patches, TumourStudy, read_tumour_study
from ai_engine.training.keras_recipe import BRAIN_TUMOUR_TF, compact, write_package
from ai_engine.training.keras_trainer import KerasTrainer, TrainingPlan
from ai_engine.training.tumour_cases import TumourCase

pytestmark = pytest.mark.unit

RULE = Preparation(patch=(16, 16, 16), spacing_mm=(1.0, 1.0, 1.0))


def _study(number: int) -> TumourStudy:
    """A brain with a bright ball, whose parts follow from the radius; zero outside."""
    random = np.random.default_rng(number)
    s, r, c = np.indices((30, 32, 28), dtype=np.float32)
    brain = ((s - 15) / 13) ** 2 + ((r - 16) / 14) ** 2 + ((c - 14) / 12) ** 2 < 1
    radius = np.sqrt((s - 16) ** 2 + (r - 14) ** 2 + (c - 15) ** 2)
    labels = np.select([radius < 3, radius < 5, radius < 8], [1, 3, 2], 0).astype(np.uint8) * brain
    channels = [100 + 60 * (labels == 3) + 40 * (labels > 0) + random.normal(0, 3, brain.shape) for _ in ROLES]
    return TumourStudy(f"case{number}", (np.stack(channels) * brain).astype(np.float32), labels, (1.0, 1.0, 1.0))


def _patches(seed: int = 1) -> Patches:
    return Patches([_study(0), _study(1)], RULE, Drawing(), seed)


def test_patches_repeat_keep_the_outside_empty_and_leave_channels_out_by_contract() -> None:
    data, labels = _patches().draw(24, (16, 16, 16))
    again, _ = _patches().draw(24, (16, 16, 16))
    assert np.array_equal(data, again)
    assert data.shape == (24, 16, 16, 16, 4) and labels.shape == (24, 16, 16, 16)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    shown = {tuple(role for role, there in zip(ROLES, one.any((0, 1, 2)), strict=True) if there) for one in data}
    assert shown <= set(ROLE_SETS) and ("t1c",) in shown and ROLES in shown
    full = data[[bool(one.any((0, 1, 2)).all()) for one in data]]
    assert (
        (full == 0).any(-1) == (full == 0).all(-1)
    ).all()  # outside the brain is zero in every channel, inside in none


def test_it_learns_stops_goes_on_and_becomes_a_package(tmp_path: Path) -> None:
    recipe = replace(BRAIN_TUMOUR_TF, features=(4, 8), preparation=RULE)
    plan = TrainingPlan(
        minutes=5, sizes=((1.0, 2, (16, 16, 16)),), learning_rate=0.02, warm_up=5, ema_decay=0.8, statistics_patches=4
    )
    said: list[str] = []
    trainer = KerasTrainer(tmp_path, recipe.network, _patches(), plan, said.append)
    trainer.run(max_iterations=50)
    losses = [entry["loss"] for entry in trainer.history]
    assert len(losses) == 2 and losses[1] < 0.8 * losses[0]
    other = KerasTrainer(tmp_path, recipe.network, _patches(99), plan, said.append)
    assert other.resume()
    assert (other.iteration, other.history) == (50, trainer.history)
    ours, theirs = trainer._averages(), other._averages()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    other.run(max_iterations=2)
    assert other.iteration == 52
    from safetensors.numpy import save_file

    weights = compact(other.averaged_weights())
    assert weights["down0_a/kernel"].dtype == np.float16 and weights["down0_a_norm/gamma"].dtype == np.float32
    save_file(weights, tmp_path / "weights.safetensors")
    folder = tmp_path / "brain-tumour-tf" / "0.1.0"
    digest = write_package(recipe, tmp_path, folder, "0.1.0", card="A card.\n", metrics=[])
    package = load_package(folder, pinned_sha256=digest)
    assert package.description.runner == "keras"
    assert package.description.accepted_roles == ROLE_SETS
    assert set(package.description.self_test.voxels) == {1, 2, 3} if package.description.self_test else False


def test_a_case_without_a_sequence_is_refused_by_name(tmp_path: Path) -> None:
    case = TumourCase("here", "here", "brats", {}, tmp_path / "here_seg.nii.gz", "1 2 4 (BraTS 2018)")
    with pytest.raises(TrainingDataError, match="no file for t1c"):
        read_tumour_study(case)
