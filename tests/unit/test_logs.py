"""What a log line may hold (I4).  The whole of it, with a node of its own: tests/system/test_no_phi.py."""

from __future__ import annotations

import io
import logging
import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError as SomeOfAlchemy

from dicom_node import logs

pytestmark = pytest.mark.unit


def test_a_field_that_is_not_listed_is_dropped_and_counted() -> None:
    said = logs.allow_listed(None, "info", {"event": "x", "run": 7, "patient": "DOE^JANE", "uid": "1.2.3"})
    assert said == {"event": "x", "run": 7, "dropped_fields": 2}


@pytest.mark.parametrize(
    "uid", ["1.2.840.113619.2.55.3.604688119", "2.25.329800735698586629295641978511506172918", "1.2.840.10008.1"]
)
def test_a_uid_is_blotted_out_wherever_it_stands(uid: str) -> None:
    assert (
        logs.blot_uids(None, "info", f'{{"reason": "object {uid} of series"}}')
        == '{"reason": "object (uid) of series"}'
    )


@pytest.mark.parametrize(
    "text", ["2026-11-22T10:48:04.123456Z", "192.168.100.21:11112", "0.1.0", "3.4.10", "12.25", "seconds=2.25"]
)
def test_what_only_has_dots_stays(text: str) -> None:
    assert logs.blot_uids(None, "info", text) == text


def test_an_exception_is_its_type_and_place() -> None:
    try:
        raise ValueError("PatientName DOE^JANE")
    except ValueError as fault:
        said = logs._name_the_error(None, "error", {"event": "x", "exc_info": fault})
    assert said["error"] == "ValueError" and str(said["where"]).startswith("test_logs.py:")
    assert "DOE" not in str(said)


def test_a_fault_of_the_database_has_its_code() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (name TEXT UNIQUE)")
    with pytest.raises(sqlite3.IntegrityError) as broken:
        connection.executemany("INSERT INTO t VALUES (?)", [("DOE^JANE",), ("DOE^JANE",)])
    connection.close()
    assert logs.named(broken.value) == "IntegrityError SQLITE_CONSTRAINT_UNIQUE"
    assert logs.named(SomeOfAlchemy("INSERT", {}, broken.value)) == "IntegrityError SQLITE_CONSTRAINT_UNIQUE"
    assert logs.named(OSError("DOE^JANE")) == "OSError"


def test_a_library_says_its_name_and_level_alone() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs._NameOnly())
    logger = logging.Logger("some.library")
    logger.addHandler(handler)
    try:
        raise KeyError("DOE^JANE")
    except KeyError:
        logger.exception("while reading %s", "DOE^JANE", stack_info=True)
    logger.warning("DOE^JANE")
    assert stream.getvalue() == "ERROR some.library KeyError\nWARNING some.library\n"
