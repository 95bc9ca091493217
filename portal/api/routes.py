"""The routes below ``/api/v1``."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from sqlalchemy import RowMapping
from starlette.requests import ClientDisconnect

from dicom_node.durable import ROUTINE, STAT
from dicom_node.predictions import MAX_BATCH, Asked, GivenFile, Predictions, UnknownModel
from dicom_node.record import predictions as record
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages.prediction_files import FILES
from fhir_bridge.server import Access
from portal.api import schemas
from portal.api.answers import answer, refusal_problem
from portal.api.limits import Buckets, retry_after
from portal.api.upload import Form, UploadLimits, drain, take_form
from portal.gate import permission
from portal.health import report
from portal.problems import MEDIA_TYPE, plain
from portal.services import PortalServices

SCOPE = "predict:run"
MAX_FILES = 5_000
MAX_HELD = 48
"""Calls that are held open at once, waiting for results or reading events; more are told where to look."""
_POLL_S = (0.05, 0.1, 0.2, 0.4)
_HEARTBEAT_S = 15.0
_NOT_OPENED = "was accepted and not opened: what came of the request is fetched from the links of its answer"
_NOTHING = frozenset({"", "false", "none", "null", "0", "no"})

T = TypeVar("T")
_Id = Path(pattern="^[0-9a-f]{32}$")


@dataclass
class _Held:
    """How many calls are held open."""

    count: int = 0


class _Api:
    """The handlers, bound to what the portal was given."""

    def __init__(self, services: PortalServices, desk: Predictions) -> None:
        self._services = services
        self._desk = desk
        self._calls = (Buckets(desk.settings.requests_per_minute), Buckets(desk.settings.requests_per_minute))
        self._images = (Buckets(desk.settings.images_per_minute), Buckets(desk.settings.images_per_minute))
        self._held = _Held()
        self._limiter = anyio.CapacityLimiter(16)

    # -- asking

    async def predict(self, request: Request, model: str, wait: bool | None, key: str | None) -> Response:
        """One case: a NIfTI file, the files of several roles, or a DICOM study."""
        form = await self._form(request, model, schemas.FILE_FIELDS, MAX_FILES, images=1)
        by_role = any(one.field in schemas.ROLE_FIELDS for one in form.files)
        role = form.fields.get("role", "")
        if role and by_role:
            raise Refused(RefusalCode.VALIDATION, "`role`, or a field for each role", "both")
        case = [
            GivenFile(
                one.upload,
                one.field if one.field in schemas.ROLE_FIELDS else role,
                one.told_name,
                is_image_field=one.field != "files",
            )
            for one in form.files
        ]
        rows = await self._accept(request, model, form, [case], key, is_batch=False)
        if not _waits(wait, form.fields):
            return self._one(request, rows[0], accepted=True)
        rows = await self._finished(request, rows)
        return self._one(request, rows[0], accepted=rows[0]["state"] in record.UNFINISHED)

    async def batch(self, request: Request, model: str, wait: bool | None, key: str | None) -> Response:
        """Up to 50 cases, one file each; one bad file fails alone."""
        form = await self._form(request, model, schemas.BATCH_FILE_FIELDS, MAX_BATCH, images=0)
        role = form.fields.get("role", "")
        cases = [[GivenFile(one.upload, role, one.told_name)] for one in form.files]
        if not cases:
            raise Refused(RefusalCode.INPUT_EMPTY, "1 to 50 files in the field `images`", "none")
        self._pay(request, self._images, len(cases), "predict-batch")
        rows = await self._accept(request, model, form, cases, key, is_batch=True)
        if _waits(wait, form.fields):
            rows = await self._finished(request, rows)
        is_open = any(row["state"] in record.UNFINISHED for row in rows)
        return JSONResponse(self._batch(request, rows), status_code=202 if is_open else 200)

    async def _form(self, request: Request, model: str, files: frozenset[str], count: int, *, images: int) -> Form:
        self._pay(request, self._images, images, "predict")
        owner = _owner(request)
        # before the body is read: an unknown name, a full disk or a full queue need no upload to be said
        await self._run(self._desk.model, model, "")
        await self._run(self._desk.check_admission, owner, 1)
        limits = UploadLimits(self._desk.settings.max_upload_mb * 1_000_000, count)
        return await take_form(request, self._desk.spool, limits, fields=schemas.TEXT_FIELDS, files=files)

    async def _accept(
        self,
        request: Request,
        model: str,
        form: Form,
        cases: Sequence[Sequence[GivenFile]],
        key: str | None,
        *,
        is_batch: bool,
    ) -> list[RowMapping]:
        fields = form.fields
        asked = Asked(
            owner=_owner(request),
            name=model,
            cases=cases,
            is_batch=is_batch,
            options=self._options(fields),
            warnings=[f"{name} {_NOT_OPENED}" for name in ("output_dir", "source_path") if fields.get(name)],
            idempotency_key=key,
            body_sha256=form.sha256,
        )
        return await self._run(self._desk.accept, asked)

    def _options(self, fields: Mapping[str, str]) -> dict[str, Any]:
        options: dict[str, Any] = {"priority": _priority(fields.get("priority", ""))}
        if fields.get("spacing_mm"):
            options["spacing_mm"] = _spacing(fields["spacing_mm"])
        named = [name.strip() for name in fields.get("transfer", "").split(",")]
        wanted = [name for name in dict.fromkeys(named) if name.lower() not in _NOTHING]
        known = self._desk.destinations()
        if not set(wanted) <= set(known):
            told = f"configured destinations among: {', '.join(known) or 'none is configured'}"
            raise Refused(RefusalCode.VALIDATION, told, "another word in `transfer`")
        if wanted:
            options["transfer"] = wanted
        return options

    # -- what came of it

    async def result(self, request: Request, id: str) -> Response:
        """One request: how far it is, and what came of it."""
        row = await self._row(request, id)
        return JSONResponse(answer(row, self._origin(request)))

    async def batch_result(self, request: Request, id: str) -> Response:
        """Every request of a batch, in input order."""
        rows = await self._run(self._desk.batch, _owner(request), id)
        if not rows:
            raise UnknownModel
        return JSONResponse(self._batch(request, rows))

    async def cancel(self, request: Request, id: str) -> Response:
        """End a request that nobody wants any more; one that is over stays as it is."""
        row = await self._run(self._desk.cancel, _owner(request), id)
        if row is None:
            raise UnknownModel
        return JSONResponse(answer(row, self._origin(request)))

    async def file(self, request: Request, id: str, name: str) -> Response:
        """A file of a finished request: mask, numbers, pictures and, for DICOM input, the objects."""
        row = await self._row(request, id)
        path = await self._run(self._desk.file, row, name)
        if path is None:
            raise UnknownModel
        if self._services.on_access is not None:
            told = Access("read", "prediction-file", (str(row["public_id"]),), row["study_uid"] or "")
            await self._run(self._services.on_access, request, told)
        kept_name = f"segmentation-{row['public_id']}.nii.gz" if name == "mask.nii.gz" else name
        return FileResponse(path, media_type=FILES[name], filename=kept_name)

    async def events(self, request: Request, id: str, after: str | None) -> Response:
        """What happens to a request, as it happens (Server-Sent Events); ends with the request."""
        row = await self._row(request, id)
        if self._held.count >= MAX_HELD:
            raise Refused(RefusalCode.TOO_BUSY, f"at most {MAX_HELD} open streams", "more")
        last = int(after) if after is not None and after.isdigit() and len(after) < 18 else 0
        return StreamingResponse(self._stream(request, int(row["id"]), last), media_type="text/event-stream")

    async def _stream(self, request: Request, number: int, last: int) -> AsyncIterator[str]:
        self._held.count += 1
        try:
            deadline = time.monotonic() + self._desk.settings.wait_s
            spoken = time.monotonic()
            while time.monotonic() < deadline:
                happened, is_over = await self._run(self._desk.events, number, last)
                for event in happened:
                    last = int(event["id"])
                    told = json.dumps({"at": event["at"], **event["detail"]}, ensure_ascii=False)
                    yield f"id: {last}\nevent: {event['name'].removeprefix('prediction.')}\ndata: {told}\n\n"
                    spoken = time.monotonic()
                if is_over or await request.is_disconnected():
                    return
                if time.monotonic() - spoken > _HEARTBEAT_S:
                    yield ": still here\n\n"
                    spoken = time.monotonic()
                await anyio.sleep(_POLL_S[-2])
        finally:
            self._held.count -= 1

    # -- about the node

    async def health(self, request: Request) -> Response:
        """Whether the node takes work, and how much it has."""
        ok, checks = await report(self._services.ready, self._services.settings.check_timeout_s, self._limiter)
        waiting = await self._run(self._desk.waiting)
        body = {"status": "ok" if ok else "not-ready", "version": self._services.settings.version, "waiting": waiting}
        return JSONResponse({**body, "checks": checks}, status_code=200 if ok else 503)

    async def models(self, request: Request) -> Response:
        """The models that are installed, and the names under which they can be asked for."""
        told = await self._run(self._desk.models)
        aliases = {name: alias.model for name, alias in self._desk.settings.aliases.items()}
        return JSONResponse({"models": told, "aliases": aliases})

    # -- helpers

    @staticmethod
    async def _run(body: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(body, *arguments)

    async def _row(self, request: Request, public_id: str) -> RowMapping:
        row = await self._run(self._desk.result, _owner(request), public_id)
        if row is None:
            raise UnknownModel
        return row

    async def _finished(self, request: Request, rows: list[RowMapping]) -> list[RowMapping]:
        """The rows when all of them are over, or when the caller has waited long enough or gone away."""
        if self._held.count >= MAX_HELD:
            return rows
        self._held.count += 1
        try:
            owner, deadline, tries = _owner(request), time.monotonic() + self._desk.settings.wait_s, 0
            while any(row["state"] in record.UNFINISHED for row in rows) and time.monotonic() < deadline:
                await anyio.sleep(_POLL_S[min(tries, len(_POLL_S) - 1)])
                tries += 1
                rows = await self._run(self._desk.again, owner, rows)
            return rows
        finally:
            self._held.count -= 1

    def _one(self, request: Request, row: RowMapping, *, accepted: bool) -> Response:
        headers = {"Location": f"/api/v1/results/{row['public_id']}"}
        if row["state"] == "refused":
            status, body = refusal_problem(row["refusal"], request.state.correlation)
            return JSONResponse({**body, "id": row["public_id"]}, status_code=status, media_type=MEDIA_TYPE)
        body = answer(row, self._origin(request))
        if row["state"] == "failed":
            return _fault(request, body)
        return JSONResponse(body, status_code=202 if accepted else 200, headers=headers)

    def _batch(self, request: Request, rows: Sequence[RowMapping]) -> dict[str, Any]:
        origin = self._origin(request)
        results = [answer(row, origin) for row in rows]
        completed = sum(one["success"] for one in results)
        is_open = any(row["state"] in record.UNFINISHED for row in rows)
        return {
            "success": completed == len(results),
            "status": "waiting" if is_open else "completed",
            "message": f"{completed} of {len(results)} files were segmented.",
            "batch": rows[0]["batch"],
            "total": len(results),
            "completed": completed,
            "results": results,
        }

    def _origin(self, request: Request) -> str:
        return self._services.settings.base_url.rstrip("/") or str(request.base_url).rstrip("/")

    def pay_call(self, request: Request) -> None:
        """Count one call.

        Raises
        ------
        _Slower
        """
        self._pay(request, self._calls, 1, "api")

    def _pay(self, request: Request, buckets: tuple[Buckets, Buckets], tokens: float, route: str) -> None:
        if not tokens:
            return
        identity = request.state.identity
        address = request.client.host if request.client else ""
        waits = [buckets[1].take(address, tokens)]
        if identity is not None:
            waits.append(buckets[0].take(identity.prefix, tokens))
        if max(waits):
            self._services.metrics.count("rate_limited_total", route=route)
            raise _Slower(max(waits))


class _Slower(Exception):
    """Too many calls: come back in so many seconds."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__("too many calls")


def _owner(request: Request) -> str:
    """Whose requests these are: the public part of the key."""
    return str(request.state.identity.prefix)


def _waits(wait: bool | None, fields: Mapping[str, str]) -> bool:
    if wait is not None:
        return wait
    told = fields.get("wait", "").lower()
    if told not in ("", "true", "false"):
        raise Refused(RefusalCode.VALIDATION, "wait: true or false", "another word")
    return told != "false"


def _priority(told: str) -> int:
    if told not in ("", "routine", "stat"):
        raise Refused(RefusalCode.VALIDATION, "priority: routine or stat", "another word")
    return STAT if told == "stat" else ROUTINE


def _spacing(told: str) -> list[float]:
    try:
        x, y, z = (float(one) for one in told.split(","))
    except ValueError:
        raise Refused(RefusalCode.VALIDATION, "spacing_mm: x,y,z in millimetres", "something else") from None
    if not all(0.05 <= one <= 20 for one in (x, y, z)):
        raise Refused(RefusalCode.VALIDATION, "spacings between 0.05 and 20 mm", "another number")
    return [x, y, z]


def _fault(request: Request, body: Mapping[str, Any]) -> Response:
    told = {
        "type": "urn:ainode:problem:fault",
        "title": body["message"],
        "instance": f"urn:ainode:request:{request.state.correlation}",
    }
    return JSONResponse({**body, **told, "status": 500}, status_code=500, media_type=MEDIA_TYPE)


Handler = Callable[..., Awaitable[Response]]


def _guarded(api: _Api, services: PortalServices, handler: Handler) -> Handler:
    """A handler whose refusals are problems with what was expected and found, and whose callers are counted."""

    @functools.wraps(handler)
    async def guarded(*args: Any, **named: Any) -> Response:
        request: Request = named["request"]
        correlation = str(request.state.correlation)
        try:
            api.pay_call(request)
            return await handler(*args, **named)
        except _Slower as slower:
            status, body = refusal_problem({"code": "too-busy"}, correlation)
            headers = {"Retry-After": retry_after(slower.wait_s)}
        except Refused as refused:
            told = refused.refusal
            services.metrics.count("refusals_total", reason=told.code.value, channel="http")
            status, body = refusal_problem(told.to_json(), correlation)
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
    api = _Api(services, desk)

    async def predict(
        request: Request,
        model: str = Path(max_length=128),
        wait: bool | None = Query(None, description="false: answer 202 at once; the result comes later."),
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Segment one case: a NIfTI file, the files of several roles, or a DICOM study."""
        return await api.predict(request, model, wait, idempotency_key)

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
    add("/predict/{model}", predict, "POST", {**one, **asking}, requestBody=schemas.PREDICT_BODY)
    add("/predict/{model}/batch", batch, "POST", {**many, **asking}, requestBody=schemas.BATCH_BODY)
    add("/results/{id}", result, "GET", {200: {"model": schemas.Answer}, **found})
    add("/results/{id}/cancel", cancel, "POST", {200: {"model": schemas.Answer}, **found})
    add("/results/{id}/events", events, "GET", {200: {"content": {"text/event-stream": {}}}, **found})
    contents: dict[str, Any] = {kind: {} for kind in sorted(set(FILES.values()))}
    add("/results/{id}/files/{name}", file, "GET", {200: {"content": contents}, **found})
    add("/batches/{id}", batch_result, "GET", {200: {"model": schemas.BatchAnswer}, **found})
    health_answers = {200: {"model": schemas.Health}, 503: {"model": schemas.Health, "description": "Not ready"}}
    add("/health", health, "GET", {**schemas.problems(), **health_answers}, scope=f"loopback:{SCOPE}")
    add("/models", models, "GET", {200: {"model": schemas.Models}, **schemas.problems()})
    return made
