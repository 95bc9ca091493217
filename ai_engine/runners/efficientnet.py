"""EfficientNetV2-B0 and EfficientNet-B1 as plain torch modules, without timm and without torchvision.

Tensor names are those of timm (``tf_efficientnetv2_b0``, ``tf_efficientnet_b1``), so weights written under those names
load as they are.  Padding is TensorFlow's "SAME": where it is odd, the one more row and column lie at the bottom and on
the right.  Batch norm has eps 0.001, convolutions have no bias except in squeeze-excite, the activation is SiLU.

The networks end at the last feature map; pooling, heads and class activation maps are linear in it and are done where
they are needed (:mod:`ai_engine.runners.classifier`).

Sources: Tan and Le, "EfficientNet", ICML 2019; Tan and Le, "EfficientNetV2", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Architecture = Literal["efficientnetv2_b0", "efficientnet_b1"]
BlockKind = Literal["plain", "fused", "separable", "inverted"]

BATCH_NORM_EPS = 1e-3
FEATURES = 1280
"""Channels of the last feature map, in both architectures."""


@dataclass(frozen=True)
class Part:
    """One row of the table in the papers: `blocks` blocks of one kind; the first one has the stride."""

    kind: BlockKind
    kernel: int
    stride: int
    expand: int
    channels: int
    blocks: int


PARTS: Mapping[Architecture, tuple[Part, ...]] = {
    "efficientnetv2_b0": (
        Part("plain", 3, 1, 1, 16, 1),
        Part("fused", 3, 2, 4, 32, 2),
        Part("fused", 3, 2, 4, 48, 2),
        Part("inverted", 3, 2, 4, 96, 3),
        Part("inverted", 3, 1, 6, 112, 5),
        Part("inverted", 3, 2, 6, 192, 8),
    ),
    "efficientnet_b1": (
        Part("separable", 3, 1, 1, 16, 2),
        Part("inverted", 3, 2, 6, 24, 3),
        Part("inverted", 5, 2, 6, 40, 3),
        Part("inverted", 3, 2, 6, 80, 4),
        Part("inverted", 5, 1, 6, 112, 4),
        Part("inverted", 5, 2, 6, 192, 5),
        Part("inverted", 3, 1, 6, 320, 2),
    ),
}
STEM = 32


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME"."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        even = stride == 1
        super().__init__(inward, outward, kernel, stride, padding=kernel // 2 if even else 0, groups=groups, bias=False)
        self.uneven = not even

    def forward(self, picture: Tensor) -> Tensor:
        if self.uneven:
            rows, columns = (self._missing(int(side)) for side in picture.shape[-2:])
            picture = functional.pad(picture, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(picture)

    def _missing(self, side: int) -> int:
        kernel, stride = int(self.kernel_size[0]), int(self.stride[0])
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole picture holds; the bottleneck is a quarter of the *block's* input."""

    def __init__(self, channels: int, block_input: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, block_input // 4, 1)
        self.conv_expand = nn.Conv2d(block_input // 4, channels, 1)

    def forward(self, picture: Tensor) -> Tensor:
        whole = picture.mean((2, 3), keepdim=True)
        return picture * torch.sigmoid(self.conv_expand(functional.silu(self.conv_reduce(whole))))


class Block(nn.Module):
    """A block with its way around it, which may be taken alone while training (stochastic depth)."""

    def __init__(self, inward: int, part: Part, stride: int) -> None:
        super().__init__()
        self.around = stride == 1 and inward == part.channels
        self.drop = 0.0

    def body(self, picture: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, picture: Tensor) -> Tensor:
        answer = self.body(picture)
        if not self.around:
            return answer
        if self.training and self.drop > 0:
            keep = torch.rand(len(answer), 1, 1, 1, dtype=answer.dtype) >= self.drop
            answer = answer * (keep / (1 - self.drop))
        return answer + picture


class PlainBlock(Block):
    """Convolution, batch norm, activation."""

    def __init__(self, inward: int, part: Part, stride: int) -> None:
        super().__init__(inward, part, stride)
        self.conv = SameConv(inward, part.channels, part.kernel, stride)
        self.bn1 = _norm(part.channels)

    def body(self, picture: Tensor) -> Tensor:
        return functional.silu(self.bn1(self.conv(picture)))


class FusedBlock(Block):
    """Fused-MBConv: one full convolution that widens, one 1x1 that narrows."""

    def __init__(self, inward: int, part: Part, stride: int) -> None:
        super().__init__(inward, part, stride)
        wide = inward * part.expand
        self.conv_exp = SameConv(inward, wide, part.kernel, stride)
        self.bn1 = _norm(wide)
        self.conv_pwl = SameConv(wide, part.channels, 1)
        self.bn2 = _norm(part.channels)

    def body(self, picture: Tensor) -> Tensor:
        return self.bn2(self.conv_pwl(functional.silu(self.bn1(self.conv_exp(picture)))))


class SeparableBlock(Block):
    """Depthwise convolution, squeeze-excite, 1x1: the first blocks of B1, which do not widen."""

    def __init__(self, inward: int, part: Part, stride: int) -> None:
        super().__init__(inward, part, stride)
        self.conv_dw = SameConv(inward, inward, part.kernel, stride, groups=inward)
        self.bn1 = _norm(inward)
        self.se = SqueezeExcite(inward, inward)
        self.conv_pw = SameConv(inward, part.channels, 1)
        self.bn2 = _norm(part.channels)

    def body(self, picture: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.se(functional.silu(self.bn1(self.conv_dw(picture))))))


class InvertedBlock(Block):
    """MBConv: 1x1 that widens, depthwise convolution, squeeze-excite, 1x1 that narrows."""

    def __init__(self, inward: int, part: Part, stride: int) -> None:
        super().__init__(inward, part, stride)
        wide = inward * part.expand
        self.conv_pw = SameConv(inward, wide, 1)
        self.bn1 = _norm(wide)
        self.conv_dw = SameConv(wide, wide, part.kernel, stride, groups=wide)
        self.bn2 = _norm(wide)
        self.se = SqueezeExcite(wide, inward)
        self.conv_pwl = SameConv(wide, part.channels, 1)
        self.bn3 = _norm(part.channels)

    def body(self, picture: Tensor) -> Tensor:
        wide = functional.silu(self.bn1(self.conv_pw(picture)))
        return self.bn3(self.conv_pwl(self.se(functional.silu(self.bn2(self.conv_dw(wide))))))


_BLOCKS: Mapping[BlockKind, Callable[[int, Part, int], Block]] = {
    "plain": PlainBlock,
    "fused": FusedBlock,
    "separable": SeparableBlock,
    "inverted": InvertedBlock,
}


class EfficientNet(nn.Module):
    """Pictures ``(N, 3, rows, columns)`` to the last feature map ``(N, 1280, rows/32, columns/32)``.

    Parameters
    ----------
    architecture
        ``efficientnetv2_b0`` or ``efficientnet_b1``.
    stochastic_depth
        How often the last block is left out while training; earlier ones less often, in proportion.
    """

    def __init__(self, architecture: Architecture, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, 3, 2)
        self.bn1 = _norm(STEM)
        self.blocks = nn.Sequential()
        channels = STEM
        for part in PARTS[architecture]:
            blocks = nn.Sequential()
            for index in range(part.blocks):
                blocks.append(_BLOCKS[part.kind](channels, part, part.stride if index == 0 else 1))
                channels = part.channels
            self.blocks.append(blocks)
        self.conv_head = SameConv(channels, FEATURES, 1)
        self.bn2 = _norm(FEATURES)
        every = [module for module in self.modules() if isinstance(module, Block)]
        for index, block in enumerate(every):
            block.drop = stochastic_depth * index / max(len(every) - 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        stem = functional.silu(self.bn1(self.conv_stem(pictures)))
        features: Tensor = functional.silu(self.bn2(self.conv_head(self.blocks(stem))))
        return features


def build_backbone(architecture: Architecture, stochastic_depth: float = 0.0) -> EfficientNet:
    """The network of a name, with random weights; its tensors have timm's names."""
    return EfficientNet(architecture, stochastic_depth)
