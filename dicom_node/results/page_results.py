"""What was found, on the page: a table of regions, a line per observation, or that there is no region.

Numbers are rounded here and nowhere before: volumes to 0.1 mL, diameters to 1 mm, shares to 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.lib.colors import Color

from ai_engine.findings import Measurement, Observation, Region
from dicom_node.results.objects import Job
from dicom_node.results.phrases import words
from dicom_node.results.sheet import BOLD, GREY, INNER, MARGIN, REGULAR, SHADE, WIDTH, Sheet, fitted, shown, wrapped

_MOST_REGIONS = 8
_COLUMNS = ("volume", "long_axis", "short_axis", "diameter_3d", "percent", "confidence")
_COLUMN_WIDTH = 58.0


def draw_results(sheet: Sheet, job: Job) -> None:
    """Draw what a run found below the sheet's present line, and move that line."""
    say, findings = words(job.language), job.findings
    sheet.y -= 6
    if not findings.has_region and not findings.observations:
        sheet.y -= 17
        sheet.text(MARGIN, sheet.y, say["no_region"], 12.0, BOLD)
        sheet.y -= 12
        sheet.text(MARGIN, sheet.y, say["no_region_note"], 8.5)
        sheet.y -= 2
    if findings.regions:
        _table(sheet, job, findings.regions)
    for observation in findings.observations:
        _observation(sheet, job, observation)


def _table(sheet: Sheet, job: Job, regions: Sequence[Region]) -> None:
    say = words(job.language)
    edges = [WIDTH - MARGIN - 6 - _COLUMN_WIDTH * i for i in range(len(_COLUMNS))][::-1]
    headings = [wrapped(say[key], 6.8, _COLUMN_WIDTH - 8) for key in _COLUMNS]
    tallest = max(len(parts) for parts in headings)
    sheet.y -= 5 + 8.5 * tallest
    sheet.text(MARGIN + 6, sheet.y, say["region"], 6.8, REGULAR, GREY)
    for parts, edge in zip(headings, edges, strict=True):
        for row, part in enumerate(reversed(parts)):
            sheet.right(edge, sheet.y + 8.5 * row, part, 6.8, REGULAR, GREY)
    sheet.y -= 4
    for number, region in enumerate(regions[:_MOST_REGIONS]):
        _row(sheet, job, region, edges, is_shaded=number % 2 == 0)
    if len(regions) > _MOST_REGIONS:
        sheet.y -= 11
        sheet.text(MARGIN + 6, sheet.y, say["more"].format(n=len(regions) - _MOST_REGIONS), 8.0, BOLD)


def _row(sheet: Sheet, job: Job, region: Region, edges: Sequence[float], *, is_shaded: bool) -> None:
    say, height = words(job.language), 16.0
    if is_shaded:
        sheet.canvas.setFillColor(SHADE)
        sheet.canvas.rect(MARGIN, sheet.y - height, INNER, height, stroke=0, fill=1)
    base = sheet.y - 11.2
    if region.label is not None and region.present:
        sheet.canvas.setFillColor(Color(*(c / 255 for c in region.color_rgb)))
        sheet.canvas.setStrokeColor(GREY)
        sheet.canvas.setLineWidth(0.4)
        sheet.canvas.rect(MARGIN + 6, base - 1, 8, 8, stroke=1, fill=1)
    name = shown(job.told(region.name)) + ("" if region.label is not None else f" ({say['composite']})")
    sheet.text(MARGIN + 20, base, fitted(name, edges[0] - MARGIN - _COLUMN_WIDTH - 14, 8.5, BOLD), 8.5, BOLD)
    if not region.present:
        sheet.right(edges[-1], base, say["absent"], 8.5)
    else:
        for value, edge in zip(_cells(region), edges, strict=True):
            sheet.right(edge, base, job.figure(value), 8.5)
    sheet.y -= height


def _cells(region: Region) -> tuple[str, ...]:
    """Volume to 0.1 mL, diameters to 1 mm, share to 1 %."""
    return (
        _rounded(region.measure("volume"), "mL", 1),
        _rounded(region.measure("long_axis"), "mm", 0),
        _rounded(region.measure("short_axis"), "mm", 0),
        _rounded(region.measure("diameter_3d"), "mm", 0),
        f"{region.percent:.0f} %",
        "–" if region.confidence is None else f"{region.confidence:.2f}",
    )


def _rounded(measurement: Measurement | None, unit: str, digits: int) -> str:
    """A dash for what was not measured; what is there but below the last digit is never printed as zero."""
    if measurement is None:
        return "–"
    least = 10.0**-digits
    if 0 < measurement.value < least / 2:
        return f"< {least:.{digits}f} {unit}"
    return f"{measurement.value:.{digits}f} {unit}"


def _observation(sheet: Sheet, job: Job, observation: Observation) -> None:
    say = words(job.language)
    told = ((job.told(m.name.meaning), job.figure(_plain_number(m))) for m in observation.measurements)
    numbers = ", ".join(f"{shown(name)} {number}" for name, number in told)
    if observation.threshold is not None:
        numbers += f" ({say['threshold']} {job.figure(f'{observation.threshold:g}')})"
    if observation.category is not None:
        numbers += f": {shown(job.told(observation.category.meaning))}"
    sheet.y -= 15
    sheet.text(MARGIN, sheet.y, fitted(f"{say['observation']}: {numbers}", INNER, 9.0, BOLD), 9.0, BOLD)


def _plain_number(measurement: Measurement) -> str:
    if measurement.unit.value == "%":
        return f"{measurement.value:.0f} %"
    unit = "" if measurement.unit.value in ("1", "{ratio}") else f" {measurement.unit.value}"
    return f"{measurement.value:.2f}{unit}"
