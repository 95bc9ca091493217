"""A result in three planes: axial, coronal and sagittal through the marked regions, on the series' own grid.

Each plane is the one on which most is marked; thin lines show where the other two cut it.  Sides are as radiologists
read them: the patient's right on the left, the front and the head up; letters come from the affine (PS3.3 C.7.6.1.1.1),
so that an oblique volume says that it is one.  Nothing is resampled but for the screen.  No patient data is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ai_engine.findings import Region
from dicom_node.results.pictures import (
    BACKGROUND,
    INK,
    banner_line,
    colours_of,
    direction_letters,
    draw_legend,
    draw_letters,
    grey_window,
    lettering,
    outline,
)
from dicom_node.words import Volume

_TILE, _BAR, _CUT = 420, 44, (90, 96, 110)
_NAMES = ("sagittal", "coronal", "axial")
"""By the main axis of a plane's normal in LPS: left, posterior, head."""


@dataclass(frozen=True)
class Plane:
    """How one plane is taken out of the volume.

    Attributes
    ----------
    name
        axial, coronal or sagittal: the nearest of them.
    axis, across, down
        Array axes: through the plane, from left to right, from top to bottom.
    flip_across, flip_down
        Whether an axis runs against the screen.
    index
        Which slice along `axis`.
    """

    name: str
    axis: int
    across: int
    down: int
    flip_across: bool
    flip_down: bool
    index: int

    def of(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The plane of an array (S, R, C), rows and columns as the screen has them."""
        taken: npt.NDArray[np.generic] = np.take(array, self.index, axis=self.axis)
        if self.across < self.down:
            taken = taken.T
        return taken[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]


def planes(volume: Volume, mask: npt.NDArray[np.uint8]) -> tuple[Plane, ...]:
    """The three planes, axial first; each through the most that is marked, or through the middle of an empty mask."""
    directions = np.asarray(volume.affine.directions)
    main = _main_axes(directions)
    found = {}
    for axis in range(3):
        areas = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
        index = _middle_of_most(areas)
        down, across = sorted((other for other in range(3) if other != axis), key=lambda other: -main[other])
        # across the screen x runs to the patient's left and y to the back; down the screen y to the back, z to the feet
        flip_across = bool(directions[across][main[across]] < 0)
        towards_feet = main[down] == 2
        flip_down = bool((directions[down][main[down]] > 0) == towards_feet)
        name = _NAMES[main[axis]]
        found[name] = Plane(name, axis, across, down, flip_across, flip_down, index)
    return tuple(found[name] for name in reversed(_NAMES))


def _middle_of_most(areas: npt.NDArray[np.intp]) -> int:
    """The slice with the largest marked area; of several equal ones the one nearest to their middle."""
    largest = np.flatnonzero(areas == areas.max())
    return int(largest[np.argmin(np.abs(largest - largest.mean()))])


def _main_axes(directions: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """For each array axis the patient's axis that it mostly follows, each of them once."""
    strength = np.abs(directions)
    best: dict[int, int] = {}
    for _ in range(3):
        row, column = np.unravel_index(int(np.argmax(strength)), strength.shape)
        best[int(row)] = int(column)
        strength[row, :], strength[:, column] = -1.0, -1.0
    return best[0], best[1], best[2]


def three_planes(
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    regions: tuple[Region, ...],
    banner: str,
    words: Mapping[str, str],
) -> bytes:
    """The three planes side by side as one PNG with a legend and the unreviewed banner.

    Parameters
    ----------
    mask
        (S, R, C) uint8 of labels on the volume's grid.
    words
        What ``axial``, ``coronal`` and ``sagittal`` are called.
    """
    chosen = planes(volume, mask)
    size_mm = [count * step for count, step in zip(mask.shape, volume.affine.spacing_mm, strict=True)]
    scale = (_TILE - 4) / max(size_mm)
    window, colours = grey_window(volume), colours_of(regions)
    sheet = Image.new("RGB", (3 * _TILE, _TILE + 2 * _BAR), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    banner_line(draw, banner, _BAR // 2)
    cuts = {plane.axis: plane.index for plane in chosen}
    for number, plane in enumerate(chosen):
        left = number * _TILE
        drawn = _draw(volume, mask, plane, colours, window, scale, cuts)
        sheet.paste(drawn, (left + 2, _BAR + 2))
        caption = f"{words[plane.name]} {plane.index + 1}/{mask.shape[plane.axis]}"
        place = (left + 12, _BAR + 10)
        draw.text(place, caption, fill=INK, font=lettering(14), stroke_width=2, stroke_fill=(0, 0, 0))
    draw_legend(draw, regions, _BAR + _TILE + _BAR // 2)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _draw(
    volume: Volume,
    mask: npt.NDArray[np.uint8],
    plane: Plane,
    colours: Mapping[int, tuple[int, int, int]],
    window: tuple[float, float],
    scale: float,
    cuts: Mapping[int, int],
) -> Image.Image:
    low, high = window
    step_mm = volume.affine.spacing_mm
    height = max(1, round(mask.shape[plane.down] * step_mm[plane.down] * scale))
    width = max(1, round(mask.shape[plane.across] * step_mm[plane.across] * scale))
    grey = np.clip((plane.of(volume.array).astype(np.float32) - low) / (high - low), 0.0, 1.0)
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(image)[:, :, None], 3, axis=2)
    labels = np.ascontiguousarray(plane.of(mask)).astype(np.uint8)
    marked = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    for place, at_x in ((plane.across, True), (plane.down, False)):
        index, count = cuts[place], mask.shape[place]
        is_flipped = plane.flip_across if at_x else plane.flip_down
        at = ((count - 1 - index if is_flipped else index) + 0.5) / count
        line = min(int(at * (width if at_x else height)), (width if at_x else height) - 1)
        pixels[(slice(None, None, 4), line) if at_x else (line, slice(None, None, 4))] = _CUT
    for label, colour in colours.items():
        pixels[outline(marked == label)] = colour
    square = Image.new("RGB", (_TILE - 4, _TILE - 4), BACKGROUND)
    square.paste(Image.fromarray(pixels), ((_TILE - 4 - width) // 2, (_TILE - 4 - height) // 2))
    across = volume.affine.directions[plane.across] * (-1 if plane.flip_across else 1)
    down = volume.affine.directions[plane.down] * (-1 if plane.flip_down else 1)
    letters = (direction_letters(-across), direction_letters(across), direction_letters(-down), direction_letters(down))
    draw_letters(square, letters)
    return square
