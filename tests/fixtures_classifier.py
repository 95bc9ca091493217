"""A small classifier package with random weights, for tests that need one that runs in a second.

The network is a real EfficientNetV2-B0 at 64 x 64: its numbers mean nothing, but they are the same every time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ai_engine.packages import seal_package

LESION = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}


def tiny_classifier_description(
    *, name: str = "tiny-classifier", version: str = "1.0.0", threshold: float = 0.5
) -> dict[str, Any]:
    """A valid ``model.yaml`` of a classifier with two outputs, as a tree that a test may change."""
    return {
        "schema_version": 1,
        "name": name,
        "version": version,
        "title": "Random answers (test)",
        "task": "classification",
        "framework": "none",
        "runner": "classifier",
        "inputs": [{"role": "dermoscopy", "modality": ["XC", "DMS", "OT"]}],
        "network": {
            "architecture": "efficientnetv2_b0",
            "size": [64, 64],
            "resize": "squash",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "views": ["identity"],
            "batch": 4,
        },
        "outputs": [
            _output("malignant", "AI-MAL-PROB", "Model-estimated probability of malignancy", threshold),
            _output("melanoma", "AI-MEL-PROB", "Model-estimated probability of melanoma", 0.5),
        ],
        "heat_map": {"layer": "features", "output": "malignant"},
        "quality": {"accepts": ["dermoscopic"]},
        "weights": ["weights.safetensors"],
        "intended_use": "Tests of this program only.",
        "limits": ["It knows no skin: its weights are random."],
        "training_data": "None: the weights are random.",
        "licence": "Apache-2.0",
    }


def _output(key: str, code: str, meaning: str, threshold: float) -> dict[str, Any]:
    return {
        "key": key,
        "code": {"value": code, "scheme": "99AINODE", "meaning": meaning},
        "finding": LESION,
        "threshold": threshold,
        "calibration": {"method": "temperature", "temperature": 1.5, "population": "none: a test"},
        "operating_point": {"sensitivity": 0.9, "specificity": 0.5, "n": 10, "data": "none: a test"},
        "meaning": "A number without meaning, for tests.",
    }


def _settled(network: Any, size: Any) -> dict[str, Any]:
    """Weights whose batch norms have seen something, so that features neither vanish nor grow."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, *size).cumsum(2) / 4)
    return dict(network.state_dict())


def make_tiny_classifier(
    root: Path,
    *,
    name: str = "tiny-classifier",
    version: str = "1.0.0",
    threshold: float = 0.5,
    seed: int = 0,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``root/name/version`` and give its folder.

    Parameters
    ----------
    threshold
        Of the first output.
    description
        Keys of ``model.yaml`` to set or replace.
    """
    import torch
    from safetensors.torch import save_file

    from ai_engine.runners.efficientnet import FEATURES, EfficientNet

    values = {**tiny_classifier_description(name=name, version=version, threshold=threshold), **(description or {})}
    torch.manual_seed(seed)
    state = _settled(EfficientNet(values["network"]["architecture"]), values["network"]["size"])
    heads = len(values["outputs"])
    state["classifier.weight"] = torch.randn(heads, FEATURES) * 0.1
    state["classifier.bias"] = torch.zeros(heads)
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in halves.items()}, folder / "weights.safetensors")
    (folder / "model.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
    seal_package(folder)
    return folder
