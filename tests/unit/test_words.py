"""The table of legal transitions, tested as a table; refusals with their words."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dicom_node.refusals import WORDS, Refusal, RefusalCode, Refused
from dicom_node.words import CASE_MOVES, DELIVERY_MOVES, REVISION_MOVES, RUN_MOVES, DeliveryState, RunState, may_move

pytestmark = pytest.mark.unit

TABLES = (REVISION_MOVES, CASE_MOVES, RUN_MOVES, DELIVERY_MOVES)


@pytest.mark.parametrize("moves", TABLES)
def test_every_state_has_a_row_and_moves_stay_in_their_table(moves: dict[Any, frozenset[Any]]) -> None:
    states = type(next(iter(moves)))
    assert set(moves) == set(states)
    for old, targets in moves.items():
        for new in states:
            assert may_move(old, new) == (new in targets)


def test_states_of_different_kinds_never_mix() -> None:
    assert not may_move(RunState.RUNNING, DeliveryState.FAILED)
    assert not may_move(DeliveryState.HELD, RunState.CANCELLED)


@pytest.mark.parametrize("final", [DeliveryState.CONFIRMED])
def test_what_is_confirmed_stays_confirmed(final: DeliveryState) -> None:
    assert not any(may_move(final, new) for new in DeliveryState)


def test_a_built_run_can_only_be_superseded() -> None:
    assert {new for new in RunState if may_move(RunState.BUILT, new)} == {RunState.SUPERSEDED}


def test_every_code_has_words_and_advice() -> None:
    assert set(WORDS) == set(RefusalCode)
    for message, advice in WORDS.values():
        assert message.endswith(".") and advice.endswith(".")


def test_a_refusal_survives_a_process_boundary() -> None:
    refused = Refused(RefusalCode.SLICES_MISSING, "6 mm", "12 mm")
    assert pickle.loads(pickle.dumps(refused)).refusal == Refusal(RefusalCode.SLICES_MISSING, "6 mm", "12 mm")  # noqa: S301
