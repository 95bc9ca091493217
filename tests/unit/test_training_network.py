"""The network: sizes, switches, and the encoder held to the reference of its published weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from ai_engine.runners.efficientnet_unet import EfficientNetV2B0Encoder, EfficientNetV2UNet, load_imagenet

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 128)])
def test_logits_have_the_size_of_the_input(height: int, width: int) -> None:
    network = EfficientNetV2UNet(1, 3).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 1, height, width)).shape == (2, 3, height, width)


def test_deep_supervision_gives_four_sizes() -> None:
    outputs = EfficientNetV2UNet(1, 2, True)(torch.rand(2, 1, 64, 64))
    assert [tuple(output.shape[2:]) for output in outputs] == [(64, 64), (32, 32), (16, 16), (8, 8)]


def test_weights_of_a_wrong_shape_are_refused() -> None:
    network = EfficientNetV2UNet()
    tensors = {name: value for name, value in network.encoder.state_dict().items()}
    tensors["blocks.0.0.conv.weight"] = torch.zeros(1, 1, 3, 3)
    with pytest.raises(ValueError, match=r"blocks\.0\.0\.conv"):
        load_imagenet(network, tensors)
    del tensors["blocks.0.0.conv.weight"]
    with pytest.raises(ValueError, match="lack"):
        load_imagenet(network, tensors)


@pytest.mark.realdata
def test_the_encoder_gives_the_reference_features(data_dir: Path) -> None:
    weights = {name: value.float() for name, value in load_file(_weights(data_dir)).items()}
    reference = json.loads((data_dir / "weights" / "efficientnetv2_b0_reference.json").read_text())
    encoder = EfficientNetV2B0Encoder(3).eval()
    own = encoder.state_dict()
    encoder.load_state_dict({name: weights.get(name, own[name]) for name in own})
    ramp = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.no_grad():
        picture = functional.conv2d(encoder(ramp)[-1], weights["conv_head.weight"])
        norm = (weights[f"bn2.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        pooled = functional.silu(functional.batch_norm(picture, *norm, eps=1e-3)).mean((2, 3))[0]
    assert torch.allclose(pooled[:8], torch.tensor(reference["ramp_pooled_features_first8"]), atol=0.01)


@pytest.mark.realdata
def test_a_grey_picture_gives_what_the_grey_rgb_picture_gave(data_dir: Path) -> None:
    weights = load_file(_weights(data_dir))
    network = EfficientNetV2UNet()
    load_imagenet(network, weights)
    grey = torch.rand(1, 1, 64, 64)
    colour = functional.conv2d(
        functional.pad(grey.repeat(1, 3, 1, 1), (0, 1, 0, 1)), weights["conv_stem.weight"].float(), stride=2
    )
    assert torch.allclose(network.encoder.conv_stem(grey), colour, atol=1e-4)


def _weights(data_dir: Path) -> Path:
    return data_dir / "weights" / "efficientnetv2_b0_imagenet.safetensors"
