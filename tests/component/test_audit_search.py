"""Reading the audit log: every filter alone counts, pages and exports miss nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from dicom_node.record import Database, audit, audit_search, tables
from dicom_node.record.audit_search import Wanted
from tests.support.rows import add_row

pytestmark = pytest.mark.component


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    database.migrate()
    with database.write() as made:
        add_row(made, tables.studies, uid="1.2.3", public_id="a" * 32)
        for day, actor, action, study in (
            (1, "user:one", "sign-in", None),
            (2, "user:two", "sign-in", None),
            (3, "user:one", "result-seen", "1.2.3"),
            (4, "key:ehr", "read-DiagnosticReport", "9.9"),
        ):
            audit.append(made, actor, action, study)
            number, _ = audit.head(made)
            made.execute(update(tables.audit).where(tables.audit.c.id == number).values(at=f"2026-03-0{day}T10:00"))
        yield made
    database.close()


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Wanted(), [4, 3, 2, 1]),
        (Wanted(actor="user:one"), [3, 1]),
        (Wanted(action="sign-in"), [2, 1]),
        (Wanted(actor="user:one", action="sign-in"), [1]),
        (Wanted(study="a" * 32), [3]),
        (Wanted(study="9.9"), [4]),
        (Wanted(since="2026-03-03"), [4, 3]),
        (Wanted(until="2026-03-02T10:00"), [1]),
        (Wanted(actor="user"), []),
        (Wanted(actor="%"), []),
    ],
)
def test_what_is_asked_for_is_what_comes(connection: Connection, wanted: Wanted, ids: list[int]) -> None:
    assert [row["id"] for row in audit_search.page(connection, wanted)] == ids
    assert [row["id"] for row in audit_search.each(connection, wanted)] == ids[::-1]


def test_pages_follow_each_other_and_name_the_study(connection: Connection) -> None:
    first = audit_search.page(connection, Wanted(), limit=2)
    rest = audit_search.page(connection, Wanted(), before=first[-1]["id"], limit=2)
    assert [row["id"] for row in (*first, *rest)] == [4, 3, 2, 1]
    assert [row["study"] for row in (*first, *rest)] == [None, "a" * 32, None, None]


def test_an_export_is_read_in_portions_and_whole(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_search, "_PORTION", 2)
    assert [row["id"] for row in audit_search.each(connection, Wanted())] == [1, 2, 3, 4]


def test_who_looked_at_a_picture_is_found_by_the_number_on_its_page(connection: Connection) -> None:
    mine, other = "b" * 32, "c" * 32
    user = add_row(connection, tables.users)
    for public_id, study in ((mine, "1.2.3"), (other, None)):
        add_row(connection, tables.analyses, user_id=user, public_id=public_id, study_uid=study)
    for action, study, ids in (
        ("analysis-made", None, [mine]),
        ("analysis-made", None, [other]),
        ("analysis-results-listed", None, [other, mine]),
        ("analysis-revealed", "1.2.3", [mine]),
        ("dicomweb-ImagingStudy", "1.2.3", []),
    ):
        audit.append(connection, "user:two", action, study, ids=ids)
    found = [row["action"] for row in audit_search.each(connection, Wanted(study=mine))]
    assert found == [
        "result-seen", "analysis-made", "analysis-results-listed", "analysis-revealed", "dicomweb-ImagingStudy",
    ]  # fmt: skip
    found = [row["action"] for row in audit_search.each(connection, Wanted(study=other))]
    assert found == ["analysis-made", "analysis-results-listed"]
    assert list(audit_search.each(connection, Wanted(study="d" * 32))) == []


def test_one_may_filter_by_what_is_there(connection: Connection) -> None:
    actors, actions = audit_search.words(connection)
    assert actors == ["key:ehr", "user:one", "user:two"]
    assert actions == ["read-DiagnosticReport", "result-seen", "sign-in"]
