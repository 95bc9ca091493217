"""Fair queueing as a pure function: urgency first, then turns; nobody starves, nobody gets ahead by how he comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.turns import ROUTINE, STAT, TRIAL, TURNS, next_turn, place, turn_in

pytestmark = pytest.mark.unit


class Queue:
    """One server; work waits by place, then by order of arrival."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, str]] = []
        self._count = 0
        self.served: list[str] = []

    def bring(self, submitter: str, number: int = 1, urgency: int = ROUTINE) -> None:
        for _ in range(number):
            turn = next_turn([(name, turn_in(at)) for at, _, name in self._waiting], submitter)
            self._waiting.append((place(urgency, turn), self._count, submitter))
            self._count += 1

    def serve(self, number: int = 1) -> None:
        for _ in range(min(number, len(self._waiting))):
            first = min(self._waiting)
            self._waiting.remove(first)
            self.served.append(first[2])


def test_a_single_passes_a_batch_of_fifty() -> None:
    queue = Queue()
    queue.bring("batch", 50)
    queue.serve(5)
    queue.bring("single")
    queue.serve(100)
    assert queue.served.index("single") <= 6
    assert len(queue.served) == 51


def test_stat_passes_everything_and_trials_wait_for_everything() -> None:
    queue = Queue()
    queue.bring("shadow", 1, TRIAL)
    queue.bring("batch", 50)
    queue.bring("emergency", 2, STAT)
    queue.serve(100)
    assert queue.served[:2] == ["emergency"] * 2 and queue.served[-1] == "shadow"


def test_two_batches_alternate_whenever_they_came() -> None:
    queue = Queue()
    queue.bring("a", 20)
    queue.serve(8)
    queue.bring("b", 10)
    queue.served.clear()
    queue.serve(20)
    assert abs(queue.served.count("a") - queue.served.count("b")) <= 1


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_who_always_has_something_waiting_does_not_starve_a_batch(keep: int) -> None:
    queue = Queue()
    queue.bring("batch", 10)
    queue.bring("stream", keep)
    for _ in range(40):
        queue.serve()
        if queue.served[-1] == "stream":
            queue.bring("stream")
    assert queue.served[:24].count("batch") >= 10


def test_an_empty_queue_begins_anew() -> None:
    assert next_turn([], "a") == 0
    assert next_turn([("a", 7)], "b") == 7
    assert next_turn([("a", 7)], "a") == 8


def test_places_keep_their_urgency() -> None:
    assert place(STAT, 10**9) < place(ROUTINE, 0) < place(ROUTINE, 1) < place(TRIAL, 0)
    assert place(TRIAL, 10**9) < 2**31, "more the engine does not take"
    assert turn_in(place(ROUTINE, 41)) == 41 and turn_in(place(ROUTINE, -3)) == 0
    assert TURNS > 1_000_000


Event = tuple[str, int]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40))
def test_between_two_of_one_who_waits_nobody_else_goes_more_often_than_there_are_others(
    events: Sequence[Event],
) -> None:
    """Bounded unfairness: while somebody waits, no other submitter is served more than twice before him."""
    queue = Queue()
    for submitter, number in events:
        queue.bring(submitter, number)
        queue.serve()
    begun = len(queue.served)
    queue.bring("z")
    queue.serve(10**6)
    before: Callable[[str], int] = queue.served[begun : queue.served.index("z")].count
    assert all(before(name) <= 2 for name in "abc")
