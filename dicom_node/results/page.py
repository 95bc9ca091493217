"""The page: one A4 sheet a radiologist reads in a viewer that shows no segmentation.

Top to bottom: the banner (unreviewed software output), patient and study, what must be read first, the regions with
their numbers, key slices, the series used with their completeness, notes and limits, and who made it.  The
bytes depend on the run only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from reportlab.lib.utils import ImageReader

from dicom_node.results.objects import Job
from dicom_node.results.page_parts import (
    blank_sheet,
    draw_banner,
    draw_footer,
    draw_heading,
    draw_identity,
    draw_read_first,
)
from dicom_node.results.page_results import draw_results
from dicom_node.results.phrases import words
from dicom_node.results.pictures import colours_of, draw_slice, grey_window, key_slices
from dicom_node.results.remarks import altered_note, analysed, moment
from dicom_node.results.sheet import (
    BOLD,
    FOOTER_TOP,
    GREY,
    INNER,
    LEADING,
    MARGIN,
    REGULAR,
    Sheet,
    height_of,
)
from dicom_node.words import Volume

_PICTURES = 3
_PICTURE_PX = 520
_GAP = 7.0
_CAPTION = 12.0
_BIG_FROM = 240.0
_SMALL = 7.5
_MOST_INPUT_LINES = 9


def build_page(job: Job, volume: Volume, mask: npt.NDArray[np.uint8]) -> bytes:
    """Draw the page.

    Parameters
    ----------
    mask
        (S, R, C) uint8 of labels on the volume's own grid.

    Returns
    -------
    bytes
        A PDF file of one page.
    """
    say = words(job.language)
    sheet = blank_sheet(job)
    inputs, notes = _input_lines(job, volume), _note_lines(job)
    draw_banner(sheet, job)
    draw_heading(sheet, job)
    draw_identity(sheet, job)
    draw_read_first(sheet, job, volume.notes)
    draw_results(sheet, job)
    _pictures(sheet, job, volume, mask, below=height_of(inputs, _SMALL) + height_of(notes, _SMALL) + 44)
    sheet.section(say["series_used"])
    sheet.paragraphs(inputs, _SMALL, _MOST_INPUT_LINES * _SMALL * LEADING, say["more"])
    sheet.section(say["notes"])
    sheet.paragraphs(notes, _SMALL, sheet.y - FOOTER_TOP - 2, say["more"])
    draw_footer(sheet, job)
    return sheet.finish()


# -- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(sheet: Sheet, job: Job, volume: Volume, mask: npt.NDArray[np.uint8], *, below: float) -> None:
    """The largest slice big with two beside it where the page has room, else three in a row."""
    say = words(job.language)
    keys = key_slices(mask, _PICTURES)
    window, colours = grey_window(volume), colours_of(job.findings.regions)
    sheet.y -= 10
    frames, height = _picture_frames(sheet.y - FOOTER_TOP - below - 2 * _CAPTION)
    first = next((i for i, key in enumerate(keys) if key.is_largest), len(keys) // 2)
    order = [first, *(i for i in range(len(keys)) if i != first)] if height >= _BIG_FROM else range(len(keys))
    for (left, top, side), number in zip(frames, order, strict=False):
        key = keys[number]
        pixels = _PICTURE_PX if side > _BIG_FROM / 2 else _PICTURE_PX // 2
        picture = draw_slice(volume, mask, colours, key.index, pixels, window)
        sheet.canvas.drawImage(ImageReader(picture), MARGIN + left, sheet.y - top - side, side, side)
        caption = f"{say['slice']} {key.index + 1} {say['of']} {len(volume.slices)}"
        font = BOLD if key.is_largest else REGULAR
        sheet.text(MARGIN + left, sheet.y - top - side - 8.5, caption, 7.0, font, GREY)
    sheet.y -= height + _CAPTION + 8
    under = say["pictures" if colours else "pictures_empty"]
    sheet.text(MARGIN, sheet.y, under, 7.0, REGULAR, GREY)


def _picture_frames(room: float) -> tuple[list[tuple[float, float, float]], float]:
    """Left, top and side of each picture, in points below and right of the cursor, and their height together."""
    height = min((INNER - _GAP + (_CAPTION + _GAP) / 2) / 1.5, room)
    if height >= _BIG_FROM:
        small = (height - _CAPTION - _GAP) / 2
        left = (INNER - height - _GAP - small) / 2
        beside = left + height + _GAP
        return [(left, 0.0, height), (beside, 0.0, small), (beside, small + _CAPTION + _GAP, small)], height
    side = max(90.0, min((INNER - (_PICTURES - 1) * _GAP) / _PICTURES, room))
    return [(n * (side + _GAP), 0.0, side) for n in range(_PICTURES)], side


# -- where it came from -----------------------------------------------------------------------------------------------


def _input_lines(job: Job, volume: Volume) -> list[str]:
    """Series used, how complete they were known to be, why these, and when."""
    say = words(job.language)
    step, row, column = volume.affine.spacing_mm
    figures = {"row": f"{row:.2f}", "column": f"{column:.2f}", "step": f"{step:.2f}"}
    own_spacing = say["spacing"].format(**{key: job.figure(value) for key, value in figures.items()})
    lines = [
        say["series_line"].format(
            modality=series.modality,
            number=series.number,
            description=series.description or say["unknown"],
            acquired=moment(series.acquired, job.language),
            slices=series.slices,
            spacing="" if number else own_spacing,
        )
        for number, series in enumerate(job.sources.series)
    ]
    lines.append(f"{say['grade']}: {say[f'grade_{job.identity.grade.value}']}")
    lines += map(job.told, job.identity.notes)
    acquired = moment(job.sources.series[0].acquired, job.language)
    lines.append(f"{say['acquired']}: {acquired} · {say['analysed']}: {analysed(job)}")
    return lines


def _note_lines(job: Job) -> list[str]:
    say, findings = words(job.language), job.findings
    lines = [say["support"], *map(job.told, findings.notes)]
    for region in findings.regions:
        lines += [f"{job.told(region.name)}: {job.told(removed)}" for removed in region.removed]
    if findings.model.intended_use:
        lines.append(f"{say['intended_use']}: {job.told(findings.model.intended_use)}")
    if any(region.confidence is not None for region in findings.regions):
        lines.append(say["score_note"])
    return lines + altered_note(job, job.language)
