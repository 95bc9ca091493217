"""The page of a photograph: what the model estimates about it, where it looked, what that means, and what it does not.

The same sheet as for volumes, with the photograph small, its heat map beside it, and the estimate in plain words.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from reportlab.lib.utils import ImageReader

from ai_engine.findings import Measurement, Observation
from dicom_node.results.heat import photograph, with_heat
from dicom_node.results.objects import Job
from dicom_node.results.page_parts import (
    blank_sheet,
    draw_banner,
    draw_footer,
    draw_heading,
    draw_identity,
    draw_read_first,
)
from dicom_node.results.phrases import words
from dicom_node.results.remarks import altered_note, analysed, moment
from dicom_node.results.sheet import (
    BOLD,
    FOOTER_TOP,
    GREY,
    INNER,
    LEADING,
    MARGIN,
    REGULAR,
    SHADE,
    WIDTH,
    Sheet,
    fitted,
    height_of,
    shown,
    size_for,
    width_of,
)
from dicom_node.words import Picture

AT_OR_ABOVE = "AI-OP-ABOVE"
_PIXELS = 520
_TALLEST, _SHORTEST = 250.0, 150.0
_QUALITY = 92
_GAP = 10.0
_SMALL = 7.5
_MOST_INPUT_LINES = 7


def build_picture_page(job: Job, picture: Picture, heat_map: npt.NDArray[np.uint8] | None) -> bytes:
    """Draw the page.

    Parameters
    ----------
    heat_map
        (rows, columns) uint8 of the whole picture; None where the model has none.

    Returns
    -------
    bytes
        A PDF file of one page.
    """
    say = words(job.language)
    sheet = blank_sheet(job)
    meaning, inputs, notes = _meaning_lines(job), _input_lines(job, picture), _note_lines(job)
    draw_banner(sheet, job)
    draw_heading(sheet, job, "title_picture")
    draw_identity(sheet, job)
    draw_read_first(sheet, job, ())
    sheet.y -= 8
    for number, observation in enumerate(job.findings.observations):
        _draw_observation(sheet, job, observation, is_first=number == 0)
    sheet.section(say["meaning"])
    sheet.paragraphs(meaning, 8.5, height_of(meaning, 8.5) + 1, say["more"])
    below = height_of(inputs, _SMALL) + height_of(notes, _SMALL) + 80
    _draw_pictures(sheet, job, picture, heat_map, room=sheet.y - FOOTER_TOP - below)
    sheet.section(say["photograph_used"])
    sheet.paragraphs(inputs, _SMALL, _MOST_INPUT_LINES * _SMALL * LEADING, say["more"])
    sheet.section(say["notes"])
    sheet.paragraphs(notes, _SMALL, sheet.y - FOOTER_TOP - 2, say["more"])
    draw_footer(sheet, job)
    return sheet.finish()


def _draw_observation(sheet: Sheet, job: Job, observation: Observation, *, is_first: bool) -> None:
    """Number, threshold and category on one line; the output that decides is set large."""
    say, size = words(job.language), 12.0 if is_first else 9.0
    height = size * 2.0
    sheet.canvas.setFillColor(SHADE)
    sheet.canvas.rect(MARGIN, sheet.y - height, INNER, height, stroke=0, fill=1)
    base = sheet.y - height / 2 - size * 0.35
    measurement = observation.measurements[0]
    verdict = ""
    if observation.category is not None and observation.threshold is not None:
        threshold = job.figure(number_words(Measurement("", measurement.name, observation.threshold, measurement.unit)))
        side = say["above" if observation.category.value == AT_OR_ABOVE else "below"]
        verdict = fitted(side.format(value=threshold), INNER * 0.5, size * 0.72, BOLD)
    sheet.right(WIDTH - MARGIN - 6, base, verdict, size * 0.72, BOLD)
    value = job.figure(number_words(measurement))
    sheet.text(MARGIN + 6, base, value, size, BOLD)
    name, left = shown(job.told(observation.name.meaning)), MARGIN + 6 + size * 4.2
    room = WIDTH - MARGIN - 18 - width_of(verdict, size * 0.72, BOLD) - left
    small = size_for(name, room, size * 0.62, 5.5)
    sheet.text(left, base, fitted(name, room, small), small, REGULAR, GREY)
    sheet.y -= height + 3


def number_words(measurement: Measurement) -> str:
    """A probability to 1 %, below 10 % to 0.1 % (thresholds lie there), a score to two digits.

    What lies below the last digit is never printed as zero, and what is not certain never as 100.
    """
    value = measurement.value
    if measurement.unit.value != "%":
        return f"{value:.2f}"
    if 0 < value < 0.05:
        return "< 0.1 %"
    if 99.5 <= value < 100:
        return "> 99 %"
    return f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"


def _meaning_lines(job: Job) -> list[str]:
    say = words(job.language)
    first = job.findings.observations[0]
    lines = [say["not_diagnosis"]]
    if first.category is not None:
        lines.insert(0, say["meaning_above" if first.category.value == AT_OR_ABOVE else "meaning_below"])
    return [*lines, say["meaning_estimate"]]


def _draw_pictures(
    sheet: Sheet, job: Job, picture: Picture, heat_map: npt.NDArray[np.uint8] | None, *, room: float
) -> None:
    """The photograph, and beside it the same under its heat map."""
    say = words(job.language)
    plain = photograph(picture.pixels, _PIXELS)
    tiles = [(plain, say["photograph"])]
    if heat_map is not None:
        tiles.append((with_heat(plain, heat_map), say["heat_map"]))
    rows, columns = plain.shape[:2]
    width = (INNER - _GAP) / 2
    height = min(width * rows / columns, _TALLEST, max(room, _SHORTEST))
    width = min(width, height * columns / rows)
    sheet.y -= 10
    for number, (pixels, caption) in enumerate(tiles):
        left = MARGIN + number * ((INNER - _GAP) / 2 + _GAP)
        sheet.canvas.drawImage(ImageReader(_as_jpeg(pixels)), left, sheet.y - height, width, height)
        under = fitted(caption, (INNER - _GAP) / 2, 7.0)
        sheet.text(left, sheet.y - height - 9, under, 7.0, REGULAR, GREY)
    sheet.y -= height + 12


def _as_jpeg(pixels: npt.NDArray[np.uint8]) -> io.BytesIO:
    """A picture as the page holds it: without loss two of them make a megabyte, and FHIR servers refuse the report."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    stream.seek(0)
    return stream


def _input_lines(job: Job, picture: Picture) -> list[str]:
    say = words(job.language)
    series = job.sources.series[0]
    rows, columns = picture.pixels.shape[:2]
    site = "" if picture.body_site is None else job.told(picture.body_site.meaning)
    lines = [
        say["photograph_line"].format(
            modality=series.modality,
            number=series.number,
            description=series.description or say["unknown"],
            acquired=moment(series.acquired, job.language),
            rows=rows,
            columns=columns,
            site=site or say["unknown"],
        )
    ]
    lines += map(job.told, (*picture.notes, *job.identity.notes))
    acquired = moment(series.acquired, job.language)
    lines.append(f"{say['acquired']}: {acquired} · {say['analysed']}: {analysed(job)}")
    return lines


def _note_lines(job: Job) -> list[str]:
    say, findings = words(job.language), job.findings
    lines = [say["support"], *map(job.told, findings.notes)]
    meanings = dict.fromkeys(m.note for o in findings.observations for m in o.measurements if m.note)
    lines += map(job.told, meanings)
    if findings.model.intended_use:
        lines.append(f"{say['intended_use']}: {job.told(findings.model.intended_use)}")
    return lines + altered_note(job, job.language)
