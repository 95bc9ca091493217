"""The timeline: everything that happened to a study, in order (table `events`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from dicom_node.record.database import now
from dicom_node.record.tables import events


def note(
    connection: Connection,
    name: str,
    study_uid: str | None,
    *,
    series_uid: str | None = None,
    run_id: int | None = None,
    **detail: Any,
) -> None:
    """Write one event in the caller's transaction, so that it stands exactly when the change it tells of stands.

    Parameters
    ----------
    name
        A fixed dotted name such as ``series.closed``; the set of names is in docs/reference/timeline.md.
    detail
        JSON values: counts, codes, reasons in words.
    """
    connection.execute(
        insert(events).values(
            at=now(), study_uid=study_uid, series_uid=series_uid, run_id=run_id, name=name, detail=detail
        )
    )


def last_of_run(connection: Connection, run_id: int, name: str) -> dict[str, Any]:
    """The detail of the newest event of this name that a run has; empty where it has none."""
    query = select(events.c.detail).where(events.c.run_id == run_id, events.c.name == name)
    return dict(connection.execute(query.order_by(events.c.id.desc()).limit(1)).scalar() or {})


def timeline(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """All events of a study, oldest first."""
    rows = connection.execute(select(events).where(events.c.study_uid == study_uid).order_by(events.c.id)).mappings()
    return [dict(row) for row in rows]
