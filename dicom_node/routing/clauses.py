"""The grammar of a route's `when:`: closed, compared by value, nothing evaluated as code.

A clause is a comparison of one attribute, or `all`, `any` or `not` of clauses.  Text is compared without regard to
case and surrounding spaces.  Where an attribute has several values (Image Type), text comparisons hold when any value
does, numeric ranges when every value does.  An absent attribute fails every comparison but ``present: false``.

Regular expressions are checked when the file is loaded: only constructs whose worst case on `MAX_TEXT` characters is
known to be small are accepted, so no series description can stall the node.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dicom_node.routing.attributes import ROUTE_ATTRIBUTES
from dicom_node.routing.patterns import check_pattern

MAX_TEXT = 128
"""Characters of an attribute that a regular expression is shown (LO and CS hold at most 64 and 16)."""
MAX_PATTERN = 200
MAX_DEPTH = 8
MAX_CLAUSES = 200


def as_tuple(value: Any) -> Any:
    """YAML lists become tuples, so that a loaded route is immutable; anything else is left to strict validation."""
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, Field(allow_inf_nan=False)]
Scalar = str | int | float
Scalars = Annotated[tuple[Scalar, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=100)]
Bounds = Annotated[tuple[Number | None, Number | None], BeforeValidator(as_tuple)]

COMPARISONS = ("equals", "in", "not_in", "between", "at_least", "at_most", "contains", "matches", "present")
COMBINATIONS = ("all", "any", "not")


@dataclass(frozen=True)
class Verdict:
    """Whether one clause held for one series: what it expected, what it found, and the clauses inside it."""

    holds: bool
    expected: str
    found: str = ""
    parts: tuple[Verdict, ...] = ()

    def leaves(self) -> Iterator[Verdict]:
        """The comparisons inside, in the order of the file."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


class Clause(BaseModel):
    """One comparison, or a combination of clauses; exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    attribute: str | None = None
    equals: Scalar | None = None
    in_: Scalars | None = Field(None, alias="in")
    not_in: Scalars | None = None
    between: Bounds | None = None
    at_least: Number | None = None
    at_most: Number | None = None
    contains: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    matches: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    present: bool | None = None
    all_: Annotated[tuple[Clause, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = Field(
        None, alias="all"
    )
    any_: Annotated[tuple[Clause, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = Field(
        None, alias="any"
    )
    not_: Clause | None = Field(None, alias="not")

    @field_validator("equals", "in_", "not_in", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, bool) for v in values):
            raise ValueError('YAML reads YES and NO as true and false; write the text in quotes: "YES"')
        return value

    @field_validator("attribute")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in ROUTE_ATTRIBUTES:
            raise ValueError(f"{value!r} is not an attribute that routes may ask about")
        return value

    @field_validator("matches")
    @classmethod
    def _bounded(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value, MAX_TEXT)
        return value

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        comparisons = [name for name in COMPARISONS if self._given(name)]
        combinations = [name for name in COMBINATIONS if self._given(name)]
        if combinations:
            if len(combinations) > 1 or comparisons or self.attribute is not None:
                raise ValueError("a clause is either one comparison or one of all, any, not")
        elif self.attribute is None or len(comparisons) != 1:
            raise ValueError(f"a comparison is `attribute:` and exactly one of {', '.join(COMPARISONS)}")
        if self.between is not None:
            low, high = self.between
            if low is None and high is None:
                raise ValueError("between: [low, high] with at most one of them null")
            if low is not None and high is not None and low > high:
                raise ValueError("between: [low, high] with low not above high")
        return self

    def _given(self, name: str) -> bool:
        return getattr(self, name if name in type(self).model_fields else name + "_") is not None

    # -- judging --------------------------------------------------------------------------------------------------

    def judge(self, attributes: Mapping[str, Any]) -> Verdict:
        """Hold this clause against a series' attributes.

        Parameters
        ----------
        attributes
            Values by keyword, as `SeriesFacts.attributes` has them.

        Returns
        -------
        Verdict
            With one part per clause inside a combination; nothing is skipped, so that an explanation is whole.
        """
        if self.all_ is not None:
            parts = tuple(part.judge(attributes) for part in self.all_)
            return Verdict(all(p.holds for p in parts), "all of", parts=parts)
        if self.any_ is not None:
            parts = tuple(part.judge(attributes) for part in self.any_)
            return Verdict(any(p.holds for p in parts), "any of", parts=parts)
        if self.not_ is not None:
            part = self.not_.judge(attributes)
            return Verdict(not part.holds, "not", parts=(part,))
        return self._compare(attributes)

    def _compare(self, attributes: Mapping[str, Any]) -> Verdict:
        name = self.attribute or ""
        values = values_of(attributes.get(name))
        expected, holds = self._test(values)
        return Verdict(holds, f"{name} {expected}", " \\ ".join(_shown(v) for v in values) if values else "absent")

    def _test(self, values: tuple[Scalar, ...]) -> tuple[str, bool]:
        if self.present is not None:
            return ("present" if self.present else "absent"), bool(values) is self.present
        if self.equals is not None:
            return f"equals {_shown(self.equals)}", any(_same(v, self.equals) for v in values)
        if self.in_ is not None:
            listed = ", ".join(_shown(v) for v in self.in_)
            return f"in [{listed}]", any(_same(v, w) for v in values for w in self.in_)
        if self.not_in is not None:
            listed = ", ".join(_shown(v) for v in self.not_in)
            return f"not in [{listed}]", bool(values) and not any(_same(v, w) for v in values for w in self.not_in)
        if self.contains is not None:
            part = self.contains.casefold()
            return f"contains {self.contains}", any(part in str(v).casefold() for v in values)
        if self.matches is not None:
            pattern = compiled(self.matches)
            return f"matches /{self.matches}/", any(pattern.search(str(v)[:MAX_TEXT]) is not None for v in values)
        return self._test_range(values)

    def _test_range(self, values: tuple[Scalar, ...]) -> tuple[str, bool]:
        low, high = self.between if self.between is not None else (self.at_least, self.at_most)
        numbers = [number_of(v) for v in values]
        holds = bool(numbers) and all(
            n is not None and (low is None or n >= low) and (high is None or n <= high) for n in numbers
        )
        if low is not None and high is not None:
            return f"between {low:g} and {high:g}", holds
        return (f"at least {low:g}" if low is not None else f"at most {high:g}"), holds

    def size(self, depth: int = 1) -> tuple[int, int]:
        """Number of comparisons inside and the depth of nesting."""
        parts = [*(self.all_ or ()), *(self.any_ or ()), *((self.not_,) if self.not_ else ())]
        if not parts:
            return 1, depth
        sizes = [part.size(depth + 1) for part in parts]
        return sum(count for count, _ in sizes), max(deep for _, deep in sizes)


@lru_cache(maxsize=512)
def compiled(pattern: str) -> re.Pattern[str]:
    """The compiled form of a pattern that `check_pattern` has accepted; case does not matter."""
    return re.compile(pattern, re.IGNORECASE)


def values_of(value: Any) -> tuple[Scalar, ...]:
    """The values of an attribute, without empty ones; `()` when it is absent."""
    if value is None:
        return ()
    items = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(v for v in items if isinstance(v, (str, int, float)) and str(v).strip() != "")


def number_of(value: Any) -> float | None:
    """A finite number from a number or its decimal text (DS, IS); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _same(found: Scalar, wanted: Scalar) -> bool:
    if isinstance(wanted, str):
        return str(found).strip().casefold() == wanted.strip().casefold()
    number = number_of(found)
    return number is not None and math.isclose(number, wanted, rel_tol=1e-9, abs_tol=1e-12)


def _shown(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "".join(c if c.isprintable() else "?" for c in str(value))[:MAX_TEXT]
