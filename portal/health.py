"""Is the process alive, is the node ready, what do the numbers say (hardening section 9, I23).

Live: the accept loops turn.  Ready: every check of `PortalServices.ready` holds, each within a deadline.  A PACS or EHR
that is down is no reason to be unready: the node keeps what it could not deliver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread
import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from dicom_node import logs
from portal.gate import permission
from portal.services import Check, CheckResult, PortalServices

CHECK_THREADS = 16
_log = structlog.get_logger("portal")


async def _asked(name: str, check: Check, timeout_s: float, limiter: anyio.CapacityLimiter) -> CheckResult:
    try:
        # A check that hangs keeps its thread; the limiter keeps such threads few, and the deadline keeps us answering.
        with anyio.fail_after(timeout_s):
            return await anyio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=limiter)
    except TimeoutError:
        return CheckResult(False, f"no answer within {timeout_s:g} s", "Look for a full disk or a busy machine.")
    except Exception as error:  # a check that breaks is a check that does not hold; its text may name anything
        _log.error("check-fault", check=name, error=logs.named(error))
        return CheckResult(False, "the check itself failed", "See the log for check-fault.")


async def report(
    checks: Mapping[str, Check], timeout_s: float, limiter: anyio.CapacityLimiter
) -> tuple[bool, list[dict[str, Any]]]:
    """Ask every check at once; whether all hold, and a row for each."""
    results = await asyncio.gather(*(_asked(name, check, timeout_s, limiter) for name, check in checks.items()))
    rows: list[dict[str, Any]] = [
        {"name": name, "ok": result.ok, "reason": result.reason, "advice": result.advice}
        for name, result in zip(checks, results, strict=True)
    ]
    return all(result.ok for result in results), rows


async def _report(checks: Mapping[str, Check], timeout_s: float, limiter: anyio.CapacityLimiter) -> Response:
    is_ok, rows = await report(checks, timeout_s, limiter)
    return JSONResponse({"ok": is_ok, "checks": rows}, status_code=200 if is_ok else 503)


def router(services: PortalServices) -> APIRouter:
    """/livez, /readyz and /metrics: open on this machine, by key from elsewhere."""
    made = APIRouter(tags=["Health"])
    timeout_s = services.settings.check_timeout_s
    limiter = anyio.CapacityLimiter(CHECK_THREADS)

    async def livez() -> Response:
        """Whether the process turns."""
        return await _report(services.live, timeout_s, limiter)

    async def readyz() -> Response:
        """Whether the node takes work, and if not, why and what to do."""
        return await _report(services.ready, timeout_s, limiter)

    def metrics() -> Response:
        """The node's numbers in Prometheus text format."""
        if services.refresh_metrics:
            services.refresh_metrics()
        return Response(services.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    made.add_api_route("/livez", livez, methods=["GET"], openapi_extra=permission("loopback:health:read"))
    made.add_api_route("/readyz", readyz, methods=["GET"], openapi_extra=permission("loopback:health:read"))
    made.add_api_route("/metrics", metrics, methods=["GET"], openapi_extra=permission("loopback:metrics:read"))
    return made
