"""What the road asks about a study: its closed revisions, its open series, what a revision's pictures look like."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select, update

from dicom_node.record.tables import events, instances, revisions, series, studies
from dicom_node.words import RevisionState


def study_row(connection: Connection, study_uid: str) -> RowMapping:
    """One study."""
    return connection.execute(select(studies).where(studies.c.uid == study_uid)).mappings().one()


def find(connection: Connection, study_uid: str) -> RowMapping | None:
    """One study, where something of it has been read already."""
    return connection.execute(select(studies).where(studies.c.uid == study_uid)).mappings().first()


def of_patient(connection: Connection, patient_id: str, issuers: Collection[str] | None = None) -> list[str]:
    """UIDs of the studies of a Patient ID, of these issuers where any are named."""
    query = select(studies.c.uid).where(studies.c.identity["PatientID"].as_string() == patient_id)
    if issuers is not None:
        query = query.where(studies.c.identity["IssuerOfPatientID"].as_string().in_(sorted(issuers)))
    return [str(uid) for uid in connection.execute(query.order_by(studies.c.uid)).scalars()]


def told_in_audit(connection: Connection, study_uid: str, *, with_patient: bool) -> tuple[dict[str, int], str]:
    """What an audit message tells of a study: its SOP Classes with their numbers of instances, and its patient.

    The patient is ``id^^^issuer``, as HL7 writes it; empty where it is not wanted or not known.
    """
    query = select(instances.c.sop_class_uid, func.count()).where(instances.c.study_uid == study_uid)
    counted = connection.execute(query.group_by(instances.c.sop_class_uid)).all()
    identity = connection.execute(select(studies.c.identity).where(studies.c.uid == study_uid)).scalar()
    identity = identity if with_patient and identity else {}
    patient, issuer = (str(identity.get(key) or "") for key in ("PatientID", "IssuerOfPatientID"))
    return {str(uid): int(count) for uid, count in counted}, f"{patient}^^^{issuer}" if patient else ""


def series_rows(connection: Connection, study_uid: str) -> list[RowMapping]:
    """Its series, oldest first."""
    query = select(series).where(series.c.study_uid == study_uid).order_by(series.c.uid)
    return list(connection.execute(query).mappings())


def revision_row(connection: Connection, revision_id: int) -> RowMapping:
    """One revision."""
    return connection.execute(select(revisions).where(revisions.c.id == revision_id)).mappings().one()


def closed_revisions(connection: Connection, study_uid: str) -> list[RowMapping]:
    """The current revision of every closed series of a study."""
    query = (
        select(revisions)
        .where(revisions.c.study_uid == study_uid, revisions.c.state == RevisionState.COMPLETE.value)
        .order_by(revisions.c.series_uid)
    )
    return list(connection.execute(query).mappings())


def set_revision_refusal(connection: Connection, revision_id: int, refusal: dict[str, str]) -> None:
    """Write why no volume can be made of a revision."""
    connection.execute(update(revisions).where(revisions.c.id == revision_id).values(refusal=refusal))


def set_revision_read(connection: Connection, revision_id: int, appearance: dict[str, Any]) -> None:
    """Write what the pictures of a revision look like; from then on it counts as read."""
    connection.execute(update(revisions).where(revisions.c.id == revision_id).values(appearance=appearance))


def hold(connection: Connection, study_uid: str, reason: dict[str, str]) -> None:
    """Hold a study for a person, unless it is held already; `ai-node held` lists it."""
    connection.execute(update(studies).where(studies.c.uid == study_uid, studies.c.held.is_(None)).values(held=reason))


def faults_since_decision(connection: Connection, study_uid: str) -> int:
    """How often in a row the node failed to decide on a study; a release by a person begins anew."""
    wanted = ("study.fault", "held.released", "case.ready", "case.waits", "case.refused", "case.held")
    query = select(events.c.name).where(events.c.study_uid == study_uid, events.c.name.in_(wanted))
    faults = 0
    for name in connection.execute(query.order_by(events.c.id.desc())).scalars():
        if name != "study.fault":
            break
        faults += 1
    return faults


def set_role(connection: Connection, series_uid: str, role: str, confidence: float, reasons: tuple[str, ...]) -> bool:
    """Write the role of a series; whether it is another one than before."""
    before = connection.execute(select(series.c.role, series.c.role_reasons).where(series.c.uid == series_uid)).one()
    connection.execute(
        update(series)
        .where(series.c.uid == series_uid)
        .values(role=role, role_confidence=f"{confidence:.2f}", role_reasons=list(reasons))
    )
    return bool(before.role != role)


def decide_again(connection: Connection, study_uid: str) -> None:
    """What was decided about a study is to be decided anew; the reconciler sees to it when nobody else does."""
    connection.execute(
        update(revisions)
        .where(revisions.c.study_uid == study_uid, revisions.c.state == RevisionState.COMPLETE.value)
        .values(assembled=False)
    )


def set_assembled(connection: Connection, revision_ids: list[int]) -> None:
    """Mark revisions as having been considered for a case."""
    if revision_ids:
        connection.execute(update(revisions).where(revisions.c.id.in_(revision_ids)).values(assembled=True))


def is_undecided(connection: Connection, study_uid: str) -> bool:
    """Whether something of a study gathers still, or is closed and no decision has seen it."""
    gathers = select(series.c.uid).where(series.c.study_uid == study_uid, series.c.is_open)
    unseen = select(revisions.c.id).where(
        revisions.c.study_uid == study_uid,
        revisions.c.state == RevisionState.COMPLETE.value,
        revisions.c.assembled.is_(False),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in (gathers, unseen))


def unassembled_revisions(connection: Connection) -> list[RowMapping]:
    """Closed revisions that no case decision has seen: the reconciler asks for each whether a job is alive.

    Those of a rejected study too: what was published of it is still to be taken back.
    """
    query = (
        select(revisions)
        .join(studies, studies.c.uid == revisions.c.study_uid)
        .where(
            revisions.c.state == RevisionState.COMPLETE.value,
            revisions.c.assembled.is_(False),
            studies.c.held.is_(None),
        )
        .order_by(revisions.c.id)
    )
    return list(connection.execute(query).mappings())


def calling_ae(connection: Connection, series_uid: str) -> str | None:
    """Who sent a series: the calling AE title of its first instance by UID."""
    query = select(instances.c.calling_ae).where(instances.c.series_uid == series_uid)
    return connection.execute(query.order_by(instances.c.uid).limit(1)).scalar()
