"""What the routes of the LUNA API do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from dicom_node.desks.analysis_results import PHOTO, AnalysisResult
from dicom_node.desks.predictions import UnknownModel
from dicom_node.permissions import Person
from dicom_node.refusals import RefusalCode, Refused
from portal.api.callers import Callers
from portal.api.photo_body import Body, check_kind, judged, parsed, take_json
from portal.luna import answers
from portal.luna.asking import asked_of
from portal.luna.bodies import ImageProcess, SignIn, SignUp
from portal.luna.desk import LunaDesk
from portal.services import PortalServices
from portal.sessions import address_of, person_of

MAX_LISTED = 500

T = TypeVar("T")


class LunaApi(Callers):
    """The handlers, bound to what the portal was given."""

    def __init__(self, services: PortalServices, desk: LunaDesk) -> None:
        super().__init__(services, desk.analyses.settings, desk.analyses.language)
        self._desk = desk

    # -- accounts

    async def sign_in(self, request: Request) -> Response:
        """A token for whoever knows the password."""
        said = await self._body(request, SignIn)
        agent = request.headers.get("user-agent", "")
        begun = await self._run(self._desk.sign_in, said.account, said.password, said.code, address_of(request), agent)
        told = {"user": answers.account(begun.person), "token": begun.token}
        return JSONResponse({**told, "expiresAt": begun.expires_at.isoformat()})

    async def sign_up(self, request: Request) -> Response:
        """An administrator makes an account."""
        said = await self._body(request, SignUp)
        who = person_of(request)

        def create() -> Person:
            made = self._desk.people.create(
                who.actor,
                email=said.email,
                name=said.called,
                roles=said.own_roles,
                sites=self._desk.sites_for(said.site, said.own_roles),
                language=said.language or who.language,
                password=said.password,
            )
            return made.person(None, "")

        made = await self._run(create)
        return JSONResponse({"message": "The account was made.", "user": answers.account(made)})

    async def sign_out(self, request: Request) -> Response:
        """The token ends here and now."""
        await self._run(self._desk.people.sign_out, person_of(request))
        return JSONResponse({"message": "Signed out."})

    async def me(self, request: Request) -> Response:
        """The account."""
        return JSONResponse(answers.account(person_of(request)))

    # -- analyses

    async def process(self, request: Request, key: str | None) -> Response:
        """A photograph comes in: durable when this answers."""
        who, desk = person_of(request), self._desk.analyses
        self.pay_image(request)
        await self._run(desk.check_admission, who)  # before the body is read
        most = desk.settings.max_photo_mb * 1_000_000
        said, claimed, upload = await take_json(request, desk.spool, most, partial(judged, ImageProcess))
        await self._run(check_kind, desk.spool, upload, claimed)
        asked = await self._run(asked_of, desk, who, said, upload, claimed, key)
        row = await self._run(desk.accept, asked)
        return JSONResponse(await self._run(self._told, request, who, row))

    async def analyses(self, request: Request) -> Response:
        """One's own, the newest first; pictures stay where they are until one is asked for."""
        who, desk = person_of(request), self._desk.analyses

        def told() -> list[dict[str, Any]]:
            rows = desk.list_of(who, limit=MAX_LISTED)
            results = desk.results(rows)
            desk.saw_results(who, rows, results)
            return [
                answers.analysis(row, result, who.public_id, language=self.language(request))
                for row, result in zip(rows, results, strict=True)
            ]

        return JSONResponse(await self._run(told))

    async def analysis(self, request: Request, id: str) -> Response:
        """One of one's own, with its picture: revealing it is audited."""
        who, desk = person_of(request), self._desk.analyses
        row = await self._run(desk.own, who, id)
        if row is None:
            raise UnknownModel
        return JSONResponse(await self._run(self._told, request, who, row, True))

    def _told(self, request: Request, who: Person, row: Any, with_image: bool = False) -> dict[str, Any]:
        desk = self._desk.analyses
        result: AnalysisResult = desk.result(row)
        image: bytes | None = None
        if with_image and PHOTO in result.files:
            photo = desk.photo(row)
            if photo is not None:
                desk.reveal(who, row)
                image = photo.data
        if result.state == "completed":
            desk.saw_result(who, row)
        return answers.analysis(row, result, who.public_id, image, self.language(request))

    # -- helpers

    @staticmethod
    async def _body(request: Request, kind: type[Body]) -> Body:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(RefusalCode.VALIDATION, "application/json", "another content type")
        return judged(kind, parsed(await request.body()))

    @staticmethod
    async def _run(body: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(body, *arguments)
