"""The recipe of ``brain-tumour`` and its training: one start for all, then the folds and the shipped network in step.

First stage, *start*: outlines of FLAIR tumours and synthetic heads, no patient of *brats*.  Then the three folds and
the network that is shipped (``all``) begin from the start's averaged weights and take turns, a few steps each, at the
same rate at the same time: first on small patches (*near*), then on the patch of use (*wide*).  So all four have
exactly the same recipe and the same number of steps, however fast the machine was, and nothing about the shipped
network was chosen on patients that a fold tests.

The clock decides: a training is so many minutes long, whatever it gets done in them.  It can be stopped at any time and
goes on from the states on disk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ai_engine.training.tumour_augment import TumourAugmentation, Volume
from ai_engine.training.tumour_cases import (
    FOLDS,
    Study,
    TumourCase,
    fold_of,
    normalise,
    read_study,
    tumour_cases,
)
from ai_engine.training.tumour_phantom import synthetic_study
from ai_engine.training.tumour_trainer import Stage, TumourRun

Say = Callable[[str], None]

CONFIGURATION = "3d_fullres"
START = "start"
ALL = "all"
HISTORY_FILE = "tumour-history.json"


START_STAGE = Stage(shares={"lgg-flair": 0.5, "phantom": 0.5}, learning_rate=1e-3, patch=(64, 80, 64), plateau=0.8)
NEAR_STAGE = Stage(
    shares={"brats": 0.72, "lgg-flair": 0.18, "phantom": 0.1},
    learning_rate=1e-3,
    patch=(64, 80, 64),
    plateau=1.0,
    augmentation=TumourAugmentation(drop_flair=0.3),
)
"""Small patches: many steps, but a patch without tumour has false regions, and nothing there says what is normal."""
WIDE_STAGE = replace(NEAR_STAGE, patch=(96, 112, 96), smooth=500.0, plateau=0.35)
"""Most of a brain at once.  This patch is the plan's, and so the patch of use."""


@dataclass(frozen=True)
class TumourRecipe:
    """Everything that decides the package besides the data and the hours."""

    name: str = "brain-tumour"
    dataset_name: str = "Dataset502_BrainTumour"
    phantoms: int = 60
    minutes: float = 130.0
    turn: int = 25
    """Steps that a network takes before the next one's turn."""
    save_every_s: float = 240.0
    seed: int = 2026
    start: Stage = START_STAGE
    near: Stage = NEAR_STAGE
    wide: Stage = WIDE_STAGE
    start_until: float = 0.14
    near_until: float = 0.41
    """Ends of the first two stages, as shares of the time."""


BRAIN_TUMOUR = TumourRecipe()


def tumour_plans(recipe: TumourRecipe = BRAIN_TUMOUR) -> dict[str, Any]:
    """The plan as nnU-Net's planner writes it: 1 mm, z-score inside the brain, our network class."""
    resampling = {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    return {
        "dataset_name": recipe.dataset_name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [139, 169, 143],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            CONFIGURATION: {
                "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 1,
                "patch_size": list(recipe.wide.patch),
                "median_image_size_in_voxels": [139.0, 169.0, 143.0],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
                "use_mask_for_norm": [True, True],
                **resampling,
                "architecture": _architecture(),
                "batch_dice": True,
            }
        },
        "experiment_planner_used": "tumour_plans",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
    }


def _architecture() -> dict[str, Any]:
    return {
        "network_class_name": "ai_engine.runners.half_resolution.HalfResolutionUNet",
        "arch_kwargs": {
            "stem_features": 16,
            "head_features": 32,
            "n_stages": 4,
            "features_per_stage": [32, 64, 128, 256],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [3, 3, 3, 3],
            "strides": [1, 2, 2, 2],
            "n_conv_per_stage": [1, 2, 2, 2],
            "n_conv_per_stage_decoder": [1, 2, 2],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def tumour_dataset(cases: int) -> dict[str, Any]:
    """nnU-Net's ``dataset.json``."""
    return {
        "channel_names": {"0": "T1c", "1": "FLAIR"},
        "channel_roles": {"0": "t1c", "1": "flair"},
        "labels": {"background": 0, "necrotic_core": 1, "oedema": 2, "enhancing_tumour": 3},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def load_volumes(recipe: TumourRecipe, data: Path, store: Path, say: Say) -> dict[str, list[Volume]]:
    """Source to normalised volumes in memory; what was prepared before is read from `store`."""
    store.mkdir(parents=True, exist_ok=True)
    cases = tumour_cases(data)
    plans, description = tumour_plans(recipe), tumour_dataset(sum(case.source == "brats" for case in cases))
    groups: dict[str, list[Volume]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        study = _stored(store / f"{case.name}.npz", partial(_real, case, plans, description))
        groups.setdefault(case.source, []).append(Volume(case.name, study, has_t1c=case.source == "brats"))
    for number in range(recipe.phantoms):
        seed = recipe.seed * 100 + number
        study = _stored(store / f"phantom_{seed}.npz", partial(_synthetic, seed, plans, description))
        groups.setdefault("phantom", []).append(Volume(f"phantom_{seed}", study, has_t1c=True))
    say(", ".join(f"{len(volumes)} of {source}" for source, volumes in groups.items()))
    return groups


def _real(case: TumourCase, plans: Mapping[str, Any], description: Mapping[str, Any]) -> Study:
    return normalise(read_study(case), plans, description, CONFIGURATION)


def _synthetic(seed: int, plans: Mapping[str, Any], description: Mapping[str, Any]) -> Study:
    return normalise(synthetic_study(seed), plans, description, CONFIGURATION)


def _stored(path: Path, make: Callable[[], Study]) -> Study:
    if not path.exists():
        study = make()
        unfinished = path.with_suffix(".part.npz")
        np.savez(
            unfinished,
            channels=study.channels.astype(np.float16),
            labels=study.labels,
            spacing_mm=np.array(study.spacing_mm),
        )
        os.replace(unfinished, path)
    with np.load(path, allow_pickle=False) as stored:
        step, row, column = (float(value) for value in stored["spacing_mm"])
        return Study(stored["channels"].astype(np.float32), stored["labels"], (step, row, column))


class TumourTraining:
    """The whole of it, on a clock.

    Parameters
    ----------
    work
        Where states, prepared volumes and the history go.
    minutes
        How long, all four networks and their start together; None takes the recipe's.
    """

    def __init__(
        self, recipe: TumourRecipe, data: Path, work: Path, *, minutes: float | None = None, say: Say = print
    ) -> None:
        torch.set_num_threads(1)
        self.recipe, self.work, self.say = recipe, work, say
        self.budget_s = 60 * (recipe.minutes if minutes is None else minutes)
        work.mkdir(parents=True, exist_ok=True)
        self.plans = tumour_plans(recipe)
        self.groups = load_volumes(recipe, data, work / "prepared", say)
        self.folds = fold_of(tumour_cases(data))
        self.used_s = 0.0
        self.history: list[dict[str, Any]] = []
        self._saved_s = 0.0
        self.runs: dict[str, TumourRun] = {}

    # -- state ----------------------------------------------------------------------------------------------------

    def state_of(self, name: str) -> Path:
        return self.work / f"tumour-{name}.pt"

    def resume(self) -> bool:
        """Go on from the states on disk; false if there are none."""
        path = self.work / HISTORY_FILE
        if not path.exists():
            return False
        kept = json.loads(path.read_text(encoding="utf-8"))
        self.used_s, self.history = float(kept["used_s"]), kept["history"]
        self._saved_s = self.used_s
        return True

    def _save(self) -> None:
        for name, run in self.runs.items():
            run.save(self.state_of(name))
        kept = {"used_s": self.used_s, "recipe": asdict(self.recipe), "folds": self.folds, "history": self.history}
        unfinished = self.work / f"{HISTORY_FILE}.part"
        unfinished.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(unfinished, self.work / HISTORY_FILE)
        self._saved_s = self.used_s

    # -- the stages -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the time is used up; safe to kill, then `resume`."""
        start_s = self.recipe.start_until * self.budget_s
        if not self.state_of(ALL).exists():
            start = self._open(START, {kind: self.groups[kind] for kind in self.recipe.start.shares})
            self._stage(START, [start], self.recipe.start, 0.0, start_s)
        weights = torch.load(self.state_of(START), map_location="cpu", weights_only=True)["ema"]
        runs = []
        for name in (ALL, *map(str, range(FOLDS))):
            run = self._open(name, self._side_of(name))
            if run.iteration == 0:
                run.begin_from(weights)
            runs.append(run)
        near_s = self.recipe.near_until * self.budget_s
        self._stage("near", runs, self.recipe.near, start_s, near_s)
        self._stage("wide", runs, self.recipe.wide, near_s, self.budget_s)

    def _side_of(self, name: str) -> dict[str, Sequence[Volume]]:
        """Who a network learns from: everybody but the patients that its fold tests."""
        kept = [volume for volume in self.groups["brats"] if str(self.folds[volume.name]) != name]
        return {**self.groups, "brats": kept}

    def _open(self, name: str, groups: Mapping[str, Sequence[Volume]]) -> TumourRun:
        run = TumourRun(name, self.plans, CONFIGURATION, groups, self.recipe.seed)
        if run.resume(self.state_of(name)):
            self.say(f"{name}: resumed at step {run.iteration}")
        return run

    def _stage(self, name: str, runs: Sequence[TumourRun], stage: Stage, begin_s: float, end_s: float) -> None:
        self.runs = {run.name: run for run in runs}
        while self.used_s < end_s:
            began = time.monotonic()
            progress = (self.used_s - begin_s) / (end_s - begin_s)
            losses = {run.name: run.steps(self.recipe.turn, progress, stage) for run in runs}
            self.used_s += time.monotonic() - began
            self._record(name, losses, runs[0].iteration, progress)
            if self.used_s - self._saved_s >= self.recipe.save_every_s:
                self._save()
        self._save()

    def _record(self, stage: str, losses: Mapping[str, float], iteration: int, progress: float) -> None:
        self.history.append(
            {
                "stage": stage,
                "used_s": round(self.used_s, 1),
                "iteration": iteration,
                "progress": round(progress, 4),
                "loss": losses,
            }
        )
        values = "  ".join(f"{name} {loss:+.3f}" for name, loss in losses.items())
        left = (self.budget_s - self.used_s) / 60
        self.say(f"step {iteration}  {values}  {100 * progress:.0f} % of stage {stage}  {left:.0f} min left")
