"""The page: one A4 sheet a radiologist reads in a viewer that shows no segmentation.

Top to bottom: the banner (unreviewed software output), patient and study, what must be read first, the regions with
their numbers, key slices, the series used with their completeness, notes and limits, and who made it.  Fonts are
embedded; characters the fonts lack are never drawn as boxes.  The bytes depend on the run only.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from io import BytesIO

import numpy as np
import numpy.typing as npt
from reportlab import rl_config
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from ai_engine.findings import Measurement, Observation, Region
from dicom_node.results import text
from dicom_node.results.objects import Job
from dicom_node.results.phrases import words
from dicom_node.results.pictures import Picture, colours_of, draw_slice, grey_window, key_slices
from dicom_node.results.remarks import analysed, moment, warnings_of
from dicom_node.words import Volume

rl_config.useA85 = 0  # binary streams: smaller, and nothing of ours reads a PDF as text

REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"
_MARGIN = 34.0
_WIDTH, _HEIGHT = A4
_INNER = _WIDTH - 2 * _MARGIN
_FOOTER_TOP = 74.0
_PICTURES = 3
_PICTURE_PX = 420
_GAP = 7.0

_INK, _GREY, _LINE = HexColor(0x1B1F24), HexColor(0x5A6270), HexColor(0xC9CED6)
_BANNER, _WARNING_FILL, _WARNING_EDGE = HexColor(0x8A1C1C), HexColor(0xFFF3D6), HexColor(0xD9930B)
_SHADE = HexColor(0xF2F4F7)
_LEFT_TO_RIGHT = frozenset({"L", "EN", "ES", "ET", "CS", "ON", "WS", "NSM", "BN"})


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
    _register_fonts()
    buffer = BytesIO()
    sheet = _Sheet(buffer, job)
    sheet.banner()
    sheet.heading()
    sheet.identity()
    sheet.read_first(warnings_of(job, volume.notes, job.language))
    sheet.results()
    sheet.pictures(volume, mask)
    sheet.inputs(volume)
    sheet.notes()
    sheet.footer()
    sheet.canvas.showPage()
    sheet.canvas.save()
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _register_fonts() -> None:
    for name in (REGULAR, BOLD):
        with as_file(files("dicom_node.results") / "fonts" / f"{name}.ttf") as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))


def drawable(value: str) -> bool:
    """Whether the page's fonts have every character, in a script that runs left to right."""
    _register_fonts()
    glyphs = pdfmetrics.getFont(REGULAR).face.charToGlyph
    return all(ord(c) in glyphs and unicodedata.bidirectional(c) in _LEFT_TO_RIGHT for c in value)


def shown(value: str) -> str:
    """Text as the page can draw it: what the fonts lack becomes a middle dot, never a box."""
    return "".join(c if drawable(c) else "·" for c in text.plain(value))


def shown_name(person_name: str, fallback: str) -> str:
    """A person's name as people write it: every component group that can be drawn, the alphabetic one first."""
    groups = [" ".join(" ".join(g.replace("^", " ").split()).split()) for g in person_name.split("=")]
    kept = [g for g in dict.fromkeys(groups) if g and drawable(g)]
    if kept:
        return " = ".join(kept)
    return fallback if any(groups) else ""


class _Sheet:
    """A cursor that walks down one page."""

    def __init__(self, buffer: BytesIO, job: Job) -> None:
        self.job = job
        self.say = words(job.language)
        self.canvas = Canvas(buffer, pagesize=A4, pageCompression=1, invariant=1, lang=job.language)
        # Dates and /ID would come from clock and environment; the run's own time and key go in instead.
        stamp = f"D:{job.created:%Y%m%d%H%M%S}{_pdf_offset(job)}"
        self.canvas.setDateFormatter(lambda *_: stamp)
        digest = hashlib.sha256(f"pdf{job.identity.run_key}".encode()).hexdigest()[:32]
        self.canvas._doc._ID = f"\n[<{digest}><{digest}>]\n".encode()
        self.canvas.setTitle(self.say["document_title"].format(title=shown(job.findings.model.title)))
        self.canvas.setAuthor(shown(job.producer.manufacturer))
        self.canvas.setCreator(f"{shown(job.producer.product)} {shown(job.producer.version)}")
        self.canvas.setProducer(f"{shown(job.producer.product)} {shown(job.producer.version)}")
        self.y = _HEIGHT

    # -- small tools --------------------------------------------------------------------------------------------------

    def text(self, x: float, y: float, value: str, size: float = 8.0, font: str = REGULAR, ink: Color = _INK) -> None:
        self.canvas.setFillColor(ink)
        self.canvas.setFont(font, size)
        self.canvas.drawString(x, y, value)

    def right(self, x: float, y: float, value: str, size: float = 8.0, font: str = REGULAR, ink: Color = _INK) -> None:
        self.canvas.setFillColor(ink)
        self.canvas.setFont(font, size)
        self.canvas.drawRightString(x, y, value)

    def fitted(self, value: str, width: float, size: float, font: str = REGULAR) -> str:
        """`value`, or as much of it as fits with an ellipsis."""
        if pdfmetrics.stringWidth(value, font, size) <= width:
            return value
        while value and pdfmetrics.stringWidth(value + "…", font, size) > width:
            value = value[:-1]
        return value.rstrip() + "…"

    def section(self, title: str) -> None:
        self.y -= 15
        self.text(_MARGIN, self.y, title, 9.0, BOLD)
        self.canvas.setStrokeColor(_LINE)
        self.canvas.setLineWidth(0.6)
        self.canvas.line(_MARGIN, self.y - 3.5, _WIDTH - _MARGIN, self.y - 3.5)
        self.y -= 5

    def paragraphs(
        self, lines: Sequence[str], size: float, room: float, *, x: float = _MARGIN, width: float = _INNER
    ) -> None:
        """Wrapped lines within `room` points; what does not fit is counted, and stands in the structured report."""
        step = size * 1.32
        budget = max(1, int(room // step))
        wrapped = [simpleSplit(shown(line), REGULAR, size, width) for line in lines]
        used = 0
        for number, parts in enumerate(wrapped):
            is_last = number == len(wrapped) - 1
            if used + len(parts) + (0 if is_last else 1) > budget:
                self.y -= step
                self.text(x, self.y, self.say["more"].format(n=len(wrapped) - number), size, BOLD)
                return
            for part in parts:
                self.y -= step
                self.text(x, self.y, part, size)
            used += len(parts)

    # -- the page, top to bottom --------------------------------------------------------------------------------------

    def banner(self) -> None:
        height = 40.0
        self.canvas.setFillColor(_BANNER)
        self.canvas.rect(0, _HEIGHT - height, _WIDTH, height, stroke=0, fill=1)
        white = HexColor(0xFFFFFF)
        self.text(_MARGIN, _HEIGHT - 17, self.say["banner"], 11.0, BOLD, white)
        self.right(_WIDTH - _MARGIN, _HEIGHT - 17, self.say["unreviewed"], 11.0, BOLD, white)
        second = self.say["not_clinical"]
        if self.job.producer.is_research_use_only:
            second = f"{second} {self.say['ruo']}"
        self.text(_MARGIN, _HEIGHT - 31, self.fitted(second, _INNER, 8.0), 8.0, REGULAR, white)
        self.y = _HEIGHT - height

    def heading(self) -> None:
        model = self.job.findings.model
        self.y -= 22
        title = self.say["title"].format(title=shown(model.title or model.name))
        version = shown(f"{model.name} {model.version}")
        if self.job.identity.revision_number > 1:
            version += f" · rev {self.job.identity.revision_number}"
        room = _INNER - pdfmetrics.stringWidth(version, REGULAR, 9.0) - 12
        self.text(_MARGIN, self.y, self.fitted(title, room, 14.0, BOLD), 14.0, BOLD)
        self.right(_WIDTH - _MARGIN, self.y, version, 9.0, REGULAR, _GREY)
        self.y -= 4

    def identity(self) -> None:
        source, say = self.job.sources.attributes, self.say
        issuer = source.get("IssuerOfPatientID", "")
        patient_id = shown(str(source.PatientID)) + (f"  ({say['issuer']} {shown(issuer)})" if issuer else "")
        patient = (
            (say["patient"], shown_name(str(source.PatientName), say["name_not_shown"])),
            (say["patient_id"], patient_id),
            (say["birth_date"], _day(str(source.PatientBirthDate))),
            (say["sex"], str(source.PatientSex)),
        )
        study = (
            (say["study"], shown(source.get("StudyDescription", ""))),
            (say["study_date"], moment(str(source.StudyDate) + str(source.StudyTime)[:6], self.job.language)),
            (say["accession"], shown(str(source.AccessionNumber))),
            (say["study_uid"], str(source.StudyInstanceUID)),
        )
        height = 4 * 12.5 + 10
        self.y -= 8
        self.canvas.setFillColor(_SHADE)
        self.canvas.roundRect(_MARGIN, self.y - height, _INNER, height, 4, stroke=0, fill=1)
        half = _INNER / 2
        for column, rows in enumerate((patient, study)):
            top = self.y - 3
            for label, value in rows:
                top -= 12.5
                left = _MARGIN + 8 + column * half
                self.text(left, top, self.fitted(label, 72, 7.0), 7.0, REGULAR, _GREY)
                size = 8.5 if column == 0 else 8.0
                value = value or say["unknown"]
                while size > 5.5 and pdfmetrics.stringWidth(value, REGULAR, size) > half - 92:
                    size -= 0.25
                self.text(left + 76, top, self.fitted(value, half - 90, size), size)
        self.y -= height

    def read_first(self, warnings: Sequence[str]) -> None:
        """Input warnings and the replacement notice, in a box nobody overlooks."""
        lines = list(warnings)
        if self.job.identity.predecessor is not None:
            lines.insert(0, self.say["replaces"].format(n=self.job.identity.revision_number))
        if not lines:
            return
        wrapped = sum(len(simpleSplit(shown(line), REGULAR, 8.0, _INNER - 24)) for line in lines)
        height = min(wrapped, 6) * 10.6 + 21
        self.y -= 8
        self.canvas.setFillColor(_WARNING_FILL)
        self.canvas.setStrokeColor(_WARNING_EDGE)
        self.canvas.roundRect(_MARGIN, self.y - height, _INNER, height, 4, stroke=1, fill=1)
        top = self.y
        self.text(_MARGIN + 10, top - 13, self.say["warnings"], 8.5, BOLD)
        self.y = top - 14
        self.paragraphs(lines, 8.0, 6 * 10.6, x=_MARGIN + 10, width=_INNER - 24)
        self.y = top - height

    def results(self) -> None:
        self.y -= 6
        if not self.job.findings.has_region and not self.job.findings.observations:
            self.y -= 17
            self.text(_MARGIN, self.y, self.say["no_region"], 12.0, BOLD)
            self.y -= 12
            self.text(_MARGIN, self.y, self.say["no_region_note"], 8.5)
            self.y -= 2
        if self.job.findings.regions:
            self._table(self.job.findings.regions)
        for observation in self.job.findings.observations:
            self._observation(observation)

    def _table(self, regions: Sequence[Region]) -> None:
        columns = ("volume", "long_axis", "short_axis", "diameter_3d", "percent", "confidence")
        edges = [_WIDTH - _MARGIN - 6 - 62 * i for i in range(len(columns))][::-1]
        self.y -= 14
        self.text(_MARGIN + 6, self.y, self.say["region"], 7.0, REGULAR, _GREY)
        for key, edge in zip(columns, edges, strict=True):
            self.right(edge, self.y, self.fitted(self.say[key], 60, 7.0), 7.0, REGULAR, _GREY)
        self.y -= 4
        shown_regions = regions[:8]
        for number, region in enumerate(shown_regions):
            self._row(region, edges, is_shaded=number % 2 == 0)
        if len(shown_regions) < len(regions):
            self.y -= 11
            self.text(_MARGIN + 6, self.y, self.say["more"].format(n=len(regions) - len(shown_regions)), 8.0, BOLD)

    def _row(self, region: Region, edges: Sequence[float], *, is_shaded: bool) -> None:
        height = 16.0
        if is_shaded:
            self.canvas.setFillColor(_SHADE)
            self.canvas.rect(_MARGIN, self.y - height, _INNER, height, stroke=0, fill=1)
        base = self.y - 11.2
        if region.label is not None:
            red, green, blue = (c / 255 for c in region.color_rgb)
            self.canvas.setFillColor(Color(red, green, blue))
            self.canvas.setStrokeColor(_GREY)
            self.canvas.setLineWidth(0.4)
            self.canvas.rect(_MARGIN + 6, base - 1, 8, 8, stroke=1, fill=1)
        name = shown(region.name) + ("" if region.label is not None else f" ({self.say['composite']})")
        self.text(_MARGIN + 20, base, self.fitted(name, edges[0] - _MARGIN - 72, 8.5, BOLD), 8.5, BOLD)
        if not region.present:
            self.right(edges[-1], base, self.say["absent"], 8.5)
        else:
            for value, edge in zip(_cells(region), edges, strict=True):
                self.right(edge, base, value, 8.5)
        self.y -= height

    def _observation(self, observation: Observation) -> None:
        self.y -= 15
        numbers = ", ".join(f"{shown(m.name.meaning)} {_plain_number(m)}" for m in observation.measurements)
        if observation.threshold is not None:
            numbers += f" ({self.say['threshold']} {observation.threshold:.2f})"
        self.text(_MARGIN, self.y, self.fitted(f"{self.say['observation']}: {numbers}", _INNER, 9.0, BOLD), 9.0, BOLD)

    def pictures(self, volume: Volume, mask: npt.NDArray[np.uint8]) -> None:
        side = (_INNER - (_PICTURES - 1) * _GAP) / _PICTURES
        self.y -= 10
        window, colours = grey_window(volume), colours_of(self.job.findings.regions)
        for number, key in enumerate(key_slices(mask, _PICTURES)):
            picture = draw_slice(volume, mask, colours, key.index, _PICTURE_PX, window)
            left = _MARGIN + number * (side + _GAP)
            self._image(picture, left, self.y - side, side)
            caption = f"{self.say['slice']} {key.index + 1} {self.say['of']} {len(volume.slices)}"
            self.text(left, self.y - side - 9, caption, 7.0, BOLD if key.is_largest else REGULAR, _GREY)
        self.y -= side + 18
        self.text(_MARGIN, self.y, self.say["pictures"], 7.0, REGULAR, _GREY)

    def _image(self, picture: Picture, left: float, bottom: float, side: float) -> None:
        self.canvas.drawImage(ImageReader(picture), left, bottom, side, side)

    def inputs(self, volume: Volume) -> None:
        say, job = self.say, self.job
        self.section(say["series_used"])
        _, row, column = volume.affine.spacing_mm
        lines = []
        for number, series in enumerate(job.sources.series):
            spacing = ""
            if number == 0:
                step = volume.affine.spacing_mm[0]
                spacing = say["spacing"].format(row=f"{row:.2f}", column=f"{column:.2f}", step=f"{step:.2f}")
            lines.append(
                say["series_line"].format(
                    modality=series.modality,
                    number=series.number,
                    description=series.description or say["unknown"],
                    acquired=moment(series.acquired, job.language),
                    slices=series.slices,
                    spacing=spacing,
                )
            )
        lines.append(f"{say['grade']}: {say[f'grade_{job.identity.grade.value}']}")
        lines += job.identity.notes
        lines.append(
            f"{say['acquired']}: {moment(job.sources.series[0].acquired, job.language)} · "
            f"{say['analysed']}: {analysed(job)}"
        )
        self.paragraphs(lines, 7.5, 7 * 9.9)

    def notes(self) -> None:
        say, findings = self.say, self.job.findings
        lines = [say["support"], *findings.notes]
        for region in findings.regions:
            lines += [f"{region.name}: {removed}" for removed in region.removed]
        if findings.model.intended_use:
            lines.append(f"{say['intended_use']}: {findings.model.intended_use}")
        if any(region.confidence is not None for region in findings.regions):
            lines.append(say["score_note"])
        self.section(say["notes"])
        self.paragraphs(lines, 7.5, self.y - _FOOTER_TOP - 4)

    def footer(self) -> None:
        say, model, producer = self.say, self.job.findings.model, self.job.producer
        self.canvas.setStrokeColor(_LINE)
        self.canvas.line(_MARGIN, _FOOTER_TOP - 6, _WIDTH - _MARGIN, _FOOTER_TOP - 6)
        rows = (
            f"{say['made_by']} {shown(producer.manufacturer)} · {shown(producer.product)} {shown(producer.version)} "
            f"({shown(producer.instance_id)})"
            + (f" · {say['contact']}: {shown(producer.contact)}" if producer.contact else ""),
            f"{say['model']} {shown(model.name)} {shown(model.version)} ({shown(model.manufacturer)}) · "
            f"{say['weights']} {model.digest_sha256[:16]} · {shown(model.framework)}, {shown(model.backend)} "
            f"{shown(model.device)} {shown(model.precision)}",
            f"{say['run']} {self.job.identity.run_key[:16]} · {say['page']}",
            f"{say['banner']}. {say['unreviewed']}.",
        )
        y = _FOOTER_TOP - 6
        for row in rows:
            y -= 10
            self.text(_MARGIN, y, self.fitted(row, _INNER, 6.8), 6.8, REGULAR, _GREY)


def _pdf_offset(job: Job) -> str:
    offset = text.dicom_offset(job.sources.offset_minutes)
    return f"{offset[:3]}'{offset[3:]}'"


def _day(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if text.is_date(value) else ""


def _cells(region: Region) -> tuple[str, ...]:
    """Volume to 0.1 mL, diameters to 1 mm, share to 1 %: rounded here and nowhere before."""
    return (
        _rounded(region.measure("volume"), "{:.1f} mL"),
        _rounded(region.measure("long_axis"), "{:.0f} mm"),
        _rounded(region.measure("short_axis"), "{:.0f} mm"),
        _rounded(region.measure("diameter_3d"), "{:.0f} mm"),
        f"{region.percent:.0f} %",
        "–" if region.confidence is None else f"{region.confidence:.2f}",
    )


def _rounded(measurement: Measurement | None, pattern: str) -> str:
    """A dash for what was not measured; a volume below the last digit shown is never printed as zero."""
    if measurement is None:
        return "–"
    shown_value = pattern.format(measurement.value)
    if measurement.value > 0 and float(shown_value.split()[0]) == 0.0:
        return "< " + pattern.format(0.1 if ".1f" in pattern else 1.0)
    return shown_value


def _plain_number(measurement: Measurement) -> str:
    if measurement.unit.value == "%":
        return f"{measurement.value:.0f} %"
    unit = "" if measurement.unit.value in ("1", "{ratio}") else f" {measurement.unit.value}"
    return f"{measurement.value:.2f}{unit}"
