"""Good pictures made worse in five steps each: blur, darkness, glare, compression, something in front, a bad crop."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Way:
    """One way to spoil a picture.

    Attributes
    ----------
    steps
        Five strengths, mild to hopeless.
    unit
        What a step means, in words.
    """

    name: str
    unit: str
    steps: tuple[float, float, float, float, float]
    spoil: Callable[[Pixels, float, np.random.Generator], Pixels]


def _blur(pixels: Pixels, radius: float, random: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius * pixels.shape[0] / 256)))


def _dark(pixels: Pixels, factor: float, random: np.random.Generator) -> Pixels:
    """Less light, with the noise that a camera then shows."""
    noisy = pixels * factor + random.normal(0, 2.5, pixels.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _bright(pixels: Pixels, factor: float, random: np.random.Generator) -> Pixels:
    return np.asarray(np.clip(pixels * np.float32(factor), 0, 255), np.uint8)


def _compressed(pixels: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer).convert("RGB"))


def _covered(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """A finger, a cloth or a sticker over a share of the picture, from one side."""
    image = Image.fromarray(pixels.copy())
    rows, columns = pixels.shape[:2]
    colour = ((205, 150, 125), (40, 60, 120), (235, 235, 230), (30, 28, 28))[int(random.integers(4))]
    width, height, side = columns * share, rows * share, int(random.integers(4))
    box = ((0, 0, width, rows), (columns - width, 0, columns, rows),
           (0, 0, columns, height), (0, rows - height, columns, rows))[side]  # fmt: skip
    ImageDraw.Draw(image).rectangle(box, fill=colour)
    soft = image.filter(ImageFilter.GaussianBlur(2))
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    image.paste(soft, mask=mask.filter(ImageFilter.GaussianBlur(2)))
    return np.asarray(image)


def _cropped(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """A corner window of a share of each side: the lesion is cut, then gone."""
    rows, columns = pixels.shape[:2]
    height, width = int(rows * share), int(columns * share)
    top = 0 if random.random() < 0.5 else rows - height
    left = 0 if random.random() < 0.5 else columns - width
    part = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(part.resize((columns, rows), Image.Resampling.BICUBIC))


WAYS = (
    Way("blur", "radius in pixels of 256", (1, 2, 3, 5, 8), _blur),
    Way("darkness", "share of the light", (0.7, 0.5, 0.35, 0.22, 0.12), _dark),
    Way("glare", "times the light", (1.2, 1.4, 1.7, 2.2, 3.0), _bright),
    Way("compression", "JPEG quality", (40, 20, 10, 5, 2), _compressed),
    Way("occlusion", "share covered from one side", (0.1, 0.2, 0.35, 0.5, 0.7), _covered),
    Way("crop", "corner window, share of a side", (0.8, 0.65, 0.5, 0.35, 0.25), _cropped),
)


def degraded(pixels: Pixels, way: Way, step: int, number: int) -> Pixels:
    """The `number`-th picture of a set, spoiled by one step (0 to 4) of one way; always the same."""
    return way.spoil(pixels, way.steps[step], np.random.default_rng([number, step]))
