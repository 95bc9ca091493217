"""Pictures made by arithmetic: textures, drawings, and simulated plain photographs of skin.

Everything is drawn from a seeded generator, so that a set can be made again byte for byte.  They stand for kinds of
which no real pictures may lie in the repository; the card says that they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 384
"""Pixels of a side of a drawn picture."""

INKS = ((20, 20, 24), (200, 30, 40), (30, 90, 190), (20, 140, 70), (240, 190, 20), (130, 50, 150), (250, 250, 250))
SKINS = ((232, 190, 172), (214, 160, 138), (222, 178, 150), (196, 140, 112), (160, 106, 80), (110, 70, 52))
"""Drawn skin, light to dark: the data hold hardly any dark skin, the drawings do."""


def cloud(random: np.random.Generator, rows: int, columns: int, roughness: float = 0.55, coarsest: int = 4) -> Floats:
    """Noise of many scales, 0 to 1: each octave twice as fine and `roughness` times as strong."""
    total = np.zeros((rows, columns), np.float32)
    strength, cells = 1.0, coarsest
    while cells < max(rows, columns):
        grid = Image.fromarray(random.random((cells, cells), dtype=np.float32))
        total += strength * np.asarray(grid.resize((columns, rows), Image.Resampling.BICUBIC))
        strength, cells = strength * roughness, cells * 2
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low), np.float32)


def _toned(level: Floats, dark: npt.ArrayLike, light: npt.ArrayLike) -> Pixels:
    """A grey picture, 0 to 1, between two colours."""
    first, last = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return np.asarray(np.clip(first + level[..., None] * (last - first), 0, 255), np.uint8)


def _two_colours(random: np.random.Generator) -> tuple[Floats, Floats]:
    first = random.integers(0, 200, 3).astype(np.float32)
    return first, np.clip(first + random.integers(30, 160, 3), 0, 255).astype(np.float32)


def _waves(random: np.random.Generator) -> Pixels:
    """Wood, marble, water: stripes bent by noise."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    bend = cloud(random, SIDE, SIDE, 0.5) * random.uniform(0.5, 4)
    angle = random.uniform(0, np.pi)
    along = rows * np.cos(angle) + columns * np.sin(angle)
    level = 0.5 + 0.5 * np.sin(2 * np.pi * (along * random.uniform(3, 18) + bend))
    return _toned(np.asarray(level, np.float32), *_two_colours(random))


def _weave(random: np.random.Generator) -> Pixels:
    """Cloth: two threads over each other."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    pitch = random.uniform(5, 24)
    warp = np.abs(np.sin(np.pi * columns / pitch)) * (np.sin(np.pi * rows / pitch) > 0)
    weft = np.abs(np.sin(np.pi * rows / pitch)) * (np.sin(np.pi * columns / pitch) > 0)
    level = np.maximum(warp, 0.7 * weft) + 0.15 * cloud(random, SIDE, SIDE)
    return _toned(np.asarray(np.clip(level, 0, 1), np.float32), *_two_colours(random))


def _clouds(random: np.random.Generator) -> Pixels:
    """Clouds, stone, plaster."""
    return _toned(cloud(random, SIDE, SIDE, random.uniform(0.4, 0.85)), *_two_colours(random))


def _grains(random: np.random.Generator) -> Pixels:
    """Sand, carpet, coloured noise."""
    grain = random.integers(1, 7)
    small = random.integers(0, 256, (SIDE // grain + 1, SIDE // grain + 1, 3)).astype(np.uint8)
    if random.random() < 0.5:
        small = np.repeat(small[..., :1], 3, axis=2)
    wide = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    level = np.asarray(wide, np.float32) * random.uniform(0.3, 1) + random.uniform(0, 60)
    return np.asarray(np.clip(level, 0, 255), np.uint8)


def _cells(random: np.random.Generator) -> Pixels:
    """Leather, cobbles, leaves: the nearest of many points."""
    points = random.random((int(random.integers(20, 220)), 2)).astype(np.float32) * SIDE
    rows, columns = np.mgrid[0:SIDE:2, 0:SIDE:2].astype(np.float32)
    distances = np.full((2, *rows.shape), np.inf, np.float32)
    for row, column in points:
        here = (rows - row) ** 2 + (columns - column) ** 2
        distances[1] = np.minimum(distances[1], np.maximum(distances[0], here))
        distances[0] = np.minimum(distances[0], here)
    gap = np.sqrt(distances[1]) - np.sqrt(distances[0])
    level = np.clip(gap / float(np.percentile(gap, 90)), 0, 1) * 0.8 + 0.2 * cloud(random, *rows.shape)
    small = Image.fromarray(_toned(np.asarray(level, np.float32), *_two_colours(random)))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _fur(random: np.random.Generator) -> Pixels:
    """Fur and grass: many fine strokes along one way."""
    dark, light = _two_colours(random)
    image = Image.fromarray(_toned(cloud(random, SIDE, SIDE), dark, light))
    pen, angle = ImageDraw.Draw(image), random.uniform(0, np.pi)
    for row, column, turn, length, shade in random.random((2600, 5)):
        way = angle + (turn - 0.5) * 0.9
        start = (column * SIDE, row * SIDE)
        end = (start[0] + np.cos(way) * (10 + 30 * length), start[1] + np.sin(way) * (10 + 30 * length))
        pen.line((start, end), fill=tuple(int(v) for v in dark + shade * (light - dark)), width=1 + int(length > 0.8))
    return np.asarray(image)


def _flat(random: np.random.Generator) -> Pixels:
    """One colour, or a slow change between two: a lens cap, a wall, the sky."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    angle = random.uniform(0, 2 * np.pi)
    level = np.clip(0.5 + (rows - 0.5) * np.cos(angle) + (columns - 0.5) * np.sin(angle), 0, 1)
    dark, light = _two_colours(random)
    picture = _toned(level, dark, dark + (light - dark) * random.choice([0.0, 0.3, 1.0])).astype(np.float32)
    return np.asarray(np.clip(picture + random.normal(0, random.uniform(0, 4), picture.shape), 0, 255), np.uint8)


TEXTURES: dict[str, Callable[[np.random.Generator], Pixels]] = {
    "waves": _waves,
    "weave": _weave,
    "clouds": _clouds,
    "grains": _grains,
    "cells": _cells,
    "fur": _fur,
    "flat": _flat,
}


def _ink(random: np.random.Generator) -> tuple[int, int, int]:
    return INKS[int(random.integers(len(INKS)))]


def _shapes(random: np.random.Generator) -> Pixels:
    """Filled and empty shapes on paper."""
    image = Image.new("RGB", (SIDE, SIDE), (252, 250, 244) if random.random() < 0.6 else _ink(random))
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(3, 16))):
        x, y, w, h = (random.random(4) * (SIDE, SIDE, SIDE / 2, SIDE / 2)).tolist()
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        fill = _ink(random) if random.random() < 0.6 else None
        kind = random.integers(3)
        if kind == 0:
            pen.ellipse(box, fill=fill, outline=_ink(random), width=3)
        elif kind == 1:
            pen.rectangle(box, fill=fill, outline=_ink(random), width=3)
        else:
            pen.polygon((box[:2], (box[2], box[1]), (x, box[3])), fill=fill, outline=_ink(random))
    return np.asarray(image)


def _scribble(random: np.random.Generator) -> Pixels:
    """A child's pen on paper."""
    image = Image.new("RGB", (SIDE, SIDE), (250, 248, 240))
    pen = ImageDraw.Draw(image)
    for _ in range(int(random.integers(2, 8))):
        steps = random.normal(0, 14, (int(random.integers(20, 120)), 2)).cumsum(axis=0) + random.random(2) * SIDE
        pen.line([tuple(step) for step in steps.tolist()], fill=_ink(random), width=int(random.integers(1, 6)))
    return np.asarray(image)


def _chart(random: np.random.Generator) -> Pixels:
    """Bars or curves with axes and letters."""
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    pen.line(((40, 20), (40, SIDE - 40), (SIDE - 20, SIDE - 40)), fill=(0, 0, 0), width=2)
    count, is_bars, ink = int(random.integers(4, 12)), random.random() < 0.5, _ink(random)
    heights = random.random(count) * (SIDE - 100)
    places = np.linspace(60, SIDE - 50, count)
    for place, height in zip(places.tolist(), heights.tolist(), strict=True):
        if is_bars:
            pen.rectangle((place - 8, SIDE - 40 - height, place + 8, SIDE - 40), fill=ink)
        pen.text((place - 8, SIDE - 34), str(int(place)), fill=(60, 60, 60), font=font)
    if not is_bars:
        pen.line(
            [(p, SIDE - 40 - h) for p, h in zip(places.tolist(), heights.tolist(), strict=True)], fill=ink, width=3
        )
    pen.text((60, 4), "Result per month", fill=(0, 0, 0), font=font)
    return np.asarray(image)


def _face(random: np.random.Generator) -> Pixels:
    """A drawn face in the colours of skin: skin colour alone must not be enough."""
    paper = (240, 240, 255) if random.random() < 0.5 else _ink(random)
    image = Image.new("RGB", (SIDE, SIDE), paper)
    pen = ImageDraw.Draw(image)
    skin = SKINS[int(random.integers(len(SKINS)))]
    left, top = (random.random(2) * 60 + 30).tolist()
    pen.ellipse((left, top, SIDE - left, SIDE - top), fill=skin, outline=(60, 40, 30), width=3)
    for place in (0.38, 0.62):
        pen.ellipse((place * SIDE - 18, 150, place * SIDE + 18, 176), fill=(255, 255, 255), outline=(0, 0, 0))
        pen.ellipse((place * SIDE - 7, 156, place * SIDE + 7, 170), fill=(50, 40, 30))
    pen.arc((130, 200, 250, 290), 20, 160, fill=(150, 40, 50), width=6)
    return np.asarray(image)


DRAWINGS: dict[str, Callable[[np.random.Generator], Pixels]] = {
    "shapes": _shapes,
    "scribble": _scribble,
    "chart": _chart,
    "face": _face,
}


def plain_photograph(random: np.random.Generator, lesion: Pixels) -> Pixels:
    """A simulated photograph without a dermatoscope: a limb or a patch of body with a small lesion, in a room.

    Parameters
    ----------
    lesion
        (rows, columns, 3) uint8, a dermoscopy picture; its middle is shrunk and laid on the skin with soft edges.
    """
    rows, columns = SIDE, int(SIDE * random.choice([0.75, 1.0, 1.333]))
    tone = np.median(lesion[::4, ::4].reshape(-1, 3), axis=0) if random.random() < 0.5 else None
    skin = np.asarray(SKINS[int(random.integers(len(SKINS)))] if tone is None else tone, np.float32)
    body = _body(random, rows, columns)
    light = _shading(random, body)
    fine = cloud(random, rows, columns, 0.8, 16) - 0.5
    flesh = skin * light[..., None] + 26 * fine[..., None]
    room = _room(random, rows, columns)
    edge = np.clip(body / random.uniform(0.02, 0.06), 0, 1)[..., None]
    picture = room * (1 - edge) + flesh * edge
    _lay(random, picture, lesion, skin, body)
    if random.random() < 0.4:
        _hairs(random, picture, body)
    image = Image.fromarray(np.asarray(np.clip(picture, 0, 255), np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 1.0))))


def _body(random: np.random.Generator, rows: int, columns: int) -> Floats:
    """How far inside the body a pixel lies, 0 to 1; negative outside: a bar (arm), an edge (shoulder), or all skin."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    y, x = y / rows - 0.5, x / columns - 0.5
    angle = random.uniform(0, np.pi)
    across = y * np.cos(angle) + x * np.sin(angle) + 0.05 * np.sin(5 * (x - y)) * random.random()
    kind = random.choice(["arm", "edge", "all"], p=[0.45, 0.35, 0.2])
    if kind == "arm":
        inside = random.uniform(0.18, 0.4) - np.abs(across + random.uniform(-0.1, 0.1))
    elif kind == "edge":
        inside = across + random.uniform(0.0, 0.35)
    else:
        inside = 0.5 - 0.4 * np.hypot(x, y)
    return np.asarray(inside, np.float32)


def _shading(random: np.random.Generator, body: Floats) -> Floats:
    """Light falls off to the edge of a limb, and from one side."""
    rows, columns = body.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    angle, slope = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.5)
    side = slope * ((y / rows - 0.5) * np.cos(angle) + (x / columns - 0.5) * np.sin(angle))
    return np.asarray((0.72 + 0.33 * np.sqrt(np.clip(body / 0.3, 0, 1)) + side) * random.uniform(0.75, 1.1), np.float32)


def _room(random: np.random.Generator, rows: int, columns: int) -> Floats:
    """What lies behind a limb: a wall, a cloth or a table, out of focus."""
    name = str(random.choice(["weave", "clouds", "flat", "waves"]))
    image = Image.fromarray(TEXTURES[name](random)).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(1, 6))), np.float32)


def _lay(random: np.random.Generator, picture: Floats, lesion: Pixels, skin: Floats, body: Floats) -> None:
    """Lay the middle of a dermoscopy picture on the skin, much smaller, as a factor of its own surrounding skin."""
    rows, columns = picture.shape[:2]
    size = int(min(rows, columns) * random.uniform(0.05, 0.2))
    places = np.argwhere(body > 0.6 * body.max())
    row, column = places[int(random.integers(len(places)))]
    top, left = int(np.clip(row - size // 2, 0, rows - size)), int(np.clip(column - size // 2, 0, columns - size))
    whole = Image.fromarray(lesion).resize((size, size), Image.Resampling.BOX)
    spot = np.asarray(whole, np.float32)
    border = np.concatenate([spot[:2].reshape(-1, 3), spot[-2:].reshape(-1, 3)])
    factor = np.clip(spot / np.maximum(np.median(border, axis=0), 30), 0.1, 1.3)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / max(size - 1, 1) - 0.5
    soft = np.clip((0.5 - np.hypot(x, y)) / 0.15, 0, 1)[..., None]
    under = picture[top : top + size, left : left + size]
    picture[top : top + size, left : left + size] = under * (1 - soft) + under * factor * soft


def _hairs(random: np.random.Generator, picture: Floats, body: Floats) -> None:
    rows, columns = body.shape
    layer = Image.new("L", (columns, rows), 0)
    pen = ImageDraw.Draw(layer)
    for row, column, turn in random.random((int(random.integers(20, 160)), 3)):
        start = (column * columns, row * rows)
        pen.line((start, (start[0] + 14 * np.cos(6 * turn), start[1] + 14 * np.sin(6 * turn))), fill=150, width=1)
    share = np.asarray(layer, np.float32)[..., None] / 255 * (body > 0)[..., None]
    picture *= 1 - 0.7 * share


def many(
    makers: dict[str, Callable[[np.random.Generator], Pixels]], count: int, seed: int
) -> Iterator[tuple[str, Pixels]]:
    """`count` pictures, the makers in turn, each with its name."""
    names = sorted(makers)
    for number in range(count):
        name = names[number % len(names)]
        yield name, makers[name](np.random.default_rng([seed, number]))
