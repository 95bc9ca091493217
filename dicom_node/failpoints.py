"""Named places where a test may kill the process (hardening 2.3, K1-K17): nothing at all in production.

`reach("K4")` marks the moment between two durable steps.  It does nothing unless **both** environment variables are
set as tests set them: ``AI_NODE_FAILPOINT=K4`` (or ``K4:3`` for the third time the place is reached) names the place,
and ``AI_NODE_TEST_BUILD=failpoints-may-kill`` says that this process is there to be killed.  Both are read once, when
the module is imported, so that no later change of the environment can arm it; one variable without the other refuses
the start (`UnsafeEnvironment`), so that a variable left over from a test is found and not ignored.

When armed, the process is ended with SIGKILL: no handler runs, no buffer is flushed, as with a power cut that spares
the page cache.  Loss of the page cache is what the crash-state enumeration in the tests of the vault is for.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

PLACE = "AI_NODE_FAILPOINT"
MARKER = "AI_NODE_TEST_BUILD"
MARKER_VALUE = "failpoints-may-kill"


class UnsafeEnvironment(RuntimeError):
    """Only one of the two variables is set, or the marker has another value: left over from a test."""


def armed(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The place and the occurrence (from 1) at which this process ends, or None.

    Raises
    ------
    UnsafeEnvironment
        If the environment holds half of what is needed.
    """
    place, marker = environment.get(PLACE), environment.get(MARKER)
    if place is None and marker is None:
        return None
    if marker != MARKER_VALUE:
        raise UnsafeEnvironment(f"{PLACE} is for tests only: unset it (and {MARKER}) before the node is started")
    if not place:
        return None
    name, _, occurrence = place.partition(":")
    return name, int(occurrence or "1")


_ARMED = armed(os.environ)
_lock = threading.Lock()
_seen = 0


def reach(name: str) -> None:
    """Mark a place; ends the process here when a test asked for exactly that."""
    if _ARMED is None or _ARMED[0] != name:
        return
    global _seen
    with _lock:
        _seen += 1
        if _seen == _ARMED[1]:
            os.kill(os.getpid(), signal.SIGKILL)
