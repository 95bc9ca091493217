"""A Keras network's layers as torch operations of the same arithmetic, so that it runs without TensorFlow.

Built from `ai_engine.runners.keras_layers.Network`; OpenVINO takes the traced module.  Axis order inside is torch's
``(N, channel, S, R, C)``.  What Keras does and torch does not: ``same`` padding that is larger at the end when a
stride leaves a remainder, transposed kernels with output before input channels, pooling windows that hang over.

Guaranteed: the same logits as Keras up to rounding (``tests/unit/test_keras_layers.py`` compares layer by layer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ai_engine.faults import ModelFault
from ai_engine.runners import keras_layers as spec

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": functional.relu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, 1),
}


def build_torch(network: spec.Network, weights: Mapping[str, npt.NDArray[Any]]) -> nn.Module:
    """The module of a network with its weights, in evaluation mode; ``(N, C, S, R, C)`` in, logits out.

    Raises
    ------
    ModelFault
        If names or shapes of the weights do not fit, or values are not finite.
    """
    wanted = set(network.weight_names())
    if set(weights) != wanted:
        odd = sorted(wanted ^ set(weights))[0]
        raise ModelFault(f"the weights do not fit network.json: {odd[:120]} is {'missing' if odd in wanted else 'odd'}")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ModelFault(f"the weights hold values that are not finite: {name[:120]}")
    return _Network(network, weights).eval()


def check_shapes(module: nn.Module, network: spec.Network) -> None:
    """Run the smallest input through; raises what does not fit as `ModelFault` with the layer's name."""
    size = [2 * step for step in network.multiple]
    try:
        with torch.inference_mode():
            answer = module(torch.zeros(1, network.input_channels, *size))
    except (RuntimeError, ValueError) as error:
        raise ModelFault(f"the network cannot be computed: {str(error)[:300]}") from error
    if tuple(answer.shape) != (1, network.classes, *size):
        raise ModelFault(
            f"the network answers {tuple(answer.shape)} to an input of {tuple(size)}; expected as many voxels and "
            f"{network.classes} classes"
        )


class _Network(nn.Module):
    def __init__(self, network: spec.Network, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        super().__init__()
        self._order = [(layer.name, layer.inputs) for layer in network.layers]
        self._last_use = {name: index for index, layer in enumerate(network.layers) for name in layer.inputs}
        channels = {spec.INPUT: network.input_channels}
        self.steps = nn.ModuleList()
        for layer in network.layers:
            own = {weight: np.asarray(weights[f"{layer.name}/{weight}"], dtype=np.float32) for weight in layer.weights}
            step, outside = _step(layer, own, [channels[name] for name in layer.inputs])
            self.steps.append(step)
            channels[layer.name] = outside

    def forward(self, picture: Tensor) -> Tensor:
        found = {spec.INPUT: picture}
        answer = picture
        for index, ((name, inputs), step) in enumerate(zip(self._order, self.steps, strict=True)):
            answer = step(*[found[source] for source in inputs])
            found[name] = answer
            for source in inputs:
                if self._last_use[source] == index:
                    del found[source]
        return answer


def _step(layer: spec.Layer, own: Mapping[str, npt.NDArray[Any]], inside: Sequence[int]) -> tuple[nn.Module, int]:
    """The torch module of one layer and how many channels it gives."""
    first = inside[0]
    match layer:
        case spec.Conv3D():
            return _Conv(layer, own, first), layer.filters
        case spec.Conv3DTranspose():
            return _Transposed(layer, own, first), layer.filters
        case spec.BatchNormalization():
            return _batch_norm(layer, own, first), first
        case spec.GroupNormalization():
            groups = first if layer.groups == -1 else layer.groups
            if first % groups:
                raise ModelFault(f"layer {layer.name}: {first} channels do not part into {groups} groups")
            norm = nn.InstanceNorm3d if groups == first else None
            made = norm(first, layer.epsilon, affine=True) if norm else nn.GroupNorm(groups, first, layer.epsilon)
            _fill(made, layer, weight=own.get("gamma"), bias=own.get("beta"))
            return made, first
        case spec.ActivationLayer(activation="leaky_relu"):
            return nn.LeakyReLU(layer.slope), first
        case spec.ActivationLayer():
            return _Function(_ACTIVATIONS[layer.activation]), first
        case spec.PReLU():
            made = nn.PReLU(first)
            _fill(made, layer, weight=own["alpha"].reshape(-1))
            return made, first
        case spec.Pooling3D():
            return _Pool(layer), first
        case spec.UpSampling3D():
            return nn.Upsample(scale_factor=tuple(float(size) for size in layer.size), mode="nearest"), first
        case spec.Dropout():
            return nn.Identity(), first
        case spec.Merge(kind="Concatenate"):
            return _Join(), sum(inside)
        case spec.Merge():
            return _Combine(layer.kind), max(inside)
    raise ModelFault(f"network.json: no torch operation for {layer.kind}")


def _batch_norm(layer: spec.BatchNormalization, own: Mapping[str, npt.NDArray[Any]], channels: int) -> nn.Module:
    made = nn.BatchNorm3d(channels, layer.epsilon)
    _fill(
        made,
        layer,
        weight=own.get("gamma"),
        bias=own.get("beta"),
        running_mean=own["moving_mean"],
        running_var=own["moving_variance"],
    )
    return made


def _fill(module: nn.Module, layer: spec.Layer, **values: npt.NDArray[Any] | None) -> None:
    """Copy arrays into a module's tensors; what is None stays 1 or 0, as Keras has it without scale and centre."""
    with torch.no_grad():
        for name, value in values.items():
            if value is None:
                continue
            tensor = getattr(module, name)
            if tuple(tensor.shape) != value.shape:
                raise ModelFault(
                    f"the weights do not fit the network: {layer.name}/{name} is {value.shape}, expected "
                    f"{tuple(tensor.shape)}"
                )
            tensor.copy_(torch.from_numpy(np.array(value)))


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _Conv(nn.Module):
    def __init__(self, layer: spec.Conv3D, own: Mapping[str, npt.NDArray[Any]], inside: int) -> None:
        super().__init__()
        if inside % layer.groups or layer.filters % layer.groups:
            raise ModelFault(f"layer {layer.name}: its channels do not part into {layer.groups} groups")
        reach = [(size - 1) * spread + 1 for size, spread in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
        self._layer, self._reach = layer, reach
        symmetric = layer.padding == "same" and all(
            step == 1 and size % 2 for step, size in zip(layer.strides, reach, strict=True)
        )
        self._pads = layer.padding == "same" and not symmetric
        self.conv = nn.Conv3d(
            inside,
            layer.filters,
            layer.kernel_size,
            layer.strides,
            tuple(size // 2 for size in reach) if symmetric else 0,
            layer.dilation_rate,
            layer.groups,
            bias=layer.use_bias,
        )
        _fill(self.conv, layer, weight=own["kernel"].transpose(4, 3, 0, 1, 2), bias=own.get("bias"))
        self._activation = _ACTIVATIONS[layer.activation]

    def forward(self, x: Tensor) -> Tensor:
        if self._pads:
            x = functional.pad(x, _same(x.shape[2:], self._reach, self._layer.strides))
        return self._activation(self.conv(x))


class _Transposed(nn.Module):
    def __init__(self, layer: spec.Conv3DTranspose, own: Mapping[str, npt.NDArray[Any]], inside: int) -> None:
        super().__init__()
        pairs = list(zip(layer.kernel_size, layer.strides, strict=True))
        self.conv = nn.ConvTranspose3d(
            inside,
            layer.filters,
            layer.kernel_size,
            layer.strides,
            0,
            tuple(max(step - size, 0) for size, step in pairs),
            bias=layer.use_bias,
        )
        _fill(self.conv, layer, weight=own["kernel"].transpose(4, 3, 0, 1, 2), bias=own.get("bias"))
        self._strides = layer.strides
        over = [max(size - step, 0) for size, step in pairs]
        self._before = [extra // 2 for extra in over] if layer.padding == "same" and any(over) else None
        self._activation = _ACTIVATIONS[layer.activation]

    def forward(self, x: Tensor) -> Tensor:
        answer = self.conv(x)
        if self._before is not None:
            for axis, (start, step) in enumerate(zip(self._before, self._strides, strict=True), start=2):
                answer = answer.narrow(axis, start, x.shape[axis] * step)
        return self._activation(answer)


class _Pool(nn.Module):
    def __init__(self, layer: spec.Pooling3D) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer
        margin = _same(x.shape[2:], layer.pool_size, layer.strides) if layer.padding == "same" else ()
        if layer.kind == "MaxPooling3D":
            if any(margin):
                x = functional.pad(x, margin, value=-torch.inf)
            return functional.max_pool3d(x, layer.pool_size, layer.strides)
        if any(margin):
            raise ModelFault(f"layer {layer.name}: mean pooling whose windows hang over the edge is not supported")
        return functional.avg_pool3d(x, layer.pool_size, layer.strides)


class _Join(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


class _Combine(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def forward(self, *parts: Tensor) -> Tensor:
        answer = parts[0]
        for other in parts[1:]:
            if self._kind == "Multiply":
                answer = answer * other
            elif self._kind == "Maximum":
                answer = torch.maximum(answer, other)
            else:
                answer = answer + other
        return answer / len(parts) if self._kind == "Average" else answer


def _same(sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """TensorFlow's ``same`` margins in the order of `torch.nn.functional.pad` (last axis first)."""
    margins: list[int] = []
    for size, window, step in reversed(list(zip(sizes, windows, strides, strict=True))):
        total = max((-(-int(size) // step) - 1) * step + window - int(size), 0)
        margins += [total // 2, total - total // 2]
    return tuple(margins)
