"""Networks on the CPU through OpenVINO.

The arithmetic is chosen, never left to the default: on a CPU with bf16 instructions OpenVINO would compute float32
networks in bf16 by itself (measured error 1.6e-3 against 6e-8).  After compiling, the precision of the convolutions is
read from the runtime graph, because a CPU without bf16 may silently run f32 when asked for bf16.
"""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from ai_engine.backends import FloatTiles, NetworkOptions, Quantised
from ai_engine.children import processors
from ai_engine.faults import ModelFault

if TYPE_CHECKING:
    from torch import nn

MAX_XML_BYTES = 8 * 1024**2
SMALL_SIDE = 64
"""Of a tile that is only recorded: the smallest that leaves two voxels after five halvings."""
QUANTISED_LAYERS = frozenset(
    {
        "Add",
        "AvgPool",
        "Clamp",
        "Concat",
        "Const",
        "Convert",
        "Convolution",
        "ConvolutionBackpropData",
        "Divide",
        "Elu",
        "FakeConvert",
        "FakeQuantize",
        "Gelu",
        "GroupConvolution",
        "GroupConvolutionBackpropData",
        "GroupNormalization",
        "Interpolate",
        "MVN",
        "MaxPool",
        "Maximum",
        "Minimum",
        "Multiply",
        "PReLU",
        "Pad",
        "Parameter",
        "ReLU",
        "ReduceMean",
        "Reshape",
        "Result",
        "ShapeOf",
        "Sigmoid",
        "Slice",
        "SoftMax",
        "Softmax",
        "Sqrt",
        "SquaredDifference",
        "Squeeze",
        "StridedSlice",
        "Subtract",
        "Swish",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operations that ``int8.xml`` may hold: those of the networks that a package may name, and the quantiser's own."""

_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_NAMES = {
    "f32": "f32",
    "float32": "f32",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "f16": "f16",
    "float16": "f16",
    "i8": "int8",
    "int8": "int8",
    "u8": "int8",
    "uint8": "int8",
}


class OpenVinoNetwork:
    """A compiled network; see `ai_engine.backends.Network`."""

    backend = "openvino"

    def __init__(self, compiled: Any, batch: int) -> None:
        self._request = compiled.create_infer_request()
        self.batch = batch
        self.device = "CPU"
        self.precision = _precision_in_force(compiled)

    def __call__(self, tiles: FloatTiles) -> FloatTiles:
        answer = self._request.infer([np.ascontiguousarray(tiles, dtype=np.float32)], share_inputs=True)
        return np.array(answer[0], dtype=np.float32)


def open_openvino(
    module: nn.Module, input_shape: tuple[int, ...], device: str, options: NetworkOptions
) -> OpenVinoNetwork:
    """Convert a torch module and compile it for exactly `input_shape`."""
    model = converted(module, input_shape)
    return _compiled(ov.Core(), model, input_shape[0], options, options.precision_cpu)


def converted(module: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """An OpenVINO model of a torch module for exactly `input_shape`."""
    return ov.convert_model(_traced(module, input_shape), input=[list(input_shape)])


def _traced(module: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The operations of a torch module, recorded with a small tile where the record holds for every size.

    Recording runs the network once in PyTorch: six seconds for a full-size nnU-Net on two cores.  Torch warns of every
    place that turns a size into a plain number.  Its own layers do so to check their input; any other place means that
    the record holds for one size only, and then it is made with a tile of that size.
    """
    import torch

    torchs_own = str(Path(torch.__file__).parent)

    def recorded(sides: tuple[int, ...]) -> tuple[Any, bool]:
        with torch.inference_mode(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", torch.jit.TracerWarning)
            traced = torch.jit.trace(module, torch.zeros((1, input_shape[1], *sides)), check_trace=False)
        return traced, all(warning.filename.startswith(torchs_own) for warning in said)

    with suppress(RuntimeError, ValueError):  # sides that the network cannot halve as often as it wants to
        traced, holds_for_every_size = recorded(tuple(min(side, SMALL_SIDE) for side in input_shape[2:]))
        if holds_for_every_size:
            return traced
    return recorded(input_shape[2:])[0]


def open_quantised(quantised: Quantised, input_shape: tuple[int, ...], options: NetworkOptions) -> OpenVinoNetwork:
    """Compile a network in 8-bit integers for exactly `input_shape`; what is not integer in it runs in bf16.

    Raises
    ------
    ModelFault
        If the file is not an OpenVINO network of the operations that we know, or does not take this shape.
    """
    check_quantised(quantised.xml)
    core = ov.Core()
    try:
        model = core.read_model(quantised.xml, quantised.weights)
        model.reshape(ov.PartialShape(list(input_shape)))
    except RuntimeError as error:
        raise ModelFault(f"int8.xml does not fit: {str(error)[:200]}") from error
    return _compiled(core, model, input_shape[0], options, "bf16")


def check_quantised(xml: bytes) -> None:
    """Refuse a network file that is too large, declares entities or names an operation that is not on the list.

    Raises
    ------
    ModelFault
        With the operation's name.
    """
    from xml.etree import ElementTree

    if len(xml) > MAX_XML_BYTES or b"<!" in xml:
        raise ModelFault(f"int8.xml: at most {MAX_XML_BYTES} bytes without declarations were expected")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ModelFault("int8.xml is not XML") from error
    kinds = {str(layer.get("type")) for layer in root.iter("layer")}
    strange = sorted(kinds - QUANTISED_LAYERS)
    if root.tag != "net" or strange:
        raise ModelFault(f"int8.xml holds an operation that is not allowed: {(strange or [root.tag])[0][:64]}")


def _compiled(core: Any, model: Any, batch: int, options: NetworkOptions, precision: str) -> OpenVinoNetwork:
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads or processors(),
        "NUM_STREAMS": 1,
    }
    if options.cache_folder is not None:
        config["CACHE_DIR"] = options.cache_folder
    return OpenVinoNetwork(core.compile_model(model, "CPU", config), batch)


def _precision_in_force(compiled: Any) -> str:
    """The arithmetic of most convolutions in the runtime graph; the compiled hint if the graph names none."""
    seen: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        try:
            kind, precision = str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))
        except (KeyError, RuntimeError):
            continue
        if kind in _HEAVY:
            seen[precision.lower()] += 1
    if not seen:
        seen[str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()).lower()] += 1
    name = seen.most_common(1)[0][0]
    return _NAMES.get(name, name)
