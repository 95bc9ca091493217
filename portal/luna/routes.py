"""The routes of the LUNA API: who may call them, what they say they answer, and how they say no."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import JSONResponse

from dicom_node.desks.people import PeopleRefused, SecondFactorNeeded, SignInRefused
from dicom_node.passwords import PasswordRefused
from dicom_node.refusals import RefusalCode, Refused
from portal.api.answers import refusal_problem
from portal.api.callers import Slower
from portal.api.guard import Handler, guarded
from portal.api.schemas import problems
from portal.gate import OPEN, permission
from portal.luna import schemas
from portal.luna.desk import LunaDesk
from portal.luna.handlers import LunaApi
from portal.problems import MEDIA_TYPE
from portal.services import PortalServices

_Id = Path(pattern="^[0-9a-f]{32}$")

_SIGN_IN = {
    "en": ("The e-mail address or the password is wrong.", "Try again; an administrator can set a new password."),
    "es": (
        "La dirección de correo o la contraseña es incorrecta.",
        "Inténtelo de nuevo; un administrador puede poner una contraseña nueva.",
    ),
}


_SECOND_FACTOR = {
    "en": {
        True: ("This account has a second factor.", "Send the code of its device as `code`, or a recovery code."),
        False: ("This account needs a second factor.", "Set one up on the portal's account page; then sign in here."),
    },
    "es": {
        True: (
            "Esta cuenta tiene un segundo factor.",
            "Envíe el código de su dispositivo como `code`, o un código de recuperación.",
        ),
        False: (
            "Esta cuenta necesita un segundo factor.",
            "Configúrelo en la página de la cuenta del portal; después inicie sesión aquí.",
        ),
    },
}


def _unauthenticated(request: Request, title: str, advice: str, **more: Any) -> Response:
    status, body = refusal_problem({"code": RefusalCode.UNAUTHENTICATED.value}, request.state.correlation)
    body |= {"title": title, "message": title, "detail": advice, **more}
    headers = {"WWW-Authenticate": 'Bearer realm="dicom-ai-node"'}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _for_people(api: LunaApi, handler: Handler) -> Handler:
    """What accounts and passwords say no with, as everything below ``/api`` says it."""

    @functools.wraps(handler)
    async def answered(*args: Any, **named: Any) -> Response:
        request: Request = named["request"]
        try:
            return await handler(*args, **named)
        except SignInRefused as no:
            if no.wait_s:
                raise Slower(no.wait_s) from None
            return _unauthenticated(request, *_SIGN_IN[api.language(request)])
        except SecondFactorNeeded as needed:
            words = _SECOND_FACTOR[api.language(request)][needed.is_set_up]
            return _unauthenticated(request, *words, secondFactor="code" if needed.is_set_up else "set-up")
        except (PeopleRefused, PasswordRefused) as no:
            raise Refused(RefusalCode.VALIDATION, str(no), "something else") from None

    return answered


def router(services: PortalServices, desk: LunaDesk) -> APIRouter:
    """Every path that LUNA's clients know."""
    made = APIRouter(tags=["LUNA"])
    api = LunaApi(services, desk)

    async def sign_in(request: Request) -> Response:
        """Sign in with e-mail address and password: the account, and a token for the other calls."""
        return await api.sign_in(request)

    async def sign_up(request: Request) -> Response:
        """Make an account; for administrators."""
        return await api.sign_up(request)

    async def sign_out(request: Request) -> Response:
        """End the token that this call is made with."""
        return await api.sign_out(request)

    async def me(request: Request) -> Response:
        """The account that this call is made with."""
        return await api.me(request)

    async def process(
        request: Request,
        idempotency_key: str | None = Header(None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
    ) -> Response:
        """Ask about one photograph of a skin lesion: decision support, never a diagnosis."""
        return await api.process(request, idempotency_key)

    async def analyses(request: Request) -> Response:
        """One's own analyses, the newest first, without their pictures."""
        return await api.analyses(request)

    async def analysis(request: Request, id: str = _Id) -> Response:
        """One of one's own analyses, with its picture."""
        return await api.analysis(request, id)

    def add(path: str, handler: Handler, method: str, may: str, answer: Any, *statuses: int, **extra: Any) -> None:
        made.add_api_route(
            path,
            guarded(api, services, _for_people(api, handler)),
            methods=[method],
            responses={200: {"model": answer}, **problems(*statuses)},
            openapi_extra={**permission(may), **extra},
            response_model=None,
        )

    reading = (413,)
    add("/signin", sign_in, "POST", OPEN, schemas.SignedIn, *reading, requestBody=schemas.SIGN_IN)
    add("/api/auth/signup", sign_up, "POST", "user:manage", schemas.SignedUp, *reading, requestBody=schemas.SIGN_UP)
    add("/logout", sign_out, "POST", "account:self", schemas.Said)
    add("/api/me", me, "GET", "account:self", schemas.Account)
    add("/api/imageProcess", process, "POST", "analysis:make", schemas.Analysis, 409, 413, 415, 422, 503,
        requestBody=schemas.IMAGE)  # fmt: skip
    add("/api/me/getAnalysisList", analyses, "GET", "analysis:own", list[schemas.Analysis])
    add("/api/getAnalysis/{id}", analysis, "GET", "analysis:own", schemas.Analysis, 404, 422)
    return made
