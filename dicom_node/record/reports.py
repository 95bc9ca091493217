"""What the node's own FHIR endpoint shows: every version of every resource of a published report.

Tables `reports` and `report_tokens`.  A search is one query over the current versions and the tokens by which each is
found; nothing is loaded that is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, or_, select, true, update

from dicom_node.record.database import now
from dicom_node.record.tables import report_tokens, reports

TokensOf = Callable[[Mapping[str, Any]], Iterable[tuple[str, str, str]]]
"""By what a resource can be found: (parameter, system, value); FHIR's business, so handed in."""

_TOKEN_MAX = 255


@dataclass(frozen=True)
class Wanted:
    """A search: every clause holds for the current version, within the bounds of its time."""

    resource_type: str
    clauses: Sequence[tuple[str, Sequence[tuple[str | None, str | None]]]] = ()
    """(parameter, alternatives of system and value); None means whichever."""
    from_at: str | None = None
    """Inclusive; as the record writes times."""
    before_at: str | None = None
    """Exclusive."""


def put_resources(
    connection: Connection, run_id: int, study_uid: str, resources: list[dict[str, Any]], tokens_of: TokensOf
) -> int:
    """Store new versions of the resources that changed; how many did.

    A resource equal to its newest version (but for ``meta``) is left as it is, so a resend adds nothing.
    """
    changed = 0
    for resource in resources:
        kind, identifier = resource["resourceType"], resource["id"]
        newest = latest(connection, kind, identifier)
        if newest is not None and not newest["removed_at"] and _body(newest["resource"]) == _body(resource):
            continue
        version = 1 if newest is None else int(newest["version"]) + 1
        if newest is not None:
            connection.execute(update(reports).where(reports.c.id == newest["id"]).values(is_current=False))
            connection.execute(delete(report_tokens).where(report_tokens.c.report_id == newest["id"]))
        at = now()
        stored = {**resource, "meta": {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": at}}
        added = connection.execute(
            insert(reports)
            .values(
                run_id=run_id,
                resource_type=kind,
                resource_id=identifier,
                version=version,
                updated_at=at,
                study_uid=study_uid,
                resource=stored,
            )
            .returning(reports.c.id)
        )
        _index(connection, int(added.scalar_one()), tokens_of(resource))
        changed += 1
    return changed


def index_missing(connection: Connection, tokens_of: TokensOf) -> int:
    """Index what was stored by a version of the node without a search table; how many resources it were."""
    unindexed = ~exists().where(report_tokens.c.report_id == reports.c.id)
    rows = connection.execute(select(reports.c.id, reports.c.resource).where(reports.c.is_current, unindexed)).all()
    found = [(int(row.id), list(tokens_of(row.resource))) for row in rows]
    for report_id, tokens in found:
        _index(connection, report_id, tokens)
    return sum(1 for _, tokens in found if tokens)


def _index(connection: Connection, report_id: int, tokens: Iterable[tuple[str, str, str]]) -> None:
    rows = [
        {"report_id": report_id, "parameter": parameter, "system": system[:_TOKEN_MAX], "value": value[:_TOKEN_MAX]}
        for parameter, system, value in sorted(set(tokens))
    ]
    if rows:
        connection.execute(insert(report_tokens), rows)


def latest(connection: Connection, resource_type: str, resource_id: str) -> dict[str, Any] | None:
    """The newest version of one resource: ``resource``, ``version``, ``updated_at``, ``removed_at``."""
    row = (
        connection.execute(
            select(reports)
            .where(reports.c.resource_type == resource_type, reports.c.resource_id == resource_id)
            .order_by(reports.c.version.desc())
            .limit(1)
        )
        .mappings()
        .first()
    )
    return None if row is None else dict(row)


def page(connection: Connection, wanted: Wanted, limit: int, after: tuple[str, str] | None) -> list[dict[str, Any]]:
    """At most `limit` current resources, newest first, then by id descending, behind a place in that order."""
    query = _matching(select(reports), wanted)
    if after is not None:
        at, resource_id = after
        is_behind = and_(reports.c.updated_at == at, reports.c.resource_id < resource_id)
        query = query.where(or_(reports.c.updated_at < at, is_behind))
    query = query.order_by(reports.c.updated_at.desc(), reports.c.resource_id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def count(connection: Connection, wanted: Wanted) -> int:
    """How many current resources a search finds in all."""
    return int(connection.execute(_matching(select(func.count()).select_from(reports), wanted)).scalar_one())


def _matching(query: Select[Any], wanted: Wanted) -> Select[Any]:
    query = query.where(reports.c.resource_type == wanted.resource_type, reports.c.is_current)
    if wanted.from_at is not None:
        query = query.where(reports.c.updated_at >= wanted.from_at)
    if wanted.before_at is not None:
        query = query.where(reports.c.updated_at < wanted.before_at)
    for parameter, values in wanted.clauses:
        if parameter == "_id":
            query = query.where(reports.c.resource_id.in_([value for _, value in values if value is not None]))
            continue
        one_of = or_(*(_is(system, value) for system, value in values))
        of_this = and_(report_tokens.c.report_id == reports.c.id, report_tokens.c.parameter == parameter)
        query = query.where(exists().where(of_this, one_of))
    return query


def _is(system: str | None, value: str | None) -> ColumnElement[bool]:
    said = [] if value is None else [report_tokens.c.value == value]
    said += [] if system is None else [report_tokens.c.system == system]
    return and_(true(), *said)


def of_study(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """The newest versions of the resources of one study that are kept."""
    kept = (reports.c.study_uid == study_uid, reports.c.removed_at.is_(None))
    query = select(reports).where(*kept).order_by(reports.c.id)
    newest = {(r["resource_type"], r["resource_id"]): dict(r) for r in connection.execute(query).mappings()}
    return list(newest.values())


def _body(resource: dict[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    return {**resource, "meta": meta}
