"""Who may do what: one gate for every route, deny by default (I5, S26).

A route says its permission in ``openapi_extra={"x-permission": ...}``.  A request from nobody is turned away before
its body is read; a route that says nothing is closed to everybody, and a test finds it.

Permissions: ``open`` (anybody), ``loopback:<permission>`` (anybody on this machine, else somebody who has it), a scope
of `dicom_node.record.keys.SCOPES`, or a permission of people (`dicom_node.permissions.MAY`).

Who calls is a program with an API key, a person with a session (cookie), or with a token of the LUNA API.  A request
shows one of these: a key or token in a header goes before a cookie, and then the cookie counts for nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from dicom_node.permissions import MAY, Person
from dicom_node.record import audit
from dicom_node.record.keys import SCOPES, KeyIdentity
from dicom_node.record.sessions import PORTAL
from dicom_node.refusals import RefusalCode, Refused
from portal import sessions
from portal.languages import negotiated
from portal.problems import refused
from portal.services import PortalServices

OPEN = "open"
LOOPBACK = "loopback:"
KEY_PREFIX = "ain_"
"""With which every API key begins: any other token is one of the LUNA API."""


def permission(scope: str) -> dict[str, str]:
    """`openapi_extra` of a route that needs this permission."""
    return {"x-permission": scope}


def is_known(declared: str) -> bool:
    """Whether a declared permission is one that exists."""
    return declared == OPEN or declared.removeprefix(LOOPBACK) in {*SCOPES, *MAY}


@dataclass(frozen=True)
class RouteFacts:
    """A route as it is reached: path, methods, declared permission."""

    path: str
    methods: frozenset[str]
    permission: str
    summary: str


def routes_of(app: FastAPI) -> list[RouteFacts]:
    """Every route of the application, those of included routers too."""
    found = []
    for context in iter_route_contexts(app.routes):
        extra = getattr(context, "openapi_extra", None) or {}
        summary = (getattr(context.endpoint, "__doc__", "") or "").strip().split("\n")[0]
        declared = str(extra.get("x-permission", ""))
        found.append(RouteFacts(str(context.path), frozenset(context.methods or ()), declared, summary))
    return found


def is_from_this_machine(connection: HTTPConnection) -> bool:
    """Whether the caller is a process on this machine; what a proxy passed on never is."""
    forwarded = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
    if connection.client is None or any(name in connection.headers for name in forwarded):
        return False
    try:
        return ipaddress.ip_address(connection.client.host).is_loopback
    except ValueError:
        return False


def _token(connection: HTTPConnection) -> str:
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    names = ("x-api-key", "x-access-token")
    return next((value.strip() for name in names if (value := connection.headers.get(name, ""))), "")


class Gate:
    """ASGI middleware: finds out who calls, and turns nobody away from everything but the open doors."""

    def __init__(
        self,
        app: ASGIApp,
        services: PortalServices,
        open_paths: Iterable[str],
        page_for: Callable[[Request], ASGIApp | None],
    ) -> None:
        self._app = app
        self._services = services
        self._open = frozenset(open_paths)
        self._page_for = page_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        with audit.called_from(sessions.address_of(connection)):
            await self._admit(connection, scope, receive, send)

    async def _admit(self, connection: HTTPConnection, scope: Scope, receive: Receive, send: Send) -> None:
        identity = await self._identify(connection)
        state = scope.setdefault("state", {})
        state["identity"] = identity
        state["person"] = identity if isinstance(identity, Person) or identity is None else identity.person
        state["actor"] = "nobody" if identity is None else identity.actor
        is_by_cookie = isinstance(identity, Person) and identity.kind == PORTAL
        state["csrf"] = sessions.csrf_of(sessions.secret_of(connection)) if is_by_cookie else ""
        if identity is None and scope["path"] not in self._open:
            kind = "unknown-key" if _token(connection) else "missing"
            self._services.metrics.count("auth_failures_total", kind=kind)
            answer: ASGIApp | None = self._page_for(Request(scope))
            if answer is None:
                language = negotiated(connection.headers.get("accept-language"), "en")
                answer = refused(RefusalCode.UNAUTHENTICATED, scope["state"].get("correlation", ""), language)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _identify(self, connection: HTTPConnection) -> KeyIdentity | Person | None:
        token, services = _token(connection), self._services
        if token:
            if services.verify_token is not None and not token.startswith(KEY_PREFIX):
                return await run_in_threadpool(services.verify_token, token)
            return await run_in_threadpool(services.verify_key, token)
        secret = sessions.secret_of(connection)
        if services.people is not None and secret:
            is_background = connection.headers.get(sessions.UNATTENDED) == "yes"
            found = await run_in_threadpool(services.people.identify, secret, is_background=is_background)
            if found is not None:
                return found
        return services.viewer.office.visitor(connection.cookies) if services.viewer else None


async def authorise(request: Request) -> None:
    """Hold a request to the permission of the route it reached.

    Raises
    ------
    Refused
        `unauthenticated` without a caller; `not-authorised` when the caller lacks the permission, the route says
        nothing, or a form does not show its session's token.
    """
    route = request.scope.get("route")
    extra = (route.openapi_extra or {}) if isinstance(route, APIRoute) else {}
    declared = str(extra.get("x-permission", ""))
    if declared == OPEN:
        sessions.hold_to_origin(request)
        return
    await sessions.hold_to_token(request)
    if declared.startswith(LOOPBACK) and is_from_this_machine(request):
        return
    identity: KeyIdentity | Person | None = request.state.identity
    if identity is None:
        raise Refused(RefusalCode.UNAUTHENTICATED)
    if not declared or not identity.may(declared.removeprefix(LOOPBACK)):
        raise Refused(RefusalCode.NOT_AUTHORISED)
