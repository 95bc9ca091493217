"""What every page has, whatever was read: banner, heading, patient and study, what comes first, and the footer.

Each function draws below the sheet's present line and moves that line.
"""

from __future__ import annotations

from reportlab.lib.colors import HexColor

from dicom_node.results import text
from dicom_node.results.objects import Job
from dicom_node.results.phrases import words
from dicom_node.results.remarks import warnings_of
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
    shown,
    shown_name,
    size_for,
    width_of,
    wrapped,
)

_WARNING_LINES = 6

_BANNER, _WHITE = HexColor(0x8A1C1C), HexColor(0xFFFFFF)
_WARNING_FILL, _WARNING_EDGE = HexColor(0xFFF3D6), HexColor(0xD9930B)


def blank_sheet(job: Job) -> Sheet:
    """A page with the run's own dates and identity."""
    say, model, producer = words(job.language), job.findings.model, job.producer
    offset = text.dicom_offset(job.sources.offset_minutes)
    return Sheet(
        title=say["document_title"].format(title=shown(job.told(model.title) or model.name)),
        made_by=f"{shown(producer.product)} {shown(producer.version)}",
        stamp=f"D:{job.created:%Y%m%d%H%M%S}{offset[:3]}'{offset[3:]}'",
        identity=job.identity.run_key,
        language=job.language,
    )


def draw_banner(sheet: Sheet, job: Job) -> None:
    """That nobody has reviewed this, in white on red."""
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


def draw_heading(sheet: Sheet, job: Job, title_key: str = "title") -> None:
    """Title and version; `title_key` names the phrase that says what kind of reading it was."""
    model = job.findings.model
    sheet.y -= 22
    title = words(job.language)[title_key].format(title=shown(job.told(model.title) or model.name))
    version = shown(f"{model.name} {model.version}")
    if job.identity.revision_number > 1:
        version += f" · rev {job.identity.revision_number}"
    version = fitted(version, INNER / 2, 9.0)
    room = INNER - width_of(version, 9.0) - 12
    size = size_for(title, room, 14.0, 10.0, BOLD)
    sheet.text(MARGIN, sheet.y, fitted(title, room, size, BOLD), size, BOLD)
    sheet.right(WIDTH - MARGIN, sheet.y, version, 9.0, REGULAR, GREY)
    sheet.y -= 4


def draw_identity(sheet: Sheet, job: Job) -> None:
    """Patient on the left, study on the right, in a shaded box."""
    source, say = job.sources.attributes, words(job.language)
    issuer = source.get("IssuerOfPatientID", "")
    patient_id = shown(source.PatientID) + (f"  ({say['issuer']} {shown(issuer)})" if issuer else "")
    patient = (
        (say["patient"], shown_name(str(source.PatientName), say["name_not_shown"])),
        (say["patient_id"], patient_id),
        (say["birth_date"], _day(str(source.PatientBirthDate))),
        (say["sex"], say.get(f"sex_{source.PatientSex}", str(source.PatientSex))),
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
    room = width - 74
    size = size_for(value, room, 8.5, 5.0)
    sheet.text(left + 74, y, fitted(value, room, size), size)


def draw_read_first(sheet: Sheet, job: Job, notes: tuple[str, ...]) -> None:
    """Input warnings and the replacement notice, in a box nobody overlooks."""
    say = words(job.language)
    lines = warnings_of(job, tuple(map(job.told, notes)), job.language)
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


def draw_footer(sheet: Sheet, job: Job) -> None:
    """Who made the page, with which model and which run."""
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
