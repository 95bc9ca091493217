"""The worker as the record knows it: that it lives, that it was told to stop, and which studies it reads.

A death is told from an orderly stop by what stands here, so that only deaths count against a run or a study (I11).
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from dicom_node.record.database import now
from dicom_node.record.tables import attempts, prediction_events, predictions, revisions, runs, site, studies
from dicom_node.words import RevisionState, RunState

STOPPING = "worker_stopping"
"""Key in `site`: the last worker that was told to stop."""

SEEN = "worker_seen_at"
"""Key in `site`: when the worker last said that it lives."""

_AT_WORK = ("read", "was-read", "infer", "inferred", "write", "completed")
"""Events of a request that only a worker writes."""


def note_stopping(connection: Connection, worker: str) -> None:
    """This worker was told to stop: what it leaves unfinished is no death."""
    _put(connection, STOPPING, worker)


def was_stopped(connection: Connection, worker: str) -> bool:
    """Whether a worker that is gone was told to go."""
    return _get(connection, STOPPING) == worker


def beat(connection: Connection) -> None:
    """The worker lives."""
    _put(connection, SEEN, now())


def seen_at(connection: Connection) -> str | None:
    """When the worker last said that it lives; None when there was none yet."""
    return _get(connection, SEEN)


def oldest_waiting(connection: Connection) -> str | None:
    """Since when the longest waiting thing waits for the worker: a closed series, a run or a request; None for nothing.

    What waits for a person, or was rejected, is left out.
    """
    free = (studies.c.held.is_(None), studies.c.cancelled.is_(False))
    of_series = (
        select(func.min(revisions.c.closed_at))
        .join(studies, studies.c.uid == revisions.c.study_uid)
        .where(revisions.c.state == RevisionState.COMPLETE.value, revisions.c.assembled.is_(False), *free)
    )
    live = (RunState.QUEUED.value, RunState.RUNNING.value)
    of_runs = (
        select(func.min(runs.c.created_at))
        .join(studies, studies.c.uid == runs.c.study_uid)
        .where(runs.c.state.in_(live), *free)
    )
    of_requests = select(func.min(predictions.c.created_at)).where(predictions.c.state.in_(live))
    found = [connection.execute(query).scalar_one() for query in (of_series, of_runs, of_requests)]
    return min((str(at) for at in found if at is not None), default=None)


def last_progress(connection: Connection) -> str | None:
    """When the worker last began or ended anything; None when it never did."""
    of_runs = connection.execute(select(func.max(attempts.c.started_at), func.max(attempts.c.ended_at))).one()
    of_requests = (
        select(prediction_events.c.at)
        .where(prediction_events.c.name.in_([f"prediction.{name}" for name in _AT_WORK]))
        .order_by(prediction_events.c.id.desc())
        .limit(1)
    )
    found = [*of_runs, connection.execute(of_requests).scalar_one_or_none()]
    return max((str(at) for at in found if at is not None), default=None)


def begin_reading(connection: Connection, study_uid: str, worker: str) -> int:
    """Say who reads a study, before the reading begins; how many workers died of it in a row."""
    query = select(studies.c.reader, studies.c.reader_deaths).where(studies.c.uid == study_uid)
    before = connection.execute(query).one()
    is_gone = before.reader is not None and before.reader != worker
    deaths = int(before.reader_deaths) + (1 if is_gone and not was_stopped(connection, before.reader) else 0)
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(reader=worker, reader_deaths=deaths))
    return deaths


def end_reading(connection: Connection, study_uid: str) -> None:
    """The study was read, and its reader lives."""
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(reader=None, reader_deaths=0))


def unread(connection: Connection, worker: str) -> list[RowMapping]:
    """Studies whose reader is another worker than this one: it is gone."""
    query = select(studies).where(studies.c.reader.is_not(None), studies.c.reader != worker)
    return list(connection.execute(query.order_by(studies.c.uid)).mappings())


def bury_reader(connection: Connection, study_uid: str, deaths: int) -> None:
    """Nobody reads the study any more, and so many workers died of it in a row."""
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(reader=None, reader_deaths=deaths))


def _put(connection: Connection, key: str, value: str) -> None:
    connection.execute(site.delete().where(site.c.key == key))
    connection.execute(insert(site).values(key=key, value=value))


def _get(connection: Connection, key: str) -> str | None:
    found = connection.execute(select(site.c.value).where(site.c.key == key)).scalar_one_or_none()
    return None if found is None else str(found)
