"""OHIF on the node's own origin: static files, its configuration, and DICOMweb of the archive behind it.

The viewer reads the archive through this origin, so the archive needs no open door and no CORS.  Only GET, only paths
of PS3.18 (QIDO-RS 10.6, WADO-RS 10.4), only towards the configured base: nothing in a request names a host.  A visitor
who came by a ticket reads the one study of the ticket; a person the studies that she may see, asked anew while she
reads, and no search over the archive.  What somebody may not see looks like what does not exist (S12).
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import httpx
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.lately import Lately
from dicom_node.permissions import Person
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.tls import CallingSide, Identity
from fhir_bridge.server import Access
from portal import sessions
from portal.gate import OPEN, permission
from portal.tickets import ANY_STUDY, COOKIE, UID, VIEWER_SCOPE, TicketOffice, TicketRefused
from portal.viewer_paths import DICOMWEB, accept_for, allowed_study, query_for

PREFIX = "/ohif"
NOTE_AGAIN_S = 600.0
SEEN_S = 20.0
MOST_STUDIES = "100"
"""Of a person's search, before those are left out that she may not see."""
VIEWER_CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval' blob:{inline}; "
    "worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; object-src 'self' blob:; frame-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'none'"
)
"""Looser than the API's, because OHIF compiles WebAssembly and array loops (without 'unsafe-eval' no SEG is drawn) and
shows PDFs from blobs.  No host but our own; the inline scripts of its page are allowed one by one, by their hashes."""

_LANGUAGES = {"en": "en-US"}
"""What OHIF calls a language (``lng`` in its address), where that is another word than ours."""
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_ANSWER_HEADERS = ("content-type", "content-encoding", "content-length")
_STUDIES, _JSON = "studies", "application/dicom+json"

for _type, _ending in (("application/wasm", ".wasm"), ("text/javascript", ".js"), ("text/javascript", ".mjs")):
    mimetypes.add_type(_type, _ending)


class Sight(Protocol):
    """Which studies a person may see."""

    def may_see(self, person: Person, study_uid: str) -> bool:
        """Whether there is such a study for this person."""

    def study(self, person: Person, public_id: str) -> str | None:
        """UID of the study with this opaque id, if she may see it."""

    def of_request(self, person: Person, public_id: str) -> str | None:
        """UID of the archive's study that a request of hers was about."""


@dataclass(frozen=True)
class ViewerSettings:
    """Where the viewer's files are and which archive it reads."""

    folder: Path
    """OHIF's static build."""
    dicomweb_url: str
    """Root of the archive's DICOMweb, e.g. ``http://127.0.0.1:8042/dicom-web``."""
    office: TicketOffice
    username: str = ""
    password: str = ""
    authority_file: Path | None = None
    """Over HTTPS: whose certificates are believed instead of the system's."""
    identity: Identity | None = None
    """Over HTTPS: whose certificate is shown to an archive that asks for one."""
    timeout_s: float = 60.0
    archive_name: str = "Archive"
    sight: Sight | None = None
    """What people may see; None: people see nothing, keys and visitors what they always saw."""


def app_config(archive_name: str) -> str:
    """OHIF's configuration: one DICOMweb source, this origin; nothing is asked of the internet."""
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "archive",
        "configuration": {
            "friendlyName": archive_name,
            "name": "archive",
            "qidoRoot": "/dicom-web",
            "wadoRoot": "/dicom-web",
            "wadoUriRoot": "/dicom-web",
            "qidoSupportsIncludeField": False,
            "supportsFuzzyMatching": False,
            "supportsWildcard": True,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        },
    }
    config = {
        "routerBasename": PREFIX,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 2,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "disableConfirmationPrompts": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "archive",
        "dataSources": [source],
    }
    return f"window.config = {json.dumps(config, sort_keys=True)};\n"


def policy(page: bytes) -> str:
    """Content-Security-Policy of the viewer, given its page (CSP level 2, hash sources)."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    return VIEWER_CSP.format(inline="".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests))


def static_file(folder: Path, path: str) -> Path | None:
    """The file of the build that a path names; None when there is none inside the folder."""
    root = folder.resolve()
    try:
        found = (root / path).resolve()
        return found if found.is_relative_to(root) and found.is_file() else None
    except (OSError, ValueError):  # a name that no file system takes: too long, or with a NUL
        return None


def router(settings: ViewerSettings, on_access: Callable[[Request, Access], None] | None = None) -> APIRouter:
    """/open, /ohif/..., /dicom-web/... and, behind all other routes, the files of the viewer's build."""
    return _Viewer(settings, on_access).routes()


class _Viewer:
    def __init__(self, settings: ViewerSettings, on_access: Callable[[Request, Access], None] | None) -> None:
        self._settings = settings
        self._on_access = on_access
        self._noted, self._seen = Lately(NOTE_AGAIN_S), Lately(SEEN_S)
        index = settings.folder / "index.html"
        page = index.read_bytes() if index.is_file() else b""
        self._headers = {"Content-Security-Policy": policy(page), "Cache-Control": "private, no-cache"}
        auth = httpx.BasicAuth(settings.username, settings.password) if settings.username else None
        self._tls = CallingSide(settings.authority_file, settings.identity)
        self._http = httpx.AsyncClient(
            timeout=settings.timeout_s, follow_redirects=False, trust_env=False, auth=auth, verify=self._tls.context
        )

    def routes(self) -> APIRouter:
        made = APIRouter(tags=["Viewer"])
        viewing = permission(VIEWER_SCOPE)
        made.add_api_route("/open", self.open, methods=["GET"], openapi_extra=permission(OPEN))
        made.add_api_route("/view/{public_id}", self.view, methods=["GET"], openapi_extra=viewing)
        made.add_api_route("/view/request/{public_id}", self.view_request, methods=["GET"], openapi_extra=viewing)
        made.add_api_route(PREFIX, self.home, methods=["GET"], openapi_extra=viewing)
        made.add_api_route(PREFIX + "/{path:path}", self.page, methods=["GET"], openapi_extra=viewing)
        made.add_api_route("/dicom-web/{path:path}", self.dicomweb, methods=["GET"], openapi_extra=viewing)
        # OHIF's build names its files from the root, so what no other route takes may be one of them.  Last, so that
        # it takes nothing from others.
        made.add_api_route("/{path:path}", self.file, methods=["GET"], openapi_extra=viewing)
        return made

    def open(self, request: Request, ticket: str = "", study: str = ANY_STUDY) -> Response:
        """Exchange a one-time ticket for a visit, and go to the study."""
        office = self._settings.office
        try:
            visit = office.redeem(ticket, study)
        except TicketRefused:
            raise Refused(RefusalCode.UNAUTHENTICATED) from None
        target = f"{PREFIX}/" if study == ANY_STUDY else f"{PREFIX}/viewer?StudyInstanceUIDs={study}"
        answer = RedirectResponse(target, status_code=303)
        answer.set_cookie(
            COOKIE,
            visit,
            max_age=int(office.visit_life_s),
            httponly=True,
            samesite="lax",
            secure=sessions.is_secure(request),
            path="/",
        )
        return answer

    def view(self, request: Request, public_id: str) -> Response:
        """Go to a study by its opaque id: for who may see it; for others there is nothing."""
        return self._go(request, public_id, None if self._settings.sight is None else self._settings.sight.study)

    def view_request(self, request: Request, public_id: str) -> Response:
        """Go to the study of the archive that a request of one's own was about."""
        return self._go(request, public_id, None if self._settings.sight is None else self._settings.sight.of_request)

    @staticmethod
    def _go(request: Request, public_id: str, look: Callable[[Person, str], str | None] | None) -> Response:
        person: Person | None = request.state.person
        found = None if look is None or person is None else look(person, public_id)
        if found is None or person is None:
            raise HTTPException(404)
        target = f"{PREFIX}/viewer?StudyInstanceUIDs={found}&lng={_LANGUAGES.get(person.language, person.language)}"
        return RedirectResponse(target, status_code=303)

    def home(self) -> Response:
        """The viewer's first page."""
        return RedirectResponse(f"{PREFIX}/", status_code=308)

    def page(self, path: str) -> Response:
        """A page of the viewer: its router reads the address, so every page is the same file."""
        found = static_file(self._settings.folder, "index.html")
        if found is None or "." in path.rpartition("/")[2]:
            raise HTTPException(404)
        return FileResponse(found, headers=self._headers)

    def file(self, path: str) -> Response:
        """A file of the viewer's build, and its configuration."""
        if path == "app-config.js":
            config = app_config(self._settings.archive_name)
            return Response(config, media_type="text/javascript", headers=self._headers)
        found = static_file(self._settings.folder, path)
        if found is None or found.name == "index.html":
            raise HTTPException(404)
        return FileResponse(found, headers=self._headers)

    async def dicomweb(self, request: Request, path: str) -> Response:
        """Read the archive by DICOMweb: metadata, frames, bulk data, searches."""
        is_allowed, study = await self._allowed(request, path)
        if not is_allowed:
            # Another person's study looks like one that does not exist.
            raise HTTPException(404)
        query = query_for(request.query_params.multi_items(), study, is_over_studies=path == _STUDIES)
        is_filtered = path == _STUDIES and request.state.person is not None
        if is_filtered:
            query = [*((name, value) for name, value in query if name.lower() != "limit"), ("limit", MOST_STUDIES)]
        headers = {
            "Accept": _JSON if is_filtered else accept_for(path, request.headers.get("accept", "")),
            "Accept-Encoding": request.headers.get("accept-encoding", "identity"),
            # The archive writes its links with the name it is called by; ours has been checked against the settings.
            "Host": request.headers["host"],
        }
        url = f"{self._settings.dicomweb_url.rstrip('/')}/{path}"
        self._tls.follow()
        asked = self._http.build_request("GET", url, params=urlencode(query) if query else None, headers=headers)
        try:
            answer = await self._http.send(asked, stream=True)
        except httpx.TransportError as error:
            raise PeerTrouble("the archive did not answer") from error
        if answer.is_redirect or answer.status_code in (401, 403) or answer.status_code >= 500:
            await answer.aclose()
            raise PeerTrouble("the archive answered with an error")
        try:
            await self._note(request, path)
        except BaseException:
            await answer.aclose()  # nobody is shown what could not be written down
            raise
        if is_filtered:
            return await self._seen_only(answer, request.state.person)
        kept = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
        return StreamingResponse(_pieces(answer), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def _allowed(self, request: Request, path: str) -> tuple[bool, str]:
        """As `allowed_study`; a person's studies are asked of the record."""
        person: Person | None = request.state.person
        if person is None:
            return allowed_study(path, request.state.identity)
        match = DICOMWEB.fullmatch(path)
        if match is None:
            return False, ""
        named = match["study"] or match["in_study"] or match["in_series"]
        if named:
            return await self._sees(person, named), ""
        return True, ""  # a search: of what it finds she is told what she may see

    async def _seen_only(self, answer: httpx.Response, person: Person) -> Response:
        """The matches of a search that a person may see.

        The viewer asks by itself for all studies of a patient, and lists nothing where it is told of none.
        """
        try:
            raw = await answer.aread()
            found = json.loads(raw) if raw else []
            uids = [str(match["0020000D"]["Value"][0]) for match in found]
        except (ValueError, KeyError, IndexError, TypeError, httpx.TransportError) as error:
            raise PeerTrouble("the archive answered with no list of matches") from error
        finally:
            await answer.aclose()
        kept = [match for match, uid in zip(found, uids, strict=True) if await self._sees(person, uid)]
        return Response(json.dumps(kept), media_type=_JSON)

    async def _sees(self, person: Person, study: str) -> bool:
        """Whether a person may see a study; a yes is believed for a while, because a series has hundreds of frames."""
        sight = self._settings.sight
        if sight is None or len(study) > 64 or not UID.fullmatch(study):
            return False
        if (person.user_id, study) in self._seen:
            return True
        if not await run_in_threadpool(sight.may_see, person, study):
            return False
        self._seen.add([(person.user_id, study)])
        return True

    async def _note(self, request: Request, path: str) -> None:
        """Tell the audit trail who looks at which study: once in a while, not once for every frame."""
        if self._on_access is None:
            return
        match = DICOMWEB.fullmatch(path)
        study = (match["study"] or match["in_study"] or match["in_series"] or "") if match else ""
        looked = (request.state.actor, study)
        if looked in self._noted:
            return
        await run_in_threadpool(self._on_access, request, Access("dicomweb", "ImagingStudy", (), study))
        self._noted.add([looked])


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
