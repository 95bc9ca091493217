"""Rows for tests that need a record without a road: every column that does not matter has some value of its type."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, insert

from dicom_node.record import tables


def add_row(connection: Connection, table: Table, **known: Any) -> int:
    """Insert a row; its primary key where that is a number."""
    values = dict(known)
    for column in table.columns:
        if column.name in values or column.nullable or column.default is not None or column.primary_key:
            continue
        kind = column.type.python_type
        values[column.name] = {} if kind in (dict, object) else kind()
    made = connection.execute(insert(table).values(**values)).inserted_primary_key
    return int(made[0]) if made is not None and isinstance(made[0], int) else 0


def add_run(connection: Connection, number: int, *, study_uid: str, state: str = "queued") -> int:
    """A study (once), a case and a run of it."""
    known = connection.execute(tables.studies.select().where(tables.studies.c.uid == study_uid)).first()
    if known is None:
        add_row(connection, tables.studies, uid=study_uid, public_id=f"{number:016x}")
    case = add_row(connection, tables.cases, study_uid=study_uid, case_key=f"case-{number}", state="ready")
    return add_row(connection, tables.runs, study_uid=study_uid, case_id=case, run_key=f"run-{number}", state=state)
