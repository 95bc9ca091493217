"""Outcomes as a table: what laboratories send and what people fill in (docs/reference/outcomes.md).

Comma or semicolon between columns, because spreadsheets write the one in one country and the other in the next.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 5000
NEEDED = ("analysis", "diagnosis", "on_date")
_GIVEN_OUT = ("analysis", "asked_on", "site", "body_site", "diagnosis", "on_date")
_ID = re.compile(r"^[0-9a-f]{32}$")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False, "": None}


class TableRefused(ValueError):
    """The whole is no table of outcomes; `reason` is ``not-text``, ``columns-missing``, ``too-long`` or ``empty``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Line:
    """One row that tells an outcome, as it is written; what cannot be read is left for `problem` to say.

    Attributes
    ----------
    number
        Line of the file, from 1.
    problem
        ``analysis-unknown``, ``analysis-twice`` or ``malignant-unclear`` where the row itself is wrong; else empty.
    """

    number: int
    analysis: str
    diagnosis: str
    on_date: str
    malignant: bool | None
    problem: str = ""


def read_table(content: bytes) -> list[Line]:
    """The rows that tell an outcome.

    Raises
    ------
    TableRefused
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TableRefused("not-text") from None
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if not set(NEEDED) <= {name.strip().lower() for name in reader.fieldnames or ()}:
            raise TableRefused("columns-missing")
        rows = [(reader.line_num, _plain(row)) for row in reader]
    except csv.Error:
        raise TableRefused("not-text") from None
    told = [(number, row) for number, row in rows if row["diagnosis"]]
    if not told:
        raise TableRefused("empty")
    if len(told) > MOST_ROWS:
        raise TableRefused("too-long")
    seen: set[str] = set()
    lines = []
    for number, row in told:
        lines.append(_line(number, row, seen))
        seen.add(row["analysis"])
    return lines


def _plain(row: Mapping[str | None, Any]) -> dict[str, str]:
    """Cells by the lower-case name of their column; a cell that is not there is empty, one too many is no cell."""
    cells = {str(name).strip().lower(): str(value or "").strip() for name, value in row.items() if name is not None}
    return {name: cells.get(name, "").lower() for name in (*NEEDED, "malignant")}


def _line(number: int, row: Mapping[str, str], seen: set[str]) -> Line:
    problem = ""
    if not _ID.fullmatch(row["analysis"]):
        problem = "analysis-unknown"
    elif row["analysis"] in seen:
        problem = "analysis-twice"
    elif row["malignant"] not in _TRUTHS:
        problem = "malignant-unclear"
    return Line(number, row["analysis"], row["diagnosis"], row["on_date"], _TRUTHS.get(row["malignant"]), problem)


def table_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of analyses to fill in: no patient, no name, nothing that a spreadsheet would take for a formula."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\r\n")
    writer.writerow(_GIVEN_OUT)
    for row in rows:
        body_site = str(row["body_site"] or "")
        writer.writerow((row["public_id"], str(row["created_at"])[:10], row["site"], body_site, "", ""))
    return made.getvalue()
