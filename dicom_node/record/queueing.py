"""Turns in the record: what is unfinished, whose it is, and which turn new work gets (`dicom_node.turns`).

A study has one turn for all its jobs, taken when its first series closes and taken anew when it comes back after
everything of it was finished.  A request for a prediction has its turn in its place (`predictions.priority`).  Batches
of a key are a submitter of their own: what the same key asks for alone goes between their files.
"""

from __future__ import annotations

from sqlalchemy import Connection, or_, select, update

from dicom_node.record.tables import predictions, revisions, runs, studies
from dicom_node.turns import next_turn, turn_in
from dicom_node.words import RevisionState, RunState

_LIVE = (RunState.QUEUED.value, RunState.RUNNING.value)


def take(connection: Connection, submitter: str) -> int:
    """The turn of new work of this submitter."""
    return next_turn([*_of_studies(connection).values(), *_of_predictions(connection)], submitter)


def take_for_study(connection: Connection, study_uid: str, submitter: str, *, besides: int | None = None) -> int:
    """The study's turn: the one it has while something of it is unfinished, otherwise a new one.

    Parameters
    ----------
    submitter
        Who brought what is to be done now.
    besides
        The revision that is to be done now, and is no unfinished work of before.
    """
    known = _of_studies(connection, besides=besides)
    if study_uid in known:
        return known[study_uid][1]
    turn = next_turn([*known.values(), *_of_predictions(connection)], submitter)
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(submitter=submitter, turn=turn))
    return turn


def _of_studies(connection: Connection, *, besides: int | None = None) -> dict[str, tuple[str, int]]:
    """Study -> submitter and turn, of those with unfinished work that does not wait for a person."""
    unread = select(revisions.c.study_uid).where(
        revisions.c.state == RevisionState.COMPLETE.value, revisions.c.assembled.is_(False)
    )
    if besides is not None:
        unread = unread.where(revisions.c.id != besides)
    unfinished = select(runs.c.study_uid).where(runs.c.state.in_(_LIVE), runs.c.cancel.is_(False))
    query = select(studies.c.uid, studies.c.submitter, studies.c.turn).where(
        studies.c.turn.is_not(None),
        studies.c.held.is_(None),
        or_(studies.c.uid.in_(unread), studies.c.uid.in_(unfinished)),
    )
    return {str(row.uid): (str(row.submitter), int(row.turn)) for row in connection.execute(query)}


def asker(owner: str, *, in_batch: bool) -> str:
    """The submitter of a request for a prediction."""
    return f"key:{owner}/batch" if in_batch else f"key:{owner}"


def _of_predictions(connection: Connection) -> list[tuple[str, int]]:
    columns = predictions.c.owner, predictions.c.batch, predictions.c.priority
    rows = connection.execute(select(*columns).where(predictions.c.state.in_(_LIVE)))
    return [(asker(row.owner, in_batch=row.batch is not None), turn_in(int(row.priority))) for row in rows]
