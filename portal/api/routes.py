"""The routes below ``/api/v1``: who may call them, what they say they answer, and how they say no."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from dicom_node.desks.predictions import Predictions
from dicom_node.stages.prediction_words import FILES
from portal.api import schemas
from portal.api.guard import Handler, guarded
from portal.api.photo_schemas import PHOTO_BODY, PhotoAnswer
from portal.api.photos import MODEL, PhotoApi
from portal.gate import permission
from portal.services import PortalServices

SCOPE = "predict:run"
_Id = Path(pattern="^[0-9a-f]{32}$")


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
            guarded(api, services, handler),
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
