"""The pages of analyses that were asked: the list, one of them, its picture and files, and taking one back.

A page that waits asks again by itself (htmx) and is answered 204 as long as nothing is new: on a bad line that is a
few hundred bytes.  Whoever may not see an analysis is told what somebody is told who asks for one that is not there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import RowMapping
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.desks.analyses import Analyses, PatientSaid
from dicom_node.desks.analysis_results import COMPLETED, HEAT_MAP, PAGE, REFUSED, STATES, WITHDRAWN
from dicom_node.record.analyses import Row
from dicom_node.refusals import Refused
from portal.gate import permission
from portal.pages.forms import fields_of
from portal.pages.render import page, translator
from portal.pages.shown import WITHDRAWAL_REASONS, nobody, patient_of, place_of, refusal_of, shown
from portal.services import PortalServices
from portal.sessions import person_of

OWN, MAKE, REVEAL = permission("analysis:own"), permission("analysis:make"), permission("analysis:reveal")
LISTED = 60
_Id = Path(pattern="^[0-9a-f]{32}$")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_Short = Annotated[str, Query(max_length=64)]
_PATIENT = (
    "site", "patient_type", "patient_id", "patient_normal", "patient_name", "patient_family", "patient_given",
    "patient_birth_date", "patient_sex", "patient_confirmed",
)  # fmt: skip


def router(services: PortalServices, desk: Analyses) -> APIRouter:
    """``/analyses`` and everything below it."""
    return _Pages(services, desk).routes()


class _Pages:
    def __init__(self, services: PortalServices, desk: Analyses) -> None:
        self._services = services
        self._desk = desk

    def routes(self) -> APIRouter:
        made = APIRouter(include_in_schema=False)
        one = "/analyses/{id}"
        for path, handler, method, extra in (
            ("/analyses", self.all, "GET", OWN),
            ("/analyses/list", self.list, "GET", OWN),
            (one, self.one, "GET", OWN),
            (f"{one}/state", self.state, "GET", OWN),
            (f"{one}/picture", self.picture, "GET", REVEAL),
            (f"{one}/photo", self.photo, "GET", REVEAL),
            (f"{one}/heat-map", self.heat_map, "GET", REVEAL),
            (f"{one}/pdf", self.pdf, "GET", REVEAL),
            (f"{one}/withdraw", self.withdraw, "POST", MAKE),
            (f"{one}/redo", self.redo_page, "GET", MAKE),
            (f"{one}/redo", self.redo, "POST", MAKE),
        ):
            made.add_api_route(path, handler, methods=[method], openapi_extra=extra)
        return made

    # -- the list

    async def all(self, request: Request, since: _Short = "", until: _Short = "", state: _Short = "") -> Response:
        """One's own analyses, the newest first."""
        return page(request, "analyses.html", **await self._listed(request, since, until, state))

    async def list(
        self, request: Request, since: _Short = "", until: _Short = "", state: _Short = "", seen: _Short = ""
    ) -> Response:
        """The list alone, or that nothing in it is new."""
        told = await self._listed(request, since, until, state)
        return Response(status_code=204) if told["seen"] == seen else page(request, "analyses_list.html", **told)

    async def _listed(self, request: Request, since: str, until: str, state: str) -> dict[str, Any]:
        words, person = translator(request), person_of(request)
        # a filter that is none is left out: half a date while somebody types is no fault
        since, until = (day if _DAY.fullmatch(day) else "" for day in (since, until))
        chosen = state if state in STATES else ""

        def told() -> list[dict[str, Any]]:
            try:
                rows = self._desk.list_of(person, since=since, until=until, state=chosen, limit=LISTED)
            except Refused:  # a date that there is none of
                rows = []
            desk = self._services.reviews
            answered = {} if desk is None else desk.recommended([row["id"] for row in rows])
            entries = []
            for row, result in zip(rows, self._desk.results(rows), strict=True):
                patient = patient_of(row["patient"])
                entries.append(
                    {
                        "id": row["public_id"],
                        "created_at": row["created_at"],
                        "who": patient["shown"] or patient["id"] or words(nobody(row)),
                        "pseudonym": row["pseudonym"] or "",
                        "place": place_of(row, words),
                        "description": row["description"][:120],
                        "state": result.state,
                        "action": "" if result.state == WITHDRAWN else answered.get(row["id"], ""),
                        "why": refusal_of(result.refusal, words)[0] if result.state == REFUSED else "",
                    }
                )
            return entries

        entries = await run_in_threadpool(told)
        seen = hashlib.sha256(repr((words.language, entries)).encode()).hexdigest()[:16]
        return {
            "since": since,
            "until": until,
            "state": chosen,
            "states": STATES,
            "entries": entries,
            "seen": seen,
            "limit": LISTED,
        }

    # -- one analysis

    async def one(self, request: Request, id: str = _Id, said: str = "") -> Response:
        """One analysis: what was asked, and what came of it."""
        row = await self._row(request, id)
        told = translator(request)("analysis.withdrawn_said") if said == "withdrawn" else ""
        return await self._page(request, row, said=told)

    async def state(self, request: Request, id: str = _Id, seen: _Short = "") -> Response:
        """How it stands, or that nothing is new."""
        row = await self._row(request, id)
        result = await run_in_threadpool(self._desk.result, row)
        if result.state == seen:
            return Response(status_code=204)
        await self._note(request, row, result.state)
        return page(request, "analysis_state.html", **self._shown(request, row, result))

    async def _page(self, request: Request, row: RowMapping, *, said: str = "", error: str = "") -> Response:
        result = await run_in_threadpool(self._desk.result, row)
        await self._note(request, row, result.state)
        person = person_of(request)
        is_own = row["user_id"] == person.user_id
        return page(
            request,
            "analysis.html",
            status=422 if error else 200,
            **self._shown(request, row, result),
            said=said,
            error=error,
            may_withdraw=is_own and result.state != WITHDRAWN and person.may("analysis:make"),
            replies=await self._replies(row),
            is_unconfirmed=bool(_unconfirmed(row)["id"]),
        )

    async def _replies(self, row: RowMapping) -> Sequence[Mapping[str, Any]]:
        """What specialists said of it."""
        desk = self._services.reviews
        return [] if desk is None else await run_in_threadpool(desk.replies_of, row["id"])

    async def _note(self, request: Request, row: RowMapping, state: str) -> None:
        if state == COMPLETED:
            await run_in_threadpool(self._desk.saw_result, person_of(request), row)

    def _shown(self, request: Request, row: RowMapping, result: Any) -> dict[str, Any]:
        return shown(request, row, result, viewer=self._services.viewer is not None)

    # -- its picture and files

    async def picture(self, request: Request, id: str = _Id, hidden: str = "") -> Response:
        """The part of the page with the picture, or the part that hides it."""
        row = await self._row(request, id)
        if hidden:
            return page(request, "analysis_hidden.html", row=row)
        result = await run_in_threadpool(self._desk.result, row)
        return page(request, "analysis_picture.html", **self._shown(request, row, result))

    async def photo(self, request: Request, id: str = _Id) -> Response:
        """The photograph; that somebody looked is written down before she sees it."""
        row = await self._row(request, id)
        found = await run_in_threadpool(self._desk.photo, row)
        if found is None:
            raise HTTPException(404)
        await run_in_threadpool(self._desk.reveal, person_of(request), row)
        return Response(found.data, media_type=found.media_type)

    async def heat_map(self, request: Request, id: str = _Id) -> Response:
        """The photograph with the model's heat map over it."""
        return await self._file(request, id, HEAT_MAP)

    async def pdf(self, request: Request, id: str = _Id) -> Response:
        """The page of the result."""
        return await self._file(request, id, PAGE, f"analysis-{id[:8]}.pdf")

    async def _file(self, request: Request, id: str, name: str, as_name: str = "") -> Response:
        row = await self._row(request, id)
        found = await run_in_threadpool(self._desk.file, row, name)
        if found is None:
            raise HTTPException(404)
        await run_in_threadpool(self._desk.reveal, person_of(request), row, name)
        headers = {"Content-Disposition": f'attachment; filename="{as_name}"'} if as_name else {}
        return Response(found[1], media_type=found[0], headers=headers)

    # -- taking back

    async def withdraw(self, request: Request, id: str = _Id) -> Response:
        """Take an analysis back, with a reason."""
        row = await self._own(request, id)
        told = await fields_of(request, ("reason", "words"))
        words = told["words"].strip()
        if told["reason"] not in WITHDRAWAL_REASONS or (told["reason"] == "other" and not words):
            return await self._page(request, row, error=translator(request)("analysis.reason_missing"))
        reason = f"{told['reason']}: {words[:300]}" if words else told["reason"]
        await run_in_threadpool(self._desk.withdraw, person_of(request), row, reason)
        return RedirectResponse(f"/analyses/{id}?said=withdrawn", status_code=303)

    async def redo_page(self, request: Request, id: str = _Id) -> Response:
        """Where an analysis is done over for the right patient."""
        return await self._redo_page(request, await self._own(request, id))

    async def redo(self, request: Request, id: str = _Id) -> Response:
        """Withdraw an analysis and ask again about its photograph, for another patient."""
        row, told = await self._own(request, id), await fields_of(request, (*_PATIENT, "words"))
        given = f"{told['patient_family'].strip()}^{told['patient_given'].strip()}".strip("^")
        said = PatientSaid(
            told["patient_normal"] or told["patient_id"].strip(),
            told["patient_type"],
            told["patient_name"] or given,
            told["patient_birth_date"].replace("-", ""),
            told["patient_sex"],
            told["patient_confirmed"] == "yes",
        )
        if not said.confirmed or not said.name:
            return await self._redo_page(request, row, translator(request)("analysis.redo_confirm"))
        words = told["words"].strip()
        known = _unconfirmed(row)
        key = "identity-confirmed" if (said.id, said.type) == (known["id"], known["type"]) else "wrong-patient"
        reason = f"{key}: {words[:300]}" if words else key
        redo = partial(self._desk.redo, person_of(request), row, None, reason, patient=said)
        try:
            made = await run_in_threadpool(redo)
        except Refused as refused:
            message, advice = refusal_of({"code": refused.refusal.code.value}, translator(request))
            return await self._redo_page(request, row, f"{message} {advice}".strip())
        return RedirectResponse(f"/analyses/{made['public_id']}", status_code=303)

    async def _redo_page(self, request: Request, row: RowMapping, error: str = "") -> Response:
        sites = await run_in_threadpool(self._desk.sites_of, person_of(request))
        kinds: Sequence[Mapping[str, str]] = next(
            (site["identifier_types"] for site in sites if site["key"] == row["site"]), []
        )
        return page(request, "redo.html", status=422 if error else 200, row=row, kinds=kinds, error=error,
                    patient=_unconfirmed(row))  # fmt: skip

    # -- whose it is

    async def _row(self, request: Request, public_id: str) -> RowMapping:
        row = await run_in_threadpool(self._desk.of, person_of(request), public_id)
        if row is None:
            raise HTTPException(404)
        return row

    async def _own(self, request: Request, public_id: str) -> RowMapping:
        row = await run_in_threadpool(self._desk.own, person_of(request), public_id)
        if row is None:
            raise HTTPException(404)
        return row


def _unconfirmed(row: Row) -> Mapping[str, str]:
    """Whom an analysis names without anybody's confirmation; empty words where it is confirmed, or names nobody."""
    told = row["patient"]
    is_open = told is not None and told.get("id") and not told.get("confirmed")  # a deleted identity is empty
    return {"id": told["id"], "type": told["type"]} if is_open else {"id": "", "type": ""}
