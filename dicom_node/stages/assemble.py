"""Assemble: decide the roles of a study's series and its cases, and insert the runs (end of the `read` stage).

Roles belong to the study and are decided anew whenever a series closes.  Series that a route may need are decoded
first, so that what cannot be read is known before something is chosen.  The decision itself is a pure function of
`dicom_node.routing`; it is taken and written (`decided`) in one transaction, on the state it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection

from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import runs, studies, withdrawals
from dicom_node.record.revisions import first_revisions, load_revision
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.registry import resolve
from dicom_node.routing import (
    Appearance,
    ClosedSeries,
    Decision,
    PastCase,
    RouteBook,
    StudyState,
    Verb,
    decide,
)
from dicom_node.routing.cases import IDENTITY_ATTRIBUTES, base_family, own_family
from dicom_node.routing.facts import facts
from dicom_node.routing.roles import assign_roles
from dicom_node.stages.context import ModelDescription, Tools
from dicom_node.stages.decided import give_up, lift_holds, say_no, start_case
from dicom_node.stages.withdraw import take_back
from dicom_node.words import CaseState, RoleGuess, SeriesFacts

log = structlog.get_logger()

_TRIES = 20

ReadRevision = Callable[[Tools, int], bool]


@dataclass(frozen=True)
class _Series:
    """A closed series as the record has it."""

    revision_id: int
    facts: SeriesFacts
    held: RefusalCode | None
    refusal: dict[str, str] | None
    rejected: bool = False
    """Somebody decided that it goes no further."""
    since: Mapping[str, int] = field(default_factory=dict)
    """Of several photographs: the first revision that holds each."""


def assemble(tools: Tools, routes: RouteBook, study_uid: str, read_revision: ReadRevision) -> list[Put]:
    """Decide what is to be done for a study now; the jobs of the runs that this starts."""
    described: dict[str, ModelDescription] = {}
    for _ in range(_TRIES):
        with tools.database.read() as connection:
            seen = _closed(connection, study_uid)
            is_rejected = studies.study_row(connection, study_uid)["cancelled"]
        roles = {} if is_rejected else _roles(tools, routes, seen, read_revision)
        reach("K8")
        with tools.database.write() as connection:
            now_closed = _closed(connection, study_uid, seen)
            if {s: c.revision_id for s, c in now_closed.items()} != {s: c.revision_id for s, c in seen.items()}:
                continue  # a series closed meanwhile: decide on what is true now
            if studies.study_row(connection, study_uid)["cancelled"] != is_rejected:
                continue
            state = _state(connection, study_uid, {} if is_rejected else now_closed, roles)
            decisions = [_exact(connection, decision, study_uid) for decision in _decisions(connection, routes, state)]
            unknown = {d.case.model for d in decisions if d.verb is Verb.RUN and d.case is not None} - set(described)
            if not unknown:
                return _decide(tools, connection, routes, state, decisions, now_closed, roles, described)
        for model in sorted(unknown):  # outside the transaction: a model may have to be loaded first
            described[model] = tools.models.describe(model)
    raise RuntimeError("the study's series closed faster than they could be decided upon")


def _exact(connection: Connection, decision: Decision, study_uid: str) -> Decision:
    """The same decision with the exact version of its model, as the aliases stand in this transaction."""
    if decision.case is None:
        return decision
    chosen = resolve(connection, decision.case.model, study_uid)
    reasons = (*decision.case.reasons, *((chosen.reason,) if chosen.reason else ()))
    return replace(decision, case=replace(decision.case, model=chosen.reference, reasons=reasons))


def _closed(connection: Connection, study_uid: str, known: Mapping[str, _Series] | None = None) -> dict[str, _Series]:
    """The closed series of a study; facts of revisions in `known` are not worked out again."""
    rows = {row["uid"]: row for row in studies.series_rows(connection, study_uid)}
    found = {}
    for row in studies.closed_revisions(connection, study_uid):
        uid, own = row["series_uid"], rows[row["series_uid"]]["held"] or {}
        before = (known or {}).get(uid)
        if before is not None and before.revision_id == row["id"]:
            series_facts = before.facts
        else:
            headers = [dict(i.header) for i in load_revision(connection, int(row["id"])).instances]
            series_facts = facts(headers, calling_ae=studies.calling_ae(connection, uid))
        found[uid] = _Series(
            revision_id=int(row["id"]),
            facts=series_facts,
            held=RefusalCode(own["code"]) if own and not own.get("rejected") else None,
            refusal=row["refusal"],
            rejected=bool(own.get("rejected")),
            since=first_revisions(connection, uid) if series_facts.photographs else {},
        )
    return found


def _state(
    connection: Connection, study_uid: str, closed: Mapping[str, _Series], roles: Mapping[str, RoleGuess]
) -> StudyState:
    usable = {uid: entry for uid, entry in closed.items() if entry.refusal is None and not entry.rejected}
    return StudyState(
        study_uid=study_uid,
        closed=tuple(
            ClosedSeries(e.facts, roles[u], e.revision_id, e.held, e.since) for u, e in sorted(usable.items())
        ),
        # a held series does not gather: it waits for a person, and the rest of the study does not
        gathering=frozenset(
            r["uid"] for r in studies.series_rows(connection, study_uid) if r["is_open"] and not r["held"]
        ),
        is_quiet=studies.study_row(connection, study_uid)["quiet_at"] is not None,
        cases=tuple(_past(connection, study_uid)),
    )


def _decisions(connection: Connection, routes: RouteBook, state: StudyState) -> list[Decision]:
    """What is to be done per family; a difference of identities that somebody has let pass stops a family no more."""
    passed = {
        row["result_family"]
        for row in runs.cases_of(connection, state.study_uid)
        if row["state"] == CaseState.WAITING.value and (row["refusal"] or {}).get("passed")
    }
    first = decide(routes, state)
    if not passed:
        return first
    alike = tuple(replace(entry, facts=_without_identity(entry.facts)) for entry in state.closed)
    again = {decision.result_family: decision for decision in decide(routes, replace(state, closed=alike))}
    return [
        again[d.result_family]
        if d.result_family in passed
        and d.verb is Verb.HOLD
        and d.refusal is not None
        and d.refusal.code is RefusalCode.PATIENT_CONFLICT
        else d
        for d in first
    ]


def _without_identity(told: SeriesFacts) -> SeriesFacts:
    attributes = {k: v for k, v in told.attributes.items() if k not in IDENTITY_ATTRIBUTES}
    return replace(told, attributes=attributes, photographs=tuple(_without_identity(one) for one in told.photographs))


def _roles(
    tools: Tools, routes: RouteBook, closed: Mapping[str, _Series], read_revision: ReadRevision
) -> dict[str, RoleGuess]:
    def compare(series_uids: list[str]) -> dict[str, Appearance]:
        pictures = {}
        for uid in series_uids:
            if read_revision(tools, closed[uid].revision_id):
                with tools.database.read() as connection:
                    row = studies.revision_row(connection, closed[uid].revision_id)
                pictures[uid] = Appearance.from_json(row["appearance"])
        return pictures

    roles = assign_roles([entry.facts for entry in closed.values()], compare)
    wanted = {role for route in routes.routes if route.enabled for names in route.role_sets for role in names}
    for uid, guess in roles.items():
        if {guess.role, *guess.ambiguous_with} & wanted:
            read_revision(tools, closed[uid].revision_id)
    return roles


def _decide(
    tools: Tools,
    connection: Connection,
    routes: RouteBook,
    state: StudyState,
    decisions: Sequence[Decision],
    closed: Mapping[str, _Series],
    roles: Mapping[str, RoleGuess],
    described: Mapping[str, ModelDescription],
) -> list[Put]:
    study_uid = state.study_uid
    study = studies.study_row(connection, study_uid)
    for uid, guess in roles.items():
        if studies.set_role(connection, uid, guess.role, guess.confidence, guess.reasons):
            note(
                connection,
                "series.role",
                study_uid,
                series_uid=uid,
                role=guess.role,
                confidence=round(guess.confidence, 2),
                reasons=list(guess.reasons),
                ambiguous_with=list(guess.ambiguous_with),
            )
    studies.set_assembled(connection, [entry.revision_id for entry in closed.values()])
    if study["held"] or study["cancelled"]:
        note(connection, "study.not-decided", study_uid, because="held" if study["held"] else "rejected")
        return [] if study["held"] else _of_rejected(tools, connection, study_uid)
    follow: list[Put] = []
    for decision in decisions:
        if decision.verb is not Verb.HOLD:
            lift_holds(connection, study_uid, decision.result_family)
        if decision.verb is Verb.RUN and decision.case is not None:
            follow += start_case(tools, connection, study_uid, decision, decision.case, described)
        elif decision.verb in (Verb.REFUSE, Verb.HOLD):
            is_final = decision.verb is Verb.REFUSE
            unreadable = _unreadable(closed, roles, routes, decision.result_family) if is_final else None
            follow += say_no(tools, connection, study_uid, decision, unreadable or decision.refusal)
        elif decision.verb is Verb.NOTHING and state.is_quiet:
            follow += give_up(tools, connection, study_uid, decision.result_family)
            has_result = any(c.result_family == decision.result_family and not c.is_superseded for c in state.cases)
            unreadable = None if has_result else _unreadable(closed, roles, routes, decision.result_family)
            if unreadable is not None:
                follow += say_no(tools, connection, study_uid, decision, unreadable)
        elif decision.verb is Verb.WAIT:
            note(connection, "case.waits", study_uid, family=decision.result_family, until=decision.until,
                 reasons=list(decision.reasons))  # fmt: skip
    return follow


def _of_rejected(tools: Tools, connection: Connection, study_uid: str) -> list[Put]:
    """A person has rejected the study: what was published of it is taken back, whatever it says."""
    told = {"code": "rejected", "message": "A person has rejected the study."}
    return [
        put
        for family in withdrawals.families(connection, study_uid)
        for put in take_back(tools, connection, study_uid, family, told)
    ]


def _past(connection: Connection, study_uid: str) -> list[PastCase]:
    rows = runs.cases_of(connection, study_uid)
    superseded = {row["supersedes_case"] for row in rows}  # by a later case, or by the refusal of one
    refusals = {
        case: Refusal(RefusalCode(told["code"]), told["expected"], told["found"])
        for case, told in runs.refusals_of(connection, study_uid).items()
    }
    return [
        PastCase(
            id=int(row["id"]),
            route=row["route"],
            result_family=row["result_family"],
            revisions={role: int(number) for role, number in row["revisions"].items()},
            set_rank=int(row["rank"]),
            is_superseded=row["id"] in superseded,
            refusal=refusals.get(int(row["id"])),
        )
        for row in rows
        if row["state"] == CaseState.READY.value
    ]


def _unreadable(
    closed: Mapping[str, _Series], roles: Mapping[str, RoleGuess], routes: RouteBook, family: str
) -> Refusal | None:
    """Where a series of a role that the family wants could not be read: why."""
    base = base_family(family)
    members = routes.families().get(base, ())
    wanted = {role for route in members for names in route.role_sets for role in names}
    for uid, entry in sorted(closed.items()):
        if family != base and own_family(base, entry.facts.instance_uid or uid) != family:
            continue
        if entry.refusal is not None and roles[uid].role in wanted:
            told = entry.refusal
            return Refusal(RefusalCode(told["code"]), told["expected"], told["found"])
    return None
