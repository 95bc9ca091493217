"""``/api/v1/analyses``: photographs that people ask about, for whoever writes a client of today.

By a session of the portal or by a key of an account; what somebody may see is hers, or of her sites, and everything
else is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import RowMapping

from dicom_node.desks.analyses import Analyses
from dicom_node.desks.analysis_results import COMPLETED, FILES
from dicom_node.desks.predictions import UnknownModel
from dicom_node.refusals import RefusalCode, Refused
from portal.api import schemas
from portal.api.analysis_answers import BASE, analysis_answer
from portal.api.analysis_bodies import (
    ANALYSIS_BODY,
    TEXT_FIELDS,
    AnalysisAnswer,
    AnalysisBody,
    AnalysisFacts,
    AnalysisList,
    LookedUpAnswer,
    LookUpBody,
    Reason,
    RedoBody,
)
from portal.api.callers import Callers
from portal.api.guard import guarded
from portal.api.photo_body import check_kind, judged, take_form_fields, take_json
from portal.gate import permission
from portal.services import PortalServices
from portal.sessions import person_of

MAX_LISTED = 200

_Id = Path(pattern="^[0-9a-f]{32}$")
_Day = Query("", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="YYYY-MM-DD by the site's clock, included.")
State = Literal["", "waiting", "completed", "refused", "failed", "held", "withdrawn"]
T = TypeVar("T")


class AnalysisApi(Callers):
    """The handlers, bound to what the portal was given."""

    def __init__(self, services: PortalServices, desk: Analyses) -> None:
        super().__init__(services, desk.settings, desk.language)
        self._desk = desk

    async def ask(self, request: Request, key: str | None) -> Response:
        """Take a photograph in; it is durable when this answers."""
        who, desk = person_of(request), self._desk
        self.pay_image(request)
        await self._run(desk.check_admission, who)  # before the body is read: a full disk needs no upload to be said
        said, claimed, upload = await self._taken(request)
        await self._run(check_kind, desk.spool, upload, claimed)
        asked = replace(said.asked(who), upload=upload, claimed=claimed, client_id=key)
        row = await self._run(desk.accept, asked)
        return self._one(request, row, await self._told(request, row), status=202)

    async def _taken(self, request: Request) -> tuple[AnalysisFacts, str, Any]:
        desk, media_type = self._desk, request.headers.get("content-type", "").partition(";")[0].strip().lower()
        max_bytes = desk.settings.max_photo_mb * 1_000_000
        if media_type == "application/json":
            return await take_json(request, desk.spool, max_bytes, partial(judged, AnalysisBody))
        if media_type != "multipart/form-data":
            raise Refused(RefusalCode.VALIDATION, "multipart/form-data or application/json", "another content type")
        told, upload = await take_form_fields(request, desk.spool, max_bytes, TEXT_FIELDS)
        return judged(AnalysisFacts, told), "", upload

    async def listed(self, request: Request, since: str, until: str, state: str, sites: bool, limit: int) -> Response:
        """One's own, the newest first; with `sites` those of one's sites."""
        who, language = person_of(request), self.language(request)
        if sites and not request.state.identity.may("analysis:site"):
            raise Refused(RefusalCode.NOT_AUTHORISED)

        def told() -> list[dict[str, Any]]:
            rows = self._desk.list_of(who, since=since, until=until, state=state, sites=sites, limit=limit)
            results = self._desk.results(rows)
            self._desk.saw_results(who, rows, results)
            return [analysis_answer(row, result, language) for row, result in zip(rows, results, strict=True)]

        return JSONResponse({"analyses": await self._run(told)})

    async def one(self, request: Request, id: str) -> Response:
        """One analysis: how far it is, and what came of it; a result that is read is audited."""
        return JSONResponse(await self._told(request, await self._row(request, id)))

    async def photo(self, request: Request, id: str) -> Response:
        """The picture; revealing it is audited."""
        row = await self._row(request, id)
        photo = await self._run(self._desk.photo, row)
        if photo is None:
            raise UnknownModel
        await self._run(self._desk.reveal, person_of(request), row)
        return Response(photo.data, media_type=photo.media_type, headers=_PRIVATE)

    async def file(self, request: Request, id: str, name: str) -> Response:
        """Heat map or page of a completed analysis; a picture of the lesion is in both."""
        row = await self._row(request, id)
        found = await self._run(self._desk.file, row, name)
        if found is None:
            raise UnknownModel
        await self._run(self._desk.reveal, person_of(request), row, name)
        return Response(found[1], media_type=found[0], headers=_PRIVATE)

    async def withdraw(self, request: Request, id: str, body: Reason) -> Response:
        """Take one of one's own back, here and wherever its result has gone."""
        row = await self._own(request, id)
        row = await self._run(self._desk.withdraw, person_of(request), row, body.reason)
        return JSONResponse(await self._told(request, row))

    async def redo(self, request: Request, id: str, body: RedoBody) -> Response:
        """Take one of one's own back and ask again about its photograph."""
        who, row = person_of(request), await self._own(request, id)
        made = await self._run(self._desk.redo, who, row, body.analysis.asked(who), body.reason)
        return self._one(request, made, await self._told(request, made), status=202)

    async def look_up(self, request: Request, body: LookUpBody) -> Response:
        """Who has an identifier, as the site's FHIR server says."""
        found = await self._run(self._desk.look_up, person_of(request), body.site, body.type, body.id)
        return JSONResponse(vars(found))

    # -- helpers

    @staticmethod
    async def _run(body: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(body, *arguments)

    async def _row(self, request: Request, public_id: str) -> RowMapping:
        # a key may be allowed less than its account
        look = self._desk.of if request.state.identity.may("analysis:site") else self._desk.own
        row = await self._run(look, person_of(request), public_id)
        if row is None:
            raise UnknownModel
        return row

    async def _own(self, request: Request, public_id: str) -> RowMapping:
        row = await self._run(self._desk.own, person_of(request), public_id)
        if row is None:
            raise UnknownModel
        return row

    async def _told(self, request: Request, row: RowMapping) -> dict[str, Any]:
        """The answer about one; that somebody is told a result is written down before."""
        language, who = self.language(request), person_of(request)

        def told() -> dict[str, Any]:
            result = self._desk.result(row)
            if result.state == COMPLETED:
                self._desk.saw_result(who, row)
            return analysis_answer(row, result, language, self._desk.replaced_by(row))

        return await self._run(told)

    @staticmethod
    def _one(request: Request, row: RowMapping, told: dict[str, Any], *, status: int) -> Response:
        return JSONResponse(told, status_code=status, headers={"Location": f"{BASE}/{row['public_id']}"})


_PRIVATE = {"Cache-Control": "no-store", "Content-Disposition": "inline"}


def router(services: PortalServices, desk: Analyses) -> APIRouter:
    """Everything below ``/api/v1/analyses``, and the question about a patient."""
    made = APIRouter(prefix="/api/v1", tags=["Analyses"])
    api = AnalysisApi(services, desk)

    async def ask(
        request: Request,
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Ask about one photograph of a skin lesion: decision support, never a diagnosis."""
        return await api.ask(request, idempotency_key)

    async def listed(
        request: Request,
        since: str = _Day,
        until: str = _Day,
        state: State = Query(""),
        sites: bool = Query(False, description="Of the caller's sites, where she may see them."),
        limit: int = Query(50, ge=1, le=MAX_LISTED),
    ) -> Response:
        """The caller's analyses, the newest first."""
        return await api.listed(request, since, until, state, sites, limit)

    async def one(request: Request, id: str = _Id) -> Response:
        """One analysis: how far it is, and what came of it."""
        return await api.one(request, id)

    async def photo(request: Request, id: str = _Id) -> Response:
        """The picture, upright and without what the camera wrote beside it; audited."""
        return await api.photo(request, id)

    async def file(request: Request, id: str = _Id, name: str = Path(max_length=32)) -> Response:
        """Heat map or page of a completed analysis; audited."""
        return await api.file(request, id, name)

    async def withdraw(request: Request, id: str = _Id, body: Reason = Body()) -> Response:
        """Take an analysis back with a reason: it has no result any more, here and wherever it had gone."""
        return await api.withdraw(request, id, body)

    async def redo(request: Request, id: str = _Id, body: RedoBody = Body()) -> Response:
        """Take an analysis back and ask again about its photograph, for the right patient."""
        return await api.redo(request, id, body)

    async def look_up(request: Request, body: LookUpBody = Body()) -> Response:
        """Who has an identifier, as the site's FHIR server says; nothing is created.  In a body, and in no address."""
        return await api.look_up(request, body)

    def add(path: str, handler: Any, method: str, scope: str, responses: dict[Any, Any], **extra: Any) -> None:
        made.add_api_route(
            path,
            guarded(api, services, handler),
            methods=[method],
            responses=responses,
            openapi_extra={**permission(scope), **extra},
            response_model=None,
        )

    kept = {202: {"model": AnalysisAnswer, "description": "Kept; the answer comes later"}}
    told = {200: {"model": AnalysisAnswer}}
    found = schemas.problems(404, 422)
    files = schemas.problems(404, 410, 422)
    contents: dict[str, Any] = {kind: {} for _, kind in FILES.values()}
    asking = schemas.problems(409, 413, 415, 422, 503)
    add("/analyses", ask, "POST", "analysis:make", {**kept, **asking}, requestBody=ANALYSIS_BODY)
    add("/analyses", listed, "GET", "analysis:own", {200: {"model": AnalysisList}, **schemas.problems(422)})
    add("/analyses/{id}", one, "GET", "analysis:own", {**told, **found})
    pictures: dict[Any, Any] = {200: {"content": {"image/jpeg": {}}}}
    add("/analyses/{id}/photo", photo, "GET", "analysis:reveal", {**pictures, **files})
    add("/analyses/{id}/files/{name}", file, "GET", "analysis:reveal", {200: {"content": contents}, **files})
    add("/analyses/{id}/withdraw", withdraw, "POST", "analysis:make", {**told, **found})
    add("/analyses/{id}/redo", redo, "POST", "analysis:make", {**kept, **schemas.problems(404, 409, 410, 422, 503)})
    looked_up: dict[Any, Any] = {200: {"model": LookedUpAnswer}, **schemas.problems(422)}
    add("/patients/look-up", look_up, "POST", "analysis:make", looked_up)
    return made
