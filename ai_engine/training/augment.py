"""Changes of form and contrast for a whole batch of slices at once.

Form: turning, scaling (the true pixel spacing of much training data is unknown), stretching, shifting, left-right
mirroring, soft warping. Contrast, where models of FLAIR fail most: shading of the coil, gamma on the dark side, slope
on the bright side, level, contrast of the object itself, noise, blur, low resolution. Never inversion, never top-bottom
mirroring: neither occurs.

Pictures come as :func:`ai_engine.runners.intensity.standardise_flair` leaves them: air 0, tissue median 1, at most 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How often and how far. Shares are probabilities per slice; ranges of factors are drawn on a logarithmic scale."""

    output: tuple[int, int] = (224, 224)
    mirror: float = 0.5
    turn_deg: float = 15.0
    far_turn: float = 0.15
    far_turn_deg: float = 60.0
    scale: float = 0.6
    scale_range: tuple[float, float] = (0.72, 1.4)
    stretch: float = 0.08
    shift: float = 0.06
    warp: float = 0.3
    warp_px: float = 5.0
    bias: float = 0.5
    bias_log: float = 0.25
    gamma_range: tuple[float, float] = (0.6, 1.7)
    slope_range: tuple[float, float] = (0.5, 1.6)
    contrast: float = 0.7
    level_range: tuple[float, float] = (0.8, 1.25)
    object_contrast: float = 0.25
    object_range: tuple[float, float] = (0.6, 1.3)
    core: float = 0.0
    core_range: tuple[float, float] = (0.3, 0.9)
    noise: float = 0.35
    noise_sigma: float = 0.12
    blur: float = 0.2
    blur_sigma_px: tuple[float, float] = (0.5, 1.5)
    low_resolution: float = 0.2
    low_resolution_factor: tuple[float, float] = (1.3, 3.0)


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.rand(count) * (high - low) + low


def _log_uniform(count: int, limits: tuple[float, float]) -> Tensor:
    return torch.exp(_uniform(count, math.log(limits[0]), math.log(limits[1])))


def _chosen(count: int, share: float) -> Tensor:
    return torch.rand(count) < share


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _smooth_field(count: int, channels: int, coarse: int, size: tuple[int, int]) -> Tensor:
    field = torch.randn(count, channels, coarse, coarse)
    return functional.interpolate(field, size=size, mode="bicubic", align_corners=True)


def change_form(image: Tensor, mask: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """Sample image and mask on a turned, scaled, stretched, shifted and warped grid.

    Parameters
    ----------
    image, mask
        ``(N, 1, H, W)`` float32; values of the mask are 0 and 1.

    Returns
    -------
    ``(N, 1, *how.output)`` each.
    """
    count, _, height, width = image.shape
    angle = torch.randn(count) * how.turn_deg
    angle = torch.where(_chosen(count, how.far_turn), _uniform(count, -how.far_turn_deg, how.far_turn_deg), angle)
    angle = torch.deg2rad(angle)
    near = _log_uniform(count, (0.93, 1.07))
    zoom = torch.where(_chosen(count, how.scale), _log_uniform(count, how.scale_range), near)
    ratio = torch.exp(torch.randn(count) * how.stretch)
    mirror = torch.where(_chosen(count, how.mirror), -1.0, 1.0)
    out_height, out_width = how.output
    size_x, size_y = out_width / width / zoom * ratio * mirror, out_height / height / zoom / ratio
    cosine, sine = torch.cos(angle), torch.sin(angle)
    aspect = height / width
    shift = torch.randn(count, 2) * how.shift
    theta = torch.stack(
        (
            torch.stack((cosine * size_x, -sine * size_y * aspect, shift[:, 0]), 1),
            torch.stack((sine * size_x / aspect, cosine * size_y, shift[:, 1]), 1),
        ),
        1,
    )
    grid = functional.affine_grid(theta, [count, 1, out_height, out_width], align_corners=False)
    warp = _smooth_field(count, 2, 7, how.output).permute(0, 2, 3, 1) * (2 * how.warp_px / width)
    grid = grid + warp * _column(_chosen(count, how.warp).float())
    both = functional.grid_sample(torch.cat((image, mask), 1), grid, mode="bilinear", align_corners=False)
    return both[:, :1], (both[:, 1:] > 0.5).float()


def change_contrast(image: Tensor, mask: Tensor, how: Augmentation) -> Tensor:
    """Change grey values only; ``(N, 1, H, W)`` in and out, within 0 and 3."""
    count = image.shape[0]
    size = (image.shape[2], image.shape[3])
    if how.object_contrast:
        soft = functional.avg_pool2d(mask, 5, 1, 2)
        factor = torch.where(
            _chosen(count, how.object_contrast), _log_uniform(count, how.object_range), torch.ones(count)
        )
        image = image + soft * (_column(factor) - 1) * functional.relu(image - 1.1)
    if how.core:
        image = _with_core(image, mask, how)
    active = _chosen(count, how.contrast)
    gamma = torch.where(active, _log_uniform(count, how.gamma_range), torch.ones(count))
    slope = torch.where(active, _log_uniform(count, how.slope_range), torch.ones(count))
    dark = image.clamp(1e-4, 1.0) ** _column(gamma)
    image = dark + functional.relu(image - 1) * _column(slope)
    bias = torch.exp(_smooth_field(count, 1, 4, size) * how.bias_log * _column(_chosen(count, how.bias).float()))
    image = image * bias * _column(_log_uniform(count, how.level_range))
    for index in torch.nonzero(_chosen(count, how.low_resolution)).flatten().tolist():
        factor_down = float(_log_uniform(1, how.low_resolution_factor))
        small = [max(8, int(side / factor_down)) for side in size]
        low = functional.interpolate(image[index : index + 1], size=small, mode="bilinear", antialias=True)
        image[index : index + 1] = functional.interpolate(low, size=size, mode="bicubic", align_corners=False)
    for index in torch.nonzero(_chosen(count, how.blur)).flatten().tolist():
        image[index : index + 1] = _blurred(image[index : index + 1], float(_uniform(1, *how.blur_sigma_px)))
    sigma = torch.rand(count) * how.noise_sigma * _chosen(count, how.noise).float()
    first, second = torch.randn(2, *image.shape)
    noisy = torch.sqrt((image + first * _column(sigma)) ** 2 + (second * _column(sigma)) ** 2)
    return torch.where(_column(sigma > 0), noisy, image).clamp(0.0, 3.0)


def _with_core(image: Tensor, mask: Tensor, how: Augmentation) -> Tensor:
    """Darken the inside of some objects, as necrosis does; the core still belongs to the object."""
    count = image.shape[0]
    reach = int(torch.randint(4, 13, ()))
    inner = functional.avg_pool2d(mask, 2 * reach + 1, 1, reach)
    soft = ((inner - 0.75) / 0.25).clamp(0.0, 1.0)
    factor = torch.where(_chosen(count, how.core), _log_uniform(count, how.core_range), torch.ones(count))
    return image * (1 - soft * (1 - _column(factor)))


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    positions = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (positions / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image, (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))


def augment(image: Tensor, mask: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """Change form, then contrast. Draws from torch's global generator, which a checkpoint keeps."""
    with torch.no_grad():
        image, mask = change_form(image, mask, how)
        return change_contrast(image, mask, how), mask
