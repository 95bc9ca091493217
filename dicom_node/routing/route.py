"""A route and the book of all routes, as the route file writes them: typed, frozen, closed.

A route is a rule with clauses: which series it looks at, which sequence roles its model needs in which order of
preference, which model reads them, and where the results may go.  A new route publishes nothing until somebody switches
it on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dicom_node.routing.attributes import ANY_IMAGE, ROLES
from dicom_node.routing.clauses import MAX_CLAUSES, MAX_DEPTH, Clause, as_tuple
from dicom_node.words import ROLE_ALIASES, Publish

Criterion = Literal[
    "same-frame-of-reference",
    "nearest-in-time-after-contrast",
    "nearest-in-time-before-contrast",
    "finer-voxels",
    "original-acquisition",
    "higher-confidence",
    "lowest-series-number",
]
"""How one of several series of a role is chosen; see docs/reference/routing.md."""

Exclusion = Literal[
    "localizer",
    "projection",
    "map",
    "subtraction",
    "screenshot",
    "burned-in",
    "quality-control",
    "own-result",
    "not-an-image",
]
"""Kinds of series that no model is given unless a route says otherwise (standards section 7.1)."""

ALL_EXCLUSIONS: tuple[Exclusion, ...] = (
    "localizer",
    "projection",
    "map",
    "subtraction",
    "screenshot",
    "burned-in",
    "quality-control",
    "own-result",
    "not-an-image",
)
ALWAYS_EXCLUDED = frozenset({"own-result", "not-an-image"})
"""No route can let these in (I18)."""

MOST_OF_A_FAMILY = 51
"""Characters of a family's name where each series has a result of its own: a tag of 13 more is put behind it."""

Priority = Literal["stat", "routine"]
PRIORITY_NUMBER = {"stat": 1, "routine": 10}
"""Lower goes first."""

_DEFAULT_PREFER: dict[str, tuple[Criterion, ...]] = {
    "t1c": (
        "same-frame-of-reference",
        "nearest-in-time-after-contrast",
        "finer-voxels",
        "lowest-series-number",
    ),
    "flair": (
        "same-frame-of-reference",
        "nearest-in-time-before-contrast",
        "finer-voxels",
        "lowest-series-number",
    ),
}
_DEFAULT_PREFER_OTHER: tuple[Criterion, ...] = ("same-frame-of-reference", "finer-voxels", "lowest-series-number")

RoleName = Literal["t1", "t1c", "t2", "flair", "pd", "dwi", "adc", "swi", "t2star", "dermoscopy", "image"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
AETitle = Annotated[str, Field(min_length=1, max_length=16)]


def _role(value: Any) -> Any:
    return ROLE_ALIASES.get(value, value) if isinstance(value, str) else value


Role = Annotated[RoleName, BeforeValidator(_role)]
RoleSet = Annotated[tuple[Role, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=len(ROLES))]


class Route(BaseModel):
    """One rule of the route file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    title: str = Field("", max_length=64)
    enabled: bool = True
    when: Clause
    exclude: Annotated[tuple[Exclusion, ...], BeforeValidator(as_tuple)] = ALL_EXCLUSIONS
    role_sets: Annotated[tuple[RoleSet, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=16)]
    min_confidence: float = Field(0.5, ge=0.0, le=1.0)
    prefer: dict[Role, Annotated[tuple[Criterion, ...], BeforeValidator(as_tuple)]] = Field(default_factory=dict)
    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
    result_family: Name
    cases: Literal["one-per-study", "one-per-series"] = "one-per-study"
    """How many results of the family a study has: one, or one for each of its series (photographs)."""
    fallback_for: Name | None = None
    order: int = Field(100, ge=0, le=10_000)
    destinations: Annotated[tuple[Name, ...], BeforeValidator(as_tuple)] = ()
    publish: Annotated[Publish, Field(strict=False)] = Publish.NOTHING
    priority: Priority = "routine"
    priority_by_calling_ae: dict[AETitle, Priority] = Field(default_factory=dict)

    @field_validator("publish", mode="before")
    @classmethod
    def _spelt_out(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            raise ValueError("one of nothing, pacs, all")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for roles in self.role_sets:
            if len(set(roles)) != len(roles):
                raise ValueError("a role set names a role twice")
            if ANY_IMAGE in roles and len(roles) > 1:
                raise ValueError("the role `image` stands alone in its set")
        if self.cases == "one-per-series":
            if any(len(roles) > 1 for roles in self.role_sets):
                raise ValueError("with one case per series every role set is a single role")
            if len(self.result_family) > MOST_OF_A_FAMILY:
                raise ValueError(f"with one case per series, a result_family of at most {MOST_OF_A_FAMILY} characters")
        if len({frozenset(roles) for roles in self.role_sets}) != len(self.role_sets):
            raise ValueError("the same role set is listed twice")
        count, depth = self.when.size()
        if count > MAX_CLAUSES or depth > MAX_DEPTH:
            raise ValueError(f"at most {MAX_CLAUSES} comparisons, nested at most {MAX_DEPTH} deep")
        if self.publish is not Publish.NOTHING and not self.destinations:
            raise ValueError("a route that publishes names its destinations")
        return self

    @property
    def exclusions(self) -> frozenset[str]:
        """What this route does not look at; own results and objects that are no images are always among it."""
        return frozenset(self.exclude) | ALWAYS_EXCLUDED

    def criteria(self, role: str) -> tuple[Criterion, ...]:
        """How one of several series is chosen for `role`, first criterion first."""
        given = {str(key): value for key, value in self.prefer.items()}
        return given.get(role, _DEFAULT_PREFER.get(role, _DEFAULT_PREFER_OTHER))

    def priority_for(self, calling_ae: str | None) -> Priority:
        """Stat or routine, by the calling AE title where the route lists it."""
        return self.priority_by_calling_ae.get((calling_ae or "").strip(), self.priority)


class RouteBook(BaseModel):
    """All routes of a node, in the order of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1]
    routes: Annotated[tuple[Route, ...], BeforeValidator(as_tuple)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_name = {route.name: route for route in self.routes}
        if len(by_name) != len(self.routes):
            raise ValueError("two routes have one name")
        for family in {route.result_family for route in self.routes}:
            if len({route.cases for route in self.routes if route.result_family == family}) > 1:
                raise ValueError(f"result_family {family}: its routes differ in `cases`")
        for route in self.routes:
            seen = {route.name}
            step = route
            while step.fallback_for is not None:
                if step.fallback_for not in by_name:
                    raise ValueError(f"route {step.name}: fallback_for names no route: {step.fallback_for}")
                step = by_name[step.fallback_for]
                if step.name in seen:
                    raise ValueError(f"route {route.name}: fallback_for goes in a circle")
                seen.add(step.name)
                if step.result_family != route.result_family:
                    raise ValueError(f"route {route.name}: falls back for a route of another result_family")
        return self

    def by_name(self, name: str) -> Route:
        """The route of this name.

        Raises
        ------
        KeyError
            When there is none.
        """
        for route in self.routes:
            if route.name == name:
                return route
        raise KeyError(name)

    @property
    def stood_in_for(self) -> frozenset[str]:
        """Routes for which an enabled one stands in."""
        found = (self.before(route) for route in self.routes if route.enabled)
        return frozenset(route.name for route in found if route is not None)

    def before(self, route: Route) -> Route | None:
        """The enabled route that this one stands in for; one that is switched off needs nobody in its place."""
        step = route
        while step.fallback_for is not None:
            step = self.by_name(step.fallback_for)
            if step.enabled:
                return step
        return None

    def depth(self, route: Route) -> int:
        """How many enabled routes stand before this one by `fallback_for`: 0 for a first choice."""
        depth, step = 0, self.before(route)
        while step is not None:
            step = self.before(step)
            depth += 1
        return depth

    def families(self) -> dict[str, tuple[Route, ...]]:
        """Enabled routes by result family, each in the order in which they are considered.

        Their `fallback_for` names an enabled route: a stand-in for one that is switched off is a first choice.
        """
        families: dict[str, list[Route]] = {}
        for route in sorted(self.routes, key=lambda r: (self.depth(r), r.order, self.routes.index(r))):
            if route.enabled:
                before = self.before(route)
                resolved = route.model_copy(update={"fallback_for": None if before is None else before.name})
                families.setdefault(route.result_family, []).append(resolved)
        return {family: tuple(routes) for family, routes in sorted(families.items())}
