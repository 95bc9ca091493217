"""The administrator's page of retention: the rules, what is due, the last round, legal holds, and erasing one study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from dicom_node.desks.administration import Administration
from dicom_node.desks.retention import MOST_LETTERS, RetentionDesk, RetentionRefused
from portal.gate import permission
from portal.pages import page
from portal.sessions import person_of

PATH = "/administration/retention"
_Study = Annotated[str, Form(max_length=64)]
_Reason = Annotated[str, Form(max_length=MOST_LETTERS)]
_SAID = ("held", "lifted", "erased")


def router(desk: Administration) -> APIRouter:
    """``/administration/retention`` and what is done there."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(desk)
    for path, handler, method in (
        ("", pages.show, "GET"),
        ("/hold", pages.hold, "POST"),
        ("/release", pages.release, "POST"),
        ("/erase", pages.erase, "POST"),
    ):
        made.add_api_route(PATH + path, handler, methods=[method], openapi_extra=permission("retention:manage"))
    return made


class _Pages:
    def __init__(self, desk: Administration) -> None:
        self._administration = desk
        self._desk: RetentionDesk = desk.retention

    def show(self, request: Request) -> Response:
        """How long the node keeps what, and what goes next."""
        return self._page(request)

    def hold(self, request: Request, study: _Study = "", reason: _Reason = "") -> Response:
        """Put a legal hold on a study."""
        return self._done(request, "held", lambda who: self._desk.hold(who, study, reason), study, reason)

    def release(self, request: Request, study: _Study = "", reason: _Reason = "") -> Response:
        """Lift a legal hold."""
        return self._done(request, "lifted", lambda who: self._desk.release(who, study, reason), study, reason)

    def erase(self, request: Request, study: _Study = "", reason: _Reason = "", sure: _Study = "") -> Response:
        """Delete everything of one study now; the box has to be ticked."""
        if sure != "yes":
            return self._page(request, wrong="not-sure", study=study, reason=reason)
        return self._done(request, "erased", lambda who: self._desk.erase(who, study, reason), study, reason)

    def _done(self, request: Request, said: str, act: Callable[[str], object], study: str, reason: str) -> Response:
        try:
            act(person_of(request).actor)
        except RetentionRefused as refused:
            return self._page(request, wrong=refused.reason, why=refused.kept, study=study, reason=reason)
        return RedirectResponse(f"{PATH}?said={said}", status_code=303)

    def _page(self, request: Request, *, wrong: str = "", **told: Any) -> Response:
        asked = request.query_params.get("said", "") if request.method == "GET" else ""
        values = {"why": (), "study": "", "reason": "", **told}
        return page(
            request,
            "administration/retention.html",
            status=422 if wrong else 200,
            rules=self._desk.rules(),
            keeps_unanswered=self._desk.keeps_unanswered,
            last=self._desk.last(),
            holds=self._desk.holds(),
            kept=self._administration.kept(),
            names=self._administration.names(),
            done=asked if asked in _SAID else "",
            trouble=wrong,
            most=MOST_LETTERS,
            said=False,
            wrong="",
            **values,
        )
