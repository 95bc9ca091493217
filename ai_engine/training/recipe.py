"""The recipe of a training: what is prepared, how it is trained, what the package says.

:data:`BRAIN_FLAIR` is how the shipped ``brain-flair`` was made. A recipe of one's own is the same object with other
values; ``ai-node train`` runs either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ai_engine.phantom import Lesion, synthesise_head
from ai_engine.training.augment import Augmentation
from ai_engine.training.cases import Case, Split, find_cases, split_patients
from ai_engine.training.package import SELF_TEST, WEIGHTS, averaged_weights, export_package
from ai_engine.training.prepare import (
    CONFIGURATION,
    PHANTOM_SOURCE,
    compact_plans,
    dataset_description,
    phantom_name,
    prepare,
)
from ai_engine.training.trainer import STATE_FILE, FlairTrainer, TrainingSettings

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a package besides the data and the hours."""

    name: str
    dataset_name: str
    role: str
    label: str
    title: str
    label_name: str
    intensity: str
    test_share: float
    validation_share: float
    split_seed: int
    oblique: Mapping[str, int]
    phantoms: int
    settings: TrainingSettings
    training_data: str
    licence: str
    limits: tuple[str, ...]
    intended_use: str = (
        "Research and evaluation only, not for clinical use. Marks FLAIR signal abnormality in brain MR as decision "
        "support for a qualified reader, who stays responsible."
    )
    mirror_axes: tuple[int, ...] = (1,)
    postprocessing: Mapping[str, Any] = field(default_factory=dict)
    threshold: Mapping[str, Any] = field(default_factory=lambda: {"rule": "argmax"})
    tilted: Mapping[str, int] = field(default_factory=dict)
    stripped: Mapping[str, int] = field(default_factory=dict)
    later_stages: tuple[TrainingSettings, ...] = ()
    """Stages after the first, with settings of their own; who is learnt from stays as the first left it."""
    spacing_in_plane_mm: tuple[float, float] = (0.3, 1.5)
    slice_step_mm: tuple[float, float] = (0.8, 8.0)
    skull: str = "any"


BRAIN_FLAIR = Recipe(
    name="brain-flair",
    dataset_name="Dataset501_BrainFLAIR",
    role="flair",
    label="flair_abnormality",
    title="FLAIR abnormality, brain MR",
    label_name="FLAIR signal abnormality",
    intensity="standardise_flair",
    test_share=0.172,
    validation_share=0.09,
    split_seed=2026,
    oblique={"lgg-flair": 1, "brats": 4},
    tilted={"lgg-flair": 2, "brats": 9},
    stripped={"lgg-flair": 1},
    phantoms=40,
    settings=TrainingSettings(
        minutes=104.0,
        merge_validation_at=0.72,
        sampling={
            "lgg-flair": 0.66,
            "lgg-flair-oblique": 0.12,
            "brats": 0.04,
            "brats-oblique": 0.10,
            PHANTOM_SOURCE: 0.08,
        },
    ),
    later_stages=(
        TrainingSettings(
            minutes=9.5,
            learning_rate=1.5e-4,
            encoder_rate=6e-5,
            ema_decay=0.995,
            warm_up_iterations=1,
            merge_validation_at=0.0,
            augmentation=Augmentation(core=0.35),
            sampling={
                "lgg-flair": 0.56,
                "lgg-flair-oblique": 0.20,
                "brats": 0.04,
                "brats-oblique": 0.12,
                PHANTOM_SOURCE: 0.08,
            },
        ),
        TrainingSettings(
            minutes=16.0,
            stop_at=0.38,
            learning_rate=4e-4,
            encoder_rate=1.6e-4,
            warm_up_iterations=1,
            merge_validation_at=0.0,
            checkpoint_every_s=150.0,
            augmentation=Augmentation(
                turn_deg=20.0,
                far_turn=0.2,
                core=0.35,
                core_range=(0.15, 0.9),
                object_contrast=0.5,
                object_range=(0.4, 1.8),
            ),
            sampling={
                "lgg-flair": 0.28,
                "lgg-flair-oblique": 0.06,
                "lgg-flair-tilted": 0.18,
                "lgg-flair-stripped": 0.16,
                "brats": 0.08,
                "brats-oblique": 0.06,
                "brats-tilted": 0.13,
                PHANTOM_SOURCE: 0.05,
            },
        ),
    ),
    training_data=(
        "48 of 58 patients of a public FLAIR copy of TCGA-LGG (Buda 2019; five hospitals, lower grade glioma), 7 of 9 "
        "skull-stripped FLAIRs of BraTS 2018 and 2023, and 40 synthetic heads; encoder pretrained on ImageNet. Terms "
        "of the sources differ; the strictest is CC BY-NC-SA: research only."
    ),
    skull="native",
    postprocessing={
        "min_component_mm2": 100.0,
        "measured_effect": "as 500 mm3 at a step of 5 mm: mean Dice 0.8783 -> 0.8805 and no case worse, 6 validation "
        "cases before they joined; by area, so that the slice step changes nothing",
    },
    licence="CC-BY-NC-SA-4.0 (research only, from the training data); encoder start Apache-2.0",
    limits=(
        "Not for clinical use.",
        "Trained on glioma only; multiple sclerosis, infarction, metastasis and healthy brains were not in the data.",
        "Skull-stripped heads are refused: on two held-back patients half and more of the lesion was missed.",
        "Pixel spacing of the training data is assumed (0.95 mm), not known; slices are segmented one by one.",
    ),
)


def prepare_recipe(recipe: Recipe, data: Path, work: Path, say: Say) -> tuple[list[Case], Split]:
    """Find and split the cases, write nnU-Net's preprocessed folder."""
    cases = find_cases(data)
    split = split_patients(
        cases, test_share=recipe.test_share, validation_share=recipe.validation_share, seed=recipe.split_seed
    )
    say(
        f"{len(split.train)} cases to learn from, {len(split.validation)} to watch, {len(split.test)} kept for the test"
    )
    prepare(
        cases,
        split,
        work,
        compact_plans(recipe.dataset_name),
        dataset_description(recipe.role, recipe.label, len(cases)),
        intensity=recipe.intensity,
        oblique=recipe.oblique,
        tilted=recipe.tilted,
        stripped=recipe.stripped,
        phantoms=recipe.phantoms,
        progress=say,
    )
    return cases, split


def train_recipe(
    recipe: Recipe,
    data: Path,
    work: Path,
    *,
    pretrained: Path | None,
    resume: bool,
    minutes: float | None = None,
    say: Say = print,
    max_iterations: int | None = None,
) -> FlairTrainer:
    """Prepare and train; with ``resume`` go on where a state file says.

    Raises
    ------
    FileExistsError
        If a state file is there and ``resume`` was not asked for.
    """
    if (work / STATE_FILE).exists() and not resume:
        raise FileExistsError(f"{work.name} already holds a training; resume it or choose another folder")
    cases, _ = prepare_recipe(recipe, data, work, say)
    sources = {case.name: case.source for case in cases}
    sources |= {phantom_name(number): PHANTOM_SOURCE for number in range(recipe.phantoms)}
    settings = recipe.settings if minutes is None else replace(recipe.settings, minutes=minutes)
    stages = (settings, *recipe.later_stages)
    known = {case.source for case in cases}
    if not known & set(settings.sampling):
        stages = tuple(replace(stage, sampling={}) for stage in stages)
    trainer = FlairTrainer(work, recipe.dataset_name, settings, sources=sources, pretrained=pretrained, say=say)
    if resume and trainer.resume():
        say(f"resumed at iteration {trainer.iteration}")
    for stage in range(trainer.stage, len(stages)):
        if stage:
            trainer = FlairTrainer(work, recipe.dataset_name, stages[stage], sources=sources, say=say)
            trainer.resume()
        if trainer.stage < stage:
            trainer.begin_stage(stage)
            say(f"stage {stage + 1} of {len(stages)} begins")
        trainer.run(max_iterations=max_iterations)
        if not trainer.is_done:
            break
    return trainer


def self_test_case() -> tuple[dict[str, Tensor], np.ndarray]:
    """A small synthetic study for the package's self-test: tensors as stored, and the truth mask."""
    lesion = Lesion(center_mm=(30.0, 8.0, 26.0), radii_mm=(20.0, 22.0, 18.0), core_share=0.0, ring_share=0.0)
    head = synthesise_head(77, shape=(14, 144, 144), spacing_mm=(8.0, 1.4, 1.4), lesion=lesion)
    tensors = {"flair": torch.from_numpy(head.render("flair")), "affine": torch.from_numpy(head.affine.matrix.copy())}
    return tensors, head.truth()


def model_tree(
    recipe: Recipe, version: str, *, metrics: list[dict[str, Any]] | None = None, self_test_voxels: int | None = None
) -> dict[str, Any]:
    """The tree of ``model.yaml``."""
    lesion = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
    tree: dict[str, Any] = {
        "schema_version": 1,
        "name": recipe.name,
        "version": version,
        "title": recipe.title,
        "task": "segmentation",
        "framework": "nnunetv2 2.8.1 pipeline, EfficientNetV2-B0 U-Net",
        "runner": "nnunet",
        "axes": "SPL",
        "max_tilt_deg": 40,
        "inputs": [
            {
                "role": recipe.role,
                "modality": ["MR"],
                "spacing_in_plane_mm": list(recipe.spacing_in_plane_mm),
                "slice_step_mm": list(recipe.slice_step_mm),
                "min_slices": 10,
                "extent_in_plane_mm": [110, 350],
                "skull": recipe.skull,
                "intensity": recipe.intensity,
            }
        ],
        "labels": [
            {
                "label": 1,
                "key": recipe.label,
                "name": recipe.label_name,
                "abbreviation": "FLAIR",
                "category": lesion,
                "type": {"value": "301766008", "scheme": "SCT", "meaning": "Lesion of Brain"},
                "site": {"value": "12738006", "scheme": "SCT", "meaning": "Brain"},
                "color_rgb": [255, 128, 0],
                "postprocessing": dict(recipe.postprocessing),
            }
        ],
        "measurements": ["volume", "long_axis", "short_axis", "diameter_3d"],
        "inference": {
            "configuration": CONFIGURATION,
            "step": 0.5,
            "mirror_axes": list(recipe.mirror_axes),
            "batch": 4,
            "precision": {"cpu": "bf16", "cuda": "f16"},
        },
        "threshold": dict(recipe.threshold),
        "weights": [WEIGHTS],
        "intended_use": recipe.intended_use,
        "limits": list(recipe.limits),
        "training_data": recipe.training_data,
        "metrics": metrics or [],
        "licence": recipe.licence,
    }
    if not recipe.postprocessing:
        del tree["labels"][0]["postprocessing"]
    if self_test_voxels is not None:
        tree["self_test"] = {"file": SELF_TEST, "voxels": {1: self_test_voxels}, "tolerance_percent": 5.0}
    return tree


def package_recipe(
    recipe: Recipe,
    work: Path,
    out: Path,
    version: str,
    *,
    card: str,
    metrics: list[dict[str, Any]] | None = None,
    state: str = STATE_FILE,
) -> Path:
    """Export the averaged weights of a training as ``out/<name>/<version>``.

    When the network can be run here, the package gets a self-test: a synthetic study with the answer it gave.
    """
    import json

    from ai_engine.engine import Engine
    from ai_engine.geometry import Affine
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings, InputVolume
    from ai_engine.training.prepare import PLANS_NAME, dataset_folder

    source = dataset_folder(work, recipe.dataset_name)
    plans = json.loads((source / f"{PLANS_NAME}.json").read_text(encoding="utf-8"))
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    folder = out / recipe.name / version
    weights = averaged_weights(work / state)
    tensors, _ = self_test_case()

    def write(voxels: int | None) -> None:
        export_package(
            folder,
            weights=weights,
            plans=plans,
            description=description,
            model=model_tree(recipe, version, metrics=metrics, self_test_voxels=voxels),
            card=card,
            self_test=tensors,
        )

    write(None)
    engine = Engine(load_package(folder), EngineSettings(device="cpu", precision="f32", threads=1))
    volume = InputVolume(tensors["flair"].numpy(), Affine(tensors["affine"].numpy()), modality="MR")
    prediction = engine.run({recipe.role: volume})
    write(int((prediction.mask == 1).sum()))
    return folder
