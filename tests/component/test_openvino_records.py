"""A network is recorded with a small tile where that is the same record, and with its own where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ai_engine.backends import NetworkOptions
from ai_engine.backends import openvino as backend
from ai_engine.runners.networks import build_network

pytestmark = pytest.mark.component

SHAPE = (1, 2, 32, 48, 32)


def unet(kind: str) -> nn.Module:
    per_stage = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        per_stage: [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = f"dynamic_network_architectures.architectures.unet.{kind}"
    described = {
        "network_class_name": name,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    torch.manual_seed(3)
    return build_network(described, 2, 3)


class Baked(nn.Module):
    """Its answer is the mean over the side it was recorded with: a plain number."""

    def forward(self, picture: Tensor) -> Tensor:
        return picture.sum(dim=4, keepdim=True) / float(int(picture.shape[4]))


def sides_recorded(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[tuple[int, ...]]]:
    """What the opened network says of one tile, and the tiles that were recorded to open it."""
    seen: list[tuple[int, ...]] = []
    trace = torch.jit.trace

    def watched(module: nn.Module, tile: Tensor, **options: Any) -> Any:
        seen.append(tuple(tile.shape[2:]))
        return trace(module, tile, **options)

    monkeypatch.setattr(torch.jit, "trace", watched)
    network = backend.open_openvino(module, SHAPE, "cpu", NetworkOptions(threads=1))
    tile = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    return network(tile), seen


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_small_record_gives_the_same_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = unet(kind)
    whole, seen = sides_recorded(module, monkeypatch)
    assert seen == [SHAPE[2:]]  # smaller than SMALL_SIDE: nothing to save
    monkeypatch.setattr(backend, "SMALL_SIDE", 16)
    small, seen = sides_recorded(module, monkeypatch)
    assert seen == [(16, 16, 16)]
    assert small.tobytes() == whole.tobytes()


def test_a_network_that_keeps_a_size_is_recorded_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "SMALL_SIDE", 16)
    answer, seen = sides_recorded(Baked().eval(), monkeypatch)
    assert seen == [(16, 16, 16), SHAPE[2:]]
    tile = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    assert np.allclose(answer, tile.mean(axis=4, keepdims=True), atol=1e-5)


def test_a_tile_too_small_for_the_network_is_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "SMALL_SIDE", 4)  # one voxel is left at the bottom: instance norm refuses that
    answer, seen = sides_recorded(unet("PlainConvUNet"), monkeypatch)
    assert seen == [(4, 4, 4), SHAPE[2:]]
    assert np.isfinite(answer).all()
