"""Keras networks as data: what may be named, and that torch and Keras compute the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_packages import random_keras_weights

from ai_engine.backends.tensorflow import build_keras, get_weights, set_weights
from ai_engine.faults import ModelFault
from ai_engine.runners.keras_layers import Network, multiscale_unet, network_of, parse_network
from ai_engine.runners.keras_torch import build_torch, check_shapes
from ai_engine.runners.modules import flop_of

pytestmark = pytest.mark.unit


def _network(*layers: dict[str, Any], channels: int = 3, classes: int = 2) -> Network:
    before = "input"
    complete = []
    for number, layer in enumerate(layers):
        name = layer.get("name", f"layer{number}")
        complete.append({"inputs": [before], **layer, "name": name})
        before = name
    return network_of({"input_channels": channels, "classes": classes, "layers": complete})


CONV = {"kind": "Conv3D", "filters": 4, "kernel_size": [3, 3, 3]}

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "same": (CONV,),
    "strided": ({**CONV, "strides": [2, 2, 2]},),
    "strided-odd": ({**CONV, "strides": [3, 2, 1], "kernel_size": [2, 4, 5]},),
    "valid": ({**CONV, "padding": "valid", "activation": "relu"},),
    "dilated": ({**CONV, "dilation_rate": [2, 2, 1], "use_bias": False},),
    "grouped": ({**CONV, "filters": 6, "groups": 3, "activation": "elu"},),
    "even-kernel": ({**CONV, "kernel_size": [2, 2, 4]},),
    "transposed-2": ({"kind": "Conv3DTranspose", "filters": 4, "kernel_size": [2, 2, 2]},),
    "transposed-3": ({"kind": "Conv3DTranspose", "filters": 4, "kernel_size": [3, 3, 3], "use_bias": False},),
    "transposed-4": ({"kind": "Conv3DTranspose", "filters": 4, "kernel_size": [4, 3, 1]},),
    "transposed-valid": ({"kind": "Conv3DTranspose", "filters": 4, "kernel_size": [3, 2, 1], "padding": "valid"},),
    "batch-norm": (CONV, {"kind": "BatchNormalization", "epsilon": 0.01}),
    "batch-norm-bare": (CONV, {"kind": "BatchNormalization", "center": False, "scale": False}),
    "group-norm": (CONV, {"kind": "GroupNormalization", "groups": 2}),
    "instance-norm": (CONV, {"kind": "GroupNormalization", "groups": -1, "epsilon": 1e-5}),
    "leaky": (CONV, {"kind": "Activation", "activation": "leaky_relu", "slope": 0.05}),
    "gelu": ({**CONV, "activation": "gelu"},),
    "silu-sigmoid": ({**CONV, "activation": "silu"}, {"kind": "Activation", "activation": "sigmoid"}),
    "softmax": (CONV, {"kind": "Activation", "activation": "softmax"}),
    "prelu": (CONV, {"kind": "PReLU"}),
    "max-pool": (CONV, {"kind": "MaxPooling3D"}),
    "max-pool-same": (CONV, {"kind": "MaxPooling3D", "pool_size": [3, 3, 2], "padding": "same"}),
    "mean-pool": (CONV, {"kind": "AveragePooling3D"}),
    "up": (CONV, {"kind": "UpSampling3D", "size": [2, 1, 3]}, {"kind": "SpatialDropout3D", "rate": 0.4}),
    "add": ({**CONV, "filters": 3, "name": "a"}, {"kind": "Add", "inputs": ["a", "input"]}),
    "gate": (
        {**CONV, "filters": 1, "name": "a", "activation": "sigmoid"},
        {"kind": "Multiply", "inputs": ["input", "a"]},
    ),
    "mean-max-join": (
        {**CONV, "filters": 3, "name": "a"},
        {"kind": "Average", "inputs": ["a", "input"], "name": "b"},
        {"kind": "Maximum", "inputs": ["b", "input"], "name": "c"},
        {"kind": "Concatenate", "inputs": ["c", "a"]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_torch_computes_what_keras_computes(name: str) -> None:
    network = _network(*CASES[name])
    random = np.random.default_rng(5)
    weights = random_keras_weights(network, random)
    model = build_keras(network)
    set_weights(model, network, weights)
    picture = random.normal(size=(2, 8, 12, 6, 3)).astype(np.float32)
    expected = np.moveaxis(np.asarray(model(picture)), -1, 1)
    with torch.inference_mode():
        found = build_torch(network, weights)(torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, -1, 1))))
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < 2e-5


def test_the_shipped_network_has_the_stated_size_and_answers_every_voxel() -> None:
    network = multiscale_unet(4, 4)
    weights = random_keras_weights(network, np.random.default_rng(0))
    trained = sum(value.size for name, value in weights.items() if "/moving_" not in name)
    assert abs(trained / 1e6 - 5.65) < 0.01
    assert network.multiple == (16, 16, 16)
    check_shapes(build_torch(network, weights), network)
    again = parse_network(network.model_dump_json().encode())
    assert again == network


def test_arithmetic_is_counted_from_shapes() -> None:
    network = _network(CONV)
    module = build_torch(network, random_keras_weights(network, np.random.default_rng(0)))
    assert flop_of(module, 3, (8, 8, 8)) == 2 * 27 * 3 * 4 * 8**3


def test_weights_travel_through_keras_unchanged() -> None:
    network = multiscale_unet(1, 2, (2, 4))
    weights = random_keras_weights(network, np.random.default_rng(1))
    model = build_keras(network)
    set_weights(model, network, weights)
    back = get_weights(model, network)
    assert set(back) == set(weights) == set(network.weight_names())
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tree: tree["layers"][0].update(kind="Lambda"), "Lambda"),
        (lambda tree: tree["layers"][0].update(function="os.system"), "function"),
        (lambda tree: tree["layers"][0].update(inputs=["later"]), "before"),
        (lambda tree: tree["layers"][0].update(name="input"), "twice"),
        (lambda tree: tree["layers"][0].update(name="../up"), "name"),
        (lambda tree: tree["layers"][0].update(filters=10**9), "filters"),
        (lambda tree: tree["layers"].insert(0, {**tree["layers"][0], "name": "loose"}), "nowhere"),
        (lambda tree: tree.update(layers=[]), "layers"),
        (lambda tree: tree.update(classes=1), "classes"),
    ],
)
def test_a_network_says_what_is_wrong(change: Any, word: str) -> None:
    tree = json.loads(_network(CONV, {"kind": "Add", "inputs": ["layer0", "layer0"]}).model_dump_json())
    change(tree)
    with pytest.raises(ModelFault, match=word):
        network_of(tree)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    network = _network(CONV)
    weights = random_keras_weights(network, np.random.default_rng(0))
    with pytest.raises(ModelFault, match="layer0/bias"):
        build_torch(network, {"layer0/kernel": weights["layer0/kernel"]})
    with pytest.raises(ModelFault, match="layer0/weight"):
        build_torch(network, {**weights, "layer0/kernel": weights["layer0/kernel"][..., :2]})
    with pytest.raises(ModelFault, match="finite"):
        build_torch(network, {**weights, "layer0/bias": np.full(4, np.nan, np.float32)})
    with pytest.raises(ModelFault, match="not JSON"):
        parse_network(b"{")
