"""What was said or found a moment ago, and is not said or asked again so soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable


class Lately:
    """Remembers for a span of time, in this process alone.

    Parameters
    ----------
    span_s
        How long something counts as lately, from when it was added.
    """

    def __init__(self, span_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._span_s, self._clock = span_s, clock
        self._lock = threading.Lock()
        self._until: dict[Hashable, float] = {}

    def __contains__(self, one: Hashable) -> bool:
        return self._clock() < self._until.get(one, float("-inf"))

    def add(self, ones: Iterable[Hashable]) -> None:
        """Remember these from now on; what is over is forgotten."""
        now = self._clock()
        with self._lock:
            kept = {one: until for one, until in self._until.items() if now < until}
            self._until = kept | dict.fromkeys(ones, now + self._span_s)
