"""Why a rule did or did not hold: every clause with what it expected and found, every series with its role.

For the people who ask "why did nothing happen to this study?".  It shows values of the headers that routes may ask
about, so it belongs on the operator's screen and not into logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing.cases import decide
from dicom_node.routing.clauses import Verdict
from dicom_node.routing.facts import moment_s
from dicom_node.routing.gate import PublicationHold, publication_gate
from dicom_node.routing.kinds import kinds
from dicom_node.routing.route import Route, RouteBook
from dicom_node.routing.study import CaseSpec, ClosedSeries, Decision, PastCase, StudyState, Verb
from dicom_node.words import RoleGuess, SeriesFacts


@dataclass(frozen=True)
class SeriesExplanation:
    """One series: what it is and what keeps its results back."""

    series_uid: str
    number: str
    description: str
    role: RoleGuess
    kinds: Mapping[str, str]
    holds: tuple[PublicationHold, ...]


@dataclass(frozen=True)
class RouteExplanation:
    """One route held against one series."""

    route: str
    series_uid: str
    verdict: Verdict
    excluded: Mapping[str, str]

    @property
    def holds(self) -> bool:
        return self.verdict.holds and not self.excluded


@dataclass(frozen=True)
class Explanation:
    """Everything that led to the decisions for a study."""

    series: tuple[SeriesExplanation, ...]
    rules: tuple[RouteExplanation, ...]
    decisions: tuple[Decision, ...]
    if_refused: Mapping[str, tuple[CaseSpec, ...]] = field(default_factory=dict)
    """By result family: the cases that would follow if a model refused the images of the one before."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; keys are stable."""
        return {
            "series": [_series_json(s) for s in self.series],
            "rules": [_rule_json(r) for r in self.rules],
            "decisions": [
                _decision_json(d)
                | {"if_refused": [_case_json(case) for case in self.if_refused.get(d.result_family, ())]}
                for d in self.decisions
            ],
        }

    def lines(self) -> Iterator[str]:
        """As text, one line at a time."""
        numbers = {s.series_uid: s.number for s in self.series}
        yield "Series"
        for s in self.series:
            yield from _series_lines(s)
        yield from _hold_lines(self.series)
        for route in dict.fromkeys(r.route for r in self.rules):
            yield ""
            yield f"Route {route}"
            for rule in self.rules:
                if rule.route == route:
                    yield from _rule_lines(rule, numbers[rule.series_uid])
        yield ""
        yield "Decision"
        for decision in self.decisions:
            yield from _decision_lines(decision, numbers)
            for case in self.if_refused.get(decision.result_family, ()):
                series = ", ".join(f"{role}: series {numbers.get(uid, '-')}" for role, uid in case.series.items())
                yield f"    if its model refuses the images: {case.model} by route {case.route} ({series})"


def explain(routes: RouteBook, series: Sequence[SeriesFacts], roles: Mapping[str, RoleGuess]) -> Explanation:
    """Explain what the node would do with a study whose series are all here and whose quiet period is over.

    Parameters
    ----------
    series
        Facts of the study's series; revision ids in the decisions are their places in time, counted from 1.
    roles
        By Series Instance UID, as `assign_roles` gives them.
    """
    ordered = sorted(series, key=lambda s: (_moment(s), s.series_uid))
    closed = tuple(ClosedSeries(s, roles[s.series_uid], number) for number, s in enumerate(ordered, start=1))
    study_uid = ordered[0].study_uid if ordered else ""
    calling = next((str(ae) for s in ordered if (ae := s.attributes.get("CallingAETitle"))), None)
    state = StudyState(study_uid, closed, is_quiet=True, calling_ae=calling)
    decisions = tuple(decide(routes, state))
    return Explanation(
        tuple(_explain_series(s, roles[s.series_uid]) for s in ordered),
        tuple(_explain_rule(route, s) for route in routes.routes for s in ordered),
        decisions,
        {d.result_family: tuple(_if_refused(routes, state, d.case)) for d in decisions if d.case is not None},
    )


def _if_refused(routes: RouteBook, state: StudyState, case: CaseSpec) -> Iterator[CaseSpec]:
    """The cases that would follow one another if every model on the way refused the images."""
    cases: list[PastCase] = []
    while True:
        refusal = Refusal(RefusalCode.OUT_OF_DISTRIBUTION)
        past = [replace(old, is_superseded=True) for old in cases]
        new = PastCase(len(cases) + 1, case.route, case.result_family, case.revisions, case.set_rank, refusal=refusal)
        cases = [*past, new]
        found = decide(routes, replace(state, cases=tuple(cases)))
        following = next((d for d in found if d.result_family == case.result_family), None)
        if following is None or following.verb is not Verb.RUN or following.case is None:
            return
        case = following.case
        yield case


def _explain_series(s: SeriesFacts, role: RoleGuess) -> SeriesExplanation:
    number, description = s.attributes.get("SeriesNumber", ""), s.attributes.get("SeriesDescription", "")
    holds = tuple(publication_gate(s))
    return SeriesExplanation(s.series_uid, str(number), _printable(description), role, kinds(s), holds)


def _explain_rule(route: Route, s: SeriesFacts) -> RouteExplanation:
    excluded = {kind: sign for kind, sign in kinds(s).items() if kind in route.exclusions}
    return RouteExplanation(route.name, s.series_uid, route.when.judge(s.attributes), excluded)


# -- as text ----------------------------------------------------------------------------------------------------------


def _series_lines(s: SeriesExplanation) -> Iterator[str]:
    contrast = {True: ", after contrast", False: ", before contrast"}.get(bool(s.role.after_contrast), "")
    contrast = "" if s.role.after_contrast is None else contrast
    doubt = f", may also be {' or '.join(s.role.ambiguous_with)}" if s.role.ambiguous_with else ""
    yield f"  {s.number or '-':>6}  {s.role.role:<10} {s.role.confidence:.2f}  {s.description}{contrast}{doubt}"
    for reason in s.role.reasons:
        yield f"          - {reason}"


def _hold_lines(series: Sequence[SeriesExplanation]) -> Iterator[str]:
    """Each reason to keep results back once, with the series it speaks of unless it is all of them."""
    for hold in dict.fromkeys(hold for s in series for hold in s.holds):
        of = [s.number or "-" for s in series if hold in s.holds]
        where = "" if len(of) == len(series) else f" (series {', '.join(of)})"
        yield f"  publication: {' and '.join(sorted(hold.closes))} closed{where}: {hold.reason}"


def _rule_lines(rule: RouteExplanation, number: str) -> Iterator[str]:
    yield f"  series {number or '-'}: {'held' if rule.holds else 'did not hold'}"
    for kind, sign in sorted(rule.excluded.items()):
        yield f"    no   excluded as {kind}: {sign}"
    yield from _verdict_lines(rule.verdict, 2)


def _verdict_lines(verdict: Verdict, depth: int) -> Iterator[str]:
    mark = "yes" if verdict.holds else "no "
    found = "" if verdict.parts else f"; found: {verdict.found}"
    yield f"{'  ' * depth}{mark}  {verdict.expected}{found}"
    for part in verdict.parts:
        yield from _verdict_lines(part, depth + 1)


def _decision_lines(d: Decision, numbers: Mapping[str, str]) -> Iterator[str]:
    yield f"  {d.result_family}: {d.verb}" + (f" {d.case.model} by route {d.case.route}" if d.case else "")
    if d.case is not None:
        for role, uid in d.case.series.items():
            yield f"    {role}: series {numbers.get(uid, '-')}"
        yield from (f"    {reason}" for reason in d.case.reasons[1 : 1 + len(d.case.stands_in_for)])
        where = ", ".join(d.case.destinations) or "nowhere"
        yield f"    publish {d.case.publish} to {where}, {d.case.priority}"
        for other in d.case.others:
            yield f"    not series {numbers.get(other.series_uid, '-')} ({other.role}): {other.reason}"
    else:
        for reason in d.reasons:
            yield f"    {reason}"
    if d.refusal is not None:
        yield f"    {d.refusal.code}: {d.refusal.message} Expected {d.refusal.expected}; found {d.refusal.found}."
        yield f"    {d.refusal.advice}"


# -- as JSON ----------------------------------------------------------------------------------------------------------


def _series_json(s: SeriesExplanation) -> dict[str, Any]:
    return {
        "series_uid": s.series_uid,
        "number": s.number,
        "description": s.description,
        "role": s.role.role,
        "confidence": s.role.confidence,
        "reasons": list(s.role.reasons),
        "ambiguous_with": list(s.role.ambiguous_with),
        "after_contrast": s.role.after_contrast,
        "kinds": dict(s.kinds),
        "publication_holds": [
            {"code": h.code, "closes": sorted(str(c) for c in h.closes), "reason": h.reason} for h in s.holds
        ],
    }


def _rule_json(rule: RouteExplanation) -> dict[str, Any]:
    return {
        "route": rule.route,
        "series_uid": rule.series_uid,
        "holds": rule.holds,
        "excluded": dict(rule.excluded),
        "when": _verdict_json(rule.verdict),
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = {"holds": verdict.holds, "expected": verdict.expected}
    if verdict.parts:
        said["parts"] = [_verdict_json(part) for part in verdict.parts]
    else:
        said["found"] = verdict.found
    return said


def _decision_json(d: Decision) -> dict[str, Any]:
    said: dict[str, Any] = {"result_family": d.result_family, "decision": str(d.verb), "reasons": list(d.reasons)}
    if d.case is not None:
        said["case"] = _case_json(d.case)
    if d.refusal is not None:
        said["refusal"] = d.refusal.to_json()
    return said


def _case_json(case: CaseSpec) -> dict[str, Any]:
    return {
        "route": case.route,
        "model": case.model,
        "set_rank": case.set_rank,
        "series": dict(case.series),
        **({"photograph": case.instance_uid} if case.instance_uid else {}),
        "publish": str(case.publish),
        "destinations": list(case.destinations),
        "priority": case.priority,
        "stands_in_for": {route: code.value for route, code in case.stands_in_for},
        "not_chosen": [{"series_uid": o.series_uid, "role": o.role, "reason": o.reason} for o in case.others],
    }


def _moment(s: SeriesFacts) -> float:
    moment = moment_s(s)
    return float("inf") if moment is None else moment


def _printable(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))[:64]
