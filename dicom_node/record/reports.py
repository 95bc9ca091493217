"""What the node's own FHIR endpoint shows: every version of every resource of a published report (table `reports`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, insert, select

from dicom_node.record.database import now
from dicom_node.record.tables import reports


def put_resources(connection: Connection, run_id: int, study_uid: str, resources: list[dict[str, Any]]) -> int:
    """Store new versions of the resources that changed; how many did.

    A resource equal to its newest version (but for ``meta``) is left as it is, so a resend adds nothing.
    """
    changed = 0
    for resource in resources:
        kind, identifier = resource["resourceType"], resource["id"]
        newest = latest(connection, kind, identifier)
        if newest is not None and _body(newest["resource"]) == _body(resource):
            continue
        version = 1 if newest is None else int(newest["version"]) + 1
        at = now()
        stored = {**resource, "meta": {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": at}}
        connection.execute(
            insert(reports).values(
                run_id=run_id,
                resource_type=kind,
                resource_id=identifier,
                version=version,
                updated_at=at,
                study_uid=study_uid,
                resource=stored,
            )
        )
        changed += 1
    return changed


def latest(connection: Connection, resource_type: str, resource_id: str) -> dict[str, Any] | None:
    """The newest version of one resource: ``resource``, ``version``, ``updated_at``."""
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


def all_latest(connection: Connection, resource_type: str | None = None) -> list[dict[str, Any]]:
    """The newest version of every resource (of a type), oldest change first."""
    newest = select(
        reports.c.resource_type, reports.c.resource_id, func.max(reports.c.version).label("version")
    ).group_by(reports.c.resource_type, reports.c.resource_id)
    if resource_type is not None:
        newest = newest.where(reports.c.resource_type == resource_type)
    keys = newest.subquery()
    query = (
        select(reports)
        .join(
            keys,
            (reports.c.resource_type == keys.c.resource_type)
            & (reports.c.resource_id == keys.c.resource_id)
            & (reports.c.version == keys.c.version),
        )
        .order_by(reports.c.id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def of_study(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """The newest versions of the resources of one study."""
    query = select(reports).where(reports.c.study_uid == study_uid).order_by(reports.c.id)
    newest = {(r["resource_type"], r["resource_id"]): dict(r) for r in connection.execute(query).mappings()}
    return list(newest.values())


def _body(resource: dict[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    return {**resource, "meta": meta}
