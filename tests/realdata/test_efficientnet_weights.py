"""EfficientNetV2-B0 with the ImageNet weights against values written down by others (data/weights)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ai_engine.runners.efficientnet import EfficientNet
from ai_engine.training.skin_trainer import begin_from

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize("name", ["ramp", "zeros"])
def test_pooled_features_and_classes_are_those_of_the_reference(data_dir: Path, name: str) -> None:
    weights = load_file(data_dir / "weights" / "efficientnetv2_b0_imagenet.safetensors")
    reference = json.loads((data_dir / "weights" / "efficientnetv2_b0_reference.json").read_text())
    network = EfficientNet("efficientnetv2_b0")
    begin_from(network, weights)
    ramp = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.inference_mode():
        pooled = network.eval()(ramp if name == "ramp" else torch.zeros_like(ramp)).mean((2, 3))[0]
    assert pooled[:8].tolist() == pytest.approx(reference[f"{name}_pooled_features_first8"], abs=1e-3)
    assert float(pooled.mean()) == pytest.approx(reference[f"{name}_pooled_features_mean"], abs=1e-3)
    scores = weights["classifier.weight"].float() @ pooled + weights["classifier.bias"].float()
    assert scores.topk(3).indices.tolist() == reference[f"{name}_top3_classes"]
