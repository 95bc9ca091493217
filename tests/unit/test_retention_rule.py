"""The rule of retention: what keeps which class, and that nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dicom_node
from dicom_node.retention import (
    IN_MOTION,
    KEEPS,
    PARTS,
    Facts,
    Kind,
    Needed,
    Part,
    applies,
    erasure_kept_because,
    kept_because,
)
from dicom_node.retention_settings import RetentionSection

EVERYTHING = frozenset(Part)


def facts(*needed: Needed, private: bool = False, there: frozenset[Part] = EVERYTHING) -> Facts:
    return Facts("1.2.3", "2026-01-01", private, there, frozenset(needed))


def test_nothing_is_deleted_where_the_site_says_nothing() -> None:
    assert {kind: RetentionSection().days(kind) for kind in Kind} == dict.fromkeys(Kind)


def test_every_class_has_a_setting_and_says_what_goes() -> None:
    given = RetentionSection(images_days=1, private_days=2, results_days=3, identity_days=4)
    assert [given.days(kind) for kind in Kind] == [1, 2, 3, 4]
    assert {part for kind in Kind for part in PARTS[kind]} == set(Part)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_not_needed_may_go(kind: Kind) -> None:
    assert kept_because(kind, facts(), keep_unanswered=True) == ()


WANTED = {
    Needed.LEGAL_HOLD, Needed.GATHERS, Needed.HELD, Needed.RUNNING, Needed.ON_ITS_WAY, Needed.RUN_FAILED,
    Needed.UNCONFIRMED, Needed.UNANSWERED,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("needed", sorted(WANTED))
def test_each_need_keeps_every_class(kind: Kind, needed: Needed) -> None:
    assert kept_because(kind, facts(needed), keep_unanswered=True) == (needed,)


def test_needs_of_some_classes_only() -> None:
    only = {kind: KEEPS[kind] - WANTED for kind in Kind}
    assert only == {
        Kind.IMAGES: {Needed.NOT_ARCHIVED},
        Kind.PRIVATE: set(),
        Kind.RESULTS: set(),
        Kind.IDENTITY: {Needed.NOT_ARCHIVED, Needed.FILES_LEFT},
    }


def test_unanswered_cases_are_the_sites_to_decide_and_nothing_else_is() -> None:
    kept = kept_because(Kind.PRIVATE, facts(*Needed), keep_unanswered=False)
    assert set(kept) == KEEPS[Kind.PRIVATE] - {Needed.UNANSWERED}


def test_an_erasure_waits_for_what_moves_and_for_holds_alone() -> None:
    assert set(erasure_kept_because(facts(*Needed))) == IN_MOTION
    assert {Needed.LEGAL_HOLD, Needed.GATHERS, Needed.HELD, Needed.RUNNING, Needed.ON_ITS_WAY} == IN_MOTION
    assert erasure_kept_because(facts(*(set(Needed) - IN_MOTION))) == ()


@pytest.mark.parametrize("private", [False, True])
def test_a_study_is_private_or_not(private: bool) -> None:
    mine = [kind for kind in Kind if applies(kind, facts(private=private))]
    assert mine == ([Kind.PRIVATE, Kind.IDENTITY] if private else [Kind.IMAGES, Kind.RESULTS, Kind.IDENTITY])


def test_what_is_gone_is_not_due_again() -> None:
    assert not applies(Kind.IMAGES, facts(there=frozenset({Part.RESULTS})))
    assert applies(Kind.PRIVATE, facts(private=True, there=frozenset({Part.RESULTS})))
    assert not any(applies(kind, facts(there=frozenset())) for kind in Kind)


def test_no_artefact_is_read_past_the_question_whether_it_was_deleted() -> None:
    """`removals.place` answers by name; a path of a row, handed to `files.load`, would be a missing file."""
    root = Path(dicom_node.__file__).parent
    found = {
        f"{path.relative_to(root)}: {call}"
        for path in sorted(root.rglob("*.py"))
        for call in re.findall(r"files\.load\((.*)\)", path.read_text(encoding="utf-8"))
        if "*removals.place(" not in call
    }
    # a picture of a comparison, whose path is taken out of the row when it is deleted
    assert found == {'cli/comparison.py: folder, path, path.replace("/", "")'}
