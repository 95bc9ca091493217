"""Overlay pictures: key slices as acquired, with outlines in segment colours and orientation letters.

Pixels are shown in their true proportion (spacing of rows and columns), in the orientation in which the series was
stored; the letters come from the affine (PS3.3 C.7.6.1.1.1).  No patient data is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ai_engine.findings import Region
from ai_engine.geometry import Affine
from dicom_node.words import Volume

Picture = Image.Image

_WINDOW_PERCENTILES = (1.0, 99.5)
_SAMPLES_FOR_WINDOW = 400_000
_OUTLINE_PX = 2
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
_SECOND_LETTER_FROM = 0.35
BACKGROUND = (12, 12, 14)
INK = (235, 235, 235)
_AMBER = (255, 190, 60)


@dataclass(frozen=True)
class KeySlice:
    """One slice worth showing: its 0-based index, and whether it is the one with the largest area."""

    index: int
    is_largest: bool


def key_slices(mask: npt.NDArray[np.uint8], count: int) -> tuple[KeySlice, ...]:
    """The slice with the largest marked area, and others spread over the marked extent (or over the whole volume).

    Parameters
    ----------
    mask
        (S, R, C) uint8, 0 where nothing is marked.
    count
        How many slices at most; fewer when the volume has fewer.
    """
    areas = np.count_nonzero(mask, axis=(1, 2))
    total = len(areas)
    count = min(count, total)
    marked = np.flatnonzero(areas)
    if not len(marked):
        spread = np.linspace(0, total - 1, count + 2)[1:-1]
        return tuple(KeySlice(i, False) for i in _distinct(spread, set(), count, total))
    largest = int(np.argmax(areas))
    spread = np.linspace(marked[0], marked[-1], count + 2)[1:-1]
    spread = spread[np.argsort(np.abs(spread - largest))[1:]]  # the nearest gives way to the largest itself
    chosen = _distinct(spread, {largest}, count, total)
    return tuple(KeySlice(i, i == largest) for i in chosen)


def _distinct(wanted: npt.NDArray[np.floating], taken: set[int], count: int, total: int) -> list[int]:
    """Round to slices; a slice already taken gives way to its nearest free neighbour."""
    chosen = set(taken)
    for value in wanted:
        if len(chosen) == count:
            break
        target = round(float(value))
        free = [i for i in range(total) if i not in chosen]
        chosen.add(min(free, key=lambda i: (abs(i - target), i)))
    return sorted(chosen)


def orientation_letters(affine: Affine) -> tuple[str, str, str, str]:
    """Letters for the left, right, top and bottom edge of a stored slice."""
    _, down, right = affine.directions
    return direction_letters(-right), direction_letters(right), direction_letters(-down), direction_letters(down)


def direction_letters(direction: npt.NDArray[np.float64]) -> str:
    """The letter of the main axis of an LPS direction, and of the second where the slice is that oblique."""
    order = np.argsort(-np.abs(direction))
    letters = [_LETTERS[a][0 if direction[a] > 0 else 1] for a in order[:2] if abs(direction[a]) >= _SECOND_LETTER_FROM]
    return "".join(letters)


def grey_window(volume: Volume) -> tuple[float, float]:
    """Low and high grey value: percentiles of what is not padding and not empty, over the whole volume."""
    step = max(1, volume.array.size // _SAMPLES_FOR_WINDOW)
    values = volume.array.reshape(-1)[::step]
    if volume.valid is not None:
        values = values[volume.valid.reshape(-1)[::step]]
    tissue = values[values > values.min()] if values.size else values
    if tissue.size < 2:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(tissue, _WINDOW_PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def draw_slice(
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    colours: dict[int, tuple[int, int, int]],
    index: int,
    size_px: int,
    window: tuple[float, float],
) -> Picture:
    """One slice with outlines and letters in a square of `size_px`.

    Parameters
    ----------
    mask
        (S, R, C) uint8 of labels.
    colours
        Label to RGB.
    index
        0-based slice.
    """
    low, high = window
    grey = np.clip((volume.array[index] - low) / (high - low), 0.0, 1.0)
    _, row_mm, column_mm = volume.affine.spacing_mm
    height_mm, width_mm = grey.shape[0] * row_mm, grey.shape[1] * column_mm
    scale = size_px / max(height_mm, width_mm)
    width, height = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(image)[:, :, None], 3, axis=2)
    labels = np.asarray(Image.fromarray(mask[index]).resize((width, height), Image.Resampling.NEAREST))
    for label, colour in colours.items():
        pixels[outline(labels == label)] = colour
    square = Image.new("RGB", (size_px, size_px), BACKGROUND)
    square.paste(Image.fromarray(pixels), ((size_px - width) // 2, (size_px - height) // 2))
    draw_letters(square, orientation_letters(volume.affine))
    return square


def outline(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The inner border of a mask, `_OUTLINE_PX` thick."""
    core = inside
    for _ in range(_OUTLINE_PX):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


@lru_cache(maxsize=8)
def lettering(size: int) -> ImageFont.FreeTypeFont:
    """The font that pictures are lettered in."""
    with as_file(files("dicom_node.results") / "fonts" / "DejaVuSans-Bold.ttf") as path:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def draw_letters(square: Picture, letters: tuple[str, str, str, str]) -> None:
    size = square.width
    font = lettering(max(12, size // 22))
    draw = ImageDraw.Draw(square)
    margin = size // 60 + 2
    places = (
        ((margin, size // 2), "lm"),
        ((size - margin, size // 2), "rm"),
        ((size // 2, margin), "ma"),
        ((size // 2, size - margin), "md"),
    )
    for letter, (place, anchor) in zip(letters, places, strict=True):
        draw.text(place, letter, fill=INK, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def colours_of(regions: tuple[Region, ...]) -> dict[int, tuple[int, int, int]]:
    """Label to RGB for the regions that are drawn."""
    return {r.label: r.color_rgb for r in regions if r.label is not None and r.present}


def montage(
    volume: Volume, mask: npt.NDArray[np.uint8], regions: tuple[Region, ...], banner: str, slice_word: str
) -> bytes:
    """Up to six key slices as one PNG with a legend and the unreviewed banner."""
    tile, columns, bar = 400, 3, 44
    keys = key_slices(mask, 6)
    rows = -(-len(keys) // columns)
    sheet = Image.new("RGB", (tile * columns, rows * tile + 2 * bar), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    banner_line(draw, banner, bar // 2)
    window, colours = grey_window(volume), colours_of(regions)
    for number, key in enumerate(keys):
        left, top = (number % columns) * tile, bar + (number // columns) * tile
        sheet.paste(draw_slice(volume, mask, colours, key.index, tile - 4, window), (left + 2, top + 2))
        caption = f"{slice_word} {key.index + 1}/{len(volume.slices)}"
        draw.text((left + 12, top + 10), caption, fill=INK, font=lettering(14), stroke_width=2, stroke_fill=(0, 0, 0))
    draw_legend(draw, regions, rows * tile + bar + bar // 2)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def side_by_side(
    volume: Volume,
    answers: Sequence[tuple[str, npt.NDArray[np.uint8], tuple[Region, ...]]],
    slice_word: str = "slice",
) -> bytes:
    """The slice on which several answers about one volume differ most, one square per answer, as a PNG.

    Parameters
    ----------
    answers
        Caption, (S, R, C) uint8 mask and regions of each; all on the volume's grid.  Where they are equal everywhere,
        the slice with the largest marked area is shown.
    """
    tile, bar = 480, 44
    first = answers[0][1]
    differing = sum((np.count_nonzero(first != mask, axis=(1, 2)) for _, mask, _ in answers[1:]), np.zeros(len(first)))
    index = int(np.argmax(differing)) if differing.any() else key_slices(first, 1)[0].index
    sheet = Image.new("RGB", (tile * len(answers), tile + 2 * bar), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    window = grey_window(volume)
    for number, (caption, mask, regions) in enumerate(answers):
        left = number * tile
        sheet.paste(draw_slice(volume, mask, colours_of(regions), index, tile - 4, window), (left + 2, bar + 2))
        draw.text((left + 12, bar // 2), caption, fill=INK, font=lettering(18), anchor="lm")
    draw.text(
        (tile - 12, bar // 2), f"{slice_word} {index + 1}/{len(first)}", fill=_AMBER, font=lettering(16), anchor="rm"
    )
    shown = {region.key: region for _, _, said in answers for region in said if region.present}
    draw_legend(draw, tuple(shown.values()), tile + bar + bar // 2)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def banner_line(draw: ImageDraw.ImageDraw, banner: str, middle: int) -> None:
    """The words that stand above every picture of a result."""
    draw.text((12, middle), banner, fill=_AMBER, font=lettering(18), anchor="lm")


def draw_legend(draw: ImageDraw.ImageDraw, regions: tuple[Region, ...], middle: int) -> None:
    left, font = 12, lettering(16)
    for region in regions:
        if region.label is None or not region.present:
            continue
        draw.rectangle((left, middle - 8, left + 16, middle + 8), fill=region.color_rgb)
        draw.text((left + 24, middle), region.name, fill=INK, font=font, anchor="lm")
        left += 48 + int(draw.textlength(region.name, font=font))
