"""Networks through PyTorch: CUDA where there is one, the CPU where OpenVINO is not wanted.

cuDNN's search is off and its deterministic algorithms are asked for, so that the same input gives the same bytes on
the same machine (hardening I14).  A device whose memory is full is `MemoryExceeded`: the process gives its share back
by ending, and the job is tried again.  Nothing falls back to the CPU by itself: what computes a run is part of its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

from ai_engine.backends import FloatTiles, NetworkOptions
from ai_engine.children import processors
from ai_engine.faults import MemoryExceeded

_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


class TorchNetwork:
    """A module in evaluation mode on one device; see `ai_engine.backends.Network`."""

    backend = "torch"

    def __init__(self, module: nn.Module, device: torch.device, precision: str, batch: int) -> None:
        self._module = module.to(device).eval()
        self._device = device
        self.batch = batch
        self.device = "CPU" if device.type == "cpu" else f"CUDA:{device.index or 0}"
        self._asked = precision
        self.precision = self._in_force()

    def _in_force(self) -> str:
        """The arithmetic that the first convolution really answers in, under the context that every call runs in."""
        first = next((part for part in self._module.modules() if isinstance(part, _CONVOLUTIONS)), None)
        if first is None:
            return self._asked
        sizes = [8 * size for size in first.kernel_size]
        picture = torch.zeros((1, first.in_channels, *sizes), device=self._device)
        with torch.inference_mode(), self._arithmetic():
            return _NAMES[first(picture).dtype]

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self._asked == "f32":
            return nullcontext()
        cast: AbstractContextManager[object] = torch.autocast(self._device.type, dtype=_DTYPES[self._asked])
        return cast

    def __call__(self, tiles: FloatTiles) -> FloatTiles:
        with _memory_of(self.device), torch.inference_mode(), self._arithmetic():
            answer = self._module(torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32)).to(self._device))
            return np.asarray(answer.float().cpu().numpy(), dtype=np.float32)


def open_torch(module: nn.Module, input_shape: tuple[int, ...], device: str, options: NetworkOptions) -> TorchNetwork:
    """Put a module on `device` and choose its arithmetic: autocast for anything but f32."""
    torch.set_num_threads(options.threads or processors())
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    precision = options.precision_cuda if device == "cuda" else options.precision_cpu
    with _memory_of(device):
        return TorchNetwork(module, torch.device(device), precision, input_shape[0])


@contextmanager
def _memory_of(device: str) -> Iterator[None]:
    """What a device that has no memory left is called."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryExceeded(f"{device} has not enough memory left for this network") from error
