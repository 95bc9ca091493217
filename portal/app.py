"""The application factory."""

from __future__ import annotations

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from dicom_node import logs
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from fhir_bridge import server as fhir
from portal import administration, api, audit_events, cases, docs, health, luna, operation, study, viewer
from portal.api import analyses as api_analyses
from portal.api import outcomes
from portal.gate import LOOPBACK, OPEN, Gate, authorise, routes_of
from portal.languages import negotiated
from portal.pages import account, analyse, analyses, assets, install, navigation, second_factor, troubles, trust
from portal.problems import STATUS, plain, refused
from portal.services import PortalServices
from portal.shell import Shell

_log = structlog.get_logger("portal")


def create_app(services: PortalServices) -> FastAPI:
    """Build the HTTP side of the node.

    Order of the layers, from outside: `Shell` (limits, headers, faults), `Gate` (who calls), routes (what they may).
    """
    app = FastAPI(
        title="dicom-ai-node",
        version=services.settings.version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(authorise)],
    )
    app.state.settings = services.settings
    app.include_router(health.router(services))
    app.include_router(docs.router(app))
    if services.audit is not None:
        # before the routes that take every other type of resource
        app.include_router(audit_events.router(services.audit, services.on_access))
    if services.reports is not None:
        base = f"{services.settings.base_url.rstrip('/')}/fhir" if services.settings.base_url else ""
        app.include_router(
            fhir.router(
                services.reports, version=services.settings.version, base_url=base, on_access=services.on_access
            )
        )
    if services.predictions is not None:
        app.include_router(api.router(services, services.predictions))
    if services.analyses is not None:
        app.include_router(api_analyses.router(services, services.analyses))
    app.include_router(assets.router())
    app.include_router(install.router(app))
    if services.administration is not None:
        app.include_router(administration.router(services.administration))
    if services.operation is not None:
        app.include_router(operation.router(services, services.operation))
    if services.studies is not None and services.predictions is not None:
        app.include_router(study.router(services, services.studies, services.predictions.settings))
    if services.luna is not None:
        app.include_router(luna.router(services, services.luna))
    if services.people is not None:
        app.include_router(account.router(services, services.people))
        if services.people.codes is not None:
            app.include_router(second_factor.router(services.people, services.people.codes))
    if services.analyses is not None:
        app.include_router(analyse.router(services.analyses, services.predictions))
        app.include_router(analyses.router(services, services.analyses))
    if services.reviews is not None:
        app.include_router(outcomes.router(services, services.reviews))
        app.include_router(cases.router(services, services.reviews))
    if services.trust is not None:
        app.include_router(trust.router(services.trust))
    if services.viewer is not None:
        app.include_router(viewer.router(services.viewer, services.on_access))
    _handle_errors(app, services)
    app.state.places = frozenset(p.path for p in navigation.PLACES) & {r.path for r in routes_of(app)}
    open_paths = {r.path for r in routes_of(app) if r.permission == OPEN or r.permission.startswith(LOOPBACK)}
    app.add_middleware(Gate, services=services, open_paths=open_paths, page_for=troubles.for_nobody)
    app.add_middleware(Shell, settings=services.settings, page_for=troubles.for_a_fault)
    return app


def _handle_errors(app: FastAPI, services: PortalServices) -> None:
    async def on_refused(request: Request, error: Exception) -> Response:
        code = error.refusal.code if isinstance(error, Refused) else RefusalCode.VALIDATION
        if code is RefusalCode.NOT_AUTHORISED:
            services.metrics.count("auth_failures_total", kind="scope")
        if troubles.wants_a_page(request):
            return troubles.trouble(request, STATUS.get(code, 422))
        return refused(code, request.state.correlation, _language(request))

    async def on_trouble(request: Request, error: Exception) -> Response:
        _log.warning("peer-trouble", correlation=request.state.correlation, error=logs.named(error))
        return _told(request, 502)

    async def on_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _told(request, status)

    async def on_invalid(request: Request, error: Exception) -> Response:
        if troubles.wants_a_page(request):
            return troubles.trouble(request, STATUS[RefusalCode.VALIDATION])
        return refused(RefusalCode.VALIDATION, request.state.correlation, _language(request))

    def _told(request: Request, status: int) -> Response:
        if troubles.wants_a_page(request):
            return troubles.trouble(request, status)
        return plain(status, request.state.correlation, _language(request))

    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(PeerTrouble, on_trouble)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _language(request: Request) -> str:
    return negotiated(request.headers.get("accept-language"), "en")
