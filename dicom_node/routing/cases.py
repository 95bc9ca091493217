"""Case assembly: which revisions one route gives to one model, and when (design section 4, *case complete*).

A pure decision over the state of a study.  A route's case runs at once when its best role set is filled and none of
its roles is ambiguous; lesser sets and fallback routes are considered only after the study's quiet period, and then a
route also gives way whose model has refused these very images (`fallback`).  At most one case of a result family is
current.  After the quiet period the choice depends on the closed revisions alone, so that
every order of arrival ends in the same case; a case that was chosen on less is superseded, never added to (I19).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing.attributes import ANY_IMAGE
from dicom_node.routing.choice import Candidate, choose, why_not
from dicom_node.routing.clauses import values_of
from dicom_node.routing.fallback import Fit, Pick, gives_way, pick
from dicom_node.routing.kinds import kinds
from dicom_node.routing.route import PRIORITY_NUMBER, Priority, Route, RouteBook
from dicom_node.routing.study import CaseSpec, ClosedSeries, Decision, NotChosen, PastCase, StudyState, Verb

IDENTITY_ATTRIBUTES = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""Must not differ between the series of a study (standards section 7.1); named, never printed."""


def decide(routes: RouteBook, study: StudyState) -> list[Decision]:
    """Decide for every result family what is to be done now.

    Parameters
    ----------
    routes
        The route file.
    study
        Closed revisions with facts and roles, what is still gathering, whether the quiet period is over, and the cases
        there are.

    Returns
    -------
    list of Decision
        One per result family, in the order of their names.  The same state gives the same decisions, whatever the
        order of its parts.
    """
    decisions = []
    for family, members in routes.families().items():
        if members[0].cases == "one-per-series":
            decisions += _decide_each_series(family, members, study)
            continue
        current = _current(study, family)
        fits = [fit_route(route, study) for route in members]
        decisions.append(_decide_family(family, fits, study, current, study))
    return decisions


def _decide_each_series(family: str, members: Sequence[Route], study: StudyState) -> list[Decision]:
    """One decision per series that a route looks at, or that has a case; and one that says that the family was seen.

    A series of photographs is as many as it holds.
    """
    by_name = {
        own_family(family, closed.facts.instance_uid or closed.facts.series_uid): closed
        for closed in (one for series in study.closed for one in _one_by_one(series))
        if any(fit_route(route, replace(study, closed=(closed,))).concerns_study for route in members)
    }
    names = {*by_name, *(c.result_family for c in study.cases if base_family(c.result_family) == family)} - {family}
    reasons = () if names else ("no series of the study passes the clauses of a route of this family",)
    decisions = [Decision(Verb.NOTHING, family, reasons=reasons)]
    for name in sorted(names):
        own = by_name.get(name)
        alone = replace(
            study,
            closed=() if own is None else (own,),
            gathering=study.gathering & ({own.facts.series_uid} if own is not None else study.gathering),
            cases=tuple(c for c in study.cases if c.result_family == name),
        )
        fits = [fit_route(route, alone) for route in members]
        decisions.append(_decide_family(name, fits, alone, _current(study, name), study))
    return decisions


def _one_by_one(closed: ClosedSeries) -> tuple[ClosedSeries, ...]:
    """Each photograph of a series by itself, since the revision that brought it; anything else as it is."""
    if not closed.facts.photographs:
        return (closed,)
    return tuple(
        replace(closed, facts=one, revision_id=closed.since.get(one.instance_uid, closed.revision_id), since={})
        for one in closed.facts.photographs
    )


def own_family(family: str, uid: str) -> str:
    """The result family of one photograph, or of one series, where each has a result of its own."""
    return f"{family}.{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def base_family(name: str) -> str:
    """The route file's name of a result family."""
    return name.partition(".")[0]


def fit_route(route: Route, study: StudyState) -> Fit:
    """Sort a study's closed series by what a route can use them for."""
    wanted: set[str] = {role for roles in route.role_sets for role in roles}
    sure: dict[str, list[Candidate]] = {}
    unsure: dict[str, list[Candidate]] = {}
    others: list[NotChosen] = []
    passing = 0
    for closed in sorted(study.closed, key=lambda c: c.facts.series_uid):
        reason = _not_looked_at(route, closed)
        if reason is None:
            passing += 1
            reason = _no_role(route, closed, wanted)
        if reason is not None:
            others.append(NotChosen(closed.facts.series_uid, closed.revision_id, closed.role.role, reason))
            continue
        candidate = Candidate(closed.facts, closed.role, closed.revision_id)
        if ANY_IMAGE in wanted:
            sure.setdefault(ANY_IMAGE, []).append(candidate)
        possible = {closed.role.role, *closed.role.ambiguous_with} & wanted
        target = unsure if closed.role.ambiguous_with else sure
        for role in sorted(possible):
            target.setdefault(role, []).append(candidate)
    return Fit(
        route,
        {role: tuple(found) for role, found in sure.items()},
        {role: tuple(found) for role, found in unsure.items()},
        tuple(others),
        concerns_study=passing > 0,
    )


def _not_looked_at(route: Route, closed: ClosedSeries) -> str | None:
    excluded = {kind: sign for kind, sign in kinds(closed.facts).items() if kind in route.exclusions}
    if excluded:
        kind, sign = min(excluded.items())
        return f"excluded as {kind}: {sign}"
    verdict = route.when.judge(closed.facts.attributes)
    if not verdict.holds:
        failed = next((leaf.expected for leaf in verdict.leaves() if not leaf.holds), "a combination of clauses")
        return f"a clause of the route failed: {failed}"
    return None


def _no_role(route: Route, closed: ClosedSeries, wanted: set[str]) -> str | None:
    if ANY_IMAGE in wanted:
        return None
    if not {closed.role.role, *closed.role.ambiguous_with} & wanted:
        return f"no role of the route: it is {closed.role.role}"
    if not closed.role.ambiguous_with and closed.role.confidence < route.min_confidence:
        return f"its role's confidence {closed.role.confidence:.2f} is below {route.min_confidence:.2f}"
    return None


# -- one family -------------------------------------------------------------------------------------------------------


def _decide_family(
    family: str, fits: Sequence[Fit], study: StudyState, current: PastCase | None, whole: StudyState
) -> Decision:
    concerned = [fit for fit in fits if fit.concerns_study]
    if not concerned:
        return _without_candidates(family, fits, current, study)
    conflict = differing_identity(whole)
    if conflict:
        refusal = Refusal(
            RefusalCode.PATIENT_CONFLICT, "one patient in all series", f"differing: {', '.join(conflict)}"
        )
        return Decision(Verb.HOLD, family, refusal=refusal, reasons=(refusal.message,))
    found = _best_now(fits, study, current)
    if found is None:
        return _nothing_filled(family, concerned, study, current)
    spec = replace(_case_spec(found, study), result_family=family)
    held = _held(spec, study)
    if held is not None:
        return Decision(Verb.HOLD, family, spec.route, refusal=Refusal(held), reasons=("a chosen series is held",))
    if current is not None and (current.route, dict(current.revisions)) == (spec.route, dict(spec.revisions)):
        reasons = (f"case {current.id} already reads this choice",)
        return Decision(Verb.NOTHING, family, spec.route, case=spec, reasons=reasons)
    return Decision(
        Verb.RUN,
        family,
        spec.route,
        case=spec,
        supersedes=current.id if current else None,
        repeats=_same_before(spec, study),
        reasons=spec.reasons,
    )


def _best_now(fits: Sequence[Fit], study: StudyState, current: PastCase | None) -> Pick | None:
    """The route and set to run now: before the quiet period is over only a first choice's best set, unambiguous.

    Until then a standing case gives way only to its own route or to one that comes before it, and what was refused
    is not tried again while another route may stand in for it.
    """
    if is_quiet(study):
        return pick(fits, study)
    for fit in (fit for fit in fits if fit.concerns_study):
        if fit.route.fallback_for is None and fit.is_filled(0) and not fit.is_open(0):
            chosen = choose(fit.route, fit.route.role_sets[0], fit.candidates)
            is_gathering = any(c.facts.series_uid in study.gathering for c in chosen.values())
            if not is_gathering and gives_way(fit, 0, fits, study) is None:
                return Pick(fit, 0)
        if current is not None and current.route == fit.route.name:
            break
    return None


def _without_candidates(family: str, fits: Sequence[Fit], current: PastCase | None, study: StudyState) -> Decision:
    if current is not None and is_quiet(study):
        refusal = Refusal(RefusalCode.ROLES_UNFILLED, "a series for every role", "none any longer")
        return Decision(Verb.REFUSE, family, current.route, supersedes=current.id, refusal=refusal)
    reasons = ("no series of the study passes the clauses of a route of this family",) if fits else ()
    return Decision(Verb.NOTHING, family, reasons=reasons)


def _nothing_filled(family: str, concerned: Sequence[Fit], study: StudyState, current: PastCase | None) -> Decision:
    first = concerned[0]
    missing = [_missing(fit, rank, concerned, study) for fit in concerned for rank in range(len(fit.route.role_sets))]
    if not is_quiet(study):
        return Decision(
            Verb.WAIT,
            family,
            first.route.name,
            until=study.quiet_until or "the study's quiet period is over",
            reasons=tuple(dict.fromkeys(missing)),
        )
    is_open = any(_is_open_and_else_filled(fit, rank) for fit in concerned for rank in range(len(fit.route.role_sets)))
    code = RefusalCode.ROLES_AMBIGUOUS if is_open else RefusalCode.ROLES_UNFILLED
    expected = " or ".join("+".join(roles) for fit in concerned for roles in fit.route.role_sets)
    found = ", ".join(sorted(c.role.role + ("?" if c.role.ambiguous_with else "") for c in study.closed))
    return Decision(
        Verb.REFUSE,
        family,
        first.route.name,
        supersedes=current.id if current else None,
        refusal=Refusal(code, expected, found),
        reasons=tuple(dict.fromkeys(missing)),
    )


def _missing(fit: Fit, rank: int, concerned: Sequence[Fit], study: StudyState) -> str:
    """What keeps a set from being run: a refusal of its very images, or what it lacks."""
    if rank == next(fit.filled(), None):
        refusal = gives_way(fit, rank, concerned, study)
        if refusal is not None:
            return f"{fit.route.name} [{', '.join(fit.route.role_sets[rank])}]: refused, {refusal.code.value}"
    return fit.lacking(rank)


def _is_open_and_else_filled(fit: Fit, rank: int) -> bool:
    roles = fit.route.role_sets[rank]
    return all(fit.candidates.get(role) or fit.unsure.get(role) for role in roles)


# -- the case ---------------------------------------------------------------------------------------------------------


def _case_spec(found: Pick, study: StudyState) -> CaseSpec:
    fit, rank = found.fit, found.rank
    route, roles = fit.route, fit.route.role_sets[rank]
    chosen = choose(route, roles, fit.candidates)
    return CaseSpec(
        route=route.name,
        result_family=route.result_family,
        model=route.model,
        set_rank=rank,
        roles=tuple(roles),
        revisions={role: candidate.revision_id for role, candidate in chosen.items()},
        series={role: candidate.facts.series_uid for role, candidate in chosen.items()},
        publish=route.publish,
        destinations=route.destinations,
        priority=_priority(route, chosen, study),
        reasons=_reasons(found, chosen),
        others=_not_chosen(fit, chosen),
        instance_uid=next((c.facts.instance_uid for c in chosen.values()), ""),
        stands_in_for=tuple((gone.route, gone.code) for gone in found.gave_way),
    )


def _priority(route: Route, chosen: Mapping[str, Candidate], study: StudyState) -> Priority:
    """The most urgent of those that the senders of the study, or else of the chosen series, have."""
    callers = (
        [study.calling_ae]
        if study.calling_ae
        else [str(candidate.facts.attributes.get("CallingAETitle", "")) for candidate in chosen.values()]
    )
    return min((route.priority_for(caller) for caller in callers), key=PRIORITY_NUMBER.__getitem__)


def _reasons(found: Pick, chosen: Mapping[str, Candidate]) -> tuple[str, ...]:
    route, rank = found.fit.route, found.rank
    said = [f"route {route.name}, role set {rank + 1} of {len(route.role_sets)}: {' + '.join(route.role_sets[rank])}"]
    said += [f"{route.name} stands in for {gone.route}: {gone.because}" for gone in found.gave_way]
    for role, candidate in chosen.items():
        number = candidate.facts.attributes.get("SeriesNumber", "without number")
        contrast = ""
        if candidate.role.after_contrast is not None:
            contrast = ", after contrast" if candidate.role.after_contrast else ", before contrast"
        because = "; ".join(candidate.role.reasons)
        said.append(f"{role}: series {number}{contrast} (confidence {candidate.role.confidence:.2f}: {because})")
    return tuple(said)


def _not_chosen(fit: Fit, chosen: Mapping[str, Candidate]) -> tuple[NotChosen, ...]:
    taken = {candidate.facts.series_uid for candidate in chosen.values()}
    others = list(fit.others)
    seen = set(taken)
    for is_sure, pool in ((True, fit.candidates), (False, fit.unsure)):
        for role, candidates in pool.items():
            for candidate in candidates:
                if candidate.facts.series_uid in seen:
                    continue
                seen.add(candidate.facts.series_uid)
                if not is_sure:
                    reason = f"may also be {', '.join(candidate.role.ambiguous_with)}"
                elif role in chosen:
                    reason = why_not(fit.route, role, chosen, candidate)
                else:
                    reason = "its role is not in the filled role set"
                others.append(NotChosen(candidate.facts.series_uid, candidate.revision_id, candidate.role.role, reason))
    return tuple(sorted(others, key=lambda o: o.series_uid))


# -- the study --------------------------------------------------------------------------------------------------------


def is_quiet(study: StudyState) -> bool:
    """Whether the quiet period is over and no series is gathering."""
    return study.is_quiet and not study.gathering


def differing_identity(study: StudyState) -> tuple[str, ...]:
    """Keywords of the patient's identity that differ between the study's series.

    An absent Patient ID differs from a present one; of the others only present values are compared, because work
    stations leave them out.  Trailing empty components of a name mean nothing (PS3.5 section 6.2.1).
    """
    found = []
    for keyword in IDENTITY_ATTRIBUTES:
        values = {
            "\\".join(str(v).strip().rstrip("^") for v in values_of(facts.attributes.get(keyword)))
            for closed in study.closed
            for facts in closed.facts.photographs or (closed.facts,)
        }
        if keyword != "PatientID":
            values.discard("")
        if len(values) > 1:
            found.append(keyword)
    return tuple(found)


def _held(spec: CaseSpec, study: StudyState) -> RefusalCode | None:
    by_uid = {closed.facts.series_uid: closed.held for closed in study.closed}
    return next((held for uid in spec.series.values() if (held := by_uid[uid]) is not None), None)


def _current(study: StudyState, family: str) -> PastCase | None:
    standing = [c for c in study.cases if c.result_family == family and not c.is_superseded]
    return max(standing, key=lambda c: c.id, default=None)


def _same_before(spec: CaseSpec, study: StudyState) -> int | None:
    same = [c.id for c in study.cases if c.route == spec.route and dict(c.revisions) == dict(spec.revisions)]
    return max(same, default=None)
