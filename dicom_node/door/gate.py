"""Who may have a connection or an association now: counts, in all and by address (I7, hardening 4.4).

A newcomer is not made to pay for those who hold connections and say nothing: where a limit is reached, the connection
that has been silent longest gives way.  Pure bookkeeping with the clock as an argument.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass
class _Guest:
    address: str
    since: float
    sender: str = ""
    is_associated: bool = False
    has_spoken: bool = False


class Gate:
    """Counts guests.

    Parameters
    ----------
    max_associations
        Established associations in all; as many connections may wait to become one.
    max_per_address
        Established associations of one sender, that is one AE title at one address, so that a flood under one listed
        title does not shut out another; twice as many connections of one address may wait.
    patience_s
        An association that has sent no message for this long after it was accepted may be asked to leave.
    """

    def __init__(self, max_associations: int, max_per_address: int, patience_s: float) -> None:
        self._max, self._max_per_address, self._patience_s = max_associations, max_per_address, patience_s
        self._guests: dict[Any, _Guest] = {}
        self._lock = threading.Lock()

    def connect(self, key: Any, address: str, now: float) -> Any | None:
        """A connection was opened; the guest that has to leave for it, if any."""
        with self._lock:
            self._guests[key] = _Guest(address, now)
            waiting = [(g.since, k, g) for k, g in self._guests.items() if not g.is_associated and k is not key]
            here = [entry for entry in waiting if entry[2].address == address]
            crowd = here if len(here) >= 2 * self._max_per_address else waiting if len(waiting) >= self._max else []
            if not crowd:
                return None
            victim = min(crowd, key=lambda entry: entry[0])[1]
            del self._guests[victim]
            return victim

    def associate(self, key: Any, ae_title: str, now: float) -> tuple[bool, Any | None]:
        """An association was requested: may it be accepted, and which silent one has to leave for it."""
        with self._lock:
            guest = self._guests.get(key)
            if guest is None:
                return False, None
            seated = [(g.since, k, g) for k, g in self._guests.items() if g.is_associated]
            guest.sender = f"{guest.address} {ae_title}"
            here = [entry for entry in seated if entry[2].sender == guest.sender]
            crowd = here if len(here) >= self._max_per_address else seated if len(seated) >= self._max else None
            victim = None
            if crowd is not None:
                silent = [e for e in crowd if not e[2].has_spoken and now - e[0] > self._patience_s]
                if not silent:
                    return False, None
                victim = min(silent, key=lambda entry: entry[0])[1]
                del self._guests[victim]
            guest.is_associated, guest.since = True, now
            return True, victim

    def speak(self, key: Any) -> None:
        """The guest sent a message."""
        guest = self._guests.get(key)
        if guest is not None:
            guest.has_spoken = True

    def leave(self, key: Any) -> None:
        with self._lock:
            self._guests.pop(key, None)

    def counts(self) -> tuple[int, int]:
        """(connections that wait, associations)."""
        with self._lock:
            associated = sum(g.is_associated for g in self._guests.values())
            return len(self._guests) - associated, associated
