"""What the routes below ``/api/v1`` do: take uploads in, wait or do not wait, hand out what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import RowMapping

from dicom_node.desks.predictions import MAX_BATCH, Asked, Predictions, UnknownModel
from dicom_node.desks.uploads import GivenFile
from dicom_node.record import predictions as record
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages.prediction_words import FILES
from fhir_bridge.server import Access
from portal.api import schemas
from portal.api.answers import answer, refusal_problem
from portal.api.callers import Callers
from portal.api.fields import options_of, waits, warnings_of
from portal.api.upload import Form, UploadLimits, take_form
from portal.health import report
from portal.problems import MEDIA_TYPE
from portal.services import PortalServices
from portal.stored import stored_file

MAX_FILES = 5_000
MAX_HELD = 48
"""Calls that are held open at once, waiting for results or reading events; more are told where to look."""
_POLL_S = (0.05, 0.1, 0.2, 0.4)
_HEARTBEAT_S = 15.0

T = TypeVar("T")


@dataclass
class _Held:
    """How many calls are held open."""

    count: int = 0


class Api(Callers):
    """The handlers, bound to what the portal was given."""

    def __init__(self, services: PortalServices, desk: Predictions) -> None:
        super().__init__(services, desk.settings, desk.language)
        self._desk = desk
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
        if not waits(wait, form.fields):
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
        if waits(wait, form.fields):
            rows = await self._finished(request, rows)
        is_open = any(row["state"] in record.UNFINISHED for row in rows)
        return JSONResponse(self._batch(request, rows), status_code=202 if is_open else 200)

    async def _form(self, request: Request, model: str, files: frozenset[str], count: int, *, images: int) -> Form:
        self._pay(request, self._images, images, "predict")
        owner = owner_of(request)
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
            owner=owner_of(request),
            name=model,
            cases=cases,
            is_batch=is_batch,
            options=options_of(fields, self._desk.destinations()),
            warnings=warnings_of(fields),
            idempotency_key=key,
            body_sha256=form.sha256,
            actor=str(request.state.actor),
        )
        return await self._run(self._desk.accept, asked)

    # -- what came of it

    async def result(self, request: Request, id: str) -> Response:
        """One request: how far it is, and what came of it."""
        row = await self._row(request, id)
        return JSONResponse(answer(row, self._origin(request), self.language(request)))

    async def batch_result(self, request: Request, id: str) -> Response:
        """Every request of a batch, in input order."""
        rows = await self._run(self._desk.batch, owner_of(request), id)
        if not rows:
            raise UnknownModel
        return JSONResponse(self._batch(request, rows))

    async def cancel(self, request: Request, id: str) -> Response:
        """End a request that nobody wants any more; one that is over stays as it is."""
        row = await self._run(self._desk.cancel, owner_of(request), id, str(request.state.actor))
        if row is None:
            raise UnknownModel
        return JSONResponse(answer(row, self._origin(request), self.language(request)))

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
        return await self._run(stored_file, path, FILES[name], kept_name)

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
        return JSONResponse({**body, "checks": checks})  # an answer is an answer; /readyz is for load balancers

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
        row = await self._run(self._desk.result, owner_of(request), public_id)
        if row is None:
            raise UnknownModel
        return row

    async def _finished(self, request: Request, rows: list[RowMapping]) -> list[RowMapping]:
        """The rows when all of them are over, or when the caller has waited long enough or gone away."""
        if self._held.count >= MAX_HELD:
            return rows
        self._held.count += 1
        try:
            owner, deadline, tries = owner_of(request), time.monotonic() + self._desk.settings.wait_s, 0
            while any(row["state"] in record.UNFINISHED for row in rows) and time.monotonic() < deadline:
                await anyio.sleep(_POLL_S[min(tries, len(_POLL_S) - 1)])
                tries += 1
                rows = await self._run(self._desk.again, owner, rows)
                if await request.is_disconnected():
                    return rows
            return rows
        finally:
            self._held.count -= 1

    def _one(self, request: Request, row: RowMapping, *, accepted: bool) -> Response:
        headers = {"Location": f"/api/v1/results/{row['public_id']}"}
        if row["state"] == "refused":
            status, body = refusal_problem(row["refusal"], request.state.correlation, self.language(request))
            return JSONResponse({**body, "id": row["public_id"]}, status_code=status, media_type=MEDIA_TYPE)
        body = answer(row, self._origin(request), self.language(request))
        if row["state"] == "failed":
            return _fault(request, body)
        return JSONResponse(body, status_code=202 if accepted else 200, headers=headers)

    def _batch(self, request: Request, rows: Sequence[RowMapping]) -> dict[str, Any]:
        origin = self._origin(request)
        results = [answer(row, origin, self.language(request)) for row in rows]
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


def owner_of(request: Request) -> str:
    """Whose requests these are: the public part of the key."""
    return str(request.state.identity.prefix)


def _fault(request: Request, body: Mapping[str, Any]) -> Response:
    told = {
        "type": "urn:ainode:problem:fault",
        "title": body["message"],
        "instance": f"urn:ainode:request:{request.state.correlation}",
    }
    return JSONResponse({**body, **told, "status": 500}, status_code=500, media_type=MEDIA_TYPE)
