"""What a Keras network may consist of: a list of layers from a closed table, as data.

``network.json`` of a package (runner ``keras``) is such a list.  It is never handed to Keras' own loader, which can
import what a file names; `ai_engine.backends.tensorflow` and `ai_engine.runners.keras_torch` build from it, one with
Keras layers, one with torch operations of the same arithmetic, so a package runs with and without TensorFlow.

Axis order everywhere here is Keras' ``channels_last``: ``(N, S, R, C, channel)``; `MULTISCALE` names the network that
``brain-tumour-tf`` is.

Guaranteed: a `Network` that exists has unique names, inputs that were defined before, one input and one output.  Not
guaranteed: that shapes fit; building and `check_shapes` tell that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai_engine.faults import ModelFault

MAX_LAYERS = 600
NAME = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,95}$"

Size = Annotated[int, Field(ge=1, le=4096)]
Small = Annotated[int, Field(ge=1, le=32)]
Triple = tuple[Small, Small, Small]
Padding = Literal["same", "valid"]
Activation = Literal["linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softmax"]
_ONE: Triple = (1, 1, 1)
_TWO: Triple = (2, 2, 2)


class _Layer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME)]
    inputs: tuple[str, ...]

    @property
    def wanted_inputs(self) -> tuple[int, int]:
        """Smallest and largest number of inputs."""
        return 1, 1

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights the layer owns, by Keras' names."""
        return ()


class Conv3D(_Layer):
    """A convolution; kernel ``(kS, kR, kC, in, out)``."""

    kind: Literal["Conv3D"] = "Conv3D"
    filters: Size
    kernel_size: Triple
    strides: Triple = _ONE
    padding: Padding = "same"
    dilation_rate: Triple = _ONE
    groups: Size = 1
    use_bias: bool = True
    activation: Activation = "linear"

    @property
    def weights(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)


class Conv3DTranspose(_Layer):
    """A transposed convolution; kernel ``(kS, kR, kC, out, in)``."""

    kind: Literal["Conv3DTranspose"] = "Conv3DTranspose"
    filters: Size
    kernel_size: Triple
    strides: Triple = _TWO
    padding: Padding = "same"
    use_bias: bool = True
    activation: Activation = "linear"

    @property
    def weights(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)


class BatchNormalization(_Layer):
    """Normalisation by stored statistics."""

    kind: Literal["BatchNormalization"] = "BatchNormalization"
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Used in training only."""
    center: bool = True
    scale: bool = True

    @property
    def weights(self) -> tuple[str, ...]:
        own = (("gamma", self.scale), ("beta", self.center), ("moving_mean", True), ("moving_variance", True))
        return tuple(name for name, there in own if there)


class GroupNormalization(_Layer):
    """Normalisation over space and groups of channels; ``groups: -1`` is instance normalisation."""

    kind: Literal["GroupNormalization"] = "GroupNormalization"
    groups: Annotated[int, Field(ge=-1, le=4096)] = 32
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-3
    center: bool = True
    scale: bool = True

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(name for name, there in (("gamma", self.scale), ("beta", self.center)) if there)


class ActivationLayer(_Layer):
    """A function applied to every value; `slope` is that of ``leaky_relu``, `softmax` runs over channels."""

    kind: Literal["Activation"] = "Activation"
    activation: Activation
    slope: Annotated[float, Field(ge=0, le=1)] = 0.2


class PReLU(_Layer):
    """A leaky relu whose slope was learnt per channel (shared over space)."""

    kind: Literal["PReLU"] = "PReLU"

    @property
    def weights(self) -> tuple[str, ...]:
        return ("alpha",)


class Pooling3D(_Layer):
    """Largest or mean value of a window."""

    kind: Literal["MaxPooling3D", "AveragePooling3D"]
    pool_size: Triple = _TWO
    strides: Triple = _TWO
    padding: Padding = "valid"


class UpSampling3D(_Layer):
    """Every value repeated."""

    kind: Literal["UpSampling3D"] = "UpSampling3D"
    size: Triple = _TWO


class Dropout(_Layer):
    """Nothing at run time."""

    kind: Literal["Dropout", "SpatialDropout3D"] = "Dropout"
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Merge(_Layer):
    """Several inputs become one; ``Concatenate`` joins channels."""

    kind: Literal["Concatenate", "Add", "Multiply", "Average", "Maximum"]

    @property
    def wanted_inputs(self) -> tuple[int, int]:
        return 2, 16


Layer = Annotated[
    Conv3D
    | Conv3DTranspose
    | BatchNormalization
    | GroupNormalization
    | ActivationLayer
    | PReLU
    | Pooling3D
    | UpSampling3D
    | Dropout
    | Merge,
    Field(discriminator="kind"),
]

INPUT = "input"
"""The name under which the first layers find the picture."""


class Network(BaseModel):
    """A whole network: the layers in an order in which they can be computed; the last one is the output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    input_channels: Annotated[int, Field(ge=1, le=64)]
    classes: Annotated[int, Field(ge=2, le=255)]
    """Background included; channel k of the output is label k."""
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=MAX_LAYERS)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        known = {INPUT}
        used: set[str] = set()
        for layer in self.layers:
            low, high = layer.wanted_inputs
            if not low <= len(layer.inputs) <= high:
                raise ValueError(f"layer {layer.name}: {low} to {high} inputs expected, found {len(layer.inputs)}")
            if not set(layer.inputs) <= known:
                raise ValueError(f"layer {layer.name}: its inputs must come before it")
            if layer.name in known:
                raise ValueError(f"layer {layer.name} appears twice")
            known.add(layer.name)
            used.update(layer.inputs)
        loose = known - used - {self.layers[-1].name}
        if loose:
            raise ValueError(f"layers that lead nowhere: {', '.join(sorted(loose)[:5])}")
        return self

    @property
    def multiple(self) -> tuple[int, int, int]:
        """Sizes of the input must be multiples of this for what is joined to fit (product of the strides down)."""
        found = {INPUT: (1, 1, 1)}
        largest = [1, 1, 1]
        for layer in self.layers:
            level = [max(found[name][axis] for name in layer.inputs) for axis in range(3)]
            if isinstance(layer, Conv3D | Pooling3D):
                level = [now * step for now, step in zip(level, layer.strides, strict=True)]
            elif isinstance(layer, Conv3DTranspose | UpSampling3D):
                up = layer.size if isinstance(layer, UpSampling3D) else layer.strides
                level = [max(1, now // step) for now, step in zip(level, up, strict=True)]
            largest = [max(old, new) for old, new in zip(largest, level, strict=True)]
            found[layer.name] = (level[0], level[1], level[2])
        return largest[0], largest[1], largest[2]

    def weight_names(self) -> list[str]:
        """``layer/weight`` of everything that a weights file must hold, no more and no less."""
        return [f"{layer.name}/{weight}" for layer in self.layers for weight in layer.weights]


def parse_network(data: bytes) -> Network:
    """Read the bytes of a ``network.json``.

    Raises
    ------
    ModelFault
        If it is not JSON, names a kind of layer that is not in the table, or contradicts itself.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFault("network.json is not JSON") from error
    return network_of(tree)


def network_of(tree: Any) -> Network:
    """The same from a tree.

    Raises
    ------
    ModelFault
        As `parse_network`.
    """
    try:
        return Network.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'network'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)[:8]
        ]
        raise ModelFault(f"network.json: {'; '.join(lines)}"[:1000]) from error


FEATURES = (16, 32, 64, 128, 256)
SLOPE = 0.01


def multiscale_unet(input_channels: int, classes: int, features: Sequence[int] = FEATURES) -> Network:
    """The network of ``brain-tumour-tf``: a 3D U-Net whose answer is summed from several scales.

    An encoder of two 3x3x3 convolutions a level with strided ones between the levels, a decoder of transposed
    convolutions joined with the encoder's picture of the same size, and a 1x1x1 head on every decoder level above the
    coarsest; the heads' logits are brought to full size and added, so coarse levels decide *where* and fine levels
    decide *how far*.  Normalisation is by stored statistics (it folds into the convolutions at run time and does not
    change with the window), activations are leaky.  With the default features: 5.65 M parameters.
    """
    layers: list[Layer] = []

    def convolve(name: str, source: str, filters: int, stride: int = 1) -> str:
        step = (stride, stride, stride)
        layers.append(
            Conv3D(name=name, inputs=(source,), filters=filters, kernel_size=(3, 3, 3), strides=step, use_bias=False)
        )
        layers.append(BatchNormalization(name=f"{name}_norm", inputs=(name,), momentum=0.95))
        layers.append(
            ActivationLayer(name=f"{name}_act", inputs=(f"{name}_norm",), activation="leaky_relu", slope=SLOPE)
        )
        return f"{name}_act"

    at, skips = INPUT, []
    for level, filters in enumerate(features):
        at = convolve(f"down{level}_a", at, filters, 1 if level == 0 else 2)
        at = convolve(f"down{level}_b", at, filters)
        skips.append(at)
    total = ""
    for level in range(len(features) - 2, -1, -1):
        name = f"up{level}"
        layers.append(
            Conv3DTranspose(name=name, inputs=(at,), filters=features[level], kernel_size=_TWO, use_bias=False)
        )
        layers.append(Merge(name=f"{name}_join", kind="Concatenate", inputs=(name, skips[level])))
        at = convolve(f"{name}_b", convolve(f"{name}_a", f"{name}_join", features[level]), features[level])
        if level > 2:
            continue
        head = f"head{level}"
        layers.append(Conv3D(name=head, inputs=(at,), filters=classes, kernel_size=_ONE))
        if total:
            layers.append(UpSampling3D(name=f"{head}_coarser", inputs=(total,)))
            layers.append(Merge(name=f"{head}_sum", kind="Add", inputs=(head, f"{head}_coarser")))
            head = f"{head}_sum"
        total = head
    return Network(input_channels=input_channels, classes=classes, layers=tuple(layers))
