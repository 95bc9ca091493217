"""Signing in and out, and the page of one's own account: name, language, password, sessions."""

from __future__ import annotations

import math
import re
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.desks.people import People, PeopleRefused, SecondFactorNeeded, SignedIn, SignInRefused
from dicom_node.passwords import PasswordRefused
from dicom_node.permissions import Person
from portal import sessions
from portal.gate import OPEN, permission
from portal.pages import second_factor
from portal.pages.forms import fields_of
from portal.pages.language import LANGUAGES
from portal.pages.render import LANGUAGE_COOKIE, page, translator
from portal.pages.troubles import led_to
from portal.services import PortalServices
from portal.sessions import person_of

SELF = permission("account:self")
_BACK = re.compile(r"^/(?![/\\])[A-Za-z0-9/_.-]{0,200}$")
"""Where somebody may be led after signing in: a path of ours, never another host (S25)."""
_A_YEAR_S = 365 * 86_400
_SAID = {
    "saved": "account.saved",
    "ended": "account.ended",
    "password": "account.password_changed",
    "factor-removed": "account.factor_removed",
}


def router(services: PortalServices, people: People) -> APIRouter:
    """``/sign-in``, ``/sign-out``, ``/new-password``, ``/account``."""
    return _Account(services, people).routes()


class _Account:
    def __init__(self, services: PortalServices, people: People) -> None:
        self._services = services
        self._people = people

    def routes(self) -> APIRouter:
        made = APIRouter(include_in_schema=False)
        door = permission(OPEN)
        for path, handler, method, extra in (
            ("/sign-in", self.sign_in_page, "GET", door),
            ("/sign-in", self.sign_in, "POST", door),
            ("/sign-in/code", self.second_step, "POST", door),
            ("/sign-out", self.sign_out, "POST", SELF),
            ("/new-password", self.token_page, "GET", door),
            ("/new-password", self.set_password, "POST", door),
            ("/account", self.account_page, "GET", SELF),
            ("/account", self.save, "POST", SELF),
            ("/account/password", self.password_page, "GET", SELF),
            ("/account/password", self.change_password, "POST", SELF),
            ("/account/token", self.token, "GET", SELF),
            ("/account/sessions/{id}/end", self.end_session, "POST", SELF),
        ):
            made.add_api_route(path, handler, methods=[method], openapi_extra=extra)
        return made

    # -- signing in and out

    def sign_in_page(
        self, request: Request, next: str = Query("", max_length=300), language: str = "", said: str = ""
    ) -> Response:
        """Where somebody signs in, in the language of her choice."""
        if language in LANGUAGES:
            target = f"/sign-in?{urlencode({'next': _way_back(next)})}" if _way_back(next) else "/sign-in"
            answer: Response = RedirectResponse(target, status_code=303)
            answer.set_cookie(LANGUAGE_COOKIE, language, max_age=_A_YEAR_S, httponly=True, samesite="lax",
                              secure=sessions.is_secure(request))  # fmt: skip
            return answer
        keys = {"out": "account.signed_out", "password": "account.password_set"}
        return _sign_in_page(request, next, said=translator(request)(keys[said]) if said in keys else "")

    async def sign_in(self, request: Request) -> Response:
        """Begin a session and go where somebody wanted to go."""
        told = await fields_of(request, ("email", "password", "next"))
        try:
            signed_in = await run_in_threadpool(
                sessions.sign_in, request, self._people, told["email"], told["password"]
            )
        except SecondFactorNeeded as needed:
            return second_factor.code_page(request, needed.half, _way_back(told["next"]))
        except SignInRefused as refused:
            status = 429 if refused.wait_s else 401
            headers = {"Retry-After": str(math.ceil(refused.wait_s))} if refused.wait_s else {}
            error = _refusal(request, refused)
            return _sign_in_page(
                request, told["next"], email=told["email"], error=error, status=status, headers=headers
            )
        return _signed_in(request, signed_in, told["next"])

    async def second_step(self, request: Request) -> Response:
        """The code that is asked for after a right password; the password waits a few minutes for it."""
        told = await fields_of(request, ("half", "code", "recovery", "next"))
        way = _way_back(told["next"])
        try:
            code = told["recovery"] or told["code"]
            signed_in = await run_in_threadpool(sessions.second_step, request, self._people, told["half"], code)
        except SignInRefused as refused:
            words = translator(request)
            error = _refusal(request, refused) if refused.wait_s else words("account.code_wrong")
            return second_factor.code_page(request, told["half"], way, error, refused.wait_s)
        if signed_in is None:
            return _sign_in_page(request, way, error=translator(request)("account.code_late"), status=401)
        return _signed_in(request, signed_in, way)

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        await run_in_threadpool(self._people.sign_out, person_of(request))
        answer = RedirectResponse("/sign-in?said=out", status_code=303)
        sessions.end(request, answer)
        return answer

    # -- a password by a one-time link

    def token_page(self, request: Request, token: str = Query("", max_length=100)) -> Response:
        """Where somebody with a one-time link sets a password."""
        return _password_page(request, token=token)

    async def set_password(self, request: Request) -> Response:
        """Set a password with a one-time link."""
        told = await fields_of(request, ("token", "new", "again", "username"))
        words = translator(request)
        if told["new"] != told["again"]:
            return _password_page(request, words("account.password_differs"), token=told["token"])
        try:
            await run_in_threadpool(self._people.set_password, told["token"], told["new"])
        except PasswordRefused as refused:
            return _password_page(request, words(f"account.password_{refused.reason}"), token=told["token"])
        except SignInRefused:
            return _password_page(request, words("account.password_link_spent"), token=told["token"])
        return RedirectResponse("/sign-in?said=password", status_code=303)

    # -- one's own account

    async def account_page(self, request: Request, said: str = "") -> Response:
        """Name, e-mail address, roles, language, sessions."""
        return await self._account(request, said=translator(request)(_SAID[said]) if said in _SAID else "")

    async def save(self, request: Request) -> Response:
        """Change one's own name or language."""
        told = await fields_of(request, ("name", "language"))
        try:
            await run_in_threadpool(
                self._people.set_profile, person_of(request), name=told["name"], language=told["language"]
            )
        except PeopleRefused:
            return await self._account(request, error=translator(request)("account.refused"), status=422)
        return RedirectResponse("/account?said=saved", status_code=303)

    def password_page(self, request: Request) -> Response:
        """Where somebody changes her password."""
        return _password_page(request)

    async def change_password(self, request: Request) -> Response:
        """Change one's own password; the other sessions end."""
        told = await fields_of(request, ("old", "new", "again", "username"))
        words = translator(request)
        if told["new"] != told["again"]:
            return _password_page(request, words("account.password_differs"))
        try:
            await run_in_threadpool(self._people.change_password, person_of(request), told["old"], told["new"])
        except PasswordRefused as refused:
            return _password_page(request, words(f"account.password_{refused.reason}"))
        except SignInRefused as refused:
            error = _refusal(request, refused) if refused.wait_s else words("account.password_wrong")
            return _password_page(request, error)
        return RedirectResponse("/account?said=password", status_code=303)

    def token(self, request: Request) -> Response:
        """Whose session this is, and its token: for what the phone kept and sends without a page of this session."""
        return JSONResponse({"user": person_of(request).public_id, "csrf": sessions.csrf_token(request)})

    async def end_session(self, request: Request, id: int) -> Response:
        """End one of one's own sessions."""
        if not await run_in_threadpool(self._people.end_session, person_of(request), id):
            raise HTTPException(404)
        return RedirectResponse("/account?said=ended", status_code=303)

    async def _account(self, request: Request, *, said: str = "", error: str = "", status: int = 200) -> Response:
        person = person_of(request)
        words = translator(request)
        rows = await run_in_threadpool(self._people.sessions_of, person)
        told = [
            {
                "id": row.id,
                "created_at": row.created_at,
                "seen_at": row.seen_at,
                "is_this": row.id == person.session_id,
                "device": words("account.device_program")
                if row.kind != "portal"
                else device_name(row.agent) or words("account.device_unknown"),
            }
            for row in rows
        ]
        roles = sorted(role.value for role in person.roles)
        return page(
            request, "account.html", status=status, said=said, error=error, sessions=told, roles=roles,
            sites=await run_in_threadpool(self._sites_of, person), has_codes=self._people.codes is not None,
        )  # fmt: skip

    def _sites_of(self, person: Person) -> list[str]:
        desk = self._services.analyses
        return sorted(person.sites) if desk is None else [str(site["title"]) for site in desk.sites_of(person)]


def device_name(agent: str) -> str:
    """What a person calls the program and machine behind a User-Agent; empty when it says neither."""
    programs = (("Edg", "Edge"), ("OPR", "Opera"), ("SamsungBrowser", "Samsung Internet"), ("Firefox", "Firefox"),
                ("Chrome", "Chrome"), ("Safari", "Safari"))  # fmt: skip
    machines = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"),
                ("Mac OS", "Mac"), ("Linux", "Linux"))  # fmt: skip
    found = [next((name for mark, name in table if mark in agent), "") for table in (programs, machines)]
    return " · ".join(name for name in found if name)


def _way_back(path: str) -> str:
    return path if _BACK.fullmatch(path) and path != "/sign-in" else ""


def _signed_in(request: Request, made: SignedIn, way: str) -> Response:
    """Where somebody goes who has just signed in: where she wanted to, or to what she has to do first."""
    answer = RedirectResponse(led_to(made.person) or _way_back(way) or "/", status_code=303)
    sessions.begin(request, answer, made)
    return answer


def _refusal(request: Request, refused: SignInRefused) -> str:
    words = translator(request)
    if not refused.wait_s:
        return words("account.wrong")
    seconds = math.ceil(refused.wait_s)
    if seconds < 90:
        return words("account.too_soon_seconds", count=seconds)
    return words("account.too_soon", count=math.ceil(seconds / 60))


def _sign_in_page(
    request: Request,
    way: str,
    *,
    email: str = "",
    error: str = "",
    said: str = "",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    return page(
        request, "sign_in.html", status=status, headers=headers, next=_way_back(way), email=email[:254], error=error,
        said=said,
    )  # fmt: skip


def _password_page(request: Request, error: str = "", token: str = "") -> Response:
    person: Person | None = None if token else request.state.person
    if person is None and not token:
        error = error or translator(request)("account.password_link_spent")
    return page(
        request,
        "new_password.html",
        status=422 if error else 200,
        error=error,
        token=token,
        must=person is not None and person.must_change_password,
        email="" if person is None else person.email,
        action="/new-password" if person is None else "/account/password",
    )
