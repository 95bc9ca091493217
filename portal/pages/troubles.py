"""Errors as people read them: whoever came with a browser gets a page in her language instead of a problem document.

Nothing of the request comes back but the correlation id (S24).
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from dicom_node.permissions import Person
from portal.pages.render import page, reader_of, translator

SIGN_IN = "/sign-in"
_TOLD = (400, 403, 404, 410, 429, 500, 502)


def led_to(person: Person | None) -> str:
    """What somebody has to do before anything else; empty: nothing."""
    if person is None or not (person.must_change_password or person.must_add_second_factor):
        return ""
    return "/account/password" if person.must_change_password else "/account/second-factor"


def wants_a_page(request: Request) -> bool:
    """Whether a person with a browser asks: programs do not put HTML among what they accept."""
    return "text/html" in request.headers.get("accept", "")


def for_nobody(request: Request) -> Response | None:
    """Where a person who is not signed in is sent; None for a program, which reads a problem."""
    return trouble(request, 401) if wants_a_page(request) else None


def for_a_fault(request: Request) -> Response | None:
    """The page of a fault of ours; None for a program, and where the fault is in making pages."""
    try:
        return trouble(request, 500) if wants_a_page(request) else None
    except Exception:  # the caller is the request boundary: it has its own words for this
        return None


def trouble(request: Request, status: int) -> Response:
    """The page of an HTTP status; for somebody who is not signed in, the way to sign in and back."""
    if status == 401:
        if request.headers.get("hx-request"):
            return Response(status_code=401)
        back = request.url.path if request.method == "GET" and request.url.path != "/" else ""
        return RedirectResponse(f"{SIGN_IN}?next={quote(back)}" if back else SIGN_IN, status_code=303)
    led = led_to(reader_of(request)) if status == 403 else ""
    if led and not request.headers.get("hx-request"):
        return RedirectResponse(led, status_code=303)
    told = status if status in _TOLD else (500 if status >= 500 else 400)
    words = translator(request)
    correlation = str(request.state.correlation) if status >= 500 else ""
    title, text = words(f"shell.trouble_{told}"), words(f"shell.trouble_{told}_text")
    return page(request, "trouble.html", status=status, title=title, text=text, correlation=correlation, about=told)
