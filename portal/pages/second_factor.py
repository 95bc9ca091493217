"""The page of one's second factor, and the page that asks for a code after the password.

What an authenticator app has to know is drawn here (no outside service), in the answer to a form and in no address.
Recovery codes are shown once, when the device is confirmed.
"""

from __future__ import annotations

import math

import segno
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from dicom_node.desks.codes import Codes, Enrolment
from dicom_node.desks.people import People, SignInRefused
from portal.gate import permission
from portal.pages.forms import fields_of
from portal.pages.render import page, translator
from portal.sessions import person_of

PATH = "/account/second-factor"


def router(people: People, codes: Codes) -> APIRouter:
    """Everything below ``/account/second-factor``."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(people, codes)
    for path, handler, method in (
        (PATH, pages.show, "GET"),
        (PATH, pages.begin, "POST"),
        (f"{PATH}/confirm", pages.confirm, "POST"),
        (f"{PATH}/remove", pages.remove, "POST"),
    ):
        made.add_api_route(path, handler, methods=[method], openapi_extra=permission("account:self"))
    return made


def code_page(request: Request, half: str, way: str, error: str = "", wait_s: float = 0.0) -> Response:
    """Where the code is typed that is asked for after a right password."""
    status = 429 if wait_s else 401 if error else 200
    headers = {"Retry-After": str(math.ceil(wait_s))} if wait_s else {}
    return page(request, "second_step.html", status=status, headers=headers, half=half, next=way, error=error)


class _Pages:
    def __init__(self, people: People, codes: Codes) -> None:
        self._people = people
        self._codes = codes

    async def show(self, request: Request) -> Response:
        """Whether there is a second factor, and the way to one."""
        return await self._page(request)

    async def begin(self, request: Request) -> Response:
        """Show what a new device has to know, to whoever knows the password and has the present device, if any."""
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        await run_in_threadpool(self._codes.begin, person_of(request))
        return await self._device(request)

    async def confirm(self, request: Request) -> Response:
        """Take the first code of a new device; the recovery codes are in the answer, this once."""
        told = await fields_of(request, ("code",))
        person = person_of(request)
        made = await run_in_threadpool(self._codes.confirm, person, told["code"])
        if made is None:
            return await self._device(request, translator(request)("account.code_wrong"))
        return page(request, "recovery_codes.html", codes=made)

    async def remove(self, request: Request) -> Response:
        """Ask for codes no more."""
        person = person_of(request)
        if self._codes.is_required(person.roles):
            return await self._page(request, translator(request)("account.factor_needed"))
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        await run_in_threadpool(self._codes.remove, person)
        return RedirectResponse("/account?said=factor-removed", status_code=303)

    async def _refusal(self, request: Request) -> Response | None:
        """The page again, when whoever asks did not show that it is she."""
        told = await fields_of(request, ("password", "code", "username"))
        try:
            await run_in_threadpool(self._people.prove, person_of(request), told["password"], told["code"])
        except SignInRefused as refused:
            words = translator(request)
            wait = math.ceil(refused.wait_s)
            error = words("account.too_soon_seconds", count=wait) if wait else words("account.prove_wrong")
            return await self._page(request, error)
        return None

    async def _device(self, request: Request, error: str = "") -> Response:
        enrolment = await run_in_threadpool(self._codes.pending, person_of(request))
        if enrolment is None:
            return await self._page(request, translator(request)("account.device_again"))
        return page(request, "second_factor_device.html", status=422 if error else 200, error=error,
                    picture=_picture(enrolment), enrolment=enrolment, secret=_in_fours(enrolment.secret))  # fmt: skip

    async def _page(self, request: Request, error: str = "") -> Response:
        person = person_of(request)
        left = await run_in_threadpool(self._codes.left, person) if person.has_second_factor else 0
        return page(request, "second_factor.html", status=422 if error else 200, error=error, left=left,
                    must=person.must_add_second_factor, is_required=self._codes.is_required(person.roles))  # fmt: skip


def _picture(enrolment: Enrolment) -> Markup:
    """The QR code (ISO/IEC 18004) as SVG, dark on white in every colour scheme: cameras want it so."""
    return Markup(segno.make(enrolment.address, micro=False).svg_inline(scale=5, border=4, light="#fff"))


def _in_fours(secret: str) -> str:
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
