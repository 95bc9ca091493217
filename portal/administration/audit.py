"""The audit log's pages: read by who, what, which study and when; held against its chain; taken away with a reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import StreamingResponse

from dicom_node.desks.administration import Administration
from dicom_node.record.audit_search import Wanted
from portal.gate import permission
from portal.pages import page
from portal.pages.render import settings_of
from portal.sessions import person_of

PATH = "/administration/audit"
_SHORTEST, _LONGEST = 3, 300
_Said = Annotated[str, Form(max_length=500)]


def router(desk: Administration) -> APIRouter:
    """The log, and its export."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(desk)
    for path, handler, method in (("", pages.log, "GET"), ("/export", pages.export, "POST")):
        made.add_api_route(PATH + path, handler, methods=[method], openapi_extra=permission("audit:read"))
    return made


class _Pages:
    def __init__(self, desk: Administration) -> None:
        self._desk = desk

    def log(
        self,
        request: Request,
        actor: str = "",
        action: str = "",
        study: str = "",
        since: str = "",
        until: str = "",
        before: int | None = None,
        check: str = "",
    ) -> Response:
        """A page of the log, the newest entries first."""
        asked = {"actor": actor, "action": action, "study": study, "since": since, "until": until}
        return self._log(request, asked, before=before, is_checked=check == "yes")

    def _log(
        self,
        request: Request,
        asked: dict[str, str],
        *,
        before: int | None = None,
        is_checked: bool = False,
        **told: Any,
    ) -> Response:
        wanted = _wanted(request, asked)
        values = {"wrong": "", "reason": "", **told}
        status = 422 if values["wrong"] or wanted is None else 200
        found = self._desk.audit_page(person_of(request).actor, wanted or Wanted(), before)
        actors, actions = self._desk.audit_words()
        filters = {key: value for key, value in asked.items() if value}
        older = f"{PATH}?{urlencode({**filters, 'before': found.older})}" if found.older else ""
        return page(
            request,
            "administration/audit.html",
            status=status,
            found=found,
            asked=asked,
            is_filtered=bool(filters),
            is_wrong_day=wanted is None,
            actors=actors,
            actions=actions,
            older=older,
            verdict=self._desk.audit_verdict() if is_checked else None,
            **values,
        )

    def export(
        self,
        request: Request,
        reason: _Said = "",
        actor: _Said = "",
        action: _Said = "",
        study: _Said = "",
        since: _Said = "",
        until: _Said = "",
    ) -> Response:
        """Every entry that the filters let through, as CSV; audited with its reason before the first line."""
        asked = {"actor": actor, "action": action, "study": study, "since": since, "until": until}
        why = " ".join(reason.split())
        wanted = _wanted(request, asked)
        if wanted is None or not _SHORTEST <= len(why) <= _LONGEST:
            return self._log(request, asked, wrong="reason", reason=reason)
        lines = self._desk.audit_export(person_of(request).actor, wanted, why)
        headers = {"Content-Disposition": f'attachment; filename="audit-{datetime.now(UTC):%Y%m%d-%H%M%S}.csv"'}
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


def _wanted(request: Request, asked: dict[str, str]) -> Wanted | None:
    """Filters as the record takes them; days are the site's own, and the last one is in it.  None: a day is none."""
    zone = settings_of(request).zone

    def moment(told: str, days: int) -> str:
        if not told:
            return ""
        day = date.fromisoformat(told) + timedelta(days=days)
        return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).isoformat(timespec="microseconds")

    try:
        since, until = moment(asked["since"], 0), moment(asked["until"], 1)
    except (ValueError, OverflowError):
        return None
    return Wanted(asked["actor"], asked["action"], asked["study"].strip(), since, until)
