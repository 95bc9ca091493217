"""Pictures of a reading: the photograph, and the same with what the network looked at laid over it.

No patient data is drawn.  The heat map is no outline and no measurement, and every picture says so in itself.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dicom_node.results.objects import Job
from dicom_node.results.phrases import words
from dicom_node.results.pictures import lettering

Pixels = npt.NDArray[np.uint8]
HeatMap = npt.NDArray[np.uint8]

TILE = 640
BAR = 40
GAP = 4
_MOST_COLOUR = 0.6
"""Share of the colour where the evidence is strongest: the skin stays visible."""
_FAINT, _STRONG = np.array((255.0, 220.0, 60.0)), np.array((220.0, 20.0, 20.0))
_BACKGROUND = (12, 12, 14)
_INK, _AMBER = (235, 235, 235), (255, 190, 60)


def photograph(pixels: Pixels, longest: int) -> Pixels:
    """The photograph with its longest side at most `longest`.

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8 sRGB.
    """
    rows, columns = pixels.shape[:2]
    scale = min(1.0, longest / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def with_heat(pixels: Pixels, heat_map: HeatMap) -> Pixels:
    """A photograph under its heat map, from yellow (faint) to red (strongest).

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8.
    heat_map
        (rows, columns) uint8 of the whole picture, of any size.
    """
    rows, columns = pixels.shape[:2]
    strength = np.asarray(Image.fromarray(heat_map).resize((columns, rows), Image.Resampling.BILINEAR)) / 255.0
    colour = _FAINT + (_STRONG - _FAINT) * strength[:, :, None]
    share = (_MOST_COLOUR * strength)[:, :, None]
    return np.asarray(np.round(pixels * (1 - share) + colour * share), dtype=np.uint8)


def reading_picture(job: Job, pixels: Pixels, heat_map: HeatMap | None) -> Pixels:
    """Photograph and heat map side by side between two bars of words: what stands in the secondary capture.

    Returns
    -------
    (rows, columns, 3) uint8.
    """
    say = words(job.language)
    plain = photograph(pixels, TILE)
    tiles = [plain] if heat_map is None else [plain, with_heat(plain, heat_map)]
    rows, columns = plain.shape[:2]
    tile = max(columns, TILE // 2)  # a narrow picture leaves room for the words above it
    sheet = Image.new("RGB", (len(tiles) * tile + (len(tiles) - 1) * GAP, rows + 2 * BAR), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, pixels_of_tile in enumerate(tiles):
        left = number * (tile + GAP) + (tile - columns) // 2
        sheet.paste(Image.fromarray(pixels_of_tile), (left, BAR))
    _line(draw, say["heat_banner"], BAR // 2, sheet.width, _AMBER)
    model = job.findings.model
    under = say["heat_legend" if heat_map is not None else "heat_none"]
    _line(draw, f"{under}  {model.name} {model.version}", BAR + rows + BAR // 2, sheet.width, _INK)
    return np.asarray(sheet)


def as_png(pixels: Pixels) -> bytes:
    """The picture as a file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _line(draw: ImageDraw.ImageDraw, words_to_draw: str, middle: int, width: int, ink: tuple[int, int, int]) -> None:
    """One line of words, set smaller until it fits."""
    size = 18
    while size > 8 and draw.textlength(words_to_draw, font=lettering(size)) > width - 16:
        size -= 1
    draw.text((8, middle), words_to_draw, fill=ink, font=lettering(size), anchor="lm")
