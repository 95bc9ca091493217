"""Keras networks through TensorFlow itself: ``model.predict`` on the layers of a package.

TensorFlow is an optional extra (``pip install dicom-ai-node[tensorflow]``).  Without it a package of runner ``keras``
runs through OpenVINO or PyTorch, and asking for this backend is refused by name.  Nothing here loads a Keras file:
the network is built layer by layer from `ai_engine.runners.keras_layers.Network`, the weights come from safetensors.

Guaranteed: operations are made deterministic, so the same tiles give the same bytes on the same machine.  Precision is
read from the layers that were built, not copied from what was asked.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.backends import FloatTiles, NetworkOptions
from ai_engine.children import processors
from ai_engine.faults import ModelFault
from ai_engine.runners import keras_layers as spec
from dicom_node.refusals import RefusalCode, Refused

Weights = Mapping[str, npt.NDArray[Any]]

_POLICIES = {"f32": "float32", "bf16": "mixed_bfloat16", "f16": "mixed_float16"}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def is_installed() -> bool:
    """Whether TensorFlow can be imported here; it is looked for, not imported."""
    return importlib.util.find_spec("tensorflow") is not None


def require_tensorflow() -> Any:
    """TensorFlow, imported quietly.

    Raises
    ------
    Refused
        ``backend-missing`` where it is not installed.
    """
    if not is_installed():
        raise Refused(
            RefusalCode.BACKEND_MISSING, expected="the optional extra [tensorflow]", found="TensorFlow is not installed"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


class TensorFlowNetwork:
    """A Keras model on one device; see `ai_engine.backends.Network`."""

    backend = "tensorflow"

    def __init__(self, model: Any, device: str, batch: int) -> None:
        self._model = model
        self._device = "/CPU:0" if device == "cpu" else "/GPU:0"
        self.batch = batch
        self.device = "CPU" if device == "cpu" else "CUDA:0"
        self.precision = _PRECISIONS[_heavy_dtype(model)]

    def __call__(self, tiles: FloatTiles) -> FloatTiles:
        import tensorflow as tf

        last = np.ascontiguousarray(np.moveaxis(np.asarray(tiles, dtype=np.float32), 1, -1))
        with tf.device(self._device):
            answer = self._model.predict(last, batch_size=self.batch, verbose=0)
        return np.ascontiguousarray(np.moveaxis(np.asarray(answer, dtype=np.float32), -1, 1))


def open_tensorflow(
    network: spec.Network, weights: Weights, input_shape: tuple[int, ...], options: NetworkOptions
) -> TensorFlowNetwork:
    """Build the Keras model for ``(N, C, *patch)`` tiles and put the weights into it.

    Raises
    ------
    Refused
        ``backend-missing`` without TensorFlow.
    ModelFault
        If weights do not fit, or a CUDA device is wanted that TensorFlow does not see.
    """
    tf = require_tensorflow()
    _set_up(tf, options.threads)
    seen = bool(tf.config.list_physical_devices("GPU"))
    if options.device == "cuda" and not seen:
        raise ModelFault("a CUDA device was asked for; expected one that TensorFlow can use, found none")
    device = "cuda" if seen and options.device != "cpu" else "cpu"
    precision = options.precision_cuda if device == "cuda" else options.precision_cpu
    if precision not in _POLICIES:
        raise ModelFault(f"backend tensorflow computes in {', '.join(_POLICIES)}; {precision} was asked for")
    model = build_keras(network, input_shape[2:], policy=_POLICIES[precision])
    set_weights(model, network, weights)
    return TensorFlowNetwork(model, device, input_shape[0])


def _set_up(tf: Any, threads: int) -> None:
    """Threads and determinism; both can be set once per process only, a second network keeps the first one's."""
    tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(42)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads or processors())
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return


def build_keras(
    network: spec.Network, spatial: tuple[int | None, ...] = (None, None, None), *, policy: str = "float32"
) -> Any:
    """A Keras functional model of a network.

    Parameters
    ----------
    spatial
        Size of the input along (slice, row, column); None leaves it open.
    policy
        Keras' dtype policy, e.g. ``mixed_bfloat16``; input and output are float32 in any case.
    """
    require_tensorflow()
    import keras

    picture = keras.Input((*spatial, network.input_channels), dtype="float32", name=spec.INPUT)
    found = {spec.INPUT: picture}
    for layer in network.layers:
        sources = [found[name] for name in layer.inputs]
        built = _keras_layer(keras, layer, policy)
        found[layer.name] = built(sources if len(sources) > 1 else sources[0])
    answer = found[network.layers[-1].name]
    if answer.dtype != "float32":
        answer = keras.layers.Activation("linear", dtype="float32", name="as_float32")(answer)
    return keras.Model(picture, answer)


def _keras_layer(keras: Any, layer: spec.Layer, policy: str) -> Any:
    made = keras.layers
    common: dict[str, Any] = {"name": layer.name.replace("/", "__"), "dtype": policy}
    match layer:
        case spec.Conv3D() | spec.Conv3DTranspose():
            options = layer.model_dump(exclude={"name", "inputs", "kind"})
            return getattr(made, layer.kind)(**options, **common)
        case spec.BatchNormalization() | spec.GroupNormalization():
            return getattr(made, layer.kind)(**layer.model_dump(exclude={"name", "inputs", "kind"}), **common)
        case spec.ActivationLayer(activation="leaky_relu"):
            return made.LeakyReLU(negative_slope=layer.slope, **common)
        case spec.ActivationLayer():
            return made.Activation(layer.activation, **common)
        case spec.PReLU():
            return made.PReLU(shared_axes=[1, 2, 3], **common)
        case spec.Pooling3D():
            return getattr(made, layer.kind)(layer.pool_size, layer.strides, layer.padding, **common)
        case spec.UpSampling3D():
            return made.UpSampling3D(layer.size, **common)
        case spec.Dropout():
            return getattr(made, layer.kind)(layer.rate, **common)
        case spec.Merge():
            return getattr(made, layer.kind)(**common)
    raise ModelFault(f"network.json: no Keras layer for {layer.kind}")


def set_weights(model: Any, network: spec.Network, weights: Weights) -> None:
    """Put named arrays into a model that `build_keras` made; names and shapes must fit exactly.

    Raises
    ------
    ModelFault
        If they do not.
    """
    for name, variable in _variables(model, network).items():
        if name not in weights:
            raise ModelFault(f"the weights lack {name[:120]}")
        value = np.asarray(weights[name], dtype=np.float32)
        shape = tuple(variable.shape)
        if value.size != int(np.prod(shape)) or (value.ndim > 1 and value.shape != shape and "alpha" not in name):
            raise ModelFault(f"the weights do not fit the network: {name[:120]} is {value.shape}, expected {shape}")
        variable.assign(value.reshape(shape))
    strange = sorted(set(weights) - set(network.weight_names()))
    if strange:
        raise ModelFault(f"the weights hold more than the network: {strange[0][:120]}")


def get_weights(model: Any, network: spec.Network) -> dict[str, npt.NDArray[np.float32]]:
    """The named arrays of a model that `build_keras` made."""
    return {
        name: np.asarray(variable.numpy(), dtype=np.float32) for name, variable in _variables(model, network).items()
    }


def _variables(model: Any, network: spec.Network) -> dict[str, Any]:
    """``layer/weight`` to Keras variable; Keras calls them by the same last name."""
    found = {}
    for layer in network.layers:
        own = {variable.name: variable for variable in model.get_layer(layer.name.replace("/", "__")).weights}
        for weight in layer.weights:
            found[f"{layer.name}/{weight}"] = own[weight]
    return found


def _heavy_dtype(model: Any) -> str:
    """What the convolutions compute in."""
    for layer in model.layers:
        if type(layer).__name__.startswith("Conv3D"):
            return str(layer.compute_dtype)
    return str(model.layers[-1].compute_dtype)
