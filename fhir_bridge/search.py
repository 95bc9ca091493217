"""The search grammar of the read-only endpoint: one table, from which the CapabilityStatement is written too.

FHIR R4 search.html: token (3.1.1.4.10), date prefixes (3.1.1.4.6), result parameters (3.1.1.5).  A parameter that is
not in the table is refused, never ignored: an ignored filter would answer with other people's results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fhir_bridge.store import Query, TokenClause

MAX_PAGE = 200
DEFAULT_PAGE = 50
MAX_VALUES = 50
INCLUDE = "DiagnosticReport:result"

_STUDY_NOTE = "Study Instance UID as urn:oid:<UID>, system urn:dicom:uid."
_PATIENT_NOTE = "By identifier only: patient.identifier=<system>|<value> or patient:identifier=<system>|<value>."
_ORDER_NOTE = "By identifier only, the accession number: based-on:identifier=<system>|<value>."


@dataclass(frozen=True)
class Parameter:
    """A search parameter as declared: name and type in the CapabilityStatement, spellings accepted, index name."""

    name: str
    type: str
    index: str
    spellings: tuple[str, ...]
    documentation: str = ""


def _token(name: str, documentation: str = "") -> Parameter:
    return Parameter(name, "token", name, (name,), documentation)


_ID = _token("_id")
_IDENTIFIER = _token("identifier")
_PATIENT = Parameter(
    "patient",
    "reference",
    "patient:identifier",
    ("patient.identifier", "patient:identifier", "subject:identifier", "subject.identifier"),
    _PATIENT_NOTE,
)
_ORDER = Parameter(
    "based-on", "reference", "based-on:identifier", ("based-on:identifier", "based-on.identifier"), _ORDER_NOTE
)
_STUDY_ORDER = Parameter(
    "basedon", "reference", "based-on:identifier", ("basedon:identifier", "basedon.identifier"), _ORDER_NOTE
)
_CATEGORY, _CODE, _STATUS = _token("category"), _token("code"), _token("status")
_STUDY = _token("study", _STUDY_NOTE)
_DEVICE = Parameter("device", "reference", "device", ("device",), "Device/<id>: every number a model version made.")
_TARGET = Parameter("target", "reference", "target", ("target",))

PARAMETERS: Mapping[str, tuple[Parameter, ...]] = {
    "DiagnosticReport": (_ID, _IDENTIFIER, _PATIENT, _ORDER, _CATEGORY, _CODE, _STATUS, _STUDY),
    "Observation": (_ID, _IDENTIFIER, _PATIENT, _ORDER, _CATEGORY, _CODE, _STATUS, _STUDY, _DEVICE),
    "ImagingStudy": (_ID, _IDENTIFIER, _PATIENT, _STUDY_ORDER, _STATUS),
    "Device": (_ID, _IDENTIFIER),
    "Provenance": (_ID, _TARGET),
}
"""What can be searched, by resource type.  `_lastUpdated`, `_count` and `_sort=-_lastUpdated` go with all of them."""


class SearchError(ValueError):
    """The query is not one that this endpoint answers; the message names the parameter, never its value."""


@dataclass(frozen=True)
class Search:
    """A parsed query, and whether the reports' Observations are to come along."""

    query: Query
    include_results: bool


def split_unescaped(value: str, mark: str) -> list[str]:
    """Split at every mark that is not escaped by a backslash; escapes stay in the pieces."""
    pieces = [""]
    for part in re.findall(r"\\.|.", value, re.DOTALL):
        if part == mark:
            pieces.append("")
        else:
            pieces[-1] += part
    return pieces


def _unescape(value: str) -> str:
    return re.sub(r"\\([\\$,|])", r"\1", value)


def parse_token(value: str) -> tuple[str | None, str | None]:
    """``system|value``, ``|value`` (no system), ``system|`` (any value), ``value`` (any system)."""
    parts = split_unescaped(value, "|")
    if len(parts) == 1:
        return None, _unescape(parts[0])
    if len(parts) != 2:
        raise SearchError("a token has one bar at most")
    system, code = (_unescape(part) for part in parts)
    return system, code or None


def _bounds(name: str, value: str) -> tuple[datetime, datetime]:
    """First moment of a date or time and the first moment after it; without an offset it is taken as UTC."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            start = datetime.fromisoformat(value).replace(tzinfo=UTC)
            return start, start + timedelta(days=1)
        start = datetime.fromisoformat(value.replace(" ", "+"))
    except ValueError as error:
        raise SearchError(f"{name} wants a date or an instant") from error
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return start, start + (timedelta(milliseconds=1) if start.microsecond else timedelta(seconds=1))


def period(name: str, values: Iterable[str]) -> tuple[datetime | None, datetime | None]:
    """First moment asked for and the first one no longer asked for, of a date parameter with its prefixes.

    Raises
    ------
    SearchError
    """
    lows: list[datetime] = []
    highs: list[datetime] = []
    for value in values:
        prefix, rest = (value[:2], value[2:]) if value[:2].isalpha() else ("eq", value)
        start, end = _bounds(name, rest)
        match prefix:
            case "ge":
                lows.append(start)
            case "gt":
                lows.append(end)
            case "lt":
                highs.append(start)
            case "le":
                highs.append(end)
            case "eq":
                lows.append(start)
                highs.append(end)
            case _:
                raise SearchError(f"{name} takes eq, ge, gt, le or lt")
    return max(lows, default=None), min(highs, default=None)


def _count(values: list[str]) -> int:
    if len(values) != 1 or not re.fullmatch(r"\d{1,6}", values[0]):
        raise SearchError("_count wants one number")
    return min(int(values[0]), MAX_PAGE)


def parse(kind: str, pairs: Iterable[tuple[str, str]]) -> Search:
    """Read the parameters of a search.

    Raises
    ------
    SearchError
        For a parameter, modifier or value that this endpoint does not know.
    """
    known = {spelling: parameter for parameter in PARAMETERS[kind] for spelling in parameter.spellings}
    clauses: list[TokenClause] = []
    special: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in known:
            clauses.append(_clause(known[name], value))
        elif name in ("_lastUpdated", "_count", "_sort", "_include", "_format"):
            special.setdefault(name, []).append(value)
        else:
            raise SearchError(_unknown(kind, name))
    for value in special.get("_sort", []):
        if value != "-_lastUpdated":
            raise SearchError("_sort can only be -_lastUpdated, which is the order of every answer")
    for value in special.get("_include", []):
        if kind != "DiagnosticReport" or value != INCLUDE:
            raise SearchError(f"_include can only be {INCLUDE}")
    low, high = period("_lastUpdated", special.get("_lastUpdated", []))
    limit = _count(special["_count"]) if "_count" in special else DEFAULT_PAGE
    return Search(Query(kind, tuple(clauses), low, high, None, limit), "_include" in special)


def _clause(parameter: Parameter, value: str) -> TokenClause:
    pieces = split_unescaped(value, ",")
    if not value or len(pieces) > MAX_VALUES:
        raise SearchError(f"{parameter.name} wants 1 to {MAX_VALUES} values")
    if parameter.index in ("device", "target", "_id", "status"):
        return TokenClause(parameter.index, tuple(("", _unescape(piece.rpartition("|")[2])) for piece in pieces))
    return TokenClause(parameter.index, tuple(parse_token(piece) for piece in pieces))


def _unknown(kind: str, name: str) -> str:
    spellings = sorted(spelling for parameter in PARAMETERS[kind] for spelling in parameter.spellings)
    shown = name if re.fullmatch(r"[A-Za-z_.:-]{1,40}", name) else "this parameter"
    return f"{shown} is not searchable on {kind}; known: {', '.join(spellings)}, _lastUpdated, _count, _include"
