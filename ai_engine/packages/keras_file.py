"""Reading a Keras ``.h5`` file into layers and arrays of ours, by h5py alone (hardening section 5).

Neither Keras nor TensorFlow is imported and ``load_model`` is never called: a Keras file can hold Python code (Lambda
layers) and names of classes to import.  Here the file's graph is JSON that is translated layer by layer through a
closed table (`_LAYERS`); what is not in it is refused by name.  Weights are read as plain numbers; links to other
files, external storage and objects that are not numbers are refused.

Understood: files of ``model.save("x.h5")`` by Keras 2 and 3 (``model_config`` and ``model_weights``), functional and
sequential, one input, one output.  Not understood: weights without a graph, several outputs, shared layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.faults import ModelFault
from ai_engine.runners.keras_layers import INPUT, Network, network_of

Arrays = dict[str, npt.NDArray[np.float32]]
Tree = Mapping[str, Any]

MAX_CONFIG_BYTES = 16 * 1024**2
MAX_WEIGHT_BYTES = 2 * 1024**3
_ACTIVATIONS = frozenset({"linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softmax"})


def read_keras_file(path: Path) -> tuple[Network, Arrays, dict[str, Any]]:
    """The network, its weights by ``layer/weight``, and what the file says besides (sizes of the input).

    A softmax at the end is taken off: the engine averages logits and applies it itself.

    Raises
    ------
    ModelFault
        If the file is no such file, or holds a layer, option or object that is not on the list.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            config = _config(file)
            layers, shape = _translated(config)
            spared = _without_softmax(layers)
            network = network_of(
                {"format": 1, "input_channels": shape[-1], "classes": _classes(layers), "layers": layers}
            )
            arrays = _weights(file, network, config)
    except OSError as error:
        raise ModelFault("the file is not HDF5, or is damaged") from error
    return network, arrays, {"patch": [side or 0 for side in shape[:3]], "softmax_removed": spared}


def _config(file: Any) -> Tree:
    text = file.attrs.get("model_config")
    if text is None:
        raise ModelFault(
            "the file holds no `model_config`: a whole model, saved with model.save('x.h5'), was expected; weights "
            "without their graph cannot be placed"
        )
    data = text.encode() if isinstance(text, str) else bytes(text)
    if len(data) > MAX_CONFIG_BYTES:
        raise ModelFault("model_config is larger than any network of ours")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFault("model_config is not JSON") from error
    if not isinstance(config, dict) or config.get("class_name") not in ("Functional", "Model", "Sequential"):
        raise ModelFault("model_config: class_name Functional, Model or Sequential was expected")
    inner = config.get("config")
    if not isinstance(inner, dict) or not isinstance(inner.get("layers"), list):
        raise ModelFault("model_config: a list of layers was expected")
    return {"is_sequential": config["class_name"] == "Sequential", **inner}


def _translated(config: Tree) -> tuple[list[dict[str, Any]], list[Any]]:
    """Layers in our words, in the file's order, and the input's shape without the batch."""
    layers: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    shape: list[Any] | None = None
    before = ""
    for entry in config["layers"]:
        try:
            kind, options = str(entry["class_name"]), dict(entry["config"])
            own = str(options.get("name") or entry.get("name"))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFault("model_config: a layer without class_name or config") from error
        given = options.get("batch_input_shape") or options.get("batch_shape")
        if given is not None and shape is None:
            shape = list(given)[1:]
            if kind != "InputLayer":  # Keras 2 lets the first layer of a Sequential model say it
                names[INPUT] = INPUT
                before = INPUT
        if kind == "InputLayer":
            if own in names or INPUT in names.values():
                raise ModelFault("a network with one input was expected, found several")
            names[own] = INPUT
            before = own
            continue
        if kind not in _LAYERS:
            raise ModelFault(f"layer {own[:64]} is a {kind[:64]}; expected one of {', '.join(sorted(_LAYERS))}")
        sources = [before] if config["is_sequential"] else _inbound(entry, own)
        try:
            translated = _LAYERS[kind](options)
            translated |= {"name": own, "inputs": [names[source] for source in sources]}
        except KeyError as error:
            raise ModelFault(f"layer {own[:64]}: {str(error)[:80]} is missing or comes later") from error
        layers.append(translated)
        names[own] = own
        before = own
    if shape is None or len(shape) != 4 or not isinstance(shape[-1], int):
        raise ModelFault("an input of (slices, rows, columns, channels) was expected")
    _check_output(config, layers)
    return layers, shape


def _check_output(config: Tree, layers: list[dict[str, Any]]) -> None:
    if not layers:
        raise ModelFault("the network has no layers")
    outputs = config.get("output_layers")
    if outputs is None:
        return
    flat = [outputs] if outputs and isinstance(outputs[0], str) else list(outputs)
    if len(flat) != 1 or str(flat[0][0]) != layers[-1]["name"]:
        raise ModelFault("a network with one output, its last layer, was expected")


def _inbound(entry: Tree, own: str) -> list[str]:
    """The names of the layers before one, as Keras 2 (lists) and Keras 3 (tensors in ``args``) write them."""
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise ModelFault(
            f"layer {own[:64]} is used {len(nodes) if isinstance(nodes, list) else 0} times; once expected"
        )
    found: list[str] = []

    def walk(value: Any, depth: int) -> None:
        if depth > 6:
            raise ModelFault(f"layer {own[:64]}: its inputs are nested too deeply")
        if isinstance(value, dict):
            history = value.get("config", {}).get("keras_history") if isinstance(value.get("config"), dict) else None
            if history is not None:
                found.append(str(history[0]))
            elif "args" in value:
                walk(value["args"], depth + 1)
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
                found.append(value[0])
            else:
                for item in value:
                    walk(item, depth + 1)

    walk(nodes[0], 0)
    return found


def _without_softmax(layers: list[dict[str, Any]]) -> bool:
    """Take a final softmax off; anything else that bounds the output is refused, because it is no logit."""
    last = layers[-1]
    activation = last.get("activation", "linear")
    if last["kind"] == "Activation" and activation == "softmax":
        layers.pop()
        if not layers or layers[-1]["name"] != last["inputs"][0]:
            raise ModelFault("the final softmax does not follow the layer before it")
        return True
    if activation == "softmax":
        last["activation"] = "linear"
        return True
    if activation != "linear":
        raise ModelFault(f"the last layer ends with {activation}; softmax or none was expected")
    return False


def _classes(layers: list[dict[str, Any]]) -> int:
    last = layers[-1]
    if last["kind"] != "Conv3D":
        raise ModelFault(f"the last layer is a {last['kind']}; a Conv3D with one filter per class was expected")
    return int(last["filters"])


# -- one layer ---------------------------------------------------------------------------------------------------


def _picked(options: Tree, *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}


def _activation(options: Tree) -> str:
    given = options.get("activation", "linear")
    if isinstance(given, dict):  # Keras 3 may write an object; only its name is looked at
        given = given.get("config") if isinstance(given.get("config"), str) else given.get("class_name")
    name = {"swish": "silu", "leakyrelu": "leaky_relu", "softmax": "softmax"}.get(
        str(given).lower(), str(given).lower()
    )
    if name not in _ACTIVATIONS:
        raise ModelFault(f"activation {str(given)[:40]}; expected one of {', '.join(sorted(_ACTIVATIONS))}")
    return name


def _channels_last(options: Tree) -> None:
    if options.get("data_format") not in (None, "channels_last"):
        raise ModelFault("data_format channels_last was expected")


def _convolution(kind: str) -> Callable[[Tree], dict[str, Any]]:
    def translate(options: Tree) -> dict[str, Any]:
        _channels_last(options)
        if kind == "Conv3DTranspose":
            dilation = options.get("dilation_rate", 1)
            if set(dilation if isinstance(dilation, list) else [dilation]) != {1} or options.get("output_padding"):
                raise ModelFault("Conv3DTranspose without dilation and output_padding was expected")
        own = _picked(options, "filters", "kernel_size", "strides", "padding", "use_bias")
        if kind == "Conv3D":
            own |= _picked(options, "dilation_rate", "groups")
        return {"kind": kind, **own, "activation": _activation(options)}

    return translate


def _batch_norm(options: Tree) -> dict[str, Any]:
    _last_axis(options)
    return {"kind": "BatchNormalization", **_picked(options, "epsilon", "momentum", "center", "scale")}


def _group_norm(options: Tree) -> dict[str, Any]:
    _last_axis(options)
    return {"kind": "GroupNormalization", **_picked(options, "groups", "epsilon", "center", "scale")}


def _instance_norm(options: Tree) -> dict[str, Any]:
    return {**_group_norm(options), "groups": -1}


def _last_axis(options: Tree) -> None:
    axis = options.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, 4, None):
        raise ModelFault("normalisation over the channel axis (last) was expected")


def _leaky(options: Tree) -> dict[str, Any]:
    slope = options.get("negative_slope", options.get("alpha", 0.3))
    slope = slope.get("value", 0.3) if isinstance(slope, dict) else slope
    return {"kind": "Activation", "activation": "leaky_relu", "slope": float(slope)}


def _relu(options: Tree) -> dict[str, Any]:
    if options.get("max_value") is not None or options.get("threshold") not in (None, 0, 0.0):
        raise ModelFault("ReLU without max_value and threshold was expected")
    slope = float(options.get("negative_slope") or 0.0)
    if slope:
        return {"kind": "Activation", "activation": "leaky_relu", "slope": slope}
    return {"kind": "Activation", "activation": "relu"}


def _prelu(options: Tree) -> dict[str, Any]:
    if sorted(options.get("shared_axes") or []) != [1, 2, 3]:
        raise ModelFault("PReLU with shared_axes [1, 2, 3] was expected")
    return {"kind": "PReLU"}


def _pooling(kind: str) -> Callable[[Tree], dict[str, Any]]:
    def translate(options: Tree) -> dict[str, Any]:
        _channels_last(options)
        own = _picked(options, "pool_size", "strides", "padding")
        return {"kind": kind, **own, "strides": own.get("strides", own["pool_size"])}

    return translate


def _upsampling(options: Tree) -> dict[str, Any]:
    _channels_last(options)
    return {"kind": "UpSampling3D", "size": options["size"]}


def _dropout(kind: str) -> Callable[[Tree], dict[str, Any]]:
    return lambda options: {"kind": kind, **_picked(options, "rate")}


def _merge(kind: str) -> Callable[[Tree], dict[str, Any]]:
    def translate(options: Tree) -> dict[str, Any]:
        if kind == "Concatenate" and options.get("axis", -1) not in (-1, 4):
            raise ModelFault("Concatenate over the channel axis (last) was expected")
        return {"kind": kind}

    return translate


def _named_activation(kind: str) -> Callable[[Tree], dict[str, Any]]:
    return lambda options: {"kind": "Activation", "activation": kind or _activation(options)}


_LAYERS: Mapping[str, Callable[[Tree], dict[str, Any]]] = {
    "Conv3D": _convolution("Conv3D"),
    "Conv3DTranspose": _convolution("Conv3DTranspose"),
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "Activation": _named_activation(""),
    "Softmax": _named_activation("softmax"),
    "ELU": _named_activation("elu"),
    "LeakyReLU": _leaky,
    "ReLU": _relu,
    "PReLU": _prelu,
    "MaxPooling3D": _pooling("MaxPooling3D"),
    "AveragePooling3D": _pooling("AveragePooling3D"),
    "UpSampling3D": _upsampling,
    "Dropout": _dropout("Dropout"),
    "SpatialDropout3D": _dropout("SpatialDropout3D"),
    "Concatenate": _merge("Concatenate"),
    "Add": _merge("Add"),
    "Multiply": _merge("Multiply"),
    "Average": _merge("Average"),
    "Maximum": _merge("Maximum"),
}
"""What a file may name, and how it is said in our words.  ``InstanceNormalization`` is that of the contributed packages
of Keras 2."""


# -- weights -----------------------------------------------------------------------------------------------------


def _weights(file: Any, network: Network, config: Tree) -> Arrays:
    import h5py

    group = file.get("model_weights")
    if not isinstance(group, h5py.Group):
        raise ModelFault("model_weights was expected")
    arrays: Arrays = {}
    total = 0
    for layer in network.layers:
        if not layer.weights:
            continue
        stored = _plain(group, layer.name)
        if not isinstance(stored, h5py.Group):
            raise ModelFault(f"no weights of layer {layer.name[:64]}")
        for name in stored.attrs.get("weight_names", ()):
            path = name.decode() if isinstance(name, bytes) else str(name)
            data = _dataset(stored, path)
            total += data.nbytes
            if total > MAX_WEIGHT_BYTES:
                raise ModelFault("the weights are larger than 2 GiB")
            last = path.rpartition("/")[2].partition(":")[0]
            arrays[f"{layer.name}/{last}"] = _shaped(data, last)
    odd = sorted(set(network.weight_names()) ^ set(arrays))
    if odd:
        raise ModelFault(f"the weights do not fit the graph: {odd[0][:120]}")
    return arrays


def _plain(group: Any, name: str) -> Any:
    """What a name stands for, if it lies in this very file: no soft and no external links."""
    import h5py

    here = group
    for part in name.split("/"):
        if not isinstance(here, h5py.Group) or part not in here:
            raise ModelFault(f"the file names {name[:80]}, which is not in it")
        if not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise ModelFault(f"{name[:80]} is a link; plain contents were expected")
        here = here[part]
    return here


def _dataset(group: Any, path: str) -> npt.NDArray[np.float32]:
    import h5py

    found = _plain(group, path)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f" or found.is_virtual or found.external:
        raise ModelFault(f"{path[:80]}: plain floating-point numbers were expected")
    if found.size * 4 > MAX_WEIGHT_BYTES:
        raise ModelFault(f"{path[:80]} is larger than 2 GiB")
    return np.asarray(found[()], dtype=np.float32)


def _shaped(data: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(data.reshape(-1) if name == "alpha" else data)
