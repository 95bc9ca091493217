"""The study pages: `dicom_node.desks.studies`, shown.

Files go up by script in one multipart form (the script shows how far they are and carries the session's token); all
else is forms and links.  What is searched for in the archive travels in the body and never in an address (S23).  Every
file that leaves is audited.  A stranger's draft or request is answered like one that does not exist (S12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy import RowMapping
from starlette.exceptions import HTTPException

from dicom_node.delivery.searching import KEYS, FoundStudy
from dicom_node.desks.drafts import ARCHIVE, MAX_FILES, Draft, Told
from dicom_node.desks.predictions import UnknownModel
from dicom_node.desks.studies import StudyDesk
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.refusals_es import spoken
from dicom_node.stages.prediction_words import FILES
from dicom_node.web_settings import ApiSection
from dicom_node.words import ROLE_ALIASES
from fhir_bridge.server import Access
from portal.api.answers import STATES, region_name
from portal.api.callers import Callers, Slower
from portal.api.fields import options_of
from portal.api.limits import retry_after
from portal.api.upload import UploadLimits, drain, take_form
from portal.gate import permission
from portal.pages import page
from portal.pages.forms import fields_of
from portal.pages.render import language_of
from portal.problems import STATUS, plain, problem
from portal.services import PortalServices
from portal.sessions import person_of
from portal.stored import stored_file

HOME = "/study"
UPLOAD = "/study/files"
ROLES = ("t1", "t1c", "t2", "flair")
_STAGES = ("queued", "read", "infer", "write", "built")
_FIELD = frozenset({"files"})
_PICTURES = ("planes.png", "overlay.png")

T = TypeVar("T")


def router(services: PortalServices, desk: StudyDesk, settings: ApiSection) -> APIRouter:
    """Everything below ``/study``."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(services, desk, settings)
    declared = permission("study:analyse")
    routes: tuple[tuple[str, str, Callable[..., Any]], ...] = (
        ("GET", HOME, pages.home),
        ("POST", UPLOAD, pages.files),
        ("POST", f"{HOME}/search", pages.search),
        ("POST", f"{HOME}/pick", pages.pick),
        ("GET", f"{HOME}/drafts/{{draft_id}}", pages.draft),
        ("POST", f"{HOME}/drafts/{{draft_id}}", pages.ask),
        ("GET", f"{HOME}/{{public_id}}", pages.request),
        ("GET", f"{HOME}/{{public_id}}/state", pages.state),
        ("POST", f"{HOME}/{{public_id}}/cancel", pages.cancel),
        ("GET", f"{HOME}/{{public_id}}/files/{{name}}", pages.file),
    )
    for method, path, handler in routes:
        made.add_api_route(path, handler, methods=[method], openapi_extra=declared)
    return made


class _Pages:
    def __init__(self, services: PortalServices, desk: StudyDesk, settings: ApiSection) -> None:
        self._services = services
        self._desk = desk
        self._limits = UploadLimits(settings.max_upload_mb * 1_000_000, MAX_FILES)
        self._callers = Callers(services, settings, services.settings.language)

    # -- bringing a study

    async def home(self, request: Request) -> Response:
        """Drop files, or look in the archive; what was asked before."""
        return await self._home(request)

    async def files(self, request: Request) -> Response:
        """Take files in, and look into them; where the draft is, as JSON for the script that sent them."""
        person = person_of(request)
        try:
            self._callers.pay_image(request)
            await _run(self._desk.check_admission, person)
            form = await take_form(
                request, self._desk.spool, self._limits, fields=frozenset(), files=frozenset({"files"})
            )
            given = [Told(one.told_name, one.upload) for one in form.files]
            draft = await _run(self._desk.drafts.make, person.prefix, given)
        except Slower as slower:
            answer = plain(429, request.state.correlation, language_of(request))
            answer.headers["Retry-After"] = retry_after(slower.wait_s)
            return answer
        except Refused as refused:
            await drain(request)
            return _problem(request, refused)
        return JSONResponse({"location": f"{HOME}/drafts/{draft.id}"}, status_code=201)

    async def search(self, request: Request) -> Response:
        """Studies of the archive with one identifier."""
        fields = await fields_of(request, ("by", "value"))
        by, value = fields["by"] if fields["by"] in KEYS else "patient", fields["value"].strip()[:64]
        found, trouble = None, ""
        try:
            self._callers.pay_call(request)
            found = await _run(self._desk.search, person_of(request), by, value)
        except (PeerTrouble, Refused):
            trouble = "archive_away"
        except Slower:
            trouble = "slower"
        return await self._home(request, by, value, found, trouble)

    async def pick(self, request: Request) -> Response:
        """Fetch one study of a search, and look into it."""
        fields = await fields_of(request, ("by", "value", "study"))
        if fields["by"] not in KEYS:
            raise HTTPException(404)
        person = person_of(request)
        try:
            self._callers.pay_image(request)
            await _run(self._desk.check_admission, person)
            draft = await _run(self._desk.pick, person, fields["by"], fields["value"], fields["study"])
        except PeerTrouble:
            return await self._home(request, fields["by"], fields["value"], None, "archive_away")
        except Slower:
            return await self._home(request, fields["by"], fields["value"], None, "slower")
        except Refused as refused:
            return await self._home(request, fields["by"], fields["value"], None, "refused", refused)
        return RedirectResponse(f"{HOME}/drafts/{draft.id}", status_code=303)

    async def _home(
        self,
        request: Request,
        by: str = "patient",
        value: str = "",
        found: list[FoundStudy] | None = None,
        trouble: str = "",
        refused: Refused | None = None,
    ) -> Response:
        rows = await _run(self._desk.mine, person_of(request))
        return page(
            request,
            "study/home.html",
            requests=[_listed(row) for row in rows],
            by=by,
            value=value,
            found=found,
            trouble=trouble,
            refusal=None if refused is None else _told(request, refused.refusal.to_json()),
        )

    # -- asking

    async def draft(self, request: Request, draft_id: str) -> Response:
        """What would be read, and by which model."""
        draft = await self._draft(request, draft_id)
        return await self._show(request, draft, [part.role for part in draft.parts])

    async def _show(
        self,
        request: Request,
        draft: Draft,
        roles: list[str],
        model: str = "",
        refusal: Mapping[str, str] | None = None,
    ) -> Response:
        models = await _run(self._desk.models)
        fitting = await _run(self._desk.fitting, draft.parts)
        known = sorted(
            {role for one in models for names in one["role_sets"] for role in names} | {*ROLES, *roles} - {""}
        )
        return page(
            request,
            "study/draft.html",
            status=200 if refusal is None else 422,
            draft=draft,
            roles=roles,
            known=known,
            models=models,
            fitting=fitting,
            model=model or next(iter(fitting), models[0]["name"] if models else ""),
            destinations=self._desk.destinations() if draft.parts[0].kind == "dicom" else [],
            refusal=refusal,
        )

    async def ask(self, request: Request, draft_id: str) -> Response:
        """Ask the model."""
        draft = await self._draft(request, draft_id)
        names = [f"role_{number}" for number in range(len(draft.parts))]
        fields = await fields_of(request, ("model", "spacing_mm", "transfer", *names))
        roles = [ROLE_ALIASES.get(fields[name], fields[name]) for name in names]
        try:
            self._callers.pay_image(request)
            options = options_of({**fields, "priority": ""}, self._desk.destinations())
            row = await _run(self._desk.ask, person_of(request), draft, fields["model"], roles, options)
        except UnknownModel:
            raise HTTPException(404) from None
        except Slower:
            raise HTTPException(429) from None
        except Refused as refused:
            told = _told(request, refused.refusal.to_json())
            return await self._show(request, draft, roles, fields["model"], told)
        return RedirectResponse(f"{HOME}/{row['public_id']}", status_code=303)

    # -- looking

    async def request(self, request: Request, public_id: str) -> Response:
        """One request: how far it is, and what came of it."""
        row = await self._row(request, public_id)
        return page(request, "study/request.html", **self._values(request, row))

    async def state(self, request: Request, public_id: str, seen: str = "") -> Response:
        """The part of the page that changes while somebody waits, or that nothing is new."""
        told = self._values(request, await self._row(request, public_id))
        return Response(status_code=204) if told["seen"] == seen else page(request, "study/state.html", **told)

    async def cancel(self, request: Request, public_id: str) -> Response:
        """End a request that nobody wants any more."""
        await self._row(request, public_id)
        await _run(self._desk.cancel, person_of(request), public_id)
        return RedirectResponse(f"{HOME}/{public_id}", status_code=303)

    async def file(self, request: Request, public_id: str, name: str) -> Response:
        """A picture of the page, or a file to keep; each is audited."""
        row = await self._row(request, public_id)
        path = await _run(self._desk.file, row, name)
        if path is None:
            raise HTTPException(404)
        if self._services.on_access is not None:
            action = "read" if name in _PICTURES else "export"
            told = Access(action, "prediction-file", (public_id, name), row["study_uid"] or "")
            await _run(self._services.on_access, request, told)
        return await _run(stored_file, path, FILES[name], f"{public_id[:8]}-{name}")

    def _values(self, request: Request, row: RowMapping) -> dict[str, Any]:
        language = language_of(request)
        state = STATES[row["state"]]
        said = row["answer"] or {}
        stage = "queued" if row["state"] == "queued" else str(row["stage"])
        return {
            "row": row,
            "state": state,
            "is_open": row["state"] in ("queued", "running"),
            "step": _STAGES.index(stage) if stage in _STAGES else 0,
            "stages": _STAGES,
            "stage": stage,
            "seen": f"{state}-{stage}",
            "classes": [
                {**one, "name": region_name(str(one["key"]), str(one["name"]), language)}
                for one in said.get("classes", [])
            ],
            "said": said,
            "files": [name for name in FILES if name in (row["files"] or {})] if state == "completed" else [],
            "refusal": _told(request, row["refusal"]) if row["refusal"] else None,
            "viewer": f"/view/request/{row['public_id']}"
            if self._services.viewer is not None and row["options"].get("source") == ARCHIVE and row["study_uid"]
            else "",
        }

    # -- helpers

    async def _draft(self, request: Request, draft_id: str) -> Draft:
        found = await _run(self._desk.drafts.of, person_of(request).prefix, draft_id)
        if found is None:
            raise HTTPException(404)
        return found

    async def _row(self, request: Request, public_id: str) -> RowMapping:
        found = await _run(self._desk.of, person_of(request), public_id)
        if found is None:
            raise HTTPException(404)
        return found


async def _run(body: Callable[..., T], *arguments: Any) -> T:
    return await anyio.to_thread.run_sync(body, *arguments)


def _listed(row: RowMapping) -> dict[str, Any]:
    kept = ("public_id", "model", "created_at", "finished_at")
    return {
        **{key: row[key] for key in kept},
        "state": STATES[row["state"]],
        "source": row["options"].get("source", ""),
    }


def _told(request: Request, refusal: Mapping[str, str]) -> dict[str, str]:
    why = spoken(refusal, language_of(request))
    return {**why, "title": why["message"]}


def _problem(request: Request, refused: Refused) -> Response:
    told = _told(request, refused.refusal.to_json())
    found = " ".join(filter(None, (told["title"], told["expected"] and f"({told['expected']}; {told['found']})")))
    return problem(
        STATUS.get(refused.refusal.code, 422), told["code"], found, told["advice"], request.state.correlation
    )
