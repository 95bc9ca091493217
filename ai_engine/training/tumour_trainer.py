"""One network being trained for ``brain-tumour``: step, loss, averaged weights, state.

The plan is nnU-Net's, the parts of the loss are nnU-Net's Dice and cross entropy.  Dice is taken over the three regions
that are reported (whole tumour, core, enhancing).  Where the truth is an outline without parts, only the sum of the
parts is judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ai_engine.runners.networks import build_network
from ai_engine.training.tumour_augment import TumourAugmentation, Volume, training_patch
from ai_engine.training.tumour_cases import REGIONS

LEVEL_WEIGHTS = (1.0, 0.5, 0.25)
"""Full resolution, a quarter, an eighth."""


@dataclass(frozen=True)
class Stage:
    """How one stage of the training goes: what is drawn how often, and how fast is learnt."""

    shares: Mapping[str, float]
    learning_rate: float
    patch: tuple[int, int, int]
    smooth: float = 1e-5
    """Voxels added to both sides of the Dice.  nnU-Net's own value gives a patch without a region no Dice at all; some
    hundred voxels make every false voxel there count."""
    augmentation: TumourAugmentation = field(default_factory=TumourAugmentation)
    weight_decay: float = 0.02
    warm_up: int = 40
    """Iterations."""
    plateau: float = 0.5
    """Share of the stage at the full rate; after it the rate falls to nothing."""
    ema_decay: float = 0.995
    clip: float = 4.0


def rate_at(progress: float, iteration: int, stage: Stage) -> float:
    """The learning rate's share of its full value: warm-up, plateau, half a cosine."""
    warm = min(1.0, (iteration + 1) / stage.warm_up)
    late = max(0.0, min(1.0, progress) - stage.plateau) / max(1 - stage.plateau, 1e-9)
    return float(warm * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * late))))


def build_for_training(plans: Mapping[str, Any], configuration: str) -> nn.Module:
    """The plan's network with deep supervision, nnU-Net's start values."""
    architecture = json.loads(json.dumps(plans["configurations"][configuration]["architecture"]))
    network = build_network(architecture, 2, 4, deep_supervision=True)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=1e-2)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.train()


class TumourLoss:
    """nnU-Net's soft Dice over regions plus cross entropy, at every level of the network."""

    def __init__(self) -> None:
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

        self._dice_with = partial(
            MemoryEfficientSoftDiceLoss, apply_nonlin=None, batch_dice=True, do_bg=True, ddp=False
        )

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor, partless: bool, smooth: float) -> Tensor:
        total = torch.zeros(())
        for output, weight in zip(outputs, LEVEL_WEIGHTS, strict=True):
            step = labels.shape[-1] // output.shape[-1]
            own = labels[:, step // 2 :: step, step // 2 :: step, step // 2 :: step]
            total = total + weight * self._one(output.float(), own, partless, smooth / step**3)
        return total / sum(LEVEL_WEIGHTS)

    def _one(self, logits: Tensor, labels: Tensor, partless: bool, smooth: float) -> Tensor:
        dice = self._dice_with(smooth=smooth)
        logs = functional.log_softmax(logits, 1)
        chances = logs.exp()
        if partless:
            whole = (labels > 0).float()[:, None]
            tumour = 1 - chances[:, :1]
            inside = torch.logsumexp(logs[:, 1:], 1, keepdim=True)
            entropy = -(whole * inside + (1 - whole) * logs[:, :1]).mean()
            return torch.as_tensor(entropy + dice(tumour, whole))
        regions = torch.cat([chances[:, list(parts)].sum(1, keepdim=True) for parts in REGIONS.values()], 1)
        truth = torch.stack([torch.isin(labels, torch.tensor(parts)) for parts in REGIONS.values()], 1).float()
        return torch.as_tensor(functional.nll_loss(logs, labels) + dice(regions, truth))


class TumourRun:
    """One training: network, averaged weights, optimiser, its own random numbers.

    Parameters
    ----------
    groups
        Source to the patients learnt from; nobody of the fold's test side is among them.
    """

    def __init__(
        self, name: str, plans: Mapping[str, Any], configuration: str, groups: Mapping[str, Sequence[Volume]], seed: int
    ) -> None:
        self.name = name
        self.groups = groups
        torch.manual_seed(seed)
        self.network = build_for_training(plans, configuration)
        self.ema = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.iteration = 0
        self.random = np.random.default_rng(seed)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, betas=(0.9, 0.99))
        self._loss = TumourLoss()

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start from another training's averaged weights."""
        self.network.load_state_dict(dict(weights))
        self.ema = {key: value.detach().clone() for key, value in weights.items()}

    def steps(self, count: int, progress: float, stage: Stage) -> float:
        """Take some steps at the rate of one moment of the stage; the mean loss."""
        losses = []
        for _ in range(count):
            rate = stage.learning_rate * rate_at(progress, self.iteration, stage)
            for group in self.optimizer.param_groups:
                group["lr"], group["weight_decay"] = rate, stage.weight_decay
            torch.manual_seed(int(self.random.integers(2**62)))
            with torch.no_grad():
                image, labels, partless = training_patch(
                    self.groups, stage.shares, stage.patch, stage.augmentation, self.random
                )
            with torch.autocast("cpu", torch.bfloat16):
                outputs = self.network(image)
            loss = self._loss(outputs, labels, partless, stage.smooth)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip)
            self.optimizer.step()
            self._average(stage.ema_decay)
            self.iteration += 1
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _average(self, decay: float) -> None:
        keep = min(decay, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                self.ema[key].lerp_(value, 1 - keep)

    def save(self, path: Path) -> None:
        """Write the state beside the old one, then put it in its place."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "random": json.dumps(self.random.bit_generator.state),
        }
        partial = path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, path)

    def resume(self, path: Path) -> bool:
        """Go on from a state; false if there is none."""
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])
        self.random.bit_generator.state = json.loads(state["random"])
        return True
