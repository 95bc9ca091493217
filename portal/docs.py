"""The API's description, behind a key: OpenAPI as JSON, and one plain page of it without foreign assets (S11)."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse

from portal.gate import permission, routes_of


def _page(app: FastAPI) -> str:
    rows = "".join(
        f"<tr><td>{escape(' '.join(sorted(route.methods)))}</td><td><code>{escape(route.path)}</code></td>"
        f"<td>{escape(route.permission)}</td><td>{escape(route.summary)}</td></tr>"
        for route in routes_of(app)
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>dicom-ai-node API</title>"
        "<h1>dicom-ai-node API</h1><p>Machine-readable: <a href=/openapi.json>/openapi.json</a>. "
        "FHIR abilities: <a href=/fhir/metadata>/fhir/metadata</a>.</p>"
        f"<table><tr><th>Method<th>Path<th>Permission<th>What it does</tr>{rows}</table></html>"
    )


def router(app: FastAPI) -> APIRouter:
    """/docs and /openapi.json."""
    made = APIRouter(tags=["Documentation"])

    def openapi() -> Response:
        """The API as OpenAPI 3.1."""
        return JSONResponse(app.openapi())

    def docs() -> Response:
        """The API on one page."""
        return HTMLResponse(_page(app))

    made.add_api_route("/openapi.json", openapi, methods=["GET"], openapi_extra=permission("docs:read"))
    made.add_api_route("/docs", docs, methods=["GET"], openapi_extra=permission("docs:read"))
    return made
