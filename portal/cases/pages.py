"""The cases pages: what `dicom_node.desks.reviews` knows, shown; replies, outcomes and tables of outcomes taken.

Pictures, heat maps and reports come from the routes of the analysis itself, which audit them.  Who asked is not shown.
A form that cannot be taken comes back with what was written in it and the reason, and nothing is lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from dicom_node.desks.outcome_table import TableRefused
from dicom_node.desks.reviews import MOST_SHOWN, Case, Reviews
from dicom_node.diagnoses import BENIGN, MALIGNANT
from dicom_node.record.outcomes import OutcomeRefused
from dicom_node.record.reviews import ACTIONS, ANSWERED, CLOSED, MAY_BECOME, MOST_LETTERS, OPEN, STATES, ReviewRefused
from portal.gate import permission
from portal.pages import page
from portal.pages.shown import shown
from portal.services import PortalServices
from portal.sessions import person_of

HOME = "/cases"
_Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
_Said = Annotated[str, Form()]


def router(services: PortalServices, desk: Reviews) -> APIRouter:
    """Everything below ``/cases``."""
    made = APIRouter(include_in_schema=False)
    pages = _Pages(services, desk)
    reading, telling = "analysis:site", "outcome:write"
    for path, handler, method, needed in (
        ("", pages.cases, "GET", telling),
        ("/outcomes", pages.table, "GET", telling),
        ("/outcomes", pages.take_table, "POST", telling),
        ("/outcomes.csv", pages.empty_table, "GET", telling),
        ("/{public_id}", pages.case, "GET", reading),
        ("/{public_id}/reply", pages.reply, "POST", reading),
        ("/{public_id}/state", pages.set_state, "POST", reading),
        ("/{public_id}/outcome", pages.outcome, "POST", telling),
    ):
        made.add_api_route(HOME + path, handler, methods=[method], openapi_extra=permission(needed))
    return made


class _Pages:
    def __init__(self, services: PortalServices, desk: Reviews) -> None:
        self._services = services
        self._desk = desk

    def cases(self, request: Request, state: str = OPEN) -> Response:
        """Cases of her sites: above the threshold first, then the longest waiting."""
        who = person_of(request)
        if not who.may("analysis:site"):  # a laboratory's account tells outcomes and reads no case
            return RedirectResponse(f"{HOME}/outcomes", status_code=303)
        shown = state if state in STATES else OPEN
        counts = self._desk.counts(who)
        moment = datetime.now(UTC)
        return page(
            request,
            "cases/cases.html",
            cases=[(case, _days(case, moment)) for case in self._desk.cases(who, shown)],
            state=shown,
            counts=counts,
            most=MOST_SHOWN,
        )

    def case(self, request: Request, public_id: _Id) -> Response:
        """One case: what was asked, what the model said, what was replied, what histology found."""
        case = self._found(request, public_id)
        self._desk.saw(person_of(request), case)
        return self._case(request, case)

    def reply(
        self, request: Request, public_id: _Id, reply: _Said = "", action: _Said = "", seen: Annotated[int, Form()] = 0
    ) -> Response:
        """Answer a case with words and an action."""
        return self._written(request, public_id, ANSWERED, seen, reply, action)

    def set_state(
        self, request: Request, public_id: _Id, state: _Said = "", seen: Annotated[int, Form()] = 0
    ) -> Response:
        """Close a case, or open it again."""
        if state not in (CLOSED, OPEN):
            raise HTTPException(400)
        return self._written(request, public_id, state, seen)

    def _written(
        self, request: Request, public_id: str, state: str, seen: int, reply: str = "", action: str = ""
    ) -> Response:
        case = self._found(request, public_id)
        try:
            self._desk.write(person_of(request), case.row, state, seen=seen, reply=reply, action=action)
        except ReviewRefused as refused:
            now_there = self._found(request, public_id)  # what somebody else said meanwhile is shown too
            return self._case(request, now_there, wrong=refused.reason, reply=reply, action=action, status=422)
        return RedirectResponse(f"{HOME}/{public_id}?said={state}", status_code=303)

    def outcome(self, request: Request, public_id: _Id, diagnosis: _Said = "", on_date: _Said = "") -> Response:
        """Write what histology said."""
        case = self._found(request, public_id)
        try:
            if self._desk.tell(person_of(request), public_id, diagnosis, on_date, None, "page") is None:
                raise HTTPException(404)
        except OutcomeRefused as refused:
            told = {"diagnosis": diagnosis, "on_date": on_date}
            return self._case(request, case, wrong_outcome=refused.reason, status=422, **told)
        return RedirectResponse(f"{HOME}/{public_id}?said=outcome", status_code=303)

    def table(self, request: Request) -> Response:
        """Where a table of outcomes is sent, and an empty one is had."""
        return _table_page(request)

    async def take_table(self, request: Request) -> Response:
        """Take a table: every outcome in it, or none and the wrong lines."""
        given = (await request.form()).get("table")
        content = await given.read() if isinstance(given, UploadFile) else b""
        who = person_of(request)
        try:
            taken = await anyio.to_thread.run_sync(self._desk.take_table, who, content)
        except TableRefused as refused:
            return _table_page(request, wrong=refused.reason)
        return _table_page(request, taken=taken)

    def empty_table(self, request: Request) -> Response:
        """Analyses of her sites without an outcome, to fill in."""
        headers = {"Content-Disposition": 'attachment; filename="outcomes.csv"'}
        return Response(self._desk.table(person_of(request)), media_type="text/csv; charset=utf-8", headers=headers)

    def _found(self, request: Request, public_id: str) -> Case:
        found = self._desk.case(person_of(request), public_id)
        if found is None:
            raise HTTPException(404)
        return found

    def _case(self, request: Request, case: Case, *, status: int = 200, **told: Any) -> Response:
        said = request.query_params.get("said", "")
        is_done = request.method == "GET" and said in (ANSWERED, CLOSED)
        values = {"wrong": "", "wrong_outcome": "", "reply": "", "action": "", **_outcome(case), **told}
        return page(
            request,
            "cases/case.html",
            status=status,
            # what is said of agreement there is said to the doctor who asked
            **shown(request, case.row, case.result, viewer=self._services.viewer is not None) | {"contradiction": ""},
            disagrees=case.row["impression"] if case.result.is_contradicted(case.row["impression"]) else "",
            case=case,
            steps=frozenset() if case.row["withdrawn_at"] else MAY_BECOME[case.state],
            actions=ACTIONS,
            malignant=MALIGNANT,
            benign=BENIGN,
            most=MOST_LETTERS,
            is_done=is_done,
            left=self._desk.cases(person_of(request), OPEN)[:1] if is_done else [],
            said=said if request.method == "GET" and said in (*STATES, "outcome") else "",
            **values,
        )


def _outcome(case: Case) -> dict[str, str]:
    """What stands in the form of the outcome before anybody writes in it."""
    known = case.outcome or {}
    return {"diagnosis": str(known.get("diagnosis", "")), "on_date": str(known.get("on_date", ""))}


def _days(case: Case, moment: datetime) -> int:
    """Whole days since the photograph was sent."""
    return max(0, (moment - datetime.fromisoformat(case.row["created_at"])).days)


def _table_page(request: Request, **told: Any) -> Response:
    """Also with what is wrong it is a 200: htmx takes nothing else into the page."""
    return page(request, "cases/outcomes.html", words=(*MALIGNANT, *BENIGN), **{"taken": None, "wrong": "", **told})
