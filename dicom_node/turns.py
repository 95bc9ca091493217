"""Whose turn it is: a place in a queue from how urgent the work is and whose it is.

Urgency goes first: *stat* before *routine* before *trial*, always.  Within one urgency submitters take turns
(start-time fair queueing): work gets the number after its submitter's last, but never one that has already been passed.
So a batch of fifty takes fifty numbers, a single request of somebody else gets one of the first, two batches alternate,
and nobody gets ahead by coming one at a time.  Numbers begin at 0 again whenever nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable

TURNS = 10_000_000
"""So many turns fit into one urgency; a place is below 2**31, which is what the engine takes."""

STAT, ROUTINE, TRIAL = 1 * TURNS, 5 * TURNS, 50 * TURNS
"""First places of each urgency; smaller goes first."""


def place(urgency: int, turn: int) -> int:
    """The place in a queue of work with this urgency (`STAT`, `ROUTINE`, `TRIAL`) and this turn."""
    return urgency + min(max(turn, 0), TURNS - 1)


def ahead(at: int) -> int:
    """The place of work that is nearly done: before everything of its urgency that is not, at the same turn."""
    return at - TURNS


def behind(at: int) -> int:
    """The place of work that is not begun: after everything of its urgency that is, at the same turn."""
    return at + TURNS


def turn_in(at: int) -> int:
    """The turn that a place was made from."""
    return at % TURNS


def next_turn(waiting: Iterable[tuple[str, int]], submitter: str) -> int:
    """The turn of new work.

    Parameters
    ----------
    waiting
        Submitter and turn of everything that is unfinished.
    submitter
        Whose the new work is.
    """
    known = list(waiting)
    now_at = min((turn for _, turn in known), default=0)
    own = [turn for name, turn in known if name == submitter]
    return max(now_at, max(own) + 1) if own else now_at
