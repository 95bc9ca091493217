"""What was said lately is not said again, until its time is over."""

from __future__ import annotations

import pytest

from dicom_node.lately import Lately

pytestmark = pytest.mark.unit


def test_it_is_remembered_for_its_span_and_no_longer() -> None:
    at = [0.0]
    lately = Lately(10.0, clock=lambda: at[0])
    assert ("eva", "a") not in lately
    lately.add([("eva", "a"), ("eva", "b")])
    at[0] = 9.9
    assert ("eva", "a") in lately and ("eva", "b") in lately and ("ana", "a") not in lately
    lately.add([("eva", "b")])
    at[0] = 10.0
    assert ("eva", "a") not in lately and ("eva", "b") in lately


def test_what_is_over_takes_no_room() -> None:
    at = [0.0]
    lately = Lately(1.0, clock=lambda: at[0])
    for number in range(1000):
        at[0] = float(number)
        lately.add([number])
    assert len(lately._until) == 1
