"""How often somebody may call: one bucket of tokens per key and one per address (S14).

Kept in memory: a restart of the process forgives what was used.  Time is monotonic (I13); the table is bounded (I7).
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000


class Buckets:
    """Buckets of tokens, one per caller, each refilled at the same pace.

    Parameters
    ----------
    per_minute
        Tokens that flow in per minute, and what a bucket holds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60.0
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str, tokens: float = 1.0) -> float:
        """Take tokens; 0.0 when they were there, else the seconds until they are.

        A call that asks for more than a whole bucket is let through when the bucket is full.
        """
        wanted = min(tokens, self._capacity)
        with self._lock:
            now = self._clock()
            level, since = self._levels.pop(caller, (self._capacity, now))
            level = min(self._capacity, level + (now - since) * self._per_second)
            wait = 0.0 if level >= wanted else (wanted - level) / self._per_second
            self._levels[caller] = (level if wait else level - wanted, now)
            while len(self._levels) > MAX_CALLERS:
                self._levels.popitem(last=False)
        return wait


def retry_after(seconds: float) -> str:
    """Seconds as Retry-After writes them (RFC 9110 10.2.3)."""
    return str(max(1, math.ceil(seconds)))
