"""What makes the pages an application on a phone: the start, the manifest, and the worker that keeps the shell.

The worker lies at the root because its scope is the folder it comes from (Service Workers, 6.2).
"""

from __future__ import annotations

import hashlib
import json

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from portal.gate import OPEN, permission
from portal.pages.assets import asset, assets
from portal.pages.language import LANGUAGES, Translator
from portal.pages.navigation import home_of
from portal.pages.render import HEADERS, language_of, page, reader_of, settings_of
from portal.pages.troubles import SIGN_IN


def router(app: FastAPI) -> APIRouter:
    """``/``, ``/manifest.webmanifest`` and ``/worker.js``."""
    made = APIRouter(include_in_schema=False)

    def start(request: Request) -> Response:
        """The first of somebody's places; for nobody, the page to sign in."""
        reader = reader_of(request)
        return RedirectResponse(home_of(reader.may, app.state.places) if reader else SIGN_IN, status_code=303)

    def manifest(request: Request, language: str = "") -> Response:
        """How a phone installs the portal (Web Application Manifest)."""
        chosen = language if language in LANGUAGES else language_of(request)
        say = Translator(chosen, settings_of(request).zone)
        told = {
            "id": "/",
            "name": say("shell.install_name"),
            "short_name": say("shell.product"),
            "description": say("shell.not_a_diagnosis"),
            "lang": chosen,
            "start_url": "/",
            "scope": "/",
            "display": "standalone",
            "background_color": "#f3f5f3",
            "theme_color": "#0b5f53",
            "icons": [
                {"src": asset("icon-192.png"), "sizes": "192x192", "type": "image/png"},
                {"src": asset("icon-512.png"), "sizes": "512x512", "type": "image/png"},
                {"src": asset("icon-maskable-512.png"), "sizes": "512x512", "type": "image/png", "purpose": "maskable"},
            ],
            "shortcuts": [{"name": say("shell.place_analyse"), "url": "/analyse"}],
        }
        return Response(json.dumps(told), media_type="application/manifest+json")

    def worker(request: Request) -> Response:
        """The service worker, told which files to keep."""
        files = [one for one in assets().values() if one.name != "worker.js"]
        offline = f"/offline?language={language_of(request)}"
        version = hashlib.sha256(repr([one.url for one in files]).encode()).hexdigest()[:12]
        body = assets()["worker.js"].content.decode()
        for mark, told in (
            ('"KEPT"', json.dumps([offline, *(one.url for one in files)])),
            ('"QUEUE"', json.dumps(asset("queue.js"))),
            ("VERSION", version),
        ):
            body = body.replace(mark, told)
        headers = {**HEADERS, "Cache-Control": "no-cache"}
        return Response(body, media_type="text/javascript", headers=headers)

    def offline(request: Request, language: str = "") -> Response:
        """What a phone shows without a line; the same for everybody."""
        return page(request, "offline.html", as_language=language, is_kept=True, person=None, places=[])

    for path, handler in (
        ("/", start),
        ("/manifest.webmanifest", manifest),
        ("/worker.js", worker),
        ("/offline", offline),
    ):
        made.add_api_route(path, handler, methods=["GET"], openapi_extra=permission(OPEN))
    return made
