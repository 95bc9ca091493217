"""The browser's side of a session: cookies, the token in every form, and what the pages ask (hardening S10).

The cookie holds the secret of a session that lives in the record; HttpOnly, SameSite=Lax (links from an EHR or a PDF
must open), and over HTTPS Secure with the ``__Host-`` prefix, so that no neighbour of the domain can set it.  A second
cookie outlives sessions: it makes this browser familiar to the accounts that signed in here
(`dicom_node.desks.backoff`), and is worth nothing by itself.

Every unsafe request of a cookie session shows a token derived from the session's secret, in the form field ``csrf`` or,
always for multipart bodies and scripts, in the header ``X-CSRF-Token``; and its Origin must be ours.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from dicom_node.desks.people import Asked, People, SignedIn
from dicom_node.permissions import Person
from dicom_node.refusals import RefusalCode, Refused

SESSION, DEVICE = "session", "device"
HOST_PREFIX = "__Host-"
DEVICE_LIFE_S = 90 * 24 * 3600
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
UNATTENDED = "X-Unattended"
"""``yes`` from a page that asks by itself, so that a forgotten page does not keep its session alive."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


# -- what pages ask


def person_of(request: Request) -> Person:
    """Who asks: somebody with a session, or the account of a key.

    Raises
    ------
    Refused
        `not-authorised` for a program without an account.
    """
    person: Person | None = request.state.person
    if person is None:
        raise Refused(RefusalCode.NOT_AUTHORISED)
    return person


def csrf_token(request: Request) -> str:
    """What every form of this session carries; empty without a cookie session."""
    return str(request.state.csrf)


def address_of(connection: HTTPConnection) -> str:
    """From where somebody calls: the peer of the connection, because no header is believed (S26)."""
    return connection.client.host if connection.client else ""


def device_of(connection: HTTPConnection) -> str:
    """What this browser keeps from an earlier sign-in."""
    return connection.cookies.get(_name(connection, DEVICE), "")


def sign_in(request: Request, people: People, email: str, password: str) -> SignedIn:
    """Begin a session for whoever types address and password; one that this browser had before ends.

    Raises
    ------
    SignInRefused, SecondFactorNeeded
    """
    made = people.sign_in(_asked(request, email, password))
    _leave(request, people)
    return made


def second_step(request: Request, people: People, half: str, code: str) -> SignedIn | None:
    """The same for whoever has typed a right password a moment ago; None: it was too long ago.

    Raises
    ------
    SignInRefused
    """
    made = people.second_step(half, _asked(request, code=code))
    if made is not None:
        _leave(request, people)
    return made


def _asked(request: Request, email: str = "", password: str = "", code: str = "") -> Asked:
    agent = request.headers.get("user-agent", "")
    return Asked(email, password, address_of(request), agent, device_of(request), code)


def _leave(request: Request, people: People) -> None:
    """The session that this browser had before ends."""
    if request.state.person is not None:
        people.sign_out(request.state.person)


def begin(request: Request, response: Response, made: SignedIn) -> None:
    """Give the browser its session."""
    _set(request, response, SESSION, made.secret)
    if made.device:
        _set(request, response, DEVICE, made.device, DEVICE_LIFE_S)


def end(request: Request, response: Response) -> None:
    """Take the session's cookie away; that the browser is familiar stays."""
    response.delete_cookie(_name(request, SESSION), path="/", secure=is_secure(request), httponly=True, samesite="lax")


# -- what the gate asks


def secret_of(connection: HTTPConnection) -> str:
    """The secret of a session, as the browser shows it."""
    return connection.cookies.get(_name(connection, SESSION), "")


def csrf_of(secret: str) -> str:
    """The token of a session: made from its secret, which no script and no other site can read."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def is_ours(connection: HTTPConnection) -> bool:
    """Whether a request may come from a page of this origin; a program that says nothing of its origin may."""
    if connection.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host", "")


def hold_to_origin(request: Request) -> None:
    """Refuse an open form, such as the one to sign in, that another site's page sends.

    JSON no other site can send without asking first, and an app that is no web page may name any origin.

    Raises
    ------
    Refused
        `not-authorised`.
    """
    is_form = not request.headers.get("content-type", "").startswith("application/json")
    if request.method not in SAFE and is_form and not is_ours(request):
        raise Refused(RefusalCode.NOT_AUTHORISED)


async def hold_to_token(request: Request) -> None:
    """Refuse an unsafe request of a cookie session that does not show the session's token.

    Raises
    ------
    Refused
        `not-authorised`.
    """
    if request.method in SAFE or not request.state.csrf:
        return
    shown = request.headers.get(CSRF_HEADER, "")
    if not shown and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        shown = str((await request.form()).get(CSRF_FIELD) or "")
    if not is_ours(request) or not hmac.compare_digest(shown.encode(), request.state.csrf.encode()):
        raise Refused(RefusalCode.NOT_AUTHORISED)


def is_secure(connection: HTTPConnection) -> bool:
    """Whether the browser speaks HTTPS: to us, or to the proxy that ``base_url`` names."""
    base_url = str(connection.app.state.settings.base_url)
    return connection.url.scheme == "https" or base_url.startswith("https:")


def _name(connection: HTTPConnection, name: str) -> str:
    return f"{HOST_PREFIX}{name}" if is_secure(connection) else name


def _set(request: Request, response: Response, name: str, value: str, max_age: int | None = None) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=max_age,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )
