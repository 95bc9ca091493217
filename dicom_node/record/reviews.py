"""What specialists did with the cases of their sites: replied, recommended, closed, opened again.

Rows are only added; the latest says how a case stands, and a case without one is open.  Who replies names the row she
has read before, so that two who reply at once do not talk past each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, select

from dicom_node.record import audit
from dicom_node.record.database import now
from dicom_node.record.tables import analyses, reviews
from dicom_node.record.timeline import note

OPEN, ANSWERED, CLOSED = "open", "answered", "closed"
STATES = (OPEN, ANSWERED, CLOSED)
MAY_BECOME: Mapping[str, frozenset[str]] = {
    OPEN: frozenset({ANSWERED, CLOSED}),
    ANSWERED: frozenset({ANSWERED, CLOSED, OPEN}),
    CLOSED: frozenset({OPEN}),
}
"""Answering twice is a second reply, not a correction of the first: both stand."""

ACTIONS = ("none", "watch", "new-photograph", "see-in-person", "see-urgently", "remove")
"""What a specialist may recommend; words in each language are the pages' affair."""

MOST_LETTERS = 4000


class ReviewRefused(ValueError):
    """The reply cannot be taken; `reason` is ``moved-on``, ``not-possible``, ``reply-missing``, ``reply-too-long`` or
    ``action-unknown``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def write(
    connection: Connection,
    analysis: Mapping[str, Any],
    state: str,
    *,
    user_id: int,
    actor: str,
    seen: int,
    reply: str = "",
    action: str = "",
) -> None:
    """Add what a specialist did, audited.

    Parameters
    ----------
    analysis
        Row of `analyses`.
    state
        Of `STATES`; ``answered`` needs a reply and an action.
    seen
        Id of the newest review that she had before her; 0 for none.

    Raises
    ------
    ReviewRefused
    """
    before = latest(connection, int(analysis["id"]))
    if seen != (0 if before is None else int(before["id"])):
        raise ReviewRefused("moved-on")
    if analysis["withdrawn_at"] or state not in MAY_BECOME[OPEN if before is None else str(before["state"])]:
        raise ReviewRefused("not-possible")
    reply = reply.strip()
    if state == ANSWERED:
        _is_whole(reply, action)
    elif reply or action:
        raise ReviewRefused("not-possible")
    values = {"state": state, "reply": reply, "action": action, "user_id": user_id, "at": now()}
    connection.execute(insert(reviews).values(analysis_id=analysis["id"], **values))
    note(connection, "review.written", analysis["study_uid"], state=state)
    audit.append(connection, actor, f"case-{state}", analysis["study_uid"], analysis=analysis["public_id"])


def _is_whole(reply: str, action: str) -> None:
    if not reply:
        raise ReviewRefused("reply-missing")
    if len(reply) > MOST_LETTERS:
        raise ReviewRefused("reply-too-long")
    if action not in ACTIONS:
        raise ReviewRefused("action-unknown")


def latest(connection: Connection, analysis_id: int) -> RowMapping | None:
    """The review that counts; None for a case that nobody has touched."""
    query = select(reviews).where(reviews.c.analysis_id == analysis_id).order_by(reviews.c.id.desc()).limit(1)
    return connection.execute(query).mappings().first()


def history(connection: Connection, analysis_id: int) -> list[dict[str, Any]]:
    """Everything that was replied and decided, oldest first."""
    return histories(connection, [analysis_id]).get(analysis_id, [])


def histories(connection: Connection, analysis_ids: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    """The same of several analyses at once; one that nobody has touched is not in it."""
    query = select(reviews).where(reviews.c.analysis_id.in_(list(analysis_ids))).order_by(reviews.c.id)
    found: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(int(row["analysis_id"]), []).append(dict(row))
    return found


def cases(connection: Connection, sites: Collection[str], state: str, limit: int) -> list[RowMapping]:
    """Analyses of these sites that stand so, the longest waiting first; withdrawn ones left out."""
    query = _standing(sites, state).order_by(analyses.c.id).limit(limit)
    return list(connection.execute(query).mappings())


def count(connection: Connection, sites: Collection[str]) -> dict[str, int]:
    """How many cases of these sites stand how."""
    found = {}
    for state in STATES:
        rows = _standing(sites, state).subquery()
        found[state] = int(connection.execute(select(func.count()).select_from(rows)).scalar_one())
    return found


def _standing(sites: Collection[str], state: str) -> Select[Any]:
    newest = select(func.max(reviews.c.id)).group_by(reviews.c.analysis_id)
    last = select(reviews.c.analysis_id, reviews.c.state).where(reviews.c.id.in_(newest)).subquery()
    return (
        select(analyses)
        .outerjoin(last, last.c.analysis_id == analyses.c.id)
        .where(
            analyses.c.site.in_(list(sites)),
            analyses.c.withdrawn_at.is_(None),
            func.coalesce(last.c.state, OPEN) == state,
        )
    )
