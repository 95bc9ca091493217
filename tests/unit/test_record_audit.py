"""The audit log is a chain (I21): what was changed, moved, taken out or cut off shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from dicom_node.record import Database, audit
from dicom_node.record.tables import audit as table

pytestmark = pytest.mark.unit

ACTS = ("held.released", "job.retried", "key-created", "read-DiagnosticReport", "held.rejected")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    made.migrate()
    for number, act in enumerate(ACTS):
        with made.write() as connection:
            audit.append(connection, "tester", act, None, item=f"run-{number}", reason="because")
    yield made
    made.close()


def verdict(database: Database, head: tuple[int, str] | None = None) -> str | None:
    with database.read() as connection:
        return audit.verify(connection, head)


def test_an_untouched_chain_is_whole(database: Database) -> None:
    with database.read() as connection:
        head = audit.head(connection)
    assert head[0] == len(ACTS)
    assert verdict(database) is None and verdict(database, head) is None


@pytest.mark.parametrize("column", ["at", "actor", "action", "study_uid", "detail", "previous_sha256", "sha256"])
def test_a_changed_entry_shows_whatever_was_changed(database: Database, column: str) -> None:
    value = {"item": "run-2", "reason": "another"} if column == "detail" else "changed"
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == 3).values({column: value}))
    assert verdict(database) == "entry 3 was changed or moved"


def test_from_where_somebody_called_is_part_of_the_entry(database: Database) -> None:
    """Only an address, of this call only; entries without one fit the chain as they did."""
    told = {"198.51.100.3": "198.51.100.3", "::ffff:198.51.100.4": "198.51.100.4", "2001:db8::1": "2001:db8::1",
            "a name": None, "": None}  # fmt: skip
    for host in told:
        with audit.called_from(host), database.write() as connection:
            audit.append(connection, "somebody", "sign-in", user="u")
    with database.write() as connection:
        audit.append(connection, "cli", "key-created")
        rows = connection.execute(select(table.c.detail).where(table.c.id > len(ACTS)).order_by(table.c.id)).scalars()
        assert [row.get("address") for row in rows] == [*told.values(), None]
    assert verdict(database) is None


def test_an_entry_that_was_written_anew_with_its_digest_shows_in_the_next(database: Database) -> None:
    """Who changes one entry has to write every later one anew, and then the head is another one."""
    with database.write() as connection:
        before, one = connection.execute(select(table).where(table.c.id.in_([2, 3])).order_by(table.c.id)).mappings()
        entry = {key: one[key] for key in ("at", "actor", "study_uid", "detail")} | {"action": "nothing-happened"}
        made = audit._link(before["sha256"], entry)
        connection.execute(update(table).where(table.c.id == 3).values(action=entry["action"], sha256=made))
        connection.execute(update(table).where(table.c.id == 4).values(previous_sha256=made))
    assert verdict(database) == "entry 4 was changed or moved"


def test_an_entry_that_was_taken_out_shows(database: Database) -> None:
    with database.write() as connection:
        connection.execute(delete(table).where(table.c.id == 2))
    assert verdict(database) == "entry 2 is missing"


def test_two_entries_that_changed_places_show(database: Database) -> None:
    with database.write() as connection:
        rows = [dict(row) for row in connection.execute(select(table).where(table.c.id.in_([2, 3]))).mappings()]
        connection.execute(delete(table).where(table.c.id.in_([2, 3])))
        for row, number in zip(rows, (3, 2), strict=True):
            connection.execute(insert(table).values({**row, "id": number}))
    assert verdict(database) == "entry 2 was changed or moved"


def test_a_cut_tail_shows_against_a_head_kept_elsewhere_only(database: Database) -> None:
    with database.read() as connection:
        head = audit.head(connection)
    with database.write() as connection:
        connection.execute(delete(table).where(table.c.id > 3))
    assert verdict(database) is None, "the chain itself cannot know: that is why the head is kept elsewhere"
    assert verdict(database, head) == "the newest entry is 3; the head kept elsewhere names entry 5"


def test_a_chain_that_was_written_again_shows_against_the_head(database: Database) -> None:
    with database.read() as connection:
        head = audit.head(connection)
    with database.write() as connection:
        connection.execute(delete(table))
        for act in reversed(ACTS):
            audit.append(connection, "tester", act, None)
    assert verdict(database) is None
    assert verdict(database, head) is not None
