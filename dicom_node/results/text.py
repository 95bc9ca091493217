"""Text that fits its value representation (PS3.5 section 6.2), cut by design and never by a library.

Limits count characters.  Control characters, bidirectional overrides and backslashes (which separate values) never
leave the node; the distinguishing tail of a text (a version, a revision) is kept when its middle is cut.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime, timedelta, timezone

LO_MAX = 64
SH_MAX = 16
ST_MAX = 1024
DS_MAX = 16

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?(\.\d{1,6})?)?")
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")
_MAX_OFFSET_MINUTES = 14 * 60


def plain(text: object, *, keep_lines: bool = False) -> str:
    """NFC text without control, format and surrogate characters; backslash becomes a slash; runs of blanks are one."""
    normal = unicodedata.normalize("NFC", str(text)).replace("\\", "/")
    kept = "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") or (keep_lines and c == "\n") else " "
        for c in normal
    )
    if keep_lines:
        return "\n".join(" ".join(line.split()) for line in kept.split("\n")).strip()
    return " ".join(kept.split())


def cut(text: object, limit: int, tail: str = "") -> str:
    """`text` + `tail` within `limit` characters; the middle gives way, the tail stays."""
    head, end = plain(text), plain(tail)
    end = f" {end}" if end else ""
    if len(head) + len(end) <= limit:
        return head + end
    return head[: max(limit - len(end) - 3, 0)].rstrip() + "..." + end[-(limit - 3) :]


def is_uid(value: str) -> bool:
    """Whether this is a UID (PS3.5 9.1): digits and dots, no leading zeros, at most 64 characters."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def is_date(value: str) -> bool:
    """Whether this is a DA value that names a day."""
    if len(value) != 8 or not value.isascii() or not value.isdigit():
        return False
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def is_time(value: str) -> bool:
    """Whether this is a TM value."""
    return _TIME.fullmatch(value) is not None and (len(value.split(".")[0]) == 6 or "." not in value)


def decimal_string(value: float) -> str:
    """A DS of at most 16 characters, as exact as fits (PS3.5 6.2).

    Raises
    ------
    ValueError
        If the value is not finite.
    """
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a decimal string must be finite")
    for digits in range(17, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= DS_MAX:
            return text
    return f"{value:.0e}"


def offset_minutes(text: str) -> int | None:
    """Minutes east of UTC from ``+HH:MM`` or ``+HHMM``; None if the text is neither."""
    match = _OFFSET.fullmatch(text.strip())
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if int(match[3]) > 59 or minutes > _MAX_OFFSET_MINUTES:
        return None
    return -minutes if match[1] == "-" else minutes


def dicom_offset(minutes: int) -> str:
    """(0008,0201) Timezone Offset From UTC: ``+HHMM``."""
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


def local_time(created: str, minutes: int) -> datetime:
    """The run's aware ISO 8601 time in the zone of the study.

    Raises
    ------
    ValueError
        If the time has no offset: a result never guesses a zone.
    """
    moment = datetime.fromisoformat(created)
    if moment.tzinfo is None:
        raise ValueError("the run's time must be aware")
    return moment.astimezone(timezone(timedelta(minutes=minutes)))
