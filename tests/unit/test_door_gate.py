"""Silent connections give way; nobody who speaks is made to wait for them (I7)."""

from __future__ import annotations

import pytest

from dicom_node.door.gate import Gate

pytestmark = pytest.mark.unit


def test_the_longest_silent_connection_of_an_address_gives_way() -> None:
    gate = Gate(max_associations=100, max_per_address=2, patience_s=5)
    assert [gate.connect(n, "a", float(n)) for n in range(4)] == [None] * 4
    assert gate.connect(4, "b", 4.0) is None
    assert gate.connect(5, "a", 5.0) == 0
    assert gate.counts() == (5, 0)


def test_waiting_connections_in_all_are_bounded() -> None:
    gate = Gate(max_associations=3, max_per_address=100, patience_s=5)
    victims = [gate.connect(n, str(n), float(n)) for n in range(6)]
    assert victims == [None, None, None, 0, 1, 2]


def test_associations_are_bounded_by_address_and_in_all() -> None:
    gate = Gate(max_associations=3, max_per_address=2, patience_s=5)
    answers = []
    for n, address in enumerate("aaabb"):
        gate.connect(n, address, 0.0)
        answers.append(gate.associate(n, "AE", 1.0))
    assert answers == [(True, None), (True, None), (False, None), (True, None), (False, None)]


def test_an_association_that_never_spoke_gives_way_after_a_while() -> None:
    gate = Gate(max_associations=10, max_per_address=2, patience_s=5)
    for n in range(3):
        gate.connect(n, "a", 0.0)
    gate.associate(0, "AE", 0.0)
    gate.associate(1, "AE", 0.0)
    gate.speak(0)
    assert gate.associate(2, "AE", 4.0) == (False, None)
    assert gate.associate(2, "AE", 6.0) == (True, 1)


def test_who_leaves_is_forgotten() -> None:
    gate = Gate(max_associations=1, max_per_address=1, patience_s=5)
    gate.connect("x", "a", 0.0)
    gate.associate("x", "AE", 0.0)
    gate.leave("x")
    gate.leave("x")
    assert gate.counts() == (0, 0)
    assert gate.associate("x", "AE", 0.0) == (False, None)


def test_a_flood_under_one_title_does_not_shut_out_another() -> None:
    gate = Gate(max_associations=10, max_per_address=2, patience_s=5)
    for n in range(4):
        gate.connect(n, "a", 0.0)
    assert [gate.associate(n, "ONE", 0.0)[0] for n in range(3)] == [True, True, False]
    assert gate.associate(3, "OTHER", 0.0) == (True, None)
