"""The recipe of ``brain-tumour-tf``: which patients, how it is trained, what the package says.

One split by patient, fixed before anything was trained: the patients that fold 1 of ``brain-tumour`` tests (dealt by
grade and name, `ai_engine.training.tumour_cases.fold_of`) are kept, the other six are learnt from.  The network that is
shipped is the one that was tested: no second training, so every figure of the card belongs to the shipped weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ai_engine.packages import seal_package
from ai_engine.packages.schema import Preparation
from ai_engine.packages.store import DESCRIPTION, NETWORK
from ai_engine.runners.keras_layers import FEATURES, Network, multiscale_unet
from ai_engine.training.keras_data import ROLE_SETS, ROLES, Drawing, Patches, brats_studies, read_tumour_study
from ai_engine.training.spanish import with_words
from ai_engine.training.tumour_cases import fold_of

Say = Callable[[str], None]
WEIGHTS = "weights.safetensors"
SELF_TEST = "self_test.safetensors"
TEST_FOLD = 1


@dataclass(frozen=True)
class KerasRecipe:
    """Everything that decides the package besides the data and the hours."""

    name: str = "brain-tumour-tf"
    features: tuple[int, ...] = FEATURES
    preparation: Preparation = field(
        default_factory=lambda: Preparation(patch=(128, 128, 128), spacing_mm=(1.0, 1.0, 1.0))
    )
    drawing: Drawing = field(default_factory=Drawing)
    minutes: float = 60.0
    seed: int = 2026

    @property
    def network(self) -> Network:
        """The layers."""
        return multiscale_unet(len(ROLES), 4, self.features)


BRAIN_TUMOUR_TF = KerasRecipe()


@dataclass(frozen=True)
class TumourSplit:
    """Names of the patients to learn from and of those kept for the test."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def split_of(data: Path) -> TumourSplit:
    """The fixed split of the *brats* cases below a folder."""
    folds = fold_of(brats_studies(data))
    return TumourSplit(
        tuple(sorted(name for name, fold in folds.items() if fold != TEST_FOLD)),
        tuple(sorted(name for name, fold in folds.items() if fold == TEST_FOLD)),
    )


def train_keras(
    recipe: KerasRecipe,
    data: Path,
    work: Path,
    *,
    resume: bool,
    minutes: float | None = None,
    say: Say = print,
    max_iterations: int | None = None,
) -> Path:
    """Train (or go on) and write the package ``work/package/<name>`` without figures; its folder's parent is `work`.

    Raises
    ------
    FileExistsError
        If a state is there and `resume` was not asked for.
    Refused
        ``backend-missing`` without TensorFlow.
    """
    from ai_engine.training.keras_trainer import STATE_FILE, KerasTrainer, TrainingPlan

    if (work / STATE_FILE).exists() and not resume:
        raise FileExistsError(f"{work.name} already holds a training; resume it or choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    split = split_of(data)
    say(f"{len(split.train)} patients to learn from, {len(split.test)} kept for the test")
    studies = [read_tumour_study(case) for case in brats_studies(data) if case.name in split.train]
    patches = Patches(studies, recipe.preparation, recipe.drawing, recipe.seed)
    del studies
    plan = replace(TrainingPlan(seed=recipe.seed), minutes=recipe.minutes if minutes is None else minutes)
    trainer = KerasTrainer(work, recipe.network, patches, plan, say)
    if resume and trainer.resume():
        say(f"resumed at iteration {trainer.iteration}")
    trainer.run(max_iterations=max_iterations)
    weights = compact(trainer.averaged_weights())
    from safetensors.numpy import save_file

    save_file(weights, work / WEIGHTS)
    return work / WEIGHTS


def compact(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Kernels in float16, everything of one dimension in float32."""
    return {
        name: np.ascontiguousarray(value.astype(np.float16 if value.ndim > 1 else np.float32))
        for name, value in weights.items()
    }


def write_package(
    recipe: KerasRecipe, work: Path, folder: Path, version: str, *, card: str, metrics: list[dict[str, Any]]
) -> str:
    """Write and seal a package from the weights that `train_keras` left in `work`; with a self-test.

    Returns
    -------
    The model digest.
    """
    from safetensors.numpy import save_file

    from ai_engine.training.package import forget_gate

    folder.mkdir(parents=True, exist_ok=True)
    forget_gate(folder)
    (folder / WEIGHTS).write_bytes((work / WEIGHTS).read_bytes())
    (folder / NETWORK).write_text(recipe.network.model_dump_json() + "\n", encoding="utf-8")
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    stored = self_test_case()
    save_file(stored, folder / SELF_TEST)
    tree = model_tree(recipe, version, metrics)
    _seal(folder, tree)
    tree["self_test"] = {"file": SELF_TEST, "voxels": _answers(folder, stored), "tolerance_percent": 5.0}
    return _seal(folder, tree)


def _seal(folder: Path, tree: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(with_words(json.loads(json.dumps(tree))), sort_keys=False, allow_unicode=True, width=110)
    (folder / DESCRIPTION).write_text(text.replace("'1':", "1:").replace("'2':", "2:").replace("'3':", "3:"))
    for path in folder.iterdir():
        path.chmod(0o644)
    return seal_package(folder)


def self_test_case() -> dict[str, Any]:
    """A small synthetic brain with a ring, in four sequences; nobody's picture."""
    from ai_engine.geometry import Affine

    size = 48
    s, r, c = (axis - (size - 1) / 2 for axis in np.indices((size, size, size), dtype=np.float32))
    radius = np.sqrt((s / 0.9) ** 2 + r**2 + (c / 0.8) ** 2)
    off = np.sqrt((s - 2) ** 2 + (r - 6) ** 2 + (c - 4) ** 2)
    noise = np.random.default_rng(7).normal(0, 0.03, (4, size, size, size)).astype(np.float32)
    brain, swollen, ring, core = radius < 22, off < 13, off < 8, off < 5
    looks = {"t1": (1.0, -0.25, -0.1, -0.2), "t1c": (1.0, -0.2, 1.2, -1.1), "t2": (1.0, 0.9, -0.3, 0.4),
             "flair": (1.0, 1.0, -0.3, -0.4)}  # fmt: skip
    tensors: dict[str, Any] = {}
    for number, (role, (tissue, wet, bright, dead)) in enumerate(looks.items()):
        picture = tissue + wet * swollen + bright * ring + dead * core + noise[number]
        tensors[role] = np.ascontiguousarray((100 * picture * brain).astype(np.float32))
    tensors["affine"] = Affine.from_axes([0, 0, 0], [[0, 0, 1], [0, 1, 0], [1, 0, 0]], (1.0, 1.0, 1.0)).matrix.copy()
    return tensors


def _answers(folder: Path, stored: Mapping[str, Any]) -> dict[int, int]:
    from ai_engine.engine import Engine
    from ai_engine.geometry import Affine
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings, InputVolume

    engine = Engine(load_package(folder), EngineSettings(device="cpu", backend="openvino", precision="f32", threads=1))
    affine = Affine(stored["affine"])
    prediction = engine.run({role: InputVolume(stored[role], affine, modality="MR") for role in ROLES})
    return {label: int((prediction.mask == label).sum()) for label in (1, 2, 3)}


def model_tree(recipe: KerasRecipe, version: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The tree of ``model.yaml``; labels and composites are those of ``brain-tumour``."""
    import importlib.metadata

    from ai_engine.training.tumour import BRAIN_TUMOUR
    from ai_engine.training.tumour_package import tumour_model_tree

    shared = tumour_model_tree(BRAIN_TUMOUR, version)
    return {
        "schema_version": 1,
        "name": recipe.name,
        "version": version,
        "title": "Brain tumour parts, Keras, four sequences",
        "task": "segmentation",
        "framework": f"tensorflow-cpu {importlib.metadata.version('tensorflow-cpu')}, multi-scale 3D U-Net, 5.65 M",
        "runner": "keras",
        "axes": "SPL",
        "max_tilt_deg": 20,
        "inputs": [
            {
                "role": role,
                "modality": ["MR"],
                "spacing_in_plane_mm": [0.4, 1.5],
                "slice_step_mm": [0.4, 3.0],
                "min_slices": 40,
                "skull": "stripped",
            }
            for role in ROLES
        ],
        "role_sets": [list(roles) for roles in ROLE_SETS],
        "labels": shared["labels"],
        "composites": shared["composites"],
        "measurements": ["volume", "long_axis", "short_axis", "diameter_3d"],
        "preparation": recipe.preparation.model_dump(mode="json"),
        "inference": {
            "configuration": "128",
            "step": 0.5,
            "mirror_axes": [],
            "batch": 1,
            "precision": {"cpu": "bf16", "cuda": "f16"},
        },
        "threshold": {"rule": "argmax"},
        "weights": [WEIGHTS],
        "intended_use": (
            "Research and evaluation only, not for clinical use. Marks parts of a glioma in skull-stripped, "
            "co-registered brain MR as decision support for a qualified reader, who stays responsible."
        ),
        "limits": [
            "Not for clinical use.",
            "Trained on six patients with glioma and tested on three: the figures say little about other patients.",
            "Expects co-registered sequences without skull, as the BraTS organisers prepare them.",
            "From T1c alone it finds little (mean Dice of the whole tumour 0.29 on the three test patients).",
            "Small enhancing parts are missed often; other diseases and operated brains were not in the data.",
        ],
        "training_data": (
            "Six of nine patients of BraTS 2018 and 2023 (T1, T1c, T2, FLAIR; glioma; skull removed, 1 mm, one "
            "atlas). Terms of the source not confirmed: research only."
        ),
        "metrics": metrics,
        "licence": "CC-BY-NC-SA-4.0 (research only, from the training data)",
    }
