"""The networks that a package may name, and how they are built without importing what a file says.

nnU-Net's own loader turns class names of ``plans.json`` into imports; here every name is looked up in the tables below
(hardening section 5: "build the network from an allow-list").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ai_engine.faults import ModelFault

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "EfficientNetV2UNet", "HalfResolutionUNet")
"""Last part of ``network_class_name``; where the class really comes from is decided in `_network_class`."""

_MODULES: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Conv2d,
        nn.Conv3d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.LeakyReLU,
        nn.ReLU,
        nn.SiLU,
        nn.GELU,
    )
}

_PREFIXES = (
    "torch.nn.",
    "dynamic_network_architectures.architectures.",
    "ai_engine.runners.efficientnet_unet.",
    "ai_engine.runners.half_resolution.",
)


def build_network(
    architecture: Mapping[str, Any], input_channels: int, classes: int, *, deep_supervision: bool = False
) -> nn.Module:
    """Build the network of an nnU-Net plan, in evaluation mode, weights untouched.

    Parameters
    ----------
    architecture
        ``configurations.<name>.architecture`` of ``plans.json``.
    deep_supervision
        For training: the network answers with several resolutions.

    Raises
    ------
    ModelFault
        If a class is not on the list or the arguments do not fit it.
    """
    kind = _network_class(str(architecture.get("network_class_name", "")))
    arguments = dict(architecture.get("arch_kwargs", {}))
    arguments.pop("deep_supervision", None)
    for name in architecture.get("_kw_requires_import", ()):
        if arguments.get(name) is not None:
            arguments[name] = _module_class(str(arguments[name]))
    try:
        network = kind(
            input_channels=input_channels, num_classes=classes, deep_supervision=deep_supervision, **arguments
        )
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ModelFault(f"plans.json: the arguments of {kind.__name__} do not fit: {str(error)[:200]}") from error
    return network.eval()


def _network_class(name: str) -> type[nn.Module]:
    last = _last(name)
    if last == "EfficientNetV2UNet":
        from ai_engine.runners.efficientnet_unet import EfficientNetV2UNet

        return EfficientNetV2UNet
    if last == "HalfResolutionUNet":
        from ai_engine.runners.half_resolution import HalfResolutionUNet

        return HalfResolutionUNet
    if last in ("PlainConvUNet", "ResidualEncoderUNet"):
        from dynamic_network_architectures.architectures import unet

        found: type[nn.Module] = {
            "PlainConvUNet": unet.PlainConvUNet,
            "ResidualEncoderUNet": unet.ResidualEncoderUNet,
        }[last]
        return found
    raise ModelFault(f"plans.json names a network that is not allowed; expected one of {', '.join(NETWORKS)}")


def _module_class(name: str) -> type[nn.Module]:
    last = _last(name)
    if last not in _MODULES:
        raise ModelFault(f"plans.json names a layer that is not allowed; expected one of {', '.join(sorted(_MODULES))}")
    return _MODULES[last]


def _last(name: str) -> str:
    """The class name of a dotted path whose root is one of ours; anything else is not looked up at all."""
    if not name.startswith(_PREFIXES):
        raise ModelFault(f"plans.json names a class outside {', '.join(prefix.rstrip('.') for prefix in _PREFIXES)}")
    return name.rpartition(".")[2]


def load_weights(network: nn.Module, data: bytes) -> None:
    """Put the tensors of a safetensors file into a network; names and shapes must fit exactly.

    Names that share one tensor in the network (nnU-Net's decoder holds its encoder again) need appear only once.

    Raises
    ------
    ModelFault
        If the file is no safetensors file, or names, shapes or values do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        given = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFault("the weights are not a safetensors file") from error
    for name, tensor in given.items():
        if tensor.is_floating_point():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelFault(f"the weights hold values that are not finite: {name[:120]}")
            given[name] = tensor.float()
    complete = dict(given)
    for names in shared_names(network):
        present = [name for name in names if name in given]
        if any(not torch.equal(given[name], given[present[0]]) for name in present[1:]):
            raise ModelFault(f"the weights give one tensor two values: {present[0][:120]}")
        for name in names if present else ():
            complete[name] = given[present[0]]
    try:
        network.load_state_dict(complete, strict=True)
    except RuntimeError as error:
        raise ModelFault(f"the weights do not fit the network of plans.json: {str(error)[:400]}") from error


def shared_names(network: nn.Module) -> list[list[str]]:
    """Groups of ``state_dict`` names that are one and the same tensor, each in the network's own order."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, tensor in network.state_dict().items():
        groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    return list(groups.values())
