"""The audit log as FHIR AuditEvents: /fhir/AuditEvent, read and search (FHIR R4 auditevent.html, IHE ATNA ITI-81).

Search by `date`, `agent.identifier`, `subtype` (the action), `entity.identifier` (a study as ``urn:oid:…``) and
`patient.identifier`, the newest first; by GET or, to keep identifiers out of addresses, by POST.  What is not known is
refused, never ignored.  That somebody reads the log is itself an entry of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from dicom_node.audit_codes import ACTION_SYSTEM, ACTOR_SYSTEM
from dicom_node.audit_desk import AuditDesk, Patient
from dicom_node.record.audit_search import Wanted
from fhir_bridge.audit_event import KIND, STUDY_SYSTEM, audit_event
from fhir_bridge.search import DEFAULT_PAGE, MAX_PAGE, SearchError, parse_token, period
from fhir_bridge.server import MAX_FORM_BYTES, MEDIA_TYPE, Access, Pages, outcome
from portal.gate import permission

READ = "audit:read"
PATH = f"/fhir/{KIND}"
_ONCE = ("agent.identifier", "subtype", "entity.identifier", "patient.identifier", "_count")
_KNOWN = (*_ONCE, "date")
_OID = "urn:oid:"

Asked = tuple[Wanted, Patient | None, int]
"""What, of whom, how many at a time."""


def router(desk: AuditDesk, on_access: Callable[[Request, Access], None] | None) -> APIRouter:
    """The routes below /fhir/AuditEvent; to be mounted before those that take every other type."""
    endpoint = _Endpoint(desk, on_access)
    made = APIRouter(tags=["FHIR R4"])
    reading = permission(READ)
    made.add_api_route(PATH, endpoint.search, methods=["GET"], openapi_extra=reading)
    made.add_api_route(f"{PATH}/_search", endpoint.search_by_post, methods=["POST"], openapi_extra=reading)
    made.add_api_route(PATH + "/{number}", endpoint.read, methods=["GET"], openapi_extra=reading)
    return made


class _Endpoint:
    def __init__(self, desk: AuditDesk, on_access: Callable[[Request, Access], None] | None) -> None:
        self._desk = desk
        self._on_access = on_access
        self._pages: Pages[tuple[Asked, int]] = Pages()

    def read(self, request: Request, number: str) -> Response:
        """One entry of the audit log."""
        is_number = re.fullmatch(r"[0-9]{1,15}", number) is not None
        found = self._desk.entry(int(number)) if is_number else None
        if found is None:
            return outcome(404, "not-found", "no such resource")
        self._told(request, "read", [found])
        return JSONResponse(audit_event(found), media_type=MEDIA_TYPE)

    def search(self, request: Request) -> Response:
        """Search the audit log by URL."""
        return self._search(request, request.query_params.multi_items())

    async def search_by_post(self, request: Request) -> Response:
        """Search the audit log by form: keeps identifiers out of URLs."""
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
            return outcome(415, "not-supported", "a search form is application/x-www-form-urlencoded")
        raw = await request.body()
        if len(raw) > MAX_FORM_BYTES:
            return outcome(413, "too-long", f"a search form has at most {MAX_FORM_BYTES} bytes")
        try:
            pairs = parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=100)
        except ValueError:
            return outcome(400, "invalid", "the search form cannot be read")
        return await run_in_threadpool(self._search, request, pairs)

    def _search(self, request: Request, pairs: Sequence[tuple[str, str]]) -> Response:
        try:
            if len(pairs) == 1 and pairs[0][0] == "_page":
                kept = self._pages.find(pairs[0][1])
                if kept is None:
                    return outcome(410, "expired", "this page has expired; search again")
                asked, before = kept[0], kept[1]
            else:
                asked, before = read_search(pairs), None
        except SearchError as error:
            return outcome(400, "invalid", str(error))
        wanted, patient, limit = asked
        rows = self._desk.page(wanted, patient, before, limit + 1)
        shown = rows[:limit]
        self._told(request, "search", shown)
        base = f"{str(request.base_url).rstrip('/')}{PATH}"
        links = []
        if len(rows) > limit and shown:
            word = self._pages.keep((asked, int(shown[-1]["id"])))
            links.append({"relation": "next", "url": f"{base}?_page={word}"})
        entries = [
            {"fullUrl": f"{base}/{row['id']}", "resource": audit_event(row), "search": {"mode": "match"}}
            for row in shown
        ]
        body: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
        body |= {key: value for key, value in (("link", links), ("entry", entries)) if value}
        return JSONResponse(body, media_type=MEDIA_TYPE)

    def _told(self, request: Request, action: str, rows: Sequence[dict[str, Any]]) -> None:
        if self._on_access:
            self._on_access(request, Access(action, KIND, tuple(str(row["id"]) for row in rows)))


def read_search(pairs: Sequence[tuple[str, str]]) -> Asked:
    """The parameters of a search.

    Raises
    ------
    SearchError
        For a parameter or value that is not understood; the message names the parameter, never its value.
    """
    told: dict[str, list[str]] = {}
    for name, value in pairs:
        spelled = name.replace(":", ".")
        if spelled not in _KNOWN:
            raise SearchError(f"this parameter is not searchable on {KIND}; known: {', '.join(_KNOWN)}")
        told.setdefault(spelled, []).append(value)
    for name in _ONCE:
        if len(told.get(name, [])) > 1 or any(not value or "," in value for value in told.get(name, [])):
            raise SearchError(f"{name} wants one value")
    low, high = period("date", told.get("date", []))
    study = _value(told, "entity.identifier", STUDY_SYSTEM)
    if study and not study.startswith(_OID):
        raise SearchError("entity.identifier wants a study, urn:oid:<UID>, system urn:dicom:uid")
    wanted = Wanted(
        actor=_value(told, "agent.identifier", ACTOR_SYSTEM),
        action=_value(told, "subtype", ACTION_SYSTEM),
        study=study.removeprefix(_OID),
        since=_written(low),
        until=_written(high),
    )
    patient = None
    if "patient.identifier" in told:
        system, identifier = parse_token(told["patient.identifier"][0])
        if not identifier:
            raise SearchError("patient.identifier wants <system>|<value>")
        patient = Patient(identifier, system)
    count = told.get("_count", [str(DEFAULT_PAGE)])[0]
    if not re.fullmatch(r"[1-9][0-9]{0,5}", count):
        raise SearchError("_count wants one number above 0")
    return wanted, patient, min(int(count), MAX_PAGE)


def _value(told: dict[str, list[str]], name: str, system: str) -> str:
    if name not in told:
        return ""
    given, value = parse_token(told[name][0])
    if not value or given not in (None, system):
        raise SearchError(f"{name} wants {system}|<value>")
    return value


def _written(moment: datetime | None) -> str:
    """A time as the record writes it."""
    return "" if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
