"""Networks on the CPU through OpenVINO.

The arithmetic is chosen, never left to the default: on a CPU with bf16 instructions OpenVINO would compute float32
networks in bf16 by itself (measured error 1.6e-3 against 6e-8).  After compiling, the precision of the convolutions is
read from the runtime graph, because a CPU without bf16 may silently run f32 when asked for bf16.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from ai_engine.backends import FloatTiles, NetworkOptions

if TYPE_CHECKING:
    from torch import nn

_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_NAMES = {"f32": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16", "f16": "f16", "float16": "f16"}


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
    """Convert a torch module by tracing it once, with one tile, and compile it for exactly `input_shape`."""
    import torch

    with torch.inference_mode():
        traced = torch.jit.trace(module, torch.zeros((1, *input_shape[1:])), check_trace=False)
        model = ov.convert_model(traced, input=[list(input_shape)])
    core = ov.Core()
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.precision_cpu,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads or os.cpu_count() or 1,
        "NUM_STREAMS": 1,
    }
    if options.cache_folder is not None:
        config["CACHE_DIR"] = options.cache_folder
    return OpenVinoNetwork(core.compile_model(model, "CPU", config), input_shape[0])


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
