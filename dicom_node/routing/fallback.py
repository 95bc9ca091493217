"""Which route of a family serves a study, and which routes gave way to it.

A route gives way to those that name it as their `fallback_for` in two cases only: no role set of it is filled, or its
model has refused the very images that it would be given.  Such a refusal is known by its code (`OF_THE_IMAGES`); a
fault of this installation (a package that is missing, a backend that is not there) moves nobody aside, because it would
then never be noticed.  Where the last in the row was refused too, its refusal is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing.choice import Candidate, choose
from dicom_node.routing.route import Route
from dicom_node.routing.study import NotChosen, StudyState

OF_THE_IMAGES = frozenset(
    {
        RefusalCode.MODALITY_UNSUPPORTED,
        RefusalCode.PROTOCOL_UNSUPPORTED,
        RefusalCode.ORIENTATION_UNSUPPORTED,
        RefusalCode.TOO_FEW_SLICES,
        RefusalCode.IMAGE_BLANK,
        RefusalCode.GEOMETRY_INCONSISTENT,
        RefusalCode.OUT_OF_DISTRIBUTION,
        RefusalCode.REGISTRATION_FAILED,
        RefusalCode.BRAIN_NOT_FOUND,
    }
)
"""Codes by which a model says that it was not made for these images: another model may have been."""


@dataclass(frozen=True)
class Fit:
    """What one route can do with a study: candidates by role, and what stands in the way."""

    route: Route
    candidates: Mapping[str, tuple[Candidate, ...]]
    """Sure candidates by role."""
    unsure: Mapping[str, tuple[Candidate, ...]]
    """Candidates whose own or possible role it is, while others are possible too."""
    others: tuple[NotChosen, ...] = field(default=())
    """Series that the route does not look at, with the reason."""
    concerns_study: bool = False
    """Whether any series passed the route's clauses and exclusions, whatever its role."""

    def is_filled(self, rank: int) -> bool:
        """Whether there is a sure candidate for every role of a set."""
        return all(self.candidates.get(role) for role in self.route.role_sets[rank])

    def is_open(self, rank: int) -> bool:
        """Whether some series may or may not be one of this set's roles."""
        return any(self.unsure.get(role) for role in self.route.role_sets[rank])

    def filled(self) -> Iterator[int]:
        """The role sets that are filled, best first."""
        return (rank for rank in range(len(self.route.role_sets)) if self.is_filled(rank))

    def lacking(self, rank: int) -> str:
        """What keeps a set from being run, in words."""
        roles = self.route.role_sets[rank]
        absent = [r for r in roles if not self.candidates.get(r) and not self.unsure.get(r)]
        unsure = [r for r in roles if self.unsure.get(r)]
        parts = [f"no series for {', '.join(absent)}"] if absent else []
        parts += [f"not sure which series is {', '.join(unsure)}"] if unsure else []
        if not parts and self.route.fallback_for:
            parts = [f"filled, but it only stands in for {self.route.fallback_for}"]
        if not parts:
            parts = ["filled, but it is not the route's best set" if rank else "still gathering"]
        return f"{self.route.name} [{', '.join(roles)}]: {'; '.join(parts)}"


@dataclass(frozen=True)
class GaveWay:
    """A route that gave way: why, as a code and in words."""

    route: str
    code: RefusalCode
    because: str


@dataclass(frozen=True)
class Pick:
    """The route and role set that serve a study, and the routes before it in its row that do not."""

    fit: Fit
    rank: int
    gave_way: tuple[GaveWay, ...] = ()


def pick(concerned: Sequence[Fit], study: StudyState) -> Pick | None:
    """The route and set to run once everything is here: the first that is filled and was not refused.

    Parameters
    ----------
    concerned
        Fits of the routes of one family, in their order.

    Returns
    -------
    Pick
        The last one refused where every route that might stand in was refused or is not filled; None where none is
        filled.
    """
    gave: dict[str, GaveWay] = {}
    last: Pick | None = None
    for fit in concerned:
        before = list(_row(fit.route, concerned))
        if last is not None and last.fit.route.name not in before:
            continue  # a refusal is the answer, unless a route is there to stand in for just this one
        rank = next(fit.filled(), None)
        if rank is None:
            missing = "; ".join(fit.lacking(n) for n in range(len(fit.route.role_sets)))
            gave[fit.route.name] = GaveWay(fit.route.name, RefusalCode.ROLES_UNFILLED, missing)
            continue
        found = Pick(fit, rank, tuple(gave[name] for name in before if name in gave))
        refusal = refused_before(fit, rank, study)
        if refusal is None:
            return found
        gave[fit.route.name] = GaveWay(fit.route.name, refusal.code, _in_words(fit.route, refusal))
        last = found
    return last


def gives_way(fit: Fit, rank: int, concerned: Iterable[Fit], study: StudyState) -> Refusal | None:
    """The refusal of a choice for which another route of the study may stand in; None where it stands."""
    fits = list(concerned)
    if not any(fit.route.name in _row(other.route, fits) for other in fits):
        return None
    return refused_before(fit, rank, study)


def refused_before(fit: Fit, rank: int, study: StudyState) -> Refusal | None:
    """How a model has refused the very images that this set would give it; None when it has not."""
    chosen = choose(fit.route, fit.route.role_sets[rank], fit.candidates)
    revisions = {role: candidate.revision_id for role, candidate in chosen.items()}
    same = [case for case in study.cases if (case.route, dict(case.revisions)) == (fit.route.name, revisions)]
    newest = max(same, key=lambda case: case.id, default=None)
    if newest is None or newest.refusal is None or newest.refusal.code not in OF_THE_IMAGES:
        return None
    return newest.refusal


def _row(route: Route, concerned: Iterable[Fit]) -> Iterator[str]:
    """Names of the routes that one stands in for, the nearest first."""
    stands_in_for = {fit.route.name: fit.route.fallback_for for fit in concerned}
    name = route.fallback_for
    while name is not None:  # the route file has no circles
        yield name
        name = stands_in_for.get(name)


def _in_words(route: Route, refusal: Refusal) -> str:
    return (
        f"the model of {route.name} refused the images ({refusal.code.value}: expected {refusal.expected}; "
        f"found {refusal.found})"
    )
