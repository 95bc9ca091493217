"""Which of several series fills a role: a route's written `prefer:`, criterion after criterion.

The choice is made for all roles of a set together, because "same frame of reference as the partner" speaks of two.
It depends only on the candidates, never on the order in which they came; the last word is the Series Instance UID.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicom_node.routing.clauses import number_of, values_of
from dicom_node.routing.facts import moment_s
from dicom_node.routing.kinds import is_reformat
from dicom_node.routing.route import Route
from dicom_node.words import RoleGuess, SeriesFacts

MAX_COMBINATIONS = 4096
"""Of frames of reference over the roles of one set; beyond, only the best candidates of each role are combined."""

IN_WORDS = {
    "same-frame-of-reference": "shares the frame of reference of its partners",
    "nearest-in-time-after-contrast": "nearest in time after contrast",
    "nearest-in-time-before-contrast": "nearest in time before contrast",
    "finer-voxels": "finer voxels",
    "original-acquisition": "acquired as it is, not reformatted",
    "higher-confidence": "its role is surer",
    "lowest-series-number": "lowest series number",
}


@dataclass(frozen=True)
class Candidate:
    """A closed series that may fill a role."""

    facts: SeriesFacts
    role: RoleGuess
    revision_id: int

    @property
    def frame_of_reference(self) -> str:
        return str(self.facts.attributes.get("FrameOfReferenceUID", ""))


Key = tuple[float, ...]


def choose(route: Route, roles: Sequence[str], candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, Candidate]:
    """Pick one candidate for each role of a set.

    Parameters
    ----------
    roles
        The role set.
    candidates
        At least one per role.

    Returns
    -------
    dict
        By role; no series fills two roles, because a series has one role.
    """
    shortlists = {role: _shortlist(route, role, candidates[role]) for role in roles}
    while math.prod(len(shortlist) for shortlist in shortlists.values()) > MAX_COMBINATIONS:
        longest = max(roles, key=lambda role: len(shortlists[role]))
        shortlists[longest] = shortlists[longest][:-1]
    combinations = itertools.product(*(shortlists[role] for role in roles))
    best = min(combinations, key=lambda combination: _key_of_all(route, roles, combination))
    return dict(zip(roles, best, strict=True))


def why_not(route: Route, role: str, chosen: Mapping[str, Candidate], other: Candidate) -> str:
    """The first criterion by which the chosen series came before `other`, in words."""
    partners = [candidate for name, candidate in chosen.items() if name != role]
    for criterion in route.criteria(role):
        if _score(criterion, chosen[role], partners) < _score(criterion, other, partners):
            return f"the chosen series comes first by {criterion}: {IN_WORDS[criterion]}"
    return "equal by every criterion; the lower Series Instance UID was taken"


def _shortlist(route: Route, role: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best candidate of each frame of reference, best first: no other can win."""
    ranked = sorted(candidates, key=lambda c: (_key(route, role, c, ()), c.facts.series_uid))
    best: dict[str, Candidate] = {}
    for candidate in ranked:
        best.setdefault(candidate.frame_of_reference, candidate)
    return list(best.values())


def _key_of_all(route: Route, roles: Sequence[str], combination: Sequence[Candidate]) -> tuple[Key, tuple[str, ...]]:
    """First criteria of all roles, then their second ones, and so on; then the UIDs."""
    columns = []
    for role, candidate in zip(roles, combination, strict=True):
        partners = [other for other in combination if other is not candidate]
        columns.append(_key(route, role, candidate, partners))
    interleaved = itertools.zip_longest(*columns, fillvalue=0.0)
    return tuple(score for row in interleaved for score in row), tuple(c.facts.series_uid for c in combination)


def _key(route: Route, role: str, candidate: Candidate, partners: Sequence[Candidate]) -> Key:
    return tuple(_score(criterion, candidate, partners) for criterion in route.criteria(role))


def _score(criterion: str, candidate: Candidate, partners: Sequence[Candidate]) -> float:
    """Lower is better."""
    if criterion == "same-frame-of-reference":
        frame = candidate.frame_of_reference
        return float(sum(not frame or frame != partner.frame_of_reference for partner in partners))
    if criterion == "nearest-in-time-after-contrast":
        return _time_score(candidate, wanted=True)
    if criterion == "nearest-in-time-before-contrast":
        return _time_score(candidate, wanted=False)
    if criterion == "finer-voxels":
        return _voxel_mm3(candidate.facts)
    if criterion == "original-acquisition":
        return float(is_reformat(candidate.facts))
    if criterion == "higher-confidence":
        return -candidate.role.confidence
    number = number_of(candidate.facts.attributes.get("SeriesNumber"))
    return math.inf if number is None else number


_ONE_CENTURY_S = 1e10


def _time_score(candidate: Candidate, *, wanted: bool) -> float:
    """On the wanted side of contrast first, nearest to it; then the unknown, then the other side, earliest first.

    After contrast the nearest is the earliest; before contrast the latest.  Where nothing tells, the earlier of two
    is the likelier to be before contrast, and as good as any after it.
    """
    moment = moment_s(candidate.facts)
    if moment is None:
        return 4 * _ONE_CENTURY_S
    if candidate.role.after_contrast is None:
        return 1 * _ONE_CENTURY_S + moment
    if candidate.role.after_contrast is not wanted:
        return 2 * _ONE_CENTURY_S + (moment if not wanted else -moment)
    return moment if wanted else -moment


def _voxel_mm3(series: SeriesFacts) -> float:
    spacing = [number_of(v) for v in values_of(series.attributes.get("SpacingMm"))]
    step = number_of(series.attributes.get("SliceStepMm")) or number_of(series.attributes.get("SliceThickness"))
    known = [n for n in (*spacing, step) if n is not None and n > 0]
    return round(math.prod(known), 4) if len(known) == 3 else math.inf
