"""A network called on arrays: OpenVINO on the CPU, PyTorch on CUDA and wherever OpenVINO is not, TensorFlow if asked.

The public verb is `open_network`.  A `Network` is a plain call, tiles in and logits out, and says which backend, device
and arithmetic really answered: the precision is read back from the compiled network, never copied from what was asked
(``docs/reference/model-package.md``).

Guaranteed: the same tiles on the same device with the same settings give the same bytes.  Not guaranteed: equal bytes
between backends or precisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ai_engine.faults import ModelFault

if TYPE_CHECKING:
    from torch import nn

FloatTiles = npt.NDArray[np.float32]

Device = Literal["auto", "cpu", "cuda"]
BackendName = Literal["auto", "openvino", "torch", "tensorflow"]
Precision = Literal["f32", "bf16", "f16", "int8"]


class Network(Protocol):
    """A loaded network.

    Calling it takes ``(N, C, *patch)`` float32 tiles, N being `batch`, and gives ``(N, classes, *patch)`` float32
    logits.
    """

    backend: str
    device: str
    precision: str
    batch: int

    def __call__(self, tiles: FloatTiles) -> FloatTiles: ...


@dataclass(frozen=True)
class NetworkOptions:
    """How a network shall be opened."""

    device: Device = "auto"
    backend: BackendName = "auto"
    precision_cpu: Precision = "f32"
    precision_cuda: Precision = "f16"
    threads: int = 0
    """0: as many as there are processors."""
    cache_folder: str | None = None
    """Where OpenVINO keeps compiled networks for a faster start; None: nowhere."""


@dataclass(frozen=True)
class Quantised:
    """A network in 8-bit integers: the bytes of OpenVINO's ``.xml`` and ``.bin``, already checked against a digest."""

    xml: bytes
    weights: bytes


def open_network(
    module: nn.Module, input_shape: tuple[int, ...], options: NetworkOptions, quantised: Quantised | None = None
) -> Network:
    """Open a torch module, in evaluation mode with its weights loaded, for a fixed ``(N, C, *patch)``.

    Precision ``int8`` opens `quantised` in its place: the same network, made when the package was built.

    Raises
    ------
    ModelFault
        If the wanted device, backend or arithmetic is not there.
    """
    device = chosen_device(options.device, options.backend)
    wanted = options.precision_cuda if device == "cuda" else options.precision_cpu
    if wanted == "int8":
        if device == "cuda" or options.backend in ("torch", "tensorflow") or quantised is None:
            raise ModelFault("int8 runs through OpenVINO on the CPU, from a package that holds int8.xml")
        from ai_engine.backends.openvino import open_quantised

        return open_quantised(quantised, input_shape, options)
    opener = _opener(device, options.backend)
    return opener(module, input_shape, device, options)


def chosen_device(wanted: Device, backend: BackendName = "auto") -> str:
    """``cpu`` or ``cuda``: what a network runs on here; ``auto`` is CUDA where torch sees one and the backend can.

    Raises
    ------
    ModelFault
        If CUDA is wanted and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and backend == "openvino"):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ModelFault("a CUDA device was asked for; expected one that torch can use, found none")
    return "cpu"


def _opener(device: str, wanted: BackendName) -> Callable[[nn.Module, tuple[int, ...], str, NetworkOptions], Network]:
    if wanted == "tensorflow":
        raise ModelFault("backend tensorflow runs packages of runner keras; use auto, openvino or torch for this one")
    if wanted == "openvino" and device != "cpu":
        raise ModelFault("backend openvino runs on the CPU here; ask for backend torch or device cpu")
    if wanted == "torch" or device != "cpu":
        from ai_engine.backends.torch import open_torch

        return open_torch
    from ai_engine.backends.openvino import open_openvino

    return open_openvino
