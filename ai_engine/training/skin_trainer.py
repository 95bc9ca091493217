"""One training of one classifier: balanced batches, two heads, a running average of the weights, states that resume.

Everything random in step *n* is drawn from the seed and *n*, so a training that was stopped and resumed takes the same
steps as one that was not (``tests/unit/test_skin_training.py``).

Two heads are kept, ``malignant`` and ``melanoma``, both linear on the pooled features.  A third, the diagnosis, only
helps to learn: benign keratoses and nevi are told apart, which the two questions alone never ask for.  It leaves out
pictures whose diagnosis nobody named.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ai_engine.runners.efficientnet import FEATURES, Architecture, EfficientNet
from ai_engine.training.skin_augment import SkinAugmentation, augmented
from ai_engine.training.skin_cases import DIAGNOSES, UNNAMED, Pictures, SkinCase

HEADS = ("malignant", "melanoma")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SkinStage:
    """From a share of the training on: the size of the copies."""

    begins: float
    size: int


@dataclass(frozen=True)
class SkinHow:
    """Everything that decides one training besides the data, the seed and its length."""

    architecture: Architecture = "efficientnetv2_b0"
    batch: int = 32
    learning_rate: float = 3e-4
    head_factor: float = 3.0
    """The heads start from nothing and learn faster."""
    weight_decay: float = 0.03
    warm_up: float = 0.04
    average: float = 0.998
    dropout: float = 0.25
    stochastic_depth: float = 0.1
    norm_momentum: float = 0.02
    diagnosis_weight: float = 0.3
    stages: tuple[SkinStage, ...] = (SkinStage(0.0, 192), SkinStage(0.4, 224))
    source_shares: Mapping[str, float] = field(
        default_factory=lambda: {"ISIC2017": 0.45, "HAM10000": 0.45, "SIIM-ISIC2020": 0.10}
    )
    """How much of a batch a source gives; sources not named here share by the root of their malignant count."""
    mixup: float = 0.2
    """Parameter of the Beta distribution by which pairs of copies are mixed (Zhang et al., ICLR 2018); 0: never.
    A leg with mixup after one without moved the AUC on ISIC 2017's validation part from 0.870 to 0.889."""
    malignant_share: float = 0.4
    melanoma_share: float = 0.7
    """Of a source's malignant pictures, where it has others too."""
    augmentation: SkinAugmentation = field(default_factory=SkinAugmentation)
    arithmetic: str = "bf16"


class SkinNetwork(nn.Module):
    """Features, pooled; the heads that are kept and the one that only helps."""

    def __init__(self, how: SkinHow) -> None:
        super().__init__()
        self.features = EfficientNet(how.architecture, how.stochastic_depth)
        self.dropout = nn.Dropout(how.dropout)
        self.heads = nn.Linear(FEATURES, len(HEADS))
        self.diagnosis = nn.Linear(FEATURES, len(DIAGNOSES))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = how.norm_momentum
        nn.init.zeros_(self.heads.bias)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.normal_(self.diagnosis.weight, std=0.01)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.dropout(self.features(pictures).mean((2, 3)).float())
        return self.heads(pooled), self.diagnosis(pooled)


def normalised(batch: Tensor) -> Tensor:
    """0..1 to what the ImageNet weights expect."""
    return (batch - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class BalancedSampler:
    """Draws pictures so that a source says nothing about the class, and rare classes come as often as is useful."""

    def __init__(self, cases: Sequence[SkinCase], how: SkinHow) -> None:
        weights = np.zeros(len(cases))
        sources = np.array([case.source for case in cases])
        malignant = np.array([case.malignant for case in cases])
        melanoma = np.array([case.melanoma for case in cases])
        for source, share in source_shares(cases, how).items():
            here = sources == source
            both = malignant[here].any() and not malignant[here].all()
            for ill in (True, False):
                group = here & (malignant == ill)
                if not group.any():
                    continue
                class_share = (how.malignant_share if ill else 1 - how.malignant_share) if both else 1.0
                weights[group] = share * class_share / group.sum()
                first, others = group & melanoma, group & ~melanoma
                if ill and first.any() and others.any():
                    weights[first] = share * class_share * how.melanoma_share / first.sum()
                    weights[others] = share * class_share * (1 - how.melanoma_share) / others.sum()
        self.weights = weights / weights.sum()

    def draw(self, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Places of `count` pictures, with replacement."""
        return random.choice(len(self.weights), count, p=self.weights)


def source_shares(cases: Sequence[SkinCase], how: SkinHow) -> dict[str, float]:
    """What part of a batch each source gives; adds up to 1."""
    sources = sorted({case.source for case in cases})
    root = {s: math.sqrt(1 + sum(case.malignant for case in cases if case.source == s)) for s in sources}
    named = {s: how.source_shares[s] for s in sources if s in how.source_shares}
    strange = [s for s in sources if s not in named]
    left = max(1 - sum(named.values()), 0.0) if named else 1.0
    if strange and left == 0.0:
        left = len(strange) / len(sources)
    total = sum(root[s] for s in strange)
    shares = {**named, **{s: left * root[s] / total for s in strange}}
    whole = sum(shares.values())
    return {s: share / whole for s, share in shares.items()}


class SkinRun:
    """A network in training.

    Parameters
    ----------
    cases, pictures
        What it may learn from; ``pictures[index[i]]`` belongs to ``cases[i]``.
    start
        Tensors of the features to start from, by timm's names; None starts from random weights.
    """

    def __init__(
        self,
        cases: Sequence[SkinCase],
        pictures: Pictures,
        index: npt.NDArray[np.int64],
        how: SkinHow,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.how, self.seed = how, seed
        self.pictures, self.index = pictures, index
        self.sampler = BalancedSampler(cases, how)
        self.truth = torch.tensor([[case.malignant, case.melanoma] for case in cases], dtype=torch.float32)
        self.kinds = torch.tensor([case.kind for case in cases])
        self.network = SkinNetwork(how)
        if start is not None:
            begin_from(self.network.features, start)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self._groups(), lr=how.learning_rate, betas=(0.9, 0.99))
        self.iteration = 0
        self.progress = 0.0

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            factor = 1.0 if name.startswith("features.") else self.how.head_factor
            decay = self.how.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
        return [{"params": many, "weight_decay": decay, "factor": f} for (f, decay), many in groups.items()]

    def step(self, progress: float) -> float:
        """One batch; `progress` from 0 to 1 decides rate and size.  Gives the loss."""
        random = np.random.default_rng((self.seed, self.iteration))
        torch.manual_seed(int(random.integers(2**31)))
        self.network.train()
        rate = self.how.learning_rate * schedule(progress, self.how.warm_up)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        chosen = self.sampler.draw(self.how.batch, random)
        size = [stage.size for stage in self.how.stages if stage.begins <= progress][-1]
        batch = augmented(np.asarray(self.pictures[self.index[chosen]]), size, self.how.augmentation, random)
        loss = self._loss(normalised(batch).contiguous(memory_format=torch.channels_last), torch.from_numpy(chosen))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._follow()
        self.iteration += 1
        self.progress = progress
        return float(loss.detach())

    def _loss(self, batch: Tensor, chosen: Tensor) -> Tensor:
        order, share = torch.arange(len(chosen)), 1.0
        if self.how.mixup > 0:
            order = torch.randperm(len(chosen))
            share = float(torch.distributions.Beta(self.how.mixup, self.how.mixup).sample())
            batch = (share * batch + (1 - share) * batch[order]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how.arithmetic == "bf16"):
            answers, diagnoses = self.network(batch)
        answers, diagnoses = answers.float(), diagnoses.float()
        loss = share * self._one_loss(answers, diagnoses, chosen)
        return loss if share == 1.0 else loss + (1 - share) * self._one_loss(answers, diagnoses, chosen[order])

    def _one_loss(self, answers: Tensor, diagnoses: Tensor, chosen: Tensor) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits(answers, self.truth[chosen])
        kinds = self.kinds[chosen]
        if bool((kinds != UNNAMED).any()):
            named = functional.cross_entropy(diagnoses, kinds, ignore_index=UNNAMED)
            loss = loss + self.how.diagnosis_weight * named
        return loss

    def _follow(self) -> None:
        keep = min(self.how.average, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                kept = self.average[name]
                if kept.is_floating_point():
                    kept.lerp_(value, 1 - keep)
                else:
                    kept.copy_(value)

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self, path: Path, **more: Any) -> None:
        """Write everything needed to go on, whole or not at all."""
        unfinished = path.with_suffix(".part")
        kept = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "iteration": self.iteration,
            "progress": self.progress,
            "more": more,
        }
        torch.save(kept, unfinished)
        os.replace(unfinished, path)

    def resume(self, path: Path) -> dict[str, Any] | None:
        """Go on from a state; what was saved beside it, or None if there is none."""
        if not path.exists():
            return None
        kept = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(kept["network"])
        self.average = kept["average"]
        self.optimiser.load_state_dict(kept["optimiser"])
        self.iteration, self.progress = int(kept["iteration"]), float(kept["progress"])
        more: dict[str, Any] = kept["more"]
        return more

    def averaged(self) -> SkinNetwork:
        """The network with the running average of its weights, in evaluation mode."""
        network = SkinNetwork(self.how)
        network.load_state_dict(self.average)
        network.to(memory_format=torch.channels_last).eval()
        return network


def begin_from(features: EfficientNet, start: Mapping[str, Tensor]) -> None:
    """Load starting weights; the counters of batch norm may be absent, everything else must fit."""
    wanted = {name: value for name, value in start.items() if not name.startswith("classifier.")}
    result = features.load_state_dict({name: value.float() for name, value in wanted.items()}, strict=False)
    lost = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    if lost or result.unexpected_keys:
        first = (lost or result.unexpected_keys)[0]
        raise ValueError(f"the starting weights are those of another network: {first} does not fit")


def schedule(progress: float, warm_up: float) -> float:
    """Share of the highest rate: up in a line, then down half a cosine to a hundredth."""
    if progress < warm_up:
        return (progress + 0.02 * warm_up) / (1.02 * warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warm_up) / (1 - warm_up), 1.0)))


def answers_of(
    network: SkinNetwork, pictures: Pictures, index: npt.NDArray[np.int64], size: int, batch: int = 32
) -> npt.NDArray[np.float32]:
    """Logits ``(N, heads)`` of whole pictures, squeezed to ``(size, size)``, one view, in f32."""
    found: list[npt.NDArray[np.float32]] = []
    for first in range(0, len(index), batch):
        part = torch.from_numpy(np.asarray(pictures[index[first : first + batch]])).permute(0, 3, 1, 2).float() / 255
        if part.shape[-1] != size:
            part = functional.interpolate(part, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        with torch.inference_mode():
            heads, _ = network(normalised(part.clamp(0, 1)).contiguous(memory_format=torch.channels_last))
        found.append(heads.numpy())
    return np.concatenate(found) if found else np.zeros((0, len(HEADS)), np.float32)
