"""The page: one A4 sheet a radiologist reads in a viewer that shows no segmentation.

Top to bottom: the banner (unreviewed software output), patient and study, what must be read first, the regions with
their numbers, key slices, the series used with their completeness, notes and limits, and who made it.  The
bytes depend on the run only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from reportlab.lib.colors import HexColor
from reportlab.lib.utils import ImageReader

from dicom_node.results import text
from dicom_node.results.objects import Job
from dicom_node.results.page_results import draw_results
from dicom_node.results.phrases import words
from dicom_node.results.pictures import colours_of, draw_slice, grey_window, key_slices
from dicom_node.results.remarks import altered_note, analysed, moment, warnings_of
from dicom_node.results.sheet import (
    BOLD,
    FOOTER_TOP,
    GREY,
    HEIGHT,
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
    shown_name,
    width_of,
    wrapped,
)
from dicom_node.words import Volume

_PICTURES = 3
_PICTURE_PX = 520
_GAP = 7.0
_CAPTION = 12.0
_BIG_FROM = 240.0
_SMALL = 7.5
_WARNING_LINES = 6
_MOST_INPUT_LINES = 9

_BANNER, _WHITE = HexColor(0x8A1C1C), HexColor(0xFFFFFF)
_WARNING_FILL, _WARNING_EDGE = HexColor(0xFFF3D6), HexColor(0xD9930B)


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
    say, model, producer = words(job.language), job.findings.model, job.producer
    offset = text.dicom_offset(job.sources.offset_minutes)
    sheet = Sheet(
        title=say["document_title"].format(title=shown(model.title or model.name)),
        made_by=f"{shown(producer.product)} {shown(producer.version)}",
        stamp=f"D:{job.created:%Y%m%d%H%M%S}{offset[:3]}'{offset[3:]}'",
        identity=job.identity.run_key,
        language=job.language,
    )
    inputs, notes = _input_lines(job, volume), _note_lines(job)
    _banner(sheet, job)
    _heading(sheet, job)
    _identity(sheet, job)
    _read_first(sheet, job, volume)
    draw_results(sheet, job)
    _pictures(sheet, job, volume, mask, below=height_of(inputs, _SMALL) + height_of(notes, _SMALL) + 44)
    sheet.section(say["series_used"])
    sheet.paragraphs(inputs, _SMALL, _MOST_INPUT_LINES * _SMALL * LEADING, say["more"])
    sheet.section(say["notes"])
    sheet.paragraphs(notes, _SMALL, sheet.y - FOOTER_TOP - 2, say["more"])
    _footer(sheet, job)
    return sheet.finish()


# -- who, and the warning to everybody --------------------------------------------------------------------------------


def _banner(sheet: Sheet, job: Job) -> None:
    say, height = words(job.language), 40.0
    sheet.canvas.setFillColor(_BANNER)
    sheet.canvas.rect(0, HEIGHT - height, WIDTH, height, stroke=0, fill=1)
    mark = say["unreviewed"]
    room = INNER - width_of(mark, 11.0, BOLD) - 12
    size = 11.0
    while width_of(say["banner"], size, BOLD) > room:
        size -= 0.25
    sheet.text(MARGIN, HEIGHT - 17, say["banner"], size, BOLD, _WHITE)
    sheet.right(WIDTH - MARGIN, HEIGHT - 17, mark, 11.0, BOLD, _WHITE)
    second = say["not_clinical"]
    if job.producer.is_research_use_only:
        second = f"{second} {say['ruo']}"
    sheet.text(MARGIN, HEIGHT - 31, fitted(second, INNER, 8.0), 8.0, REGULAR, _WHITE)
    sheet.y = HEIGHT - height


def _heading(sheet: Sheet, job: Job) -> None:
    model = job.findings.model
    sheet.y -= 22
    title = words(job.language)["title"].format(title=shown(model.title or model.name))
    version = shown(f"{model.name} {model.version}")
    if job.identity.revision_number > 1:
        version += f" · rev {job.identity.revision_number}"
    version = fitted(version, INNER / 2, 9.0)
    room = INNER - width_of(version, 9.0) - 12
    sheet.text(MARGIN, sheet.y, fitted(title, room, 14.0, BOLD), 14.0, BOLD)
    sheet.right(WIDTH - MARGIN, sheet.y, version, 9.0, REGULAR, GREY)
    sheet.y -= 4


def _identity(sheet: Sheet, job: Job) -> None:
    """Patient on the left, study on the right, in a shaded box."""
    source, say = job.sources.attributes, words(job.language)
    issuer = source.get("IssuerOfPatientID", "")
    patient_id = shown(source.PatientID) + (f"  ({say['issuer']} {shown(issuer)})" if issuer else "")
    patient = (
        (say["patient"], shown_name(str(source.PatientName), say["name_not_shown"])),
        (say["patient_id"], patient_id),
        (say["birth_date"], _day(str(source.PatientBirthDate))),
        (say["sex"], str(source.PatientSex)),
    )
    study = (
        (say["study"], shown(source.get("StudyDescription", ""))),
        (say["study_date"], _study_moment(str(source.StudyDate), str(source.StudyTime))),
        (say["accession"], shown(source.AccessionNumber)),
        (say["study_uid"], str(source.StudyInstanceUID)),
    )
    height, split = 4 * 12.5 + 10, 0.42 * INNER
    sheet.y -= 8
    sheet.box(height, SHADE)
    for rows, left, width in ((patient, MARGIN + 8, split - 12), (study, MARGIN + split, INNER - split - 6)):
        top = sheet.y - 3
        for label, value in rows:
            top -= 12.5
            _field(sheet, left, top, width, label, value or say["unknown"])
    sheet.y -= height


def _field(sheet: Sheet, left: float, y: float, width: float, label: str, value: str) -> None:
    """A label and its value; a long value is set smaller before it is cut."""
    sheet.text(left, y, fitted(label, 70, 7.0), 7.0, REGULAR, GREY)
    size, room = 8.5, width - 74
    while size > 5.0 and width_of(value, size) > room:
        size -= 0.25
    sheet.text(left + 74, y, fitted(value, room, size), size)


def _read_first(sheet: Sheet, job: Job, volume: Volume) -> None:
    """Input warnings and the replacement notice, in a box nobody overlooks."""
    say = words(job.language)
    lines = warnings_of(job, volume.notes, job.language)
    if not lines:
        return
    needed = sum(len(wrapped(line, 8.0, INNER - 24)) for line in lines)
    room = min(needed, _WARNING_LINES) * 8.0 * LEADING + 0.5
    sheet.y -= 8
    top, height = sheet.y, room + 21
    sheet.box(height, _WARNING_FILL, _WARNING_EDGE)
    sheet.text(MARGIN + 10, top - 13, say["warnings"], 8.5, BOLD)
    sheet.y = top - 14
    sheet.paragraphs(lines, 8.0, room, say["more"], x=MARGIN + 10, width=INNER - 24)
    sheet.y = top - height


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
    own_spacing = say["spacing"].format(row=f"{row:.2f}", column=f"{column:.2f}", step=f"{step:.2f}")
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
    lines += job.identity.notes
    acquired = moment(job.sources.series[0].acquired, job.language)
    lines.append(f"{say['acquired']}: {acquired} · {say['analysed']}: {analysed(job)}")
    return lines


def _note_lines(job: Job) -> list[str]:
    say, findings = words(job.language), job.findings
    lines = [say["support"], *findings.notes]
    for region in findings.regions:
        lines += [f"{region.name}: {removed}" for removed in region.removed]
    if findings.model.intended_use:
        lines.append(f"{say['intended_use']}: {findings.model.intended_use}")
    if any(region.confidence is not None for region in findings.regions):
        lines.append(say["score_note"])
    return lines + altered_note(job, job.language)


def _footer(sheet: Sheet, job: Job) -> None:
    say, model, producer = words(job.language), job.findings.model, job.producer
    made_by = (
        f"{say['made_by']} {producer.manufacturer} · {producer.product} {producer.version} ({producer.instance_id})"
    )
    if producer.contact:
        made_by += f" · {say['contact']}: {producer.contact}"
    rows = (
        made_by,
        f"{say['model']} {model.name} {model.version} ({model.manufacturer}) · {say['weights']} "
        f"{model.digest_sha256[:16]} · {model.framework}, {model.backend} {model.device} {model.precision}",
        f"{say['run']} {job.identity.run_key[:16]} · {say['page']} · {say['banner']}. {say['unreviewed']}.",
    )
    sheet.rule(FOOTER_TOP - 6)
    y = FOOTER_TOP - 7
    for row in rows:
        y -= 10
        sheet.text(MARGIN, y, fitted(shown(row), INNER, 6.8), 6.8, REGULAR, GREY)


def _day(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if text.is_date(value) else ""


def _study_moment(day: str, hour: str) -> str:
    """Study date, and its time as far as it is known."""
    clock = f" {hour[:2]}:{hour[2:4]}" if len(hour) >= 4 else ""
    return _day(day) + clock if _day(day) else ""
