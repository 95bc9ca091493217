"""Series closed into revisions, and studies declared quiet (tables `series`, `revisions`, `studies`).

A revision is a committed row before anybody is told of it; `put_at` says that it was told, so that a kill between the
two is made good at the next start (hardening 2.3, K7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from dicom_node.record.database import digest, now
from dicom_node.record.indexing import hold_series
from dicom_node.record.runs import move
from dicom_node.record.studies import decide_again
from dicom_node.record.tables import arrivals, copies, instances, revisions, series, studies
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.words import Grade, Instance, Revision, RevisionState


@dataclass(frozen=True)
class Gathered:
    """What the record knows about a series that may be complete."""

    series_uid: str
    study_uid: str
    is_open: bool
    """Instances arrived that no revision holds yet; never for results, which are no input."""
    is_held: bool
    """The series or its study is held: nothing is closed until a person has decided."""
    headers: Mapping[str, Mapping[str, Any]]
    """SOP Instance UID -> header, of the readable instances."""
    refused: int
    """Instances that are kept but cannot be read."""
    waiting: int
    """Instances whose header, and further copies whose content, nobody has read yet."""
    senders: frozenset[str]
    """Calling AE titles that brought instances of the series."""
    is_arriving: bool
    """An association that brought an instance of the series is still open."""
    is_released: bool
    """The last of these associations ended with a release, not an abort."""
    last_arrival_at: str


def open_series(connection: Connection) -> list[tuple[str, str]]:
    """(series UID, time of the last arrival) of every series that gathers: not held, with instances that no revision
    holds yet."""
    query = (
        select(series.c.uid, series.c.last_arrival_at)
        .join(studies, studies.c.uid == series.c.study_uid)
        .where(series.c.is_open, series.c.held.is_(None), studies.c.held.is_(None))
        .order_by(series.c.uid)
    )
    return [(str(uid), str(at)) for uid, at in connection.execute(query)]


def is_open(connection: Connection, series_uid: str) -> bool:
    """Whether instances arrived that no revision holds yet."""
    return bool(connection.execute(select(series.c.is_open).where(series.c.uid == series_uid)).scalar_one())


def study_of_series(connection: Connection, series_uid: str) -> str:
    """The study that a series belongs to."""
    return str(connection.execute(select(series.c.study_uid).where(series.c.uid == series_uid)).scalar_one())


def gathered(connection: Connection, series_uid: str) -> Gathered:
    """Everything the grade of a series depends on, but for what others count."""
    row = connection.execute(
        select(
            series.c.study_uid,
            series.c.is_open,
            series.c.held,
            series.c.last_arrival_at,
            studies.c.held.label("study_held"),
        )
        .join(studies, studies.c.uid == series.c.study_uid)
        .where(series.c.uid == series_uid)
    ).one()
    found = connection.execute(
        select(
            instances.c.uid,
            instances.c.header,
            instances.c.refusal,
            instances.c.content_sha256,
            instances.c.calling_ae,
            instances.c.arrival_id,
        ).where(instances.c.series_uid == series_uid, instances.c.own_result.is_(False))
    ).all()
    ids = {r.arrival_id for r in found}
    ends = connection.execute(
        select(arrivals.c.id, arrivals.c.closed_at, arrivals.c.released).where(arrivals.c.id.in_(ids))
    ).all()
    last = max(ends, key=lambda a: a.id, default=None)
    unjudged = connection.execute(
        select(func.count())
        .select_from(copies)
        .join(instances, instances.c.uid == copies.c.uid)
        .where(instances.c.series_uid == series_uid, copies.c.verdict.is_(None))
    ).scalar_one()
    return Gathered(
        series_uid=series_uid,
        study_uid=row.study_uid,
        is_open=row.is_open,
        is_held=row.held is not None or row.study_held is not None,
        headers={r.uid: r.header for r in found if r.header is not None and r.refusal is None},
        refused=sum(r.refusal is not None for r in found),
        waiting=sum(r.content_sha256 is None and r.refusal is None for r in found) + int(unjudged),
        senders=frozenset(r.calling_ae for r in found),
        is_arriving=any(a.closed_at is None for a in ends),
        is_released=bool(last is not None and last.released),
        last_arrival_at=row.last_arrival_at,
    )


def close_revision(
    connection: Connection,
    series_uid: str,
    seen: frozenset[str],
    grade: Grade,
    evidence: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> int | None:
    """Freeze the series' instances into a revision, unless they changed since `seen` was looked at.

    Returns
    -------
    int or None
        The new revision's id.  None when there is nothing to freeze: another set of instances than `seen` is there by
        now (the series stays open), or the last revision already holds exactly this set.  None too when images of the
        study were deleted: read without them it would be another study, and its result would take the place of the
        old one, so the series is held until all of them have come again.
    """
    row = connection.execute(select(series.c.study_uid, series.c.held).where(series.c.uid == series_uid)).one()
    members = connection.execute(
        select(instances.c.uid, instances.c.content_sha256)
        .where(
            instances.c.series_uid == series_uid,
            instances.c.own_result.is_(False),
            instances.c.content_sha256.is_not(None),
            instances.c.refusal.is_(None),
        )
        .order_by(instances.c.uid)
    ).all()
    uids = [m.uid for m in members]
    if frozenset(uids) != seen or row.held is not None or not uids:
        return None
    set_sha256 = digest([[m.uid, m.content_sha256] for m in members])
    last = connection.execute(
        select(revisions.c.id, revisions.c.number, revisions.c.set_sha256)
        .where(revisions.c.series_uid == series_uid)
        .order_by(revisions.c.number.desc())
        .limit(1)
    ).one_or_none()
    is_known = last is not None and last.set_sha256 == set_sha256
    if not is_known and _deleted_of(connection, row.study_uid):
        found = "some that were deleted by retention"
        hold_series(connection, series_uid, Refusal(RefusalCode.REMOVED, "all images of the study", found))
        return None
    connection.execute(
        update(series)
        .where(series.c.uid == series_uid)
        .values(is_open=False, facts=dict(facts), expected=dict(evidence.get("expected", {})))
    )
    if is_known:
        return None
    number = 1 if last is None else last.number + 1
    if last is not None:
        move(connection, "revision", last.id, RevisionState.SUPERSEDED)
    result = connection.execute(
        insert(revisions).values(
            series_uid=series_uid,
            study_uid=row.study_uid,
            number=number,
            state=RevisionState.COMPLETE.value,
            set_sha256=set_sha256,
            grade=grade.value,
            evidence=dict(evidence),
            instance_uids=uids,
            closed_at=now(),
        )
    )
    note(
        connection,
        "series.closed",
        row.study_uid,
        series_uid=series_uid,
        revision=number,
        grade=grade.value,
        instances=len(uids),
        evidence=dict(evidence),
    )
    connection.execute(update(studies).where(studies.c.uid == row.study_uid).values(quiet_at=None, quiet_put_at=None))
    return int(result.inserted_primary_key[0])  # type: ignore[index]


def _deleted_of(connection: Connection, study_uid: str) -> bool:
    """Whether received images of a study are deleted now."""
    query = select(instances.c.id).where(
        instances.c.study_uid == study_uid, instances.c.own_result.is_(False), instances.c.removed_at.is_not(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def close_unreadable(connection: Connection, series_uid: str) -> None:
    """A series none of whose instances can be read: nothing to freeze, and nothing of its study waits for it."""
    connection.execute(update(series).where(series.c.uid == series_uid).values(is_open=False))
    note(connection, "series.unreadable", study_of_series(connection, series_uid), series_uid=series_uid)


def unput_revisions(connection: Connection) -> list[int]:
    """Current revisions that nobody was told of."""
    query = select(revisions.c.id).where(
        revisions.c.put_at.is_(None), revisions.c.state == RevisionState.COMPLETE.value
    )
    return [int(i) for i in connection.execute(query.order_by(revisions.c.id)).scalars()]


def mark_put(connection: Connection, revision_id: int) -> None:
    """The road was told of a revision."""
    connection.execute(update(revisions).where(revisions.c.id == revision_id).values(put_at=now()))


def load_revision(connection: Connection, revision_id: int) -> Revision:
    """A revision with its instances, sorted by SOP Instance UID."""
    row = connection.execute(select(revisions).where(revisions.c.id == revision_id)).mappings().one()
    found = connection.execute(
        select(instances).where(instances.c.series_uid == row["series_uid"]).order_by(instances.c.uid)
    ).mappings()
    members = frozenset(row["instance_uids"])
    return Revision(
        id=row["id"],
        series_uid=row["series_uid"],
        study_uid=row["study_uid"],
        number=row["number"],
        set_sha256=row["set_sha256"],
        grade=Grade(row["grade"]),
        evidence=row["evidence"],
        instances=tuple(_instance(r) for r in found if r["uid"] in members),
    )


def first_revisions(connection: Connection, series_uid: str) -> dict[str, int]:
    """SOP Instance UID -> the first revision of the series that holds it."""
    query = select(revisions.c.id, revisions.c.instance_uids).where(revisions.c.series_uid == series_uid)
    found: dict[str, int] = {}
    for number, members in connection.execute(query.order_by(revisions.c.number.desc())):
        found |= dict.fromkeys(members, int(number))
    return found


def _instance(row: RowMapping) -> Instance:
    return Instance(
        uid=row["uid"],
        series_uid=row["series_uid"],
        study_uid=row["study_uid"],
        sop_class_uid=row["sop_class_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        path=row["path"],
        size_bytes=row["size_bytes"],
        content_sha256=row["content_sha256"],
        header=row["header"] or {},
        removed_at=row["removed_at"],
    )


# studies


def unquiet_studies(connection: Connection) -> list[tuple[str, str]]:
    """(study UID, last activity) of studies that have a revision and no declared quiet period; read at start."""
    query = select(studies.c.uid, studies.c.last_activity_at).where(
        studies.c.quiet_at.is_(None), studies.c.uid.in_(select(revisions.c.study_uid))
    )
    return [(str(uid), str(at)) for uid, at in connection.execute(query.order_by(studies.c.uid))]


def studies_of_arrival(connection: Connection, arrival_id: int) -> list[str]:
    """Studies of which an association brought something new."""
    query = select(instances.c.study_uid).where(
        instances.c.arrival_id == arrival_id, instances.c.study_uid.is_not(None)
    )
    return [str(uid) for uid in connection.execute(query.distinct()).scalars()]


def series_of_arrival(connection: Connection, arrival_id: int) -> list[str]:
    """Series of which an association brought something new."""
    query = select(instances.c.series_uid).where(
        instances.c.arrival_id == arrival_id, instances.c.series_uid.is_not(None)
    )
    return [str(uid) for uid in connection.execute(query.distinct()).scalars()]


def declare_quiet(connection: Connection, study_uid: str) -> int | None:
    """Write that the quiet period is over, if nothing of the study is on its way; the number of this declaration.

    None while a series gathers, an association that brought some of it is open, nothing was closed yet, or it was
    declared before.  A held series does not gather: it waits for a person, and the rest of the study does not.
    """
    row = connection.execute(select(studies.c.quiet_at, studies.c.quiet_number).where(studies.c.uid == study_uid)).one()
    gathering = select(series.c.uid).where(series.c.study_uid == study_uid, series.c.is_open, series.c.held.is_(None))
    arriving = (
        select(arrivals.c.id)
        .join(instances, arrivals.c.id == instances.c.arrival_id)
        .where(arrivals.c.closed_at.is_(None), instances.c.study_uid == study_uid)
    )
    closed = select(revisions.c.id).where(revisions.c.study_uid == study_uid)
    if (
        row.quiet_at is not None
        or connection.execute(gathering.limit(1)).first() is not None
        or connection.execute(arriving.limit(1)).first() is not None
        or connection.execute(closed.limit(1)).first() is None
    ):
        return None
    number = int(row.quiet_number) + 1
    connection.execute(
        update(studies).where(studies.c.uid == study_uid).values(quiet_at=now(), quiet_number=number, quiet_put_at=None)
    )
    decide_again(connection, study_uid)
    note(connection, "study.quiet", study_uid, number=number)
    return number


def unput_quiets(connection: Connection) -> list[tuple[str, int]]:
    """(study UID, number) of declarations that nobody was told of."""
    query = select(studies.c.uid, studies.c.quiet_number).where(
        studies.c.quiet_at.is_not(None), studies.c.quiet_put_at.is_(None)
    )
    return [(str(uid), int(number)) for uid, number in connection.execute(query.order_by(studies.c.uid))]


def mark_quiet_put(connection: Connection, study_uid: str, number: int) -> None:
    """The road was told of a declaration."""
    connection.execute(
        update(studies).where(studies.c.uid == study_uid, studies.c.quiet_number == number).values(quiet_put_at=now())
    )


def seconds_since(at: str) -> float:
    """Seconds by the wall clock since a time of the record, never negative: clocks are set back (I13)."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)) / timedelta(seconds=1))
