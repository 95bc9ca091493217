"""From trained weights to the package ``brain-tumour``: its description, its stored case, its weights.

A fold's package differs from the shipped one in its weights alone, so that what is measured on the folds is the very
procedure that runs in use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ai_engine.evaluation.adoption import inference_of
from ai_engine.packages.accuracy import Way
from ai_engine.phantom import axial_grid
from ai_engine.runners.networks import build_network, shared_names
from ai_engine.training.package import SELF_TEST, WEIGHTS, averaged_weights, export_package
from ai_engine.training.tumour import CONFIGURATION, TumourRecipe, tumour_dataset, tumour_plans
from ai_engine.training.tumour_phantom import SPACING_MM, synthetic_study

SHIPPED_STYLE = Way(precision="f32", mirror_axes=(0, 1, 2), step=0.5)
"""How nnU-Net itself would run this network: every axis that training mirrored, overlapping windows, float32."""
DEFAULT = Way(precision="bf16", mirror_axes=(0, 1, 2), step=0.5)
"""The package's settings until its accuracy gate has found a cheaper way that loses nothing."""

ROLE_SETS: tuple[tuple[str, ...], ...] = (("t1c", "flair"), ("t1c",))

NATIVE = "refuse"
"""Heads with their skulls.  Brain extraction was measured at Dice 0.946 and 0.935 (bar: 0.93), but on two persons who
were looked at while it was made, and on the one native study this network called the ventricles necrotic core."""

TRAINING_DATA = (
    "9 patients of BraTS (8 of 2018, 1 of 2023; T1 after contrast and FLAIR, skull removed, tumour parts labelled); "
    "outlines of 56 FLAIR tumours of a public copy of TCGA-LGG (Buda 2019), skull removed roughly; 60 synthetic "
    "brains. Terms of the sources differ, and those of BraTS were not confirmed; the strictest known is CC BY-NC-SA: "
    "research only."
)
LICENCE = "CC-BY-NC-SA-4.0 (research only, from the training data)"
INTENDED_USE = (
    "Research and evaluation only, not for clinical use. Marks the parts of a known brain tumour in MR as decision "
    "support for a qualified reader, who stays responsible. It does not decide whether there is a tumour."
)
LIMITS = (
    "Not for clinical use.",
    "Nine patients with parts outlined is very few: figures on other patients will differ, mostly downwards.",
    "Measured on skull-stripped, co-registered studies; displaced ones are laid on each other first, which is not in "
    "the figures; heads with their skull are refused.",
    "Glioma before treatment only; other tumours, resection cavities, stroke and healthy brains were not in the data.",
    "Without FLAIR, oedema cannot be seen well, the whole tumour comes out too small, and one of nine was missed.",
    "Small or weakly enhancing parts are unreliable: enhancing tumour between Dice 0.16 and 0.87 on the nine patients.",
)

_ABNORMAL = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
_BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}


def _entry(
    key: str, name: str, short: str, kind: tuple[str, str, str], lab: tuple[int, int, int], rgb: list[int]
) -> dict[str, Any]:
    value, scheme, meaning = kind
    return {
        "key": key,
        "name": name,
        "abbreviation": short,
        "category": dict(_ABNORMAL),
        "type": {"value": value, "scheme": scheme, "meaning": meaning},
        "site": dict(_BRAIN),
        "color_rgb": rgb,
        "color_cielab": list(lab),
    }


def _labels() -> list[dict[str, Any]]:
    kinds = (
        (1, "necrotic_core", "Necrotic or non-enhancing core", "NCR", ("C81175", "NCIt", "Non-Enhancing Lesion"),
         (23764, 45418, 40618), [153, 0, 51]),
        (2, "oedema", "Peritumoural oedema", "ED", ("79654002", "SCT", "Edema"), (56512, 29469, 51140), [220, 245, 20]),
        (3, "enhancing_tumour", "Enhancing tumour", "ET", ("C113842", "NCIt", "Enhancing Lesion"),
         (41412, 31398, 21703), [0, 151, 206]),
    )  # fmt: skip
    return [{"label": kind[0], **_entry(*kind[1:])} for kind in kinds]


def _composites() -> list[dict[str, Any]]:
    neoplasm = ("108369006", "SCT", "Neoplasm")
    whole = _entry("whole_tumour", "Whole tumour", "WT", neoplasm, (38996, 49819, 42773), [221, 84, 84])
    core = _entry("tumour_core", "Tumour core", "TC", neoplasm, (38996, 49819, 42773), [221, 84, 84])
    return [{**whole, "labels": [1, 2, 3]}, {**core, "labels": [1, 3]}]


def tumour_model_tree(
    recipe: TumourRecipe,
    version: str,
    *,
    metrics: list[dict[str, Any]] | None = None,
    self_test_voxels: dict[int, int] | None = None,
    way: Way = DEFAULT,
) -> dict[str, Any]:
    """The tree of ``model.yaml``; `way` is what the package does by default."""
    tree: dict[str, Any] = {
        "schema_version": 1,
        "name": recipe.name,
        "version": version,
        "title": "Brain tumour parts, T1c and FLAIR",
        "task": "segmentation",
        "framework": "nnunetv2 2.8.1 pipeline, half-resolution PlainConvUNet",
        "runner": "nnunet",
        "axes": "SPL",
        "max_tilt_deg": 30,
        "inputs": [
            {
                "role": role,
                "modality": ["MR"],
                "spacing_in_plane_mm": [0.4, 2.0],
                "slice_step_mm": [0.5, 6.0],
                "min_slices": 20,
                "extent_in_plane_mm": [100, 350],
                "skull": "stripped",
                "intensity": "none",
            }
            for role in ("t1c", "flair")
        ],
        "role_sets": [list(roles) for roles in ROLE_SETS],
        "labels": _labels(),
        "composites": _composites(),
        "measurements": ["volume", "long_axis", "short_axis", "diameter_3d"],
        "inference": {
            "configuration": CONFIGURATION,
            **inference_of(way, SHIPPED_STYLE),
            "batch": 4,
            "precision": {"cpu": way.precision, "cuda": "f16"},
        },
        "study_preparation": {"grid_mm": 1.0, "native": NATIVE},
        "patient": {"age_years": [18, 120], "body_parts": ["BRAIN", "HEAD", "SKULL", "HEADNECK"]},
        "threshold": {"rule": "argmax"},
        "weights": [WEIGHTS],
        "intended_use": INTENDED_USE,
        "limits": list(LIMITS),
        "training_data": TRAINING_DATA,
        "metrics": metrics or [],
        "licence": LICENCE,
    }
    if self_test_voxels is not None:
        tree["self_test"] = {"file": SELF_TEST, "voxels": self_test_voxels, "tolerance_percent": 10.0}
    return tree


def stored_case() -> dict[str, Tensor]:
    """The package's own case: a synthetic brain that no training used, every third slice at 4.5 mm, 1.5 mm in plane."""
    study = synthetic_study(76)
    thick = study.channels[:, 1::3]
    shape = (thick.shape[1], thick.shape[2], thick.shape[3])
    grid = axial_grid(shape, (3 * SPACING_MM, SPACING_MM, SPACING_MM))
    return {
        "t1c": torch.from_numpy(np.ascontiguousarray(thick[0])),
        "flair": torch.from_numpy(np.ascontiguousarray(thick[1])),
        "affine": torch.from_numpy(grid.matrix.copy()),
    }


def package_tumour(
    recipe: TumourRecipe,
    state: Path,
    folder: Path,
    version: str,
    *,
    card: str,
    cases: int,
    metrics: list[dict[str, Any]] | None = None,
    way: Way = DEFAULT,
) -> Path:
    """Write the averaged weights of one state as a package, with the answer to its stored case; the folder."""
    from ai_engine.engine import Engine
    from ai_engine.geometry import Affine
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings, InputVolume

    plans = tumour_plans(recipe)
    weights = once(averaged_weights(state), plans)
    tensors = stored_case()

    def write(voxels: dict[int, int] | None) -> None:
        export_package(
            folder,
            weights=weights,
            plans=plans,
            description=tumour_dataset(cases),
            model=tumour_model_tree(recipe, version, metrics=metrics, self_test_voxels=voxels, way=way),
            card=card,
            self_test=tensors,
        )

    write(None)
    engine = Engine(load_package(folder), EngineSettings(device="cpu", threads=1, measuring=True))
    grid = Affine(tensors["affine"].numpy())
    inputs = {role: InputVolume(tensors[role].numpy(), grid, modality="MR") for role in ("t1c", "flair")}
    mask = engine.run(inputs).mask
    write({label: int((mask == label).sum()) for label in (1, 2, 3)})
    return folder


def once(weights: dict[str, Tensor], plans: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors that the network holds under two names, under the first only; what inference has no layer for, not."""
    network = build_network(plans["configurations"][CONFIGURATION]["architecture"], 2, 4)
    return {names[0]: weights[names[0]] for names in shared_names(network)}
