"""What the record knows of a study when it is asked whether something of it may be deleted; reads only.

The judgement itself is `dicom_node.retention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, or_, select

from dicom_node.record import analyses as analysis_rows
from dicom_node.record import reviews, studies
from dicom_node.record.identity_removal import GONE
from dicom_node.record.tables import (
    analyses,
    arrivals,
    artefacts,
    cases,
    copies,
    deliveries,
    events,
    instances,
    legal_holds,
    predictions,
    reports,
    revisions,
    runs,
    series,
    trials,
)
from dicom_node.record.tables import studies as study_rows
from dicom_node.retention import Facts, Kind, Needed, Part
from dicom_node.words import CaseState, DeliveryState, RunState

_PAGE = 200
_RUNS_LIVE = (RunState.QUEUED.value, RunState.RUNNING.value)
_OURS = ("study.removed", "study.legal-hold", "study.legal-hold-lifted")
"""What retention itself writes on a timeline: it makes no study younger."""
_NOT_OVER = tuple(
    state.value for state in (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.HELD, DeliveryState.FAILED)
)


def old_studies(connection: Connection, kind: Kind, before: str, after: tuple[str, str] | None) -> list[RowMapping]:
    """Studies untouched since a moment of which something of this class may be here, the oldest first; some of them.

    Parameters
    ----------
    after
        `last_activity_at` and UID of the last one that was seen; None: from the beginning.
    """
    place = (study_rows.c.last_activity_at, study_rows.c.uid)
    query = select(*place).where(study_rows.c.last_activity_at < before, _may_have(kind))
    if after is not None:
        query = query.where(or_(place[0] > after[0], (place[0] == after[0]) & (place[1] > after[1])))
    return list(connection.execute(query.order_by(*place).limit(_PAGE)).mappings())


def _may_have(kind: Kind) -> ColumnElement[bool]:
    if kind is Kind.IDENTITY:
        return study_rows.c.identity_removed_at.is_(None)
    images = exists().where(instances.c.study_uid == study_rows.c.uid, instances.c.removed_at.is_(None))
    results = exists().where(
        runs.c.study_uid == study_rows.c.uid, artefacts.c.run_id == runs.c.id, artefacts.c.removed_at.is_(None)
    )
    return {Kind.IMAGES: images, Kind.RESULTS: results, Kind.PRIVATE: images | results}[kind]


def facts(connection: Connection, study_uid: str) -> Facts:
    """What is known of one study."""
    study = studies.study_row(connection, study_uid)
    analysis = analysis_rows.of_study(connection, study_uid)
    there = frozenset(part for part in Part if _is_there(connection, study, part))
    return Facts(
        study_uid,
        last_at=_last(connection, study),
        is_private=analysis_rows.private_reason(connection, study_uid) is not None,
        there=there,
        needed=frozenset(_needed(connection, study, analysis, there)),
    )


def _is_there(connection: Connection, study: RowMapping, part: Part) -> bool:
    if part is Part.IDENTITY:
        return study["identity_removed_at"] is None
    uid = study["uid"]
    if part is Part.IMAGES:
        return _any(connection, select(instances.c.id).where(_of(instances, uid), instances.c.removed_at.is_(None)))
    kept = select(artefacts.c.id).join(runs, runs.c.id == artefacts.c.run_id)
    return _any(connection, kept.where(_of(runs, uid), artefacts.c.removed_at.is_(None))) or _any(
        connection, select(reports.c.id).where(_of(reports, uid), reports.c.removed_at.is_(None))
    )


def _last(connection: Connection, study: RowMapping) -> str:
    """When anything happened, but for what retention itself does: the last confirmed delivery, or later."""
    happened = select(func.max(events.c.at)).where(_of(events, study["uid"]), events.c.name.not_in(_OURS))
    received = select(func.max(instances.c.received_at)).where(_of(instances, study["uid"]))
    moments = [connection.execute(query).scalar() for query in (happened, received)]
    return max(str(study["last_activity_at"]), *(str(moment) for moment in moments if moment))


def _needed(
    connection: Connection, study: RowMapping, analysis: RowMapping | None, there: frozenset[Part]
) -> Iterator[Needed]:
    uid = study["uid"]
    if _any(connection, select(legal_holds.c.study_uid).where(_of(legal_holds, uid))):
        yield Needed.LEGAL_HOLD
    if _gathers(connection, study, analysis):
        yield Needed.GATHERS
    if study["held"] or _waits_for_a_person(connection, uid):
        yield Needed.HELD
    if _runs(connection, uid):
        yield Needed.RUNNING
    if _is_on_its_way(connection, uid):
        yield Needed.ON_ITS_WAY
    if not there.isdisjoint({Part.IMAGES, Part.RESULTS}):
        yield Needed.FILES_LEFT
    if _any(connection, _originals(uid, "failed")):
        yield Needed.NOT_ARCHIVED
    if study["cancelled"]:
        return  # rejected or taken back: nobody waits for a result of it, or for an answer
    if _any(connection, select(runs.c.id).where(_of(runs, uid), runs.c.state == RunState.FAILED.value)):
        yield Needed.RUN_FAILED
    if _any(connection, _sent(uid, DeliveryState.CANCELLED.value).where(runs.c.state == RunState.BUILT.value)):
        yield Needed.UNCONFIRMED
    if analysis is not None and analysis["withdrawn_at"] is None:
        answer = reviews.latest(connection, int(analysis["id"]))
        if answer is None or answer["state"] == reviews.OPEN:
            yield Needed.UNANSWERED


def _gathers(connection: Connection, study: RowMapping, analysis: RowMapping | None) -> bool:
    uid = study["uid"]
    on_the_way = (analysis_rows.RECEIVED, analysis_rows.WITHDRAWN)
    if analysis is not None and analysis["state"] in on_the_way and analysis["submitted_at"] is None:
        return True
    closed = select(revisions.c.id).where(_of(revisions, uid))
    arriving = (
        select(arrivals.c.id)
        .join(instances, instances.c.arrival_id == arrivals.c.id)
        .where(_of(instances, uid), arrivals.c.closed_at.is_(None))
    )
    unread = select(instances.c.id).where(
        _of(instances, uid), instances.c.content_sha256.is_(None), instances.c.refusal.is_(None)
    )
    unjudged = (
        select(copies.c.id)
        .join(instances, instances.c.uid == copies.c.uid)
        .where(_of(instances, uid), copies.c.verdict.is_(None))
    )
    return (
        studies.is_undecided(connection, uid)
        or (study["quiet_at"] is None and not study["cancelled"] and _any(connection, closed))
        or any(_any(connection, query) for query in (arriving, unread, unjudged))
    )


def _waits_for_a_person(connection: Connection, uid: str) -> bool:
    holds = connection.execute(select(series.c.held).where(_of(series, uid), series.c.held.is_not(None))).scalars()
    if any(held and not held.get("rejected") for held in holds):
        return True
    return _any(connection, select(cases.c.id).where(_of(cases, uid), cases.c.state == CaseState.HELD.value))


def _runs(connection: Connection, uid: str) -> bool:
    live = select(runs.c.id).where(_of(runs, uid), runs.c.state.in_(_RUNS_LIVE))
    tried = select(trials.c.id).join(runs, runs.c.id == trials.c.run_id)
    asked = select(predictions.c.id).where(_of(predictions, uid), predictions.c.state.in_(_RUNS_LIVE))
    waiting = tried.where(_of(runs, uid), trials.c.state == "queued")
    return any(_any(connection, query) for query in (live, waiting, asked))


def _is_on_its_way(connection: Connection, uid: str) -> bool:
    return _any(connection, _sent(uid, *_NOT_OVER)) or _any(connection, _originals(uid, "pending"))


def _sent(uid: str, *states: str) -> Select[Any]:
    joined = select(deliveries.c.id).join(runs, runs.c.id == deliveries.c.run_id)
    return joined.where(_of(runs, uid), deliveries.c.state.in_(states))


def _originals(uid: str, state: str) -> Select[Any]:
    return select(instances.c.id).where(
        _of(instances, uid), instances.c.pass_state == state, instances.c.removed_at.is_(None)
    )


def _of(table: Any, uid: str) -> ColumnElement[bool]:
    clause: ColumnElement[bool] = table.c.study_uid == uid
    return clause


def _any(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def is_busy(connection: Connection) -> bool:
    """Whether the road has work: retention waits behind it."""
    live = select(runs.c.id).where(runs.c.state.in_(_RUNS_LIVE), runs.c.cancel.is_(False))
    asked = select(predictions.c.id).where(predictions.c.state.in_(_RUNS_LIVE))
    waiting = select(analyses.c.id).where(analyses.c.state == analysis_rows.RECEIVED)
    return any(_any(connection, query) for query in (live, asked, waiting))


def lone_analyses(connection: Connection, before: str) -> list[RowMapping]:
    """Analyses with an identity that never became a study and are over since before a moment; some of them."""
    is_over = or_(
        (analyses.c.state == analysis_rows.FAILED) & analyses.c.photo_path.is_(None),
        (analyses.c.state == analysis_rows.WITHDRAWN) & analyses.c.submitted_at.is_not(None),
    )
    has_study = exists().where(study_rows.c.uid == analyses.c.study_uid)
    told = or_(analyses.c.patient.is_not(None), analyses.c.description != "", analyses.c.order_id.is_not(None))
    query = select(analyses).where(is_over, told, ~has_study, analyses.c.created_at < before)
    rows = connection.execute(query.order_by(analyses.c.id).limit(_PAGE)).mappings()
    return [row for row in rows if not (row["patient"] or {}).get(GONE)]
