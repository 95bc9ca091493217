"""The node's own FHIR R4 endpoint: read and search over published results, and nothing else.

FHIR R4 http.html: read (3.1.0.4, with ETag and 304), search by GET and by POST (3.1.0.9), capabilities (3.1.0.10).
Errors are OperationOutcomes without input data.  Who may read is decided before a request comes here: every route
says its permission in ``openapi_extra["x-permission"]``, and `portal` holds to it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from fhir_bridge.capability import capability_statement
from fhir_bridge.search import PARAMETERS, Search, SearchError, parse
from fhir_bridge.store import ReportStore, StoredResource

MEDIA_TYPE = "application/fhir+json"
READ = "fhir:read"
MAX_FORM_BYTES = 16_384
PAGES_KEPT = 4096
PAGE_LIFE_S = 900.0


@dataclass(frozen=True)
class Access:
    """What was handed out, for the audit trail: never search values, never identifiers of patients."""

    action: str
    """read, search or dicomweb."""
    kind: str
    ids: tuple[str, ...]
    """Opaque ids of the resources that were handed out."""
    study_uid: str = ""
    """The study, where one was named; for the audit trail only, never for logs."""


Kept = TypeVar("Kept")


@dataclass
class Pages(Generic[Kept]):
    """Opaque continuation links: a random word stands for the rest of a search, for a while.

    The query itself (it holds patient identifiers) never goes into a link.
    """

    clock: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, tuple[float, Kept]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, search: Kept) -> str:
        """A word for this search."""
        word = secrets.token_urlsafe(18)
        with self._lock:
            self._kept[word] = (self.clock() + PAGE_LIFE_S, search)
            while len(self._kept) > PAGES_KEPT:
                self._kept.popitem(last=False)
        return word

    def find(self, word: str) -> Kept | None:
        """The search that a word stands for; None when it is unknown or too old."""
        with self._lock:
            expires, search = self._kept.get(word, (0.0, None))
        return search if search is not None and self.clock() < expires else None


def outcome(status: int, code: str, text: str) -> Response:
    """An OperationOutcome as an answer."""
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return _json({"resourceType": "OperationOutcome", "issue": [issue]}, status)


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(dict(body), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _acceptable(request: Request) -> bool:
    asked = request.query_params.get("_format") or request.headers.get("accept", "*/*")
    words = ("json", "application/json", MEDIA_TYPE, "*/*", "application/*", "text/json")
    return any(part.split(";")[0].strip() in words for part in asked.replace(" json", "+json").split(","))


def router(
    store: ReportStore,
    *,
    version: str,
    base_url: str = "",
    on_access: Callable[[Request, Access], None] | None = None,
) -> APIRouter:
    """The routes below ``/fhir``.

    Parameters
    ----------
    store
        Where published results are read from.
    version
        Version of the software, for the CapabilityStatement.
    base_url
        Public base, e.g. ``https://node.example/fhir``; empty takes it from each request.
    on_access
        Called after every hand-out of patient data, for the audit trail.
    """
    return _Endpoint(store, version, base_url, on_access).routes()


class _Endpoint:
    def __init__(
        self,
        store: ReportStore,
        version: str,
        base_url: str,
        on_access: Callable[[Request, Access], None] | None,
    ) -> None:
        self._store = store
        self._version = version
        self._base_url = base_url.rstrip("/")
        self._on_access = on_access
        self._pages: Pages[Search] = Pages()

    def routes(self) -> APIRouter:
        made = APIRouter(prefix="/fhir", tags=["FHIR R4"])
        reading = {"x-permission": READ}
        made.add_api_route("/metadata", self.metadata, methods=["GET"], openapi_extra={"x-permission": "open"})
        made.add_api_route("/{kind}", self.search, methods=["GET"], openapi_extra=reading)
        # An async handler, because the form has to be read from the request; the store is asked in a thread.
        made.add_api_route("/{kind}/_search", self.search_by_post, methods=["POST"], openapi_extra=reading)
        made.add_api_route("/{kind}/{resource_id}", self.read, methods=["GET"], openapi_extra=reading)
        return made

    def _base(self, request: Request) -> str:
        return self._base_url or f"{request.url.scheme}://{request.url.netloc}/fhir"

    def _told(self, request: Request, action: str, kind: str, found: Iterable[StoredResource]) -> None:
        if self._on_access:
            self._on_access(request, Access(action, kind, tuple(stored.id for stored in found)))

    def metadata(self, request: Request) -> Response:
        """What this endpoint can do; open to everybody."""
        if not _acceptable(request):
            return outcome(406, "not-supported", "only JSON is spoken here")
        return _json(capability_statement(self._base(request), self._version))

    def read(self, request: Request, kind: str, resource_id: str) -> Response:
        """One resource in its current version."""
        if not _acceptable(request):
            return outcome(406, "not-supported", "only JSON is spoken here")
        stored = self._store.read(kind, resource_id) if kind in PARAMETERS else None
        if stored is None:
            return outcome(404, "not-found", "no such resource")
        if stored.is_deleted:
            return outcome(410, "deleted", "this resource was deleted by the node's rules of retention")
        tag = f'W/"{stored.version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        self._told(request, "read", kind, [stored])
        modified = stored.last_updated.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return _json(stored.rendered(), headers={"ETag": tag, "Last-Modified": modified})

    def search(self, request: Request, kind: str) -> Response:
        """Search by URL."""
        return self._search(request, kind, request.query_params.multi_items())

    async def search_by_post(self, request: Request, kind: str) -> Response:
        """Search by form: keeps identifiers out of URLs and access logs."""
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
            return outcome(415, "not-supported", "a search form is application/x-www-form-urlencoded")
        raw = await request.body()
        if len(raw) > MAX_FORM_BYTES:
            return outcome(413, "too-long", f"a search form has at most {MAX_FORM_BYTES} bytes")
        try:
            pairs = parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=100)
        except ValueError:
            return outcome(400, "invalid", "the search form cannot be read")
        return await run_in_threadpool(self._search, request, kind, [*request.query_params.multi_items(), *pairs])

    def _search(self, request: Request, kind: str, pairs: list[tuple[str, str]]) -> Response:
        if not _acceptable(request):
            return outcome(406, "not-supported", "only JSON is spoken here")
        if kind not in PARAMETERS:
            return outcome(404, "not-supported", "no resource of this type is kept here")
        words = [value for name, value in pairs if name == "_page"]
        try:
            search = self._pages.find(words[0]) if len(pairs) == 1 and words else None
            if search is None and words:
                return outcome(410, "expired", "this page has expired; search again")
            search = search or parse(kind, pairs)
        except SearchError as error:
            return outcome(400, "invalid", str(error))
        if search.query.kind != kind:
            return outcome(410, "expired", "this page has expired; search again")
        return self._answer(request, search, pairs)

    def _answer(self, request: Request, search: Search, pairs: list[tuple[str, str]]) -> Response:
        query, base = search.query, self._base(request)
        found = self._store.select(replace(query, limit=query.limit + 1)) if query.limit else []
        page, more = found[: query.limit], len(found) > query.limit
        included = list(self._results_of(page)) if search.include_results else []
        links = [{"relation": "self", "url": f"{base}/{query.kind}{'?' + urlencode(pairs) if pairs else ''}"}]
        if more:
            rest = replace(query, after=(page[-1].last_updated, page[-1].id))
            word = self._pages.keep(replace(search, query=rest))
            links.append({"relation": "next", "url": f"{base}/{query.kind}?_page={word}"})
        self._told(request, "search", query.kind, [*page, *included])
        total = self._store.count(replace(query, after=None))
        body = {"resourceType": "Bundle", "type": "searchset", "total": total, "link": links}
        entries = [_entry(base, stored, "match") for stored in page]
        entries += [_entry(base, stored, "include") for stored in included]
        return _json({**body, **({"entry": entries} if entries else {})})

    def _results_of(self, page: Iterable[StoredResource]) -> Iterable[StoredResource]:
        seen: set[str] = set()
        for stored in page:
            for reference in stored.resource.get("result", []):
                kind, _, resource_id = str(reference.get("reference", "")).partition("/")
                if kind == "Observation" and resource_id not in seen:
                    seen.add(resource_id)
                    result = self._store.read(kind, resource_id)
                    if result is not None:
                        yield result


def _entry(base: str, stored: StoredResource, mode: str) -> dict[str, Any]:
    return {
        "fullUrl": f"{base}/{stored.kind}/{stored.id}",
        "resource": stored.rendered(),
        "search": {"mode": mode},
    }
