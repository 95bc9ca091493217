"""What arrived of one study: by which associations, how many objects of each series, and what could not be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from dicom_node.record.tables import arrivals, instances


@dataclass(frozen=True)
class Receipt:
    """One association (or upload) that brought something of a study.

    Attributes
    ----------
    released
        None while it is open; False when it was aborted.
    objects
        Of this study that it brought and that were new.
    """

    calling_ae: str
    opened_at: str
    closed_at: str | None
    released: bool | None
    objects: int


def receipts(connection: Connection, study_uid: str) -> list[Receipt]:
    """The associations that brought something new of a study, oldest first."""
    query = (
        select(
            arrivals.c.calling_ae,
            arrivals.c.opened_at,
            arrivals.c.closed_at,
            arrivals.c.released,
            func.count(instances.c.id),
        )
        .join(instances, instances.c.arrival_id == arrivals.c.id)
        .where(instances.c.study_uid == study_uid)
        .group_by(arrivals.c.id)
        .order_by(arrivals.c.id)
    )
    return [Receipt(*row) for row in connection.execute(query)]


def objects_by_series(connection: Connection, study_uid: str) -> dict[str, Counter[str]]:
    """Series UID -> how many objects are ``readable``, ``unread`` yet, results of our ``own``, or refused by code."""
    query = select(
        instances.c.series_uid, instances.c.refusal, instances.c.content_sha256, instances.c.own_result
    ).where(instances.c.study_uid == study_uid)
    found: dict[str, Counter[str]] = {}
    for series_uid, refusal, content, own in connection.execute(query):
        found.setdefault(str(series_uid), Counter())[_kind(refusal, content, own=own)] += 1
    return found


def _kind(refusal: dict[str, Any] | None, content: str | None, *, own: bool) -> str:
    if refusal:
        return str(refusal.get("code", "refused"))
    return "unread" if content is None else "own" if own else "readable"
