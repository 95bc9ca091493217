"""The audit log as it is read: by who, what, which study and when; a page at a time, or all of it for an export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Text, cast, or_, select

from dicom_node.record.tables import analyses, audit, studies

_PORTION = 1000
_PUBLIC_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Wanted:
    """Which entries; what is empty is not asked for.

    Attributes
    ----------
    actor, action
        As the entry has them, the whole word.
    study
        Opaque id or Study Instance UID; or the number of an analysis or a request, as its page shows it: what names it,
        and what is about its study.
    since, until
        Times as the record writes them; `until` itself is not in it.
    studies
        Study Instance UIDs, one of which it is about; None: whatever it is about.
    """

    actor: str = ""
    action: str = ""
    study: str = ""
    since: str = ""
    until: str = ""
    studies: tuple[str, ...] | None = None


def page(connection: Connection, wanted: Wanted, before: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """The newest entries, or the newest before one of them; each with the opaque id of its study, ``study``."""
    query = _asked(wanted).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [dict(row) for row in connection.execute(query).mappings()]


def each(connection: Connection, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Every entry, the oldest first, read a portion at a time."""
    after = 0
    while True:
        query = _asked(wanted).where(audit.c.id > after).order_by(audit.c.id).limit(_PORTION)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        yield from rows
        if len(rows) < _PORTION:
            return
        after = int(rows[-1]["id"])


def words(connection: Connection) -> tuple[list[str], list[str]]:
    """Every actor and every action that the log knows, sorted: what one may filter by."""
    actors = connection.execute(select(audit.c.actor).distinct().order_by(audit.c.actor)).scalars()
    actions = connection.execute(select(audit.c.action).distinct().order_by(audit.c.action)).scalars()
    return list(actors), list(actions)


def _asked(wanted: Wanted) -> Select[Any]:
    query = select(audit, studies.c.public_id.label("study")).outerjoin(studies, studies.c.uid == audit.c.study_uid)
    if wanted.actor:
        query = query.where(audit.c.actor == wanted.actor)
    if wanted.action:
        query = query.where(audit.c.action == wanted.action)
    if wanted.study:
        named = [studies.c.public_id == wanted.study, audit.c.study_uid == wanted.study]
        if _PUBLIC_ID.fullmatch(wanted.study):
            asked = select(analyses.c.study_uid).where(analyses.c.public_id == wanted.study).scalar_subquery()
            # results in a list name several, and what came before there was a study names none but the analysis
            named += [audit.c.study_uid == asked, cast(audit.c.detail, Text).contains(wanted.study)]
        query = query.where(or_(*named))
    if wanted.studies is not None:
        query = query.where(audit.c.study_uid.in_(wanted.studies))
    if wanted.since:
        query = query.where(audit.c.at >= wanted.since)
    if wanted.until:
        query = query.where(audit.c.at < wanted.until)
    return query
