"""The text fields of a form, judged: what a caller may ask for besides his images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.turns import ROUTINE, STAT

_NOT_OPENED = "was accepted and not opened: what came of the request is fetched from the links of its answer"
_NOTHING = frozenset({"", "false", "none", "null", "0", "no"})


def options_of(fields: Mapping[str, str], destinations: Sequence[str]) -> dict[str, Any]:
    """Priority, declared spacing and destinations of a request.

    Parameters
    ----------
    destinations
        Names that `transfer` may use: configured ones only, nothing that a caller could make up.

    Raises
    ------
    Refused
        ``validation`` for a word that is none of these.
    """
    options: dict[str, Any] = {"priority": _priority(fields.get("priority", ""))}
    if fields.get("spacing_mm"):
        options["spacing_mm"] = _spacing(fields["spacing_mm"])
    named = [name.strip() for name in fields.get("transfer", "").split(",")]
    wanted = [name for name in dict.fromkeys(named) if name.lower() not in _NOTHING]
    if not set(wanted) <= set(destinations):
        told = f"configured destinations among: {', '.join(destinations) or 'none is configured'}"
        raise Refused(RefusalCode.VALIDATION, told, "another word in `transfer`")
    if wanted:
        options["transfer"] = wanted
    return options


def warnings_of(fields: Mapping[str, str]) -> list[str]:
    """What an older client asked for and does not get."""
    return [f"{name} {_NOT_OPENED}" for name in ("output_dir", "source_path") if fields.get(name)]


def waits(wait: bool | None, fields: Mapping[str, str]) -> bool:
    """Whether the call is held until its result is there: as the URL says, else the form, else yes."""
    if wait is not None:
        return wait
    told = fields.get("wait", "").lower()
    if told not in ("", "true", "false"):
        raise Refused(RefusalCode.VALIDATION, "wait: true or false", "another word")
    return told != "false"


def _priority(told: str) -> int:
    if told not in ("", "routine", "stat"):
        raise Refused(RefusalCode.VALIDATION, "priority: routine or stat", "another word")
    return STAT if told == "stat" else ROUTINE


def _spacing(told: str) -> list[float]:
    try:
        x, y, z = (float(one) for one in told.split(","))
    except ValueError:
        raise Refused(RefusalCode.VALIDATION, "spacing_mm: x,y,z in millimetres", "something else") from None
    if not all(0.05 <= one <= 20 for one in (x, y, z)):
        raise Refused(RefusalCode.VALIDATION, "spacings between 0.05 and 20 mm", "another number")
    return [x, y, z]
