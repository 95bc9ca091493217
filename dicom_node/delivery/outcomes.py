"""What an answer of a destination means, and when to try again: the tables of delivery, as pure functions.

STOW-RS status and failure reasons: PS3.18 section 10.5.3 and PS3.3 C.12.1.1.1; C-STORE status: PS3.4 table B.2-1 and
PS3.7 annex C.  No answer is proof of anything: whatever it says, the destination is asked afterwards whether it has the
object.  The class of an answer only decides what follows when it has not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What to do when the object is not at the destination after this answer."""

    CLAIMED = "claimed"
    """It says that it stored the object: look again, then try again, then hold (`delivery-incomplete`)."""
    UNKNOWN = "unknown"
    """It may or may not have stored it: look first, then send the same bytes again, with back-off."""
    DENIED = "denied"
    """It does not accept our credentials: read them again once, then back-off and alert."""
    PERMANENT = "permanent"
    """It will not store this object: held for a person."""


_HTTP: Mapping[int, Outcome] = {
    401: Outcome.DENIED,
    408: Outcome.UNKNOWN,
    # 409: vendors answer it for *have it already* as well as for *will not*; the body's reasons decide
    409: Outcome.UNKNOWN,
    425: Outcome.UNKNOWN,
    429: Outcome.UNKNOWN,
}


def classify(answer: int | Exception) -> Outcome:
    """Class of an HTTP status, or of the exception that came instead of one.

    Redirects are not followed: an archive that answers one is configured with the wrong URL, which waits for a person.
    """
    if isinstance(answer, Exception):
        return Outcome.UNKNOWN
    if 200 <= answer < 300:
        return Outcome.CLAIMED
    if answer >= 500 or answer < 200:
        return Outcome.UNKNOWN
    return _HTTP.get(answer, Outcome.PERMANENT)


def classify_dimse(status: int) -> Outcome:
    """Class of a C-STORE status, or of a Failure Reason (0008,1197) in a STOW-RS answer.

    Numbers of vendors that are in no table are *unknown*: verify, then try again.
    """
    if status in (0x0000, 0x0001, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116):
        return Outcome.CLAIMED
    if 0xA700 <= status <= 0xA7FF or status in (0x0110, 0x0210, 0x0213):
        return Outcome.UNKNOWN
    if 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF or status in (0x0117, 0x0118, 0x0122, 0x0124):
        return Outcome.PERMANENT
    return Outcome.UNKNOWN


@dataclass(frozen=True)
class StowAnswer:
    """What a STOW-RS response says about one instance."""

    status: int
    outcome: Outcome
    reason: int | None = None
    """Failure Reason (0008,1197) or Warning Reason (0008,1196) for the instance; None when not given."""

    @property
    def words(self) -> str:
        """The answer in numbers only; a body's text is never repeated, because it may name the patient."""
        return f"HTTP {self.status}" + ("" if self.reason is None else f", reason {self.reason:04X}H")


def read_stow_answer(status: int, body: Any, sop_instance_uid: str) -> StowAnswer:
    """Read a STOW-RS response for our one instance (PS3.18 table 10.5.3-1).

    Parameters
    ----------
    status
        HTTP status.
    body
        The parsed ``application/dicom+json`` body, or None when it was empty, too long or no JSON at all.
    sop_instance_uid
        Of the instance that was sent.

    Returns
    -------
    StowAnswer
        Success listed without a Warning Reason is *claimed*; a failure item decides by its reason, except where the
        HTTP status already says that trying again is useless or useful.
    """
    outcome = classify(status)
    dataset = body[0] if isinstance(body, list) and len(body) == 1 else body
    if not isinstance(dataset, dict):
        return StowAnswer(status, outcome)
    failure = _reason(dataset, "00081198", "00081197", sop_instance_uid)
    if failure is not None and outcome in (Outcome.CLAIMED, Outcome.UNKNOWN) and status < 500:
        return StowAnswer(status, _not_claimed(classify_dimse(failure)), failure)
    return StowAnswer(status, outcome, failure or _reason(dataset, "00081199", "00081196", sop_instance_uid))


def _not_claimed(outcome: Outcome) -> Outcome:
    """A success code in the list of failures is a contradiction: unknown."""
    return Outcome.UNKNOWN if outcome is Outcome.CLAIMED else outcome


def _reason(dataset: dict[str, Any], sequence: str, tag: str, sop_instance_uid: str) -> int | None:
    """The reason that a sequence of a STOW-RS response gives for the instance; None when it gives none."""
    element = dataset.get(sequence)
    items = element.get("Value") if isinstance(element, dict) else None
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and _first(item, "00081155") in (sop_instance_uid, None):
            reason = _first(item, tag)
            if isinstance(reason, int) and not isinstance(reason, bool) and 0 <= reason <= 0xFFFF:
                return reason
    return None


def _first(item: dict[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def backoff(
    attempt: int, first_s: float, cap_s: float, rng: random.Random, *, retry_after_s: float | None = None
) -> float:
    """Seconds to wait before the next attempt: exponential with full jitter, so that many objects do not come at once.

    Parameters
    ----------
    attempt
        Number of the attempt that just failed, from 1.
    first_s, cap_s
        Upper end of the first wait, and of every wait.
    rng
        Source of chance.
    retry_after_s
        What the destination asked for; obeyed up to `cap_s`.
    """
    ceiling = min(cap_s, first_s * 2.0 ** min(max(attempt, 1) - 1, 60))
    wait = rng.uniform(0.0, ceiling)
    return wait if retry_after_s is None else max(wait, min(retry_after_s, cap_s))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3: seconds or a date); None if unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
