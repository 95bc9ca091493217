"""Changed copies of dermatoscope pictures, a batch at a time.

First what may lie on or around a lesion is drawn: hairs, a ruler's ticks, ink, coloured round stickers, the dark
surround of the microscope.  They are drawn with the same chance on every class and source, because in the data the
stickers lie almost only beside benign lesions and the rulers mostly beside some sources: a network would learn them.
Then one affine grid per picture crops, scales, squeezes, turns and mirrors (one interpolation), and one 3x3 matrix per
picture changes the colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from ai_engine.training.skin_cases import Pictures

Random = np.random.Generator

_LUMA = np.array([0.299, 0.587, 0.114])
_STICKERS = (
    (40, 90, 190),
    (60, 160, 80),
    (235, 200, 50),
    (220, 110, 40),
    (200, 50, 60),
    (60, 180, 200),
    (150, 70, 160),
)


@dataclass(frozen=True)
class SkinAugmentation:
    """How often and how far; shares are probabilities per picture."""

    area: tuple[float, float] = (0.45, 1.0)
    """Share of the picture that is kept."""
    squeeze_log: float = 0.22
    """Largest change of the ratio of width and height, natural logarithm."""
    turn_deg: float = 20.0
    """Largest turn beyond the quarter turns."""
    hairs: float = 0.25
    sticker: float = 0.10
    ruler: float = 0.08
    ink: float = 0.06
    vignette: float = 0.15
    brightness_log: float = 0.15
    contrast_log: float = 0.2
    saturation_log: float = 0.25
    channel_log: float = 0.08
    hue_deg: float = 8.0
    blur: float = 0.12
    noise: float = 0.10
    noise_sigma: float = 0.03


def augmented(pictures: Pictures, size: int, how: SkinAugmentation, random: Random) -> Tensor:
    """Changed copies, ``(N, 3, size, size)`` float32 in 0..1, of 8-bit ``(N, rows, columns, 3)``."""
    drawn = np.stack([_drawn(picture, how, random) for picture in pictures])
    batch = torch.from_numpy(drawn).permute(0, 3, 1, 2).float().div_(255)
    theta = np.stack([_form(how, random) for _ in range(len(batch))])
    grid = functional.affine_grid(torch.from_numpy(theta).float(), [len(batch), 3, size, size], align_corners=False)
    batch = functional.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    batch = _blurred(batch, how, random)
    return _coloured(batch, how, random).clamp_(0, 1)


def _form(how: SkinAugmentation, random: Random) -> npt.NDArray[np.float64]:
    """An affine grid's ``(2, 3)``: where in the picture (from -1 to 1) each place of the copy comes from."""
    side = math.sqrt(random.uniform(*how.area))
    squeeze = math.exp(random.uniform(-how.squeeze_log, how.squeeze_log) / 2)
    width, height = min(side * squeeze, 1.0), min(side / squeeze, 1.0)
    angle = math.radians(90 * int(random.integers(4)) + random.uniform(-how.turn_deg, how.turn_deg))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mirror = np.diag([float(random.choice((-1.0, 1.0))), 1.0])
    shift = np.array([random.uniform(-1, 1) * (1 - width), random.uniform(-1, 1) * (1 - height)])
    return np.concatenate((np.diag([width, height]) @ turn @ mirror, shift[:, None]), 1)


def _blurred(batch: Tensor, how: SkinAugmentation, random: Random) -> Tensor:
    for index in np.flatnonzero(random.random(len(batch)) < how.blur):
        one = batch[index : index + 1]
        small = functional.interpolate(one, scale_factor=1 / random.uniform(1.3, 2.5), mode="area")
        batch[index] = functional.interpolate(small, size=one.shape[-2:], mode="bilinear", align_corners=False)[0]
    return batch


def _coloured(batch: Tensor, how: SkinAugmentation, random: Random) -> Tensor:
    count, channels, rows, columns = batch.shape
    matrices = np.stack([_colour_matrix(how, random) for _ in range(count)])
    contrast = np.exp(random.uniform(-how.contrast_log, how.contrast_log, count))
    matrix = torch.from_numpy(matrices * contrast[:, None, None]).float()
    # contrast turns about the picture's own mean colour
    mean = batch.mean((2, 3))
    offset = (1 - torch.from_numpy(contrast).float())[:, None] * mean
    flat = torch.baddbmm(offset[:, :, None], matrix, batch.reshape(count, channels, rows * columns))
    batch = flat.reshape(batch.shape)
    for index in np.flatnonzero(random.random(count) < how.noise):
        sigma = float(random.uniform(0, how.noise_sigma))
        noise = random.standard_normal((channels, rows, columns), dtype=np.float32)
        batch[index] += torch.from_numpy(noise) * sigma
    return batch


def _colour_matrix(how: SkinAugmentation, random: Random) -> npt.NDArray[np.float64]:
    saturation = math.exp(random.uniform(-how.saturation_log, how.saturation_log))
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    # hue: a turn about the grey axis (Rodrigues)
    angle = math.radians(random.uniform(-how.hue_deg, how.hue_deg))
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    hue = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    gains = np.exp(random.uniform(-how.channel_log, how.channel_log, 3))
    brightness = math.exp(random.uniform(-how.brightness_log, how.brightness_log))
    return np.asarray(np.diag(gains * brightness) @ hue @ matrix)


def _drawn(picture: Pictures, how: SkinAugmentation, random: Random) -> Pictures:
    wanted = random.random(5) < (how.hairs, how.sticker, how.ruler, how.ink, how.vignette)
    if not wanted.any():
        return np.asarray(picture)
    image = Image.fromarray(np.asarray(picture))
    canvas = ImageDraw.Draw(image)
    for draw, chosen in zip((_sticker, _ink, _ruler, _hairs), wanted[[1, 3, 2, 0]], strict=True):
        if chosen:
            draw(canvas, image.width, random)
    changed = np.asarray(image)
    return _vignette(changed, random) if wanted[4] else changed


def _curve(random: Random, side: int, reach: float) -> list[tuple[float, float]]:
    start = random.uniform(-0.1, 1.1, 2) * side
    angle, length = random.uniform(0, 2 * math.pi), random.uniform(0.2, reach) * side
    end = start + length * np.array([math.cos(angle), math.sin(angle)])
    bend = (start + end) / 2 + random.normal(0, 0.12 * length, 2)
    steps = np.linspace(0, 1, 12)[:, None]
    points = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
    return [(float(x), float(y)) for x, y in points]


def _shade(random: Random, low: tuple[int, int, int], high: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(low, np.array(high) + 1))
    return red, green, blue


def _hairs(canvas: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    light = random.random() < 0.15
    for _ in range(int(random.integers(2, 18))):
        colour = _shade(random, (150, 130, 110), (220, 205, 190)) if light else _shade(random, (10, 5, 5), (80, 60, 50))
        canvas.line(_curve(random, side, 0.9), fill=colour, width=int(random.integers(1, 3)), joint="curve")


def _sticker(canvas: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    radius = random.uniform(0.10, 0.32) * side
    angle, distance = random.uniform(0, 2 * math.pi), random.uniform(0.5, 0.72) * side
    x, y = side / 2 + distance * math.cos(angle), side / 2 + distance * math.sin(angle)
    base = _STICKERS[int(random.integers(len(_STICKERS)))]
    colour = _shade(random, (0, 0, 0), (40, 40, 40))
    fill = tuple(min(255, max(0, first + second - 20)) for first, second in zip(base, colour, strict=True))
    flat = random.uniform(0.75, 1.0)
    canvas.ellipse((x - radius, y - radius * flat, x + radius, y + radius * flat), fill=fill)


def _ruler(canvas: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    edge, upright = random.uniform(0.02, 0.12) * side, random.random() < 0.5
    far, step = random.random() < 0.5, random.uniform(0.025, 0.07) * side
    colour = _shade(random, (0, 0, 0), (60, 60, 60)) if random.random() < 0.8 else (235, 235, 235)
    if random.random() < 0.5:
        band = (0.0, 0.0, edge + 0.1 * side, float(side)) if upright else (0.0, 0.0, float(side), edge + 0.1 * side)
        if not far:
            canvas.rectangle(band, fill=_shade(random, (190, 190, 185), (245, 245, 245)))
    at, number = random.uniform(0, step), 0
    while at < side:
        long = (0.09 if number % 5 == 0 else 0.05) * side
        first, last = (side - edge - long, side - edge) if far else (edge, edge + long)
        canvas.line([(first, at), (last, at)] if upright else [(at, first), (at, last)], fill=colour, width=1)
        at, number = at + step, number + 1


def _ink(canvas: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    colour = _shade(random, (30, 20, 90), (120, 80, 190))
    for _ in range(int(random.integers(1, 4))):
        canvas.line(_curve(random, side, 0.5), fill=colour, width=int(random.integers(3, 9)), joint="curve")


def _vignette(picture: Pictures, random: Random) -> Pictures:
    side = picture.shape[0]
    rows, columns = np.ogrid[:side, :side]
    middle = side / 2 + random.normal(0, 0.04 * side, 2)
    # microscopes are round, but whole pictures were squeezed to a square
    flat = random.choice((1.0, 0.75, 0.67))
    distance = np.hypot((rows - middle[0]) * flat, columns - middle[1])
    radius, soft = random.uniform(0.42, 0.62) * side, random.uniform(1.0, 0.08 * side)
    light = np.clip((radius - distance) / soft + 0.5, 0, 1)[..., None]
    floor = random.uniform(0, 25)
    return np.asarray(picture * light + floor * (1 - light), dtype=np.uint8)
