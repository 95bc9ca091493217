"""The routes below ``/api/v1``: who may call them, what they say they answer, and how they say no."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from dicom_node.predictions import Predictions, UnknownModel
from dicom_node.refusals import Refused
from dicom_node.stages.prediction_words import FILES
from portal.api import schemas
from portal.api.answers import refusal_problem
from portal.api.handlers import Api, Slower
from portal.api.limits import retry_after
from portal.api.photo_schemas import PHOTO_BODY, PhotoAnswer
from portal.api.photos import MODEL, PhotoApi
from portal.api.upload import drain
from portal.gate import permission
from portal.problems import MEDIA_TYPE, plain
from portal.services import PortalServices

SCOPE = "predict:run"
_Id = Path(pattern="^[0-9a-f]{32}$")

Handler = Callable[..., Awaitable[Response]]


def _guarded(api: Api, services: PortalServices, handler: Handler) -> Handler:
    """A handler whose refusals are problems with what was expected and found, and whose callers are counted."""

    @functools.wraps(handler)
    async def guarded(*args: Any, **named: Any) -> Response:
        request: Request = named["request"]
        correlation = str(request.state.correlation)
        try:
            api.pay_call(request)
            return await handler(*args, **named)
        except Slower as slower:
            status, body = refusal_problem({"code": "too-busy"}, correlation, api.language(request))
            headers = {"Retry-After": retry_after(slower.wait_s)}
        except Refused as refused:
            told = refused.refusal
            services.metrics.count("refusals_total", reason=told.code.value, channel="http")
            status, body = refusal_problem(told.to_json(), correlation, api.language(request))
            headers = {"Retry-After": "30"} if status in (429, 503) else {}
        except UnknownModel:
            await drain(request)
            return plain(404, correlation)
        except ClientDisconnect:
            return plain(400, correlation)
        await drain(request)
        return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)

    return guarded


def router(services: PortalServices, desk: Predictions) -> APIRouter:
    """Everything below ``/api/v1``."""
    made = APIRouter(prefix="/api/v1", tags=["Predictions"])
    api = PhotoApi(services, desk)

    async def predict(
        request: Request,
        model: str = Path(max_length=128),
        wait: bool | None = Query(None, description="false: answer 202 at once; the result comes later."),
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Segment one case: a NIfTI file, the files of several roles, or a DICOM study."""
        return await api.predict(request, model, wait, idempotency_key)

    async def photo(
        request: Request,
        wait: bool | None = Query(None, description="false: answer 202 at once; the result comes later."),
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Estimate one photograph of a skin lesion: decision support, never a diagnosis."""
        return await api.photo(request, wait, idempotency_key)

    async def batch(
        request: Request,
        model: str = Path(max_length=128),
        wait: bool | None = Query(None, description="false: answer 202 at once; the results come later."),
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Segment up to 50 cases of one file each; a bad file fails alone."""
        return await api.batch(request, model, wait, idempotency_key)

    async def result(request: Request, id: str = _Id) -> Response:
        """One request: how far it is, and what came of it."""
        return await api.result(request, id)

    async def batch_result(request: Request, id: str = _Id) -> Response:
        """Every request of a batch, in input order."""
        return await api.batch_result(request, id)

    async def events(
        request: Request, id: str = _Id, last_event_id: str | None = Header(None, max_length=20)
    ) -> Response:
        """What happens to a request, as it happens (Server-Sent Events)."""
        return await api.events(request, id, last_event_id)

    async def file(request: Request, id: str = _Id, name: str = Path(max_length=32)) -> Response:
        """A file of a finished request: mask, overlay picture, numbers; for DICOM input SEG, SR and PDF."""
        return await api.file(request, id, name)

    async def cancel(request: Request, id: str = _Id) -> Response:
        """End a request that nobody wants any more."""
        return await api.cancel(request, id)

    async def health(request: Request) -> Response:
        """Whether the node takes work, and how much it has."""
        return await api.health(request)

    async def models(request: Request) -> Response:
        """The models that are installed, and the names under which they can be asked for."""
        return await api.models(request)

    def add(path: str, handler: Handler, method: str, responses: dict[Any, Any], **extra: Any) -> None:
        scope = extra.pop("scope", SCOPE)
        made.add_api_route(
            path,
            _guarded(api, services, handler),
            methods=[method],
            responses=responses,
            openapi_extra={**permission(scope), **extra},
            response_model=None,
        )

    one = {200: {"model": schemas.Answer}, 202: {"model": schemas.Answer, "description": "Accepted; not finished yet"}}
    many = {
        200: {"model": schemas.BatchAnswer},
        202: {"model": schemas.BatchAnswer, "description": "Accepted; not finished yet"},
    }
    asking = schemas.problems(404, 409, 413, 415, 422, 503)
    found = schemas.problems(404, 422)
    photos = {
        200: {"model": PhotoAnswer},
        202: {"model": PhotoAnswer, "description": "Accepted; not finished yet"},
    }
    # before the route with a name of its own kind: the first that fits is taken
    add(f"/predict/{MODEL}", photo, "POST", {**photos, **asking}, requestBody=PHOTO_BODY)
    add("/predict/{model}", predict, "POST", {**one, **asking}, requestBody=schemas.PREDICT_BODY)
    add("/predict/{model}/batch", batch, "POST", {**many, **asking}, requestBody=schemas.BATCH_BODY)
    either = {200: {"model": schemas.Answer | PhotoAnswer}}
    add("/results/{id}", result, "GET", {**either, **found})
    add("/results/{id}/cancel", cancel, "POST", {**either, **found})
    add("/results/{id}/events", events, "GET", {200: {"content": {"text/event-stream": {}}}, **found})
    contents: dict[str, Any] = {kind: {} for kind in sorted(set(FILES.values()))}
    add("/results/{id}/files/{name}", file, "GET", {200: {"content": contents}, **found})
    add("/batches/{id}", batch_result, "GET", {200: {"model": schemas.BatchAnswer}, **found})
    add("/health", health, "GET", {200: {"model": schemas.Health}, **schemas.problems()}, scope=f"loopback:{SCOPE}")
    add("/models", models, "GET", {200: {"model": schemas.Models}, **schemas.problems()})
    return made
