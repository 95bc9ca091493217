"""The outermost layer of every request: name, limits, correlation id, security headers, and no way out for a traceback.

S11 (headers), S13 (bounds before reading), S24 (errors).  Plain ASGI, because only there can a body be counted while
it arrives and an exception be kept from the server's own log, whose texts may hold patient data.
"""

from __future__ import annotations

import json
import secrets
import traceback
from collections.abc import Callable
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node import logs
from dicom_node.refusals import RefusalCode
from portal.languages import negotiated
from portal.problems import plain, refused
from portal.services import PortalSettings

API_CSP = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
MAX_HEADERS = 100
UPLOADS = "/api/v1/predict/"
STUDY_FILES = "/study/files"
"""Below the first, and here, the body of a form goes to disk while it arrives instead of into memory."""
PHOTOS = frozenset({f"{UPLOADS}skin-lesion", "/api/v1/analyses", "/api/imageProcess"})
"""Here the body of a JSON document too: a photograph in base64 is larger than any other document may be."""
_log = structlog.get_logger("portal")


class BodyRefused(Exception):
    """The body is larger, deeper or other than the limits allow."""

    def __init__(self, code: RefusalCode) -> None:
        self.code = code
        super().__init__(code.value)


def json_depth(raw: bytes) -> int:
    """How deeply objects and arrays are nested, counted without parsing."""
    depth = deepest = 0
    inside = escaped = False
    for byte in raw:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BodyRefused(RefusalCode.VALIDATION)
    return made


def check_json(raw: bytes, max_depth: int) -> None:
    """Refuse JSON that is nested too deeply, names a key twice, or is none.

    Raises
    ------
    BodyRefused
    """
    if json_depth(raw) > max_depth:
        raise BodyRefused(RefusalCode.NESTING_TOO_DEEP)
    try:
        json.loads(raw, object_pairs_hook=_no_duplicates)
    except ValueError:
        raise BodyRefused(RefusalCode.VALIDATION) from None


class Shell:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    page_for
        How a person with a browser is told of a fault; None for a program, which reads a problem.
    """

    def __init__(self, app: ASGIApp, settings: PortalSettings, page_for: Callable[[Request], ASGIApp | None]) -> None:
        self._app = app
        self._settings = settings
        self._page_for = page_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        correlation = secrets.token_hex(8)
        scope.setdefault("state", {})["correlation"] = correlation
        answer = _Answer(send, correlation)
        try:
            guarded = await self._guard(scope, receive)
            await self._app(scope, guarded, answer)
        except BodyRefused as error:
            await self._instead(answer, scope, receive, refused(error.code, correlation, _language(scope)))
        except _Turned as error:
            await self._instead(answer, scope, receive, plain(error.status, correlation, _language(scope)))
        except Exception as error:  # the request boundary: a fault of ours must not reach the caller or a raw log
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
            _log.error("request-fault", correlation=correlation, error=logs.named(error), where=where)
            page = self._page_for(Request(scope))
            await self._instead(answer, scope, receive, page or plain(500, correlation, _language(scope)))

    @staticmethod
    async def _instead(answer: _Answer, scope: Scope, receive: Receive, response: ASGIApp) -> None:
        # Once an answer has begun, cutting it off is all that is left to do.
        if not answer.begun:
            await response(scope, receive, answer)

    async def _guard(self, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        if len(scope["headers"]) > MAX_HEADERS:
            raise _Turned(431)
        if _host_name(headers.get("host", "")) not in self._settings.allowed_hosts:
            raise _Turned(421)
        declared = headers.get("content-length", "0")
        upload_limit = self._upload_limit(scope, headers)
        is_upload = upload_limit > 0
        limit = upload_limit or self._settings.max_body_bytes
        if not declared.isdigit() or int(declared) > limit:
            raise BodyRefused(RefusalCode.TOO_LARGE)
        if is_upload:
            return _counted(receive, limit)  # read and written to disk by the route, once it is known who calls
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and declared == "0" and "transfer-encoding" not in headers:
            return receive
        is_json = headers.get("content-type", "").split(";")[0].strip().endswith("json")
        raw = await _read(receive, self._settings.max_body_bytes)
        if is_json and raw:
            check_json(raw, self._settings.max_json_depth)
        return _replay(raw, receive)

    def _upload_limit(self, scope: Scope, headers: Headers) -> int:
        """Most bytes of a body that the route itself takes to disk; 0 for every other body."""
        path, kind = scope["path"], headers.get("content-type", "")
        if scope["method"] != "POST" or not (path in PHOTOS or path == STUDY_FILES or path.startswith(UPLOADS)):
            return 0
        if path in PHOTOS and kind.startswith(("multipart/form-data", "application/json")):
            return self._settings.max_photo_bytes
        return self._settings.max_upload_bytes if kind.startswith("multipart/form-data") else 0


class _Turned(Exception):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(str(status))


def _language(scope: Scope) -> str:
    return negotiated(Headers(scope=scope).get("accept-language"), "en")


def _host_name(host: str) -> str:
    """The name in a Host header: without port, without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _read(receive: Receive, limit: int) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Turned(400)
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise BodyRefused(RefusalCode.TOO_LARGE)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive`, that says no when more comes than is allowed."""
    size = [0]

    async def counted() -> Message:
        message = await receive()
        size[0] += len(message.get("body", b""))
        if size[0] > limit:
            raise BodyRefused(RefusalCode.TOO_LARGE)
        return message

    return counted


def _replay(raw: bytes, receive: Receive) -> Receive:
    waiting = [True]

    async def again() -> Message:
        if waiting:
            waiting.pop()
            return {"type": "http.request", "body": raw, "more_body": False}
        return await receive()

    return again


class _Answer:
    """`send`, with the headers that every answer carries."""

    def __init__(self, send: Send, correlation: str) -> None:
        self._send = send
        self._correlation = correlation
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Referrer-Policy", "no-referrer")
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["X-Correlation-Id"] = self._correlation
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("Content-Security-Policy", API_CSP)
            if "server" in headers:
                del headers["server"]
        await self._send(message)
