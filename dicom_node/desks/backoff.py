"""How often somebody may try to sign in (hardening S7): slower and slower, and never shut.

Counted are failures in a row, in one of two ways:

- From a **familiar** place, a browser in which this account signed in before (or, for a client that keeps no cookie, an
  address from which it did): by that place and account alone.  What strangers do elsewhere does not touch it, so nobody
  can lock a doctor out of her own phone.
- From anywhere else: by the account and by the address.  Both delays are short and bounded: enough that guessing leads
  nowhere, too little to keep somebody out for long, or a clinic whose doctors share one address.

Codes of a second factor are counted the same way, and from strange places besides by themselves, with longer waits:
whoever gets that far has the password.

An attempt is counted before its password is looked at, so that a thousand at once are a thousand attempts; a success
takes its count back.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dicom_node.record import sessions
from dicom_node.record.database import now


@dataclass(frozen=True)
class Limit:
    """So many failures are free; then each next attempt waits twice as long, at most `most_s`."""

    free: int
    most_s: float
    forget: timedelta

    def wait_s(self, failures: int) -> float:
        """How long after this many failures in a row the next attempt is looked at."""
        return min(self.most_s, 2.0 ** min(failures - self.free, 32)) if failures >= self.free else 0.0


FAMILIAR = Limit(free=6, most_s=60.0, forget=timedelta(days=90))
ACCOUNT = Limit(free=10, most_s=60.0, forget=timedelta(hours=12))
ADDRESS = Limit(free=100, most_s=30.0, forget=timedelta(hours=1))
CODE = Limit(free=5, most_s=600.0, forget=timedelta(hours=12))
_LIMITS = {"familiar": FAMILIAR, "account": ACCOUNT, "address": ADDRESS, "code": CODE}


class TooSoon(Exception):
    """Too many failures: the next attempt is looked at in `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__("too many failures")


@dataclass(frozen=True)
class Attempt:
    """An attempt that was counted."""

    account: str
    address: str
    familiar: str
    is_familiar: bool
    code: str = ""

    @property
    def subjects(self) -> tuple[str, ...]:
        if self.is_familiar:
            return (self.familiar,)
        return (self.account, self.address, *([self.code] if self.code else []))


def begin(
    connection: Connection, email: str, address: str, device: str, *, is_known: bool = False, is_code: bool = False
) -> Attempt:
    """Count an attempt.

    Parameters
    ----------
    device
        What a browser keeps from an earlier success; empty for a client that keeps nothing.
    is_known
        The place is familiar whatever was counted there: she is signed in and gives her password once more.
    is_code
        The password was right, and this is the code that was asked for then.

    Raises
    ------
    TooSoon
        Nothing is counted then: who waits is not made to wait longer.
    """
    moment = now()
    place = network_of(address)
    attempt = Attempt(
        account=_subject("account", email),
        address=_subject("address", place),
        familiar=_subject("familiar", email, f"device {device}" if device else f"address {place}"),
        is_familiar=is_known,
        code=_subject("code", email) if is_code else "",
    )
    if sessions.counted(connection, attempt.familiar) is not None:
        attempt = replace(attempt, is_familiar=True)
    counters = {subject: sessions.counted(connection, subject) for subject in attempt.subjects}
    waits = [_seconds(moment, found.not_before) for found in counters.values() if found is not None]
    if max(waits, default=0.0) > 0:
        raise TooSoon(max(waits))
    for subject, found in counters.items():
        limit = _LIMITS[subject.partition(":")[0]]
        is_old = found is None or sessions.later(found.last_at, limit.forget) < moment
        _write(connection, subject, 1 if is_old or found is None else found.count + 1, moment)
    return attempt


def set_aside(connection: Connection, attempt: Attempt) -> None:
    """The password was right and a code is asked for next: this attempt was none, and those before it stay counted."""
    for subject in attempt.subjects:
        found = sessions.counted(connection, subject)
        if found is not None:
            sessions.set_counter(connection, subject, max(0, found.count - 1), None)


def succeeded(connection: Connection, attempt: Attempt, email: str, device: str) -> None:
    """Take an attempt's count back, and remember the place as familiar.

    Parameters
    ----------
    device
        What the browser keeps from now on; empty for a client that keeps nothing: then its address is the place.
    """
    moment = now()
    if not attempt.is_familiar:
        sessions.drop_counter(connection, attempt.account)
        if attempt.code:
            sessions.drop_counter(connection, attempt.code)
        found = sessions.counted(connection, attempt.address)
        if found is not None:
            _write(connection, attempt.address, max(0, found.count - 1), moment)
    place = _subject("familiar", email, f"device {device}") if device else attempt.familiar
    sessions.set_counter(connection, place, 0, None)
    for kind, limit in _LIMITS.items():
        sessions.forget_counters(connection, f"{kind}:", sessions.later(moment, -limit.forget))


def _write(connection: Connection, subject: str, count: int, moment: str) -> None:
    wait_s = _LIMITS[subject.partition(":")[0]].wait_s(count)
    not_before = sessions.later(moment, timedelta(seconds=wait_s)) if wait_s else None
    sessions.set_counter(connection, subject, count, not_before)


def _seconds(moment: str, until: str | None) -> float:
    if until is None:
        return 0.0
    return (datetime.fromisoformat(until) - datetime.fromisoformat(moment)).total_seconds()


def _subject(kind: str, *parts: str) -> str:
    return f"{kind}:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"


def network_of(address: str) -> str:
    """An address as one caller has it: of IPv6 the first 64 bits, because the rest is anybody's to choose."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
