"""``POST /api/v1/analyses/{id}/outcome``: a laboratory's system, or a specialist's, says what histology found."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from dicom_node.desks.reviews import Reviews
from dicom_node.diagnoses import DIAGNOSES, MALIGNANT
from dicom_node.record.outcomes import OutcomeRefused
from dicom_node.refusals import RefusalCode, Refused
from portal.api.callers import Callers
from portal.api.guard import guarded
from portal.api.schemas import problems
from portal.gate import permission
from portal.languages import negotiated
from portal.problems import plain
from portal.services import PortalServices
from portal.sessions import person_of

Diagnosis = Literal[DIAGNOSES]  # type: ignore[valid-type]  # one list, of which the description shows every word


class OutcomeBody(BaseModel):
    """What histology said."""

    model_config = ConfigDict(extra="forbid", strict=True)

    diagnosis: Diagnosis
    on_date: date = Field(description="Of the report, YYYY-MM-DD.", strict=False)
    malignant: bool | None = Field(None, description="If told, it must agree with the diagnosis.")


class OutcomeAnswer(BaseModel):
    """What stands in the records now."""

    analysis: str
    diagnosis: str
    malignant: bool
    on_date: date
    is_new: bool


def router(services: PortalServices, desk: Reviews) -> APIRouter:
    """The one route."""
    made = APIRouter(prefix="/api/v1", tags=["Analyses"])
    callers = Callers(services, desk.settings, services.settings.language)

    async def outcome(request: Request, body: OutcomeBody, id: str = Path(pattern="^[0-9a-f]{32}$")) -> Response:
        """Write what histology said of an analysis; 201 when it is new, 200 when it stood there already."""
        who = person_of(request)  # of a key, its account: one without belongs to no site
        told = (id, body.diagnosis, body.on_date.isoformat(), body.malignant)
        try:
            is_new = await run_in_threadpool(desk.tell, who, *told, "api")
        except OutcomeRefused as wrong:
            raise Refused(RefusalCode.VALIDATION, str(wrong), wrong.reason) from wrong
        if is_new is None:
            language = negotiated(request.headers.get("accept-language"), who.language)
            return plain(404, str(request.state.correlation), language)
        answer = OutcomeAnswer(
            analysis=id,
            diagnosis=body.diagnosis,
            malignant=body.diagnosis in MALIGNANT,
            on_date=body.on_date,
            is_new=is_new,
        )
        return JSONResponse(answer.model_dump(mode="json"), status_code=201 if is_new else 200)

    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": OutcomeAnswer, "description": "It stood there already"},
        201: {"model": OutcomeAnswer},
    }
    made.add_api_route(
        "/analyses/{id}/outcome",
        guarded(callers, services, outcome),
        methods=["POST"],
        responses={**answers, **problems(404, 413, 422)},
        openapi_extra=permission("outcome:write"),
        response_model=None,
        status_code=201,
    )
    return made
