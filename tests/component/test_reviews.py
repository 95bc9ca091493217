"""Replies of specialists: legal steps only, nobody talks past another, everything stays, strangers see nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.record import Database, audit, reviews, tables
from dicom_node.record.reviews import ReviewRefused
from tests.support.cases import ASKED, Clinic

pytestmark = pytest.mark.component


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    database.migrate()
    yield Clinic(database, tmp_path / "artefacts")
    database.close()


def write(connection: Any, clinic: Clinic, row: dict[str, Any], state: str, seen: int | None = None) -> None:
    """Do as the page does: with what the specialist has before her."""
    before = reviews.latest(connection, row["id"])
    known = (before["id"] if before else 0) if seen is None else seen
    more = {"reply": "Remove it.", "action": "remove"} if state == "answered" else {}
    who = {"user_id": clinic.user(connection, "derm@example.org"), "actor": "user:derm"}
    reviews.write(connection, row, state, seen=known, **who, **more)


@pytest.mark.parametrize(("first", "then"), list(product(reviews.STATES, reviews.STATES)))
def test_only_legal_steps_are_taken(clinic: Clinic, first: str, then: str) -> None:
    with clinic.database.write() as connection:
        row = clinic.analysis(connection)
        if first != "open":
            write(connection, clinic, row, first)
        if then in reviews.MAY_BECOME[first]:
            write(connection, clinic, row, then)
            assert reviews.latest(connection, row["id"])["state"] == then
        else:
            with pytest.raises(ReviewRefused, match="not-possible"):
                write(connection, clinic, row, then)


def test_everything_said_stays_and_is_audited(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        row = clinic.analysis(connection)
        for state in ("answered", "answered", "closed", "open"):
            write(connection, clinic, row, state)
    with clinic.database.read() as connection:
        assert [one["state"] for one in reviews.history(connection, row["id"])] == [
            "answered",
            "answered",
            "closed",
            "open",
        ]
        entries = connection.execute(select(tables.audit)).all()
        assert [entry.action for entry in entries] == ["case-answered", "case-answered", "case-closed", "case-open"]
        assert all("Remove" not in str(entry.detail) for entry in entries)
        assert audit.verify(connection) is None


def test_who_replies_after_somebody_else_did_is_told(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        row = clinic.analysis(connection)
        write(connection, clinic, row, "answered", seen=0)
        with pytest.raises(ReviewRefused, match="moved-on"):
            write(connection, clinic, row, "answered", seen=0)
        assert len(reviews.history(connection, row["id"])) == 1


@pytest.mark.parametrize(
    ("reply", "action", "reason"),
    [
        (" ", "remove", "reply-missing"),
        ("x" * (reviews.MOST_LETTERS + 1), "remove", "reply-too-long"),
        ("Remove it.", "", "action-unknown"),
        ("Remove it.", "amputate", "action-unknown"),
    ],
)
def test_a_reply_without_words_or_action_is_none(clinic: Clinic, reply: str, action: str, reason: str) -> None:
    with clinic.database.write() as connection:
        row = clinic.analysis(connection)
        with pytest.raises(ReviewRefused, match=reason):
            reviews.write(connection, row, "answered", user_id=1, actor="x", seen=0, reply=reply, action=action)
        assert reviews.latest(connection, row["id"]) is None


def test_cases_are_those_of_the_sites_that_wait_longest_first(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        first = clinic.analysis(connection)
        answered = clinic.analysis(connection)
        elsewhere = clinic.analysis(connection, site="post-2")
        clinic.analysis(connection, withdrawn_at=ASKED, state="withdrawn")
        again = clinic.analysis(connection)
        write(connection, clinic, answered, "answered")
        write(connection, clinic, again, "closed")
        write(connection, clinic, again, "open")

        def ids(state: str, *sites: str, limit: int = 10) -> list[int]:
            return [row["id"] for row in reviews.cases(connection, sites, state, limit)]

        assert ids("open", "post-1") == [first["id"], again["id"]]
        assert ids("open", "post-1", limit=1) == [first["id"]]
        assert ids("answered", "post-1", "post-2") == [answered["id"]]
        assert ids("open", "post-2") == [elsewhere["id"]]
        assert ids("open") == []
        assert reviews.count(connection, ["post-1"]) == {"open": 2, "answered": 1, "closed": 0}


def test_a_withdrawn_analysis_is_answered_by_nobody(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        row = clinic.analysis(connection, withdrawn_at=ASKED, state="withdrawn")
        with pytest.raises(ReviewRefused, match="not-possible"):
            write(connection, clinic, row, "answered")
