"""Which offset from UTC a local date and time had (DICOM DA and TM, PS3.5 6.2; (0008,0201) where the images say it).

A site that changes its clocks twice a year is configured by the name of its zone, because one offset is wrong for half
of the year.  In the hour that a change of clocks makes ambiguous, and in the one that it leaves out, there is no
offset: nothing is guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")
_MAX_HOURS = 14
FIRST_YEAR = 1900
"""Before it there is neither an image nor a zone by the clock; year 1 stands for *unknown* in many systems."""


def is_zone(name: str) -> bool:
    """Whether this machine's time zone data know a name such as ``America/Santiago``."""
    return _zone(name) is not None


def offset(value: str) -> str | None:
    """``+hhmm`` or ``+hh:mm`` as ``+hh:mm``; None when it is neither, or no offset that there is."""
    match = _OFFSET.fullmatch(value.strip())
    if match is None or int(match[2]) > _MAX_HOURS or int(match[3]) > 59:
        return None
    return f"{match[1]}{match[2]}:{match[3]}"


def offset_at(day: str, time: str, zone: str) -> str | None:
    """The offset of a zone at a local date and time, as ``+hh:mm``.

    Parameters
    ----------
    day, time
        DA ``YYYYMMDD``, and TM with at least hours and minutes; a fraction does not count.
    zone
        An offset, which holds always, or the name of a zone.

    Returns
    -------
    str or None
        None where the date and time are none, are ambiguous, or never were, and for a zone that nobody knows.
    """
    fixed = offset(zone)
    if fixed is not None:
        return fixed
    known = _zone(zone)
    digits = time.split(".")[0]
    if known is None or not re.fullmatch(r"\d{4}(\d{2})?", digits):
        return None
    try:
        local = datetime.strptime(day + digits[:4], "%Y%m%d%H%M")
    except ValueError:
        return None
    # a clock change makes the two readings of a local time differ: the hour came twice, or not at all
    before, after = (local.replace(tzinfo=known, fold=fold).utcoffset() for fold in (0, 1))
    if before is None or before != after or local.year < FIRST_YEAR:
        return None
    return _written(before)


def clock(name: str, fixed: str) -> tzinfo:
    """The site's own clock: the zone of this name where there is one, else the fixed offset ``+hh:mm``."""
    known = _zone(name) if name else None
    found = _OFFSET.fullmatch(fixed)
    if known is not None or found is None:
        return known or UTC
    shift = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-shift if found[1] == "-" else shift)


def offset_of_study(day: str, time: str, zone: str) -> str:
    """The one offset that the objects of a study are written with: at its time, else at that day's noon, else now."""
    found = offset_at(day, time, zone) or offset_at(day, "120000", zone)
    if found is not None:
        return found
    known = _zone(zone)
    present = None if known is None else datetime.now(UTC).astimezone(known).utcoffset()
    return (None if present is None else _written(present)) or "+00:00"


def _written(shift: timedelta) -> str | None:
    minutes, rest = divmod(int(shift.total_seconds()), 60)
    if rest:  # local mean time, before there were zones
        return None
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


@lru_cache(maxsize=16)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
