"""The page on which a photograph is asked about, and the parts that it fetches: last patients, who has an identifier.

The photograph itself goes from the phone's own store to ``POST /api/v1/analyses`` (``static/queue.js``): with a line at
once, without one later, under a name of its own, so once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.body_sites import SITES, BodySite
from dicom_node.desks.analyses import Analyses
from dicom_node.desks.predictions import Predictions, UnknownModel
from dicom_node.refusals import Refused
from portal.api.limits import Buckets
from portal.gate import permission
from portal.pages.forms import fields_of
from portal.pages.render import page
from portal.pages.shown import patient_of
from portal.sessions import person_of

MODEL = "skin-lesion"
MAKE = permission("analysis:make")
_LOOK_UP = ("site", "patient_type", "patient_id")


def router(desk: Analyses, predictions: Predictions | None) -> APIRouter:
    """``/analyse`` and its parts."""
    made = APIRouter(include_in_schema=False)
    looks = Buckets(desk.settings.images_per_minute)

    async def analyse(request: Request, kept: str = "") -> Response:
        """Ask about a photograph."""
        person = person_of(request)
        sites = await run_in_threadpool(desk.sites_of, person)
        return page(
            request,
            "analyse.html",
            is_kept=kept == "yes",
            owner=person.public_id,
            sites=sites,
            body_sites=grouped(SITES),
            max_bytes=desk.settings.max_photo_mb * 1_000_000,
            limits=await run_in_threadpool(_limits, predictions),
        )

    async def recent(request: Request) -> Response:
        """Whom she sent photographs of last."""
        found = await run_in_threadpool(desk.last_patients, person_of(request))
        return page(request, "recent.html", patients=[patient_of(one) for one in found])

    async def patient(request: Request) -> Response:
        """Who has an identifier, as the site's server says; a POST, so that it stands in no address (S23)."""
        if looks.take(person_of(request).prefix):  # nobody reads a register by trying its numbers
            raise HTTPException(429)
        told = await fields_of(request, _LOOK_UP)
        site, kind, identifier = (told[name].strip() for name in _LOOK_UP)
        try:
            found = await run_in_threadpool(desk.look_up, person_of(request), site, kind, identifier[:64])
        except Refused:
            return page(request, "who.html", state="wrong", patient=None)
        return page(request, "who.html", state=found.state, patient=patient_of(vars(found)))

    for path, handler, method in (
        ("/analyse", analyse, "GET"),
        ("/analyse/recent", recent, "GET"),
        ("/analyse/patient", patient, "POST"),
    ):
        handle: Callable[..., Any] = handler
        made.add_api_route(path, handle, methods=[method], openapi_extra=MAKE)
    return made


def grouped(sites: Iterable[BodySite]) -> list[tuple[str, list[BodySite]]]:
    """Body sites by group, in their order; keys of ``bodysites.group_…``."""
    return [
        (key.replace("/", "-").replace(" ", "-") or "other", list(members))
        for key, members in groupby(sites, key=lambda one: one.group)
    ]


def _limits(predictions: Predictions | None) -> dict[str, Any]:
    """The quality limits of the model that will look, for the quick look on the phone; empty without one."""
    if predictions is None:
        return {}
    try:
        quality = getattr(predictions.model(MODEL, "").description, "quality", None)
    except (UnknownModel, Refused):
        return {}
    wanted = {"shorter_side", "brightness", "glare", "sharpness"}
    return {} if quality is None else dict(json.loads(quality.limits.model_dump_json(include=wanted)))
