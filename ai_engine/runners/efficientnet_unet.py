"""A U-Net whose encoder is EfficientNetV2-B0: the network of ``brain-flair``.

Built here layer by layer, without timm or torchvision, so that a packaged model needs nothing but torch. The encoder
follows Tan and Le, "EfficientNetV2" (2021), with the tensor names of timm's ``tf_efficientnetv2_b0``, so that the
published ImageNet weights fit; the decoder is ours: five steps of up-sampling, each joined with the encoder's picture
of the same size, all convolutions with batch normalisation.

Guaranteed: input ``(N, C, H, W)`` with H and W any multiple of 32, output ``(N, classes, H, W)`` logits; with deep
supervision (training only) a list of logits at 1, 1/2, 1/4 and 1/8 of the size, as nnU-Net's loss expects. The class
takes ``input_channels``, ``num_classes`` and ``deep_supervision``, so an nnU-Net plan can name it.

Not guaranteed: equality with timm beyond rounding. ``tests/unit/test_training_network.py`` holds the encoder to the
reference values of the weights when these are at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_BN_EPS = 1e-3

MULTIPLE = 32
"""Height and width of the input must be multiples of this."""

_STAGES: tuple[tuple[str, int, int, int, int, int], ...] = (
    # kind, stride, expansion, channels out, blocks, squeeze-excite divisor (0 = none)
    ("conv", 1, 1, 16, 1, 0),
    ("fused", 2, 4, 32, 2, 0),
    ("fused", 2, 4, 48, 2, 0),
    ("mb", 2, 4, 96, 3, 4),
    ("mb", 1, 6, 112, 5, 4),
    ("mb", 2, 6, 192, 8, 4),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: one more row and column at the end."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        symmetric = kernel // 2 if stride == 1 else 0
        super().__init__(inside, outside, kernel, stride, symmetric, groups=groups, bias=False)
        total = max(kernel - stride, 0)
        self._pad = (total // 2, total - total // 2) if stride > 1 else None

    def forward(self, input: Tensor) -> Tensor:
        if self._pad is not None:
            before, after = self._pad
            input = functional.pad(input, (before, after, before, after))
        return super().forward(input)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        scale = self.conv_expand(functional.silu(self.conv_reduce(scale)))
        return x * torch.sigmoid(scale)


def _dropped(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Leave a residual branch out for some samples of a training batch (stochastic depth)."""
    if not training or probability == 0.0:
        return branch
    keep = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= probability
    return branch * (keep.to(branch.dtype) / (1.0 - probability))


class _Block(nn.Module):
    drop_path: float = 0.0


class _ConvBlock(_Block):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = SameConv2d(inside, outside, 3, stride)
        self.bn1 = nn.BatchNorm2d(outside, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.bn1(self.conv(x)))


class _FusedBlock(_Block):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.conv_exp = SameConv2d(inside, middle, 3, stride)
        self.bn1 = nn.BatchNorm2d(middle, eps=_BN_EPS)
        self.conv_pwl = SameConv2d(middle, outside, 1)
        self.bn2 = nn.BatchNorm2d(outside, eps=_BN_EPS)
        self._adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.bn1(self.conv_exp(x)))
        y = self.bn2(self.conv_pwl(y))
        return x + _dropped(y, self.drop_path, self.training) if self._adds else y


class _MBBlock(_Block):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int, reduction: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.conv_pw = SameConv2d(inside, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle, eps=_BN_EPS)
        self.conv_dw = SameConv2d(middle, middle, 3, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle, eps=_BN_EPS)
        self.se = _SqueezeExcite(middle, inside // reduction)
        self.conv_pwl = SameConv2d(middle, outside, 1)
        self.bn3 = nn.BatchNorm2d(outside, eps=_BN_EPS)
        self._adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.bn1(self.conv_pw(x)))
        y = functional.silu(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(self.se(y)))
        return x + _dropped(y, self.drop_path, self.training) if self._adds else y


def _block(kind: str, inside: int, outside: int, stride: int, expansion: int, reduction: int) -> _Block:
    if kind == "conv":
        return _ConvBlock(inside, outside, stride)
    if kind == "fused":
        return _FusedBlock(inside, outside, stride, expansion)
    return _MBBlock(inside, outside, stride, expansion, reduction)


class EfficientNetV2B0Encoder(nn.Module):
    """The convolutional body of EfficientNetV2-B0 up to its sixth stage (``conv_head`` is left out).

    ``forward`` returns the pictures at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, with 16, 32, 48, 112 and 192 channels.
    """

    channels: tuple[int, ...] = (16, 32, 48, 112, 192)

    def __init__(self, input_channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(input_channels, 32, 3, 2)
        self.bn1 = nn.BatchNorm2d(32, eps=_BN_EPS)
        stages: list[nn.Module] = []
        built, total = 0, sum(stage[4] for stage in _STAGES)
        inside = 32
        for kind, stride, expansion, outside, count, reduction in _STAGES:
            blocks: list[nn.Module] = []
            for index in range(count):
                block = _block(kind, inside, outside, stride if index == 0 else 1, expansion, reduction)
                block.drop_path = drop_path * built / total
                built += 1
                blocks.append(block)
                inside = outside
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.silu(self.bn1(self.conv_stem(x)))
        pictures: list[Tensor] = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index != 3:  # stage 3 has the size of stage 4, which is taken instead
                pictures.append(x)
        return pictures


class _UpBlock(nn.Module):
    """Double the size, join with the encoder's picture, two 3x3 convolutions."""

    def __init__(self, inside: int, skip: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside + skip, outside, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = torch.cat((x, skip), 1)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)))


class _LastUp(nn.Module):
    """The step to full size: cheap, because three quarters of all pixels live here."""

    def __init__(self, inside: int, input_channels: int, outside: int) -> None:
        super().__init__()
        self.raw = nn.Conv2d(input_channels, 8, 3, padding=1, bias=False)
        self.bn_raw = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(inside, 16, 1, bias=False)
        self.bn_squeeze = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(24, outside, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        raw = functional.relu(self.bn_raw(self.raw(image)))
        low = functional.relu(self.bn_squeeze(self.squeeze(x)))
        low = functional.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return functional.relu(self.bn(self.conv(torch.cat((low, raw), 1))))


class _Decoder(nn.Module):
    """Holds the switch ``deep_supervision`` where nnU-Net's trainer looks for it."""

    def __init__(self, input_channels: int, widths: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        skips = EfficientNetV2B0Encoder.channels
        inside = skips[-1]
        self.steps = nn.ModuleList()
        for skip, outside in zip(reversed(skips[:-1]), widths, strict=True):
            self.steps.append(_UpBlock(inside, skip, outside))
            inside = outside
        self.last = _LastUp(inside, input_channels, 16)
        self.head = nn.Conv2d(16, num_classes, 1)
        self.auxiliary = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in reversed(widths[1:]))

    def forward(self, pictures: list[Tensor], image: Tensor) -> Tensor | list[Tensor]:
        x = pictures[-1]
        by_size: list[Tensor] = []
        for step, skip in zip(self.steps, reversed(pictures[:-1]), strict=True):
            x = step(x, skip)
            by_size.insert(0, x)
        logits: Tensor = self.head(self.last(x, image))
        if not self.deep_supervision:
            return logits
        return [logits] + [head(picture) for head, picture in zip(self.auxiliary, by_size, strict=False)]


class EfficientNetV2UNet(nn.Module):
    """EfficientNetV2-B0 encoder, light U-Net decoder.

    Parameters
    ----------
    input_channels
        Channels of the input picture.
    num_classes
        Channels of the logits, background included.
    deep_supervision
        Return logits at four sizes (training) instead of one tensor.
    decoder_widths
        Channels of the decoder at 1/16, 1/8, 1/4 and 1/2 of the size.
    input_gain, input_offset
        Fixed scaling of the input inside the network: pictures arrive with air at 0 and tissue at 1, ImageNet's
        weights expect values around 0.
    drop_path
        Greatest probability of skipping a residual branch, in training only; it grows linearly with depth.
    """

    def __init__(
        self,
        input_channels: int = 1,
        num_classes: int = 2,
        deep_supervision: bool = False,
        decoder_widths: Sequence[int] = (128, 64, 48, 32),
        input_gain: float = 3.0,
        input_offset: float = -3.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self._gain, self._offset = input_gain, input_offset
        self.encoder = EfficientNetV2B0Encoder(input_channels, drop_path)
        self.decoder = _Decoder(input_channels, decoder_widths, num_classes, deep_supervision)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = x * self._gain + self._offset
        result: Tensor | list[Tensor] = self.decoder(self.encoder(x), x)
        return result


def load_imagenet(network: EfficientNetV2UNet, tensors: Mapping[str, Tensor]) -> None:
    """Put ImageNet weights (names of timm's ``tf_efficientnetv2_b0``) into the encoder.

    The three colour planes of the stem are summed and spread evenly over the network's input channels, so that a grey
    picture gives what a grey RGB picture gave.

    Raises
    ------
    ValueError
        If a tensor of the encoder is missing or has another shape.
    """
    encoder = network.encoder
    own = encoder.state_dict()
    chosen: dict[str, Tensor] = {}
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            chosen[name] = value
            continue
        if name not in tensors:
            raise ValueError(f"The pretrained weights lack {name!r}")
        tensor = tensors[name].float()
        if name == "conv_stem.weight":
            count = value.shape[1]
            tensor = tensor.sum(1, keepdim=True).repeat(1, count, 1, 1) / count
        if tensor.shape != value.shape:
            raise ValueError(f"{name!r}: shape {tuple(tensor.shape)}, expected {tuple(value.shape)}")
        chosen[name] = tensor
    encoder.load_state_dict(chosen)
