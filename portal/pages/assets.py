"""Style sheets, scripts and icons: files of ours, named by their content so that a phone keeps them and never stale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from portal.gate import OPEN, permission

FOLDER = Path(__file__).parent / "static"
PREFIX = "/static"
FOREVER = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Asset:
    """One file that anybody may read."""

    name: str
    content: bytes
    version: str

    @property
    def url(self) -> str:
        """Where it is, with its content's own version."""
        return f"{PREFIX}/{self.name}?v={self.version}"


@cache
def assets() -> dict[str, Asset]:
    """Every file by its name below ``static/``; what is not here cannot be asked for."""
    found = {}
    for file in sorted(FOLDER.rglob("*")):
        if file.is_file() and file.suffix in _TYPES:
            content = file.read_bytes()
            name = file.relative_to(FOLDER).as_posix()
            found[name] = Asset(name, content, hashlib.sha256(content).hexdigest()[:12])
    return found


def asset(name: str) -> str:
    """Where a file is; raises KeyError for one that is not there."""
    return assets()[name].url


def router() -> APIRouter:
    """One route for each file."""
    made = APIRouter(include_in_schema=False)
    for one in assets().values():
        made.add_api_route(
            f"{PREFIX}/{one.name}", _server(one), methods=["GET"], openapi_extra=permission(OPEN), name=one.name
        )
    return made


def _server(one: Asset) -> Callable[[Request], Response]:
    def file(request: Request) -> Response:
        """A style sheet, script or icon of the pages."""
        is_named = request.query_params.get("v") == one.version
        headers = {"Cache-Control": FOREVER if is_named else "no-cache"}
        return Response(one.content, media_type=_TYPES[Path(one.name).suffix], headers=headers)

    return file
