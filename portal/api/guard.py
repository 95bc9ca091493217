"""How the routes below ``/api/v1`` say no: problems with what was expected and found, in the caller's language."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from dicom_node.desks.predictions import UnknownModel
from dicom_node.refusals import Refused
from portal.api.answers import refusal_problem
from portal.api.callers import Callers, Slower
from portal.api.limits import retry_after
from portal.api.upload import drain
from portal.problems import MEDIA_TYPE, plain
from portal.services import PortalServices

Handler = Callable[..., Awaitable[Response]]


def guarded(api: Callers, services: PortalServices, handler: Handler) -> Handler:
    """A handler whose refusals are problems with what was expected and found, and whose callers are counted."""

    @functools.wraps(handler)
    async def answered(*args: Any, **named: Any) -> Response:
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
            return plain(404, correlation, api.language(request))
        except ClientDisconnect:
            return plain(400, correlation, api.language(request))
        await drain(request)
        return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)

    return answered
