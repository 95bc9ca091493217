"""The operation pages: what `dicom_node.desks.operation` knows, shown; and its acts, each by a form with a reason.

Nothing here names a patient or shows a picture.  A study is addressed by its opaque id.  An act answers with the way
back to the page it came from and a word about what came of it; what cannot be done says so on that page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from dicom_node.desks.operation import ACTS, MAX_REASON, Operation
from dicom_node.record.actions import UnknownItem
from dicom_node.refusals_es import spoken
from dicom_node.stages.peers import WORKS
from portal.gate import permission
from portal.health import CHECK_THREADS, report
from portal.pages import page
from portal.pages.render import language_of
from portal.services import PortalServices

HOME = "/operation"
SHOWN, ALL_SHOWN = 50, 500
STATES = ("waiting", "completed", "refused", "failed", "held")
_BACK = re.compile(r"/operation(/[a-z]+(/[0-9a-f]{1,64})?)?")
_ITEM = re.compile(r"(study|series|case|delivery|run|request|transfer|analysis)-[A-Za-z0-9-]{1,80}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
PHOTOGRAPHS = ("received", "refused", "failed", "withdrawn")
"""How an analysis may stand of which there is no study."""
TROUBLES = ("reason", "too-late", "unknown-study", *(f"photograph-{state}" for state in PHOTOGRAPHS))
_PAGES = ("", "held", "queue", "destinations", "models", "routes", "health")


@dataclass(frozen=True)
class Refusals:
    """Refusals as a page tells them: the node's fixed words in the reader's language, and what was found."""

    language: str

    def __call__(self, told: Mapping[str, Any] | None) -> dict[str, str]:
        """Title, advice, expected, found of a refusal as the record has it; what has no code is told as it is."""
        given = dict(told or {})
        why = spoken(given, self.language)
        peer = str(given.get("peer") or given.get("fault") or "")
        return {**why, "title": why["message"] or peer or why["code"]}


def router(services: PortalServices, desk: Operation) -> APIRouter:
    """Everything below ``/operation``."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(services, desk)
    reading, acting = permission("operation:read"), permission("operation:act")
    shown: Sequence[tuple[str, Callable[..., Any]]] = (
        ("", pages.studies),
        ("/studies/{public_id}", pages.study),
        ("/held", pages.held),
        ("/queue", pages.queue),
        ("/destinations", pages.destinations),
        ("/models", pages.models),
        ("/routes", pages.routes),
        ("/health", pages.health),
    )
    for path, handler in shown:
        made.add_api_route(HOME + path, handler, methods=["GET"], openapi_extra=reading)
    made.add_api_route(f"{HOME}/find", pages.find, methods=["POST"], openapi_extra=reading)
    made.add_api_route(f"{HOME}/items/{{item}}/{{verb}}", pages.act, methods=["POST"], openapi_extra=acting)
    made.add_api_route(f"{HOME}/destinations/{{name}}/{{verb}}", pages.act_on, methods=["POST"], openapi_extra=acting)
    return made


class _Pages:
    def __init__(self, services: PortalServices, desk: Operation) -> None:
        self._services = services
        self._desk = desk
        self._limiter = anyio.CapacityLimiter(CHECK_THREADS)

    # -- reading

    def studies(self, request: Request, state: str = "", all: str = "") -> Response:
        """The newest studies, each with the state of its worst part."""
        wanted = state if state in STATES else ""
        limit = ALL_SHOWN if wanted or all else SHOWN
        held, standing = self._desk.held(), self._desk.destinations()
        return self._page(
            request,
            "studies",
            studies=self._desk.studies(limit, wanted),
            state=wanted,
            states=STATES,
            limit=limit,
            is_all=bool(wanted or all),
            held=len(held),
            away=[one for one in standing if one.state != WORKS],
        )

    def study(self, request: Request, public_id: str) -> Response:
        """Everything about one study, and what it comes to."""
        found = self._desk.why(public_id)
        if found is None:
            raise HTTPException(404)
        return self._page(request, "study", why=found)

    def held(self, request: Request) -> Response:
        """What waits for a person's decision."""
        return self._page(request, "held", items=self._desk.held())

    def queue(self, request: Request) -> Response:
        """What runs, waits or failed."""
        jobs = [job for job in self._desk.jobs() if not job["id"].startswith("destination-")]
        return self._page(request, "queue", jobs=jobs)

    def destinations(self, request: Request) -> Response:
        """How every destination fares, and what waits for it."""
        jobs = [job for job in self._desk.jobs() if job["id"].startswith(("delivery-", "transfer-"))]
        return self._page(request, "destinations", destinations=self._desk.destinations(), jobs=jobs)

    def models(self, request: Request) -> Response:
        """Every installed version of every model, with its figures."""
        return self._page(request, "models", models=self._desk.models())

    def routes(self, request: Request) -> Response:
        """Which series go to which model, and what is published of it."""
        return self._page(request, "routes", book=self._desk.routes())

    async def health(self, request: Request) -> Response:
        """Whether the node takes work, and how full its disk is."""
        ok, checks = await report(self._services.ready, self._services.settings.check_timeout_s, self._limiter)
        disk = await anyio.to_thread.run_sync(self._desk.disk)
        return await anyio.to_thread.run_sync(
            lambda: self._page(request, "health", is_ready=ok, checks=checks, disk=disk)
        )

    # -- acting

    def find(self, request: Request, study: Annotated[str, Form(max_length=128)] = "") -> Response:
        """The study that somebody names by one of its numbers: in a form, because an address is kept."""
        found = self._desk.find(study.strip())
        if found.study:
            return RedirectResponse(f"{HOME}/studies/{found.study}", status_code=303)
        return self._back(HOME, trouble=f"photograph-{found.photograph}" if found.photograph else "unknown-study")

    def act(
        self,
        request: Request,
        item: str,
        verb: str,
        reason: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = HOME,
    ) -> Response:
        """Release, reject, retry or cancel one item."""
        if verb not in ACTS or not _ITEM.fullmatch(item):
            raise HTTPException(404)
        actor = str(request.state.actor)
        return self._done(back, verb, reason, lambda why: self._desk.act(verb, item, actor, why))

    def act_on(
        self,
        request: Request,
        name: str,
        verb: str,
        reason: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = f"{HOME}/destinations",
    ) -> Response:
        """Pause or resume one destination."""
        acts = {"pause": self._desk.pause, "resume": self._desk.resume}
        if verb not in acts or not _NAME.fullmatch(name):
            raise HTTPException(404)
        actor = str(request.state.actor)
        return self._done(back, verb, reason, lambda why: acts[verb](name, actor, why))

    def _done(self, back: str, verb: str, reason: str, act: Callable[[str], int]) -> Response:
        """Do it where a reason was given, and go back."""
        told = " ".join(reason.split())
        if not 3 <= len(told) <= MAX_REASON:
            return self._back(back, trouble="reason")
        try:
            act(told)
        except UnknownItem:
            return self._back(back, trouble="too-late")
        return self._back(back, said=verb)

    def _back(self, back: str, **told: str) -> Response:
        """Only to a page of this room, whatever a form says."""
        target = back if _BACK.fullmatch(back) else HOME
        return RedirectResponse(f"{target}?{urlencode(told)}", status_code=303)

    # -- helpers

    def _page(self, request: Request, name: str, **values: Any) -> Response:
        query = request.query_params
        said = query.get("said", "")
        trouble = query.get("trouble", "")
        return page(
            request,
            f"operation/{name}.html",
            refusal=Refusals(language_of(request)),
            pages=_PAGES,
            said=said if said in (*ACTS, "pause", "resume") else "",
            trouble=trouble if trouble in TROUBLES else "",
            back=request.url.path,
            may_act=request.state.identity.may("operation:act"),
            **values,
        )
