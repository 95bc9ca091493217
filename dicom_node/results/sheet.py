"""One sheet of A4 and the few things drawn on it: text that fits, wrapped lines, sections.

Fonts (DejaVu Sans) are embedded.  What they lack is never drawn as a box: a name falls back to the component group
that can be drawn, other text shows a middle dot.  Scripts that run right to left would need shaping that PDF drawing
does not do, so they count as lacking.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from io import BytesIO

from reportlab import rl_config
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from dicom_node.results import text

rl_config.useA85 = 0  # binary streams: smaller, and nothing of ours reads a PDF as text

REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"
WIDTH, HEIGHT = A4
MARGIN = 34.0
INNER = WIDTH - 2 * MARGIN
FOOTER_TOP = 70.0
LEADING = 1.32

INK, GREY, LINE, SHADE = HexColor(0x1B1F24), HexColor(0x5A6270), HexColor(0xC9CED6), HexColor(0xF2F4F7)

_LEFT_TO_RIGHT = frozenset({"L", "EN", "ES", "ET", "CS", "ON", "WS", "NSM", "BN"})


@lru_cache(maxsize=1)
def register_fonts() -> None:
    """Load the shipped fonts once per process."""
    for name in (REGULAR, BOLD):
        with as_file(files("dicom_node.results") / "fonts" / f"{name}.ttf") as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))


def drawable(value: str) -> bool:
    """Whether the page's fonts have every character, in a script that runs left to right."""
    register_fonts()
    faces = [pdfmetrics.getFont(name).face.charToGlyph for name in (REGULAR, BOLD)]
    return all(unicodedata.bidirectional(c) in _LEFT_TO_RIGHT and all(ord(c) in g for g in faces) for c in value)


def shown(value: object) -> str:
    """Text as the page can draw it: what the fonts lack becomes a middle dot, never a box."""
    return "".join(c if drawable(c) else "·" for c in text.plain(value))


def shown_name(person_name: str, fallback: str) -> str:
    """A person's name as people write it: every component group that can be drawn, the alphabetic one first."""
    groups = [" ".join(group.replace("^", " ").split()) for group in person_name.split("=")]
    kept = [group for group in dict.fromkeys(groups) if group and drawable(group)]
    if kept:
        return " = ".join(kept)
    return fallback if any(groups) else ""


def width_of(value: str, size: float, font: str = REGULAR) -> float:
    """Points that a text takes."""
    return float(pdfmetrics.stringWidth(value, font, size))


def fitted(value: str, width: float, size: float, font: str = REGULAR) -> str:
    """`value`, or as much of it as fits with an ellipsis."""
    if width_of(value, size, font) <= width:
        return value
    while value and width_of(value + "…", size, font) > width:
        value = value[:-1]
    return value.rstrip() + "…"


def size_for(value: str, width: float, largest: float, least: float, font: str = REGULAR) -> float:
    """The size at which a text fits; never below `least`, where it is cut instead."""
    size = largest
    while size > least and width_of(value, size, font) > width:
        size -= 0.25
    return size


def wrapped(line: str, size: float, width: float, font: str = REGULAR) -> list[str]:
    """The lines a text needs at this width, in characters the page can draw."""
    return [str(part) for part in simpleSplit(shown(line), font, size, width)]


class Sheet:
    """A cursor that walks down one page; `y` is the height, in points from the bottom, of what was drawn last."""

    def __init__(self, title: str, made_by: str, stamp: str, identity: str, language: str) -> None:
        """Begin a page.

        Parameters
        ----------
        stamp
            PDF date (``D:...``) of creation: the run's, not the clock's.
        identity
            What `/ID` is derived from: the run key.
        """
        register_fonts()
        self._buffer = BytesIO()
        self.canvas = Canvas(
            self._buffer, pagesize=A4, pageCompression=1, invariant=1, lang=language, initialFontName=REGULAR
        )
        # Dates and /ID would come from clock and environment; the run's own time and key go in instead.
        self.canvas.setDateFormatter(lambda *_: stamp)
        digest = hashlib.sha256(f"pdf{identity}".encode()).hexdigest()[:32]
        self.canvas._doc._ID = f"\n[<{digest}><{digest}>]\n".encode()
        self.canvas.setTitle(title)
        self.canvas.setAuthor(made_by)
        self.canvas.setCreator(made_by)
        self.canvas.setProducer(made_by)
        self.y = HEIGHT

    def finish(self) -> bytes:
        """Close the page and return the file."""
        self.canvas.showPage()
        self.canvas.save()
        return self._buffer.getvalue()

    def text(self, x: float, y: float, value: str, size: float = 8.0, font: str = REGULAR, ink: Color = INK) -> None:
        """Draw a text that starts at (x, y)."""
        self.canvas.setFillColor(ink)
        self.canvas.setFont(font, size)
        self.canvas.drawString(x, y, value)

    def right(self, x: float, y: float, value: str, size: float = 8.0, font: str = REGULAR, ink: Color = INK) -> None:
        """Draw a text that ends at (x, y)."""
        self.text(x - width_of(value, size, font), y, value, size, font, ink)

    def box(self, height: float, fill: Color, edge: Color | None = None) -> None:
        """A rounded box across the page, its top at the cursor."""
        self.canvas.setFillColor(fill)
        if edge is not None:
            self.canvas.setStrokeColor(edge)
            self.canvas.setLineWidth(0.9)
        self.canvas.roundRect(MARGIN, self.y - height, INNER, height, 4, stroke=int(edge is not None), fill=1)

    def section(self, title: str) -> None:
        """A heading with a rule below it."""
        self.y -= 15
        self.text(MARGIN, self.y, title, 9.0, BOLD)
        self.rule(self.y - 3.5)
        self.y -= 5

    def rule(self, y: float) -> None:
        """A thin line across the page."""
        self.canvas.setStrokeColor(LINE)
        self.canvas.setLineWidth(0.6)
        self.canvas.line(MARGIN, y, WIDTH - MARGIN, y)

    def paragraphs(
        self, lines: Sequence[str], size: float, room: float, more: str, *, x: float = MARGIN, width: float = INNER
    ) -> None:
        """Wrapped lines within `room` points.

        What does not fit is counted in a last line made from `more` (``{n}``): nothing disappears in silence.
        """
        step = size * LEADING
        budget = max(1, int(room // step))
        blocks = [wrapped(line, size, width) for line in lines]
        used = 0
        for number, parts in enumerate(blocks):
            spare = 0 if number == len(blocks) - 1 else 1
            if used + len(parts) + spare > budget:
                self.y -= step
                self.text(x, self.y, more.format(n=len(blocks) - number), size, BOLD)
                return
            for part in parts:
                self.y -= step
                self.text(x, self.y, part, size)
            used += len(parts)


def height_of(lines: Sequence[str], size: float, width: float = INNER) -> float:
    """Points that `Sheet.paragraphs` needs for all of these lines."""
    return sum(len(wrapped(line, size, width)) for line in lines) * size * LEADING
