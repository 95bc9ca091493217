"""A page from a template: who reads it, in which language, under which policy.

Other rooms hang their pages on this: a template in ``templates/`` that extends ``base.html`` (blocks ``title``,
``main``, ``subnav``, ``scripts``), words in ``dictionaries/<language>/<room>.yaml``, and
``page(request, "x.html", row=row)``.

Every template knows ``t`` (`language.Translator`), ``person`` (or None), ``csrf`` (token of the session), ``places``,
``language``, ``site_name``, ``path`` (of the request), ``asset(name)``, and for JSON of the record the filters
``details(t)``, ``coded(t)`` and ``deed(t)`` (`portal.pages.details`).  Everything is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dicom_node.permissions import Person
from portal.languages import negotiated
from portal.pages.assets import asset
from portal.pages.details import coded, deed, details
from portal.pages.language import LANGUAGES, Translator
from portal.pages.navigation import places_of
from portal.services import PortalSettings

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGE_COOKIE = "language"

PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "manifest-src 'self'; worker-src 'self'; object-src 'none'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""No inline script, no inline style, no other host.  ``blob:``: the preview of a photograph before it is sent."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": PAGE_CSP,
    "Cache-Control": "no-store",
    # With `no-referrer` a browser sends `Origin: null` with a form, and the check of the origin would refuse our own.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "Vary": "Cookie, Accept-Language",
}


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset"] = asset
    made.globals["LANGUAGES"] = LANGUAGES
    made.filters |= {"details": details, "coded": coded, "deed": deed}
    return made


def reader_of(request: Request) -> Person | None:
    """The person who asks; None for nobody and for a program."""
    person: Person | None = getattr(request.state, "person", None)
    return person


def settings_of(request: Request) -> PortalSettings:
    """The portal's settings, as the application was made with."""
    found: PortalSettings = request.app.state.settings
    return found


def language_of(request: Request) -> str:
    """In which language somebody is answered: hers, else the one chosen on this device, else the browser's."""
    reader = reader_of(request)
    for chosen in (reader.language if reader else "", request.cookies.get(LANGUAGE_COOKIE, "")):
        if chosen in LANGUAGES:
            return chosen
    return negotiated(request.headers.get("accept-language"), settings_of(request).language)


def translator(request: Request) -> Translator:
    """The words for whoever asks."""
    return Translator(language_of(request), settings_of(request).zone)


def page(
    request: Request,
    template: str,
    /,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    as_language: str = "",
    is_kept: bool = False,
    **values: Any,
) -> HTMLResponse:
    """A page, or a part of one for htmx.

    Parameters
    ----------
    template
        File in ``templates/``.
    values
        What the template shows.
    as_language
        In another language than the reader's.
    is_kept
        The page stays on the phone: without the session's token.

    Raises
    ------
    jinja2.UndefinedError, KeyError
        For a value or a word that the template asks for and nobody gave.
    """
    reader = reader_of(request)
    known: frozenset[str] = request.app.state.places
    settings = settings_of(request)
    words = Translator(as_language, settings.zone) if as_language in LANGUAGES else translator(request)
    context: dict[str, Any] = {
        "t": words,
        "language": words.language,
        "person": reader,
        "csrf": "" if is_kept else getattr(request.state, "csrf", ""),
        "is_kept": is_kept,
        "is_part": "hx-request" in request.headers,
        "places": places_of(reader.may, known) if reader else [],
        "site_name": settings.organisation,
        "version": settings.version,
        "path": request.url.path,
        **values,
    }
    body = _environment().get_template(template).render(context)
    return HTMLResponse(body, status_code=status, headers={**HEADERS, **(headers or {})})
