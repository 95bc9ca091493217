"""What the read-only endpoint reads from: a store that someone else fills, and one in memory.

The bridge never writes.  A store answers two questions, `read` and `select`; `select_from` answers the second one for
any store that can list its resources, so that a small node needs no search tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from fhir_bridge.bundle import resolve


@dataclass(frozen=True)
class StoredResource:
    """One resource in its current version."""

    resource: Mapping[str, Any]
    """With `resourceType` and `id`; `meta` is written by `rendered`."""
    version: int
    last_updated: datetime
    """Aware; when this version came into the store."""
    is_deleted: bool = False
    """There was one; of it nothing is left but its type and id (http.html 3.1.0.7.1)."""

    @property
    def kind(self) -> str:
        return str(self.resource["resourceType"])

    @property
    def id(self) -> str:
        return str(self.resource["id"])

    def rendered(self) -> dict[str, Any]:
        """The resource with its `meta.versionId` and `meta.lastUpdated`."""
        when = self.last_updated.isoformat(timespec="milliseconds")
        meta = {**self.resource.get("meta", {}), "versionId": str(self.version), "lastUpdated": when}
        head = {"resourceType": self.kind, "id": self.id, "meta": meta}
        return {**head, **{key: value for key, value in self.resource.items() if key not in head}}


class Token(NamedTuple):
    """One searchable value of a resource: a parameter's name, a system and a code or value."""

    parameter: str
    system: str
    value: str


@dataclass(frozen=True)
class TokenClause:
    """One search parameter of a query: any of `values` may hold.  None as system or value means "whichever"."""

    parameter: str
    values: tuple[tuple[str | None, str | None], ...]

    def holds(self, tokens: Iterable[Token]) -> bool:
        """Whether one of a resource's tokens satisfies one of the values."""
        mine = [token for token in tokens if token.parameter == self.parameter]
        return any(
            (system is None or token.system == system) and (value is None or token.value == value)
            for token in mine
            for system, value in self.values
        )


@dataclass(frozen=True)
class Query:
    """A search: every clause holds, updated within the bounds, newest first, after a place in that order."""

    kind: str
    clauses: tuple[TokenClause, ...] = ()
    updated_from: datetime | None = None
    """Inclusive."""
    updated_before: datetime | None = None
    """Exclusive."""
    after: tuple[datetime, str] | None = None
    """`last_updated` and id of the last resource of the page before."""
    limit: int = 50


class ReportStore(Protocol):
    """Published results, one row per resource; read-only here."""

    def read(self, kind: str, resource_id: str) -> StoredResource | None:
        """The current version of ``kind/resource_id``, or None."""
        ...

    def select(self, query: Query) -> list[StoredResource]:
        """At most `query.limit` resources, ordered by `last_updated` descending, then id descending."""
        ...

    def count(self, query: Query) -> int:
        """How many resources the query matches in all; `after` and `limit` do not count."""
        ...


def _codings(value: Any) -> Iterable[tuple[str, str]]:
    for concept in value if isinstance(value, list) else [value] if value else []:
        for coding in concept.get("coding", []):
            yield str(coding.get("system", "")), str(coding.get("code", ""))


def _identifiers(value: Any) -> Iterable[tuple[str, str]]:
    for item in value if isinstance(value, list) else [value] if value else []:
        if item:
            yield str(item.get("system", "")), str(item.get("value", ""))


def _logical(value: Any) -> Iterable[tuple[str, str]]:
    for reference in value if isinstance(value, list) else [value] if value else []:
        yield from _identifiers(reference.get("identifier"))


def _literal(value: Any) -> Iterable[tuple[str, str]]:
    for reference in value if isinstance(value, list) else [value] if value else []:
        if reference.get("reference"):
            yield "", str(reference["reference"])


_COMMON = ("DiagnosticReport", "Observation", "ImagingStudy")
_Reader = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
_READERS: tuple[tuple[str, tuple[str, ...], _Reader], ...] = (
    ("identifier", (*_COMMON, "Device"), lambda r: _identifiers(r.get("identifier"))),
    ("patient:identifier", _COMMON, lambda r: _logical(r.get("subject"))),
    ("based-on:identifier", _COMMON, lambda r: _logical(r.get("basedOn"))),
    ("category", _COMMON[:2], lambda r: _codings(r.get("category"))),
    ("code", _COMMON[:2], lambda r: _codings(r.get("code"))),
    ("status", _COMMON, lambda r: [("", str(r.get("status", "")))]),
    ("study", ("DiagnosticReport",), lambda r: _logical(r.get("imagingStudy"))),
    ("study", ("Observation",), lambda r: _logical(r.get("partOf"))),
    ("device", ("Observation",), lambda r: _literal(r.get("device"))),
    ("target", ("Provenance",), lambda r: _literal(r.get("target"))),
)


def tokens_of(resource: Mapping[str, Any]) -> frozenset[Token]:
    """Everything by which a resource can be found, for stores that keep a search table."""
    kind = resource["resourceType"]
    return frozenset(
        Token(name, system, value)
        for name, kinds, reader in _READERS
        if kind in kinds
        for system, value in reader(resource)
    )


def _matches(stored: StoredResource, query: Query) -> bool:
    if stored.kind != query.kind:
        return False
    if query.updated_from and stored.last_updated < query.updated_from:
        return False
    if query.updated_before and stored.last_updated >= query.updated_before:
        return False
    tokens = tokens_of(stored.resource)
    ids = [Token("_id", "", stored.id)]
    return all(clause.holds(ids if clause.parameter == "_id" else tokens) for clause in query.clauses)


def count_in(resources: Iterable[StoredResource], query: Query) -> int:
    """`ReportStore.count` for a store that can list its resources."""
    return sum(1 for stored in resources if _matches(stored, query))


def select_from(resources: Iterable[StoredResource], query: Query) -> list[StoredResource]:
    """`ReportStore.select` for a store that can list its resources."""
    found = [stored for stored in resources if _matches(stored, query)]
    found.sort(key=lambda stored: (stored.last_updated, stored.id), reverse=True)
    if query.after:
        found = [stored for stored in found if (stored.last_updated, stored.id) < query.after]
    return found[: query.limit]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class MemoryReportStore:
    """A `ReportStore` in memory, and the rule by which a published Bundle becomes resources with versions."""

    clock: Callable[[], datetime] = field(default=_now)
    _rows: dict[tuple[str, str], StoredResource] = field(default_factory=dict)

    def publish(self, transaction: Mapping[str, Any], previous: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take a Bundle in: what is equal keeps its version, what differs gets the next one."""
        for resource in resolve(transaction, previous):
            key = (resource["resourceType"], resource["id"])
            old = self._rows.get(key)
            if old is None or dict(old.resource) != resource:
                self._rows[key] = StoredResource(resource, old.version + 1 if old else 1, self.clock())

    def read(self, kind: str, resource_id: str) -> StoredResource | None:
        return self._rows.get((kind, resource_id))

    def select(self, query: Query) -> list[StoredResource]:
        return select_from(self._rows.values(), query)

    def count(self, query: Query) -> int:
        return count_in(self._rows.values(), query)
