"""A package's network as a torch module, whatever its runner: for building 8-bit variants and counting arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_engine.packages import ModelPackage
from ai_engine.packages.store import NETWORK

if TYPE_CHECKING:
    from torch import nn


def torch_module(package: ModelPackage, weights: str | None = None) -> tuple[nn.Module, tuple[int, ...]]:
    """The module with its weights, in evaluation mode, and the size of its window in voxels.

    Parameters
    ----------
    weights
        One of the package's weights files; the first by default.

    Raises
    ------
    ModelFault
        If the network cannot be built or the weights do not fit.
    """
    description = package.segmentation
    name = weights or description.weights[0]
    if description.runner == "keras" and description.preparation is not None:
        from safetensors.numpy import load

        from ai_engine.runners.keras_layers import parse_network
        from ai_engine.runners.keras_torch import build_torch

        return build_torch(parse_network(package.files[NETWORK]), load(package.files[name])), (
            description.preparation.patch
        )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from ai_engine.runners.networks import build_network, load_weights
    from ai_engine.runners.nnunet import check_plans

    plans = package.json("plans.json")
    check_plans(plans, description.inference.configuration)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(description.inference.configuration).configuration
    labels = manager.get_label_manager(package.json("dataset.json"))
    module = build_network(configuration["architecture"], len(description.inputs), int(labels.num_segmentation_heads))
    load_weights(module, package.files[name])
    return module, tuple(int(size) for size in configuration["patch_size"])


def flop_of(module: nn.Module, channels: int, window: tuple[int, ...]) -> int:
    """Floating-point operations of one pass (a multiplication and an addition are two), padding included.

    Counted on shapes alone: nothing is computed, so a window of any size costs nothing.
    """
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shapes_only = copy.deepcopy(module).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes_only(torch.empty((1, channels, *window), device="meta"))
    return int(counter.get_total_flops())
