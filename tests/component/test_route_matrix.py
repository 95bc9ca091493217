"""Role x site x owner x route, walked from the route table itself (I5, S12).

Whoever adds a route gets it walked without a word here; one with an object in its path has to say whose it is, in
`WHOSE`, or the walk fails.  What somebody may not see is answered exactly like what does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from dicom_node.cli import web
from dicom_node.desks.analyses import Analyses, Photo
from dicom_node.desks.people import PORTAL, People
from dicom_node.desks.studies import StudyDesk
from dicom_node.permissions import MAY, Role, roles_may
from dicom_node.record import Database, tables
from dicom_node.record.people import User
from dicom_node.settings import Settings
from portal.gate import LOOPBACK, OPEN, RouteFacts, is_known, routes_of
from portal.sessions import csrf_of
from tests.support.people import HERE, THERE, make_everybody, make_sites, make_user
from tests.support.rows import add_row

pytestmark = pytest.mark.component

STUDY, PUBLIC_STUDY, MISSING_STUDY = "1.2.3.4.5", "5" * 16, "1.2.3.4.6"
ANALYSIS, REQUEST, MISSING = "a" * 32, "b" * 32, "0" * 32
OWNER, NEIGHBOUR = "clinician", "clinician-next"
SPECIALIST = "specialist"
OTHERS = (NEIGHBOUR, "clinician-there", "specialist-there", "administrator", "operator", "service", "service-there")

NOBODYS = "no person's: what the permission opens is the same for everybody who has it"
OF_A_KEY = "of the key that asked; tests/component/test_api.py holds them apart"
ONES_OWN = "of the account that asks, by its own row; tests/component/test_people.py"
IN_THE_VIEWER = "analysed by the DICOMweb path inside; below"


@dataclass(frozen=True)
class Whose:
    """An object in paths: which one there is, one there is not, and who sees it."""

    there: str
    missing: str
    seen_by: frozenset[str]
    body: dict[str, Any] = field(default_factory=dict)


_MINE_OR_MY_SITES = frozenset({OWNER, SPECIALIST})
_ANALYSIS = Whose(ANALYSIS, MISSING, _MINE_OR_MY_SITES, {"reason": "wrong patient"})
_OWN_ANALYSIS = Whose(ANALYSIS, MISSING, frozenset({OWNER}), {"reason": "wrong patient"})
_REDO = Whose(ANALYSIS, MISSING, frozenset({OWNER}), {"reason": "wrong patient", "analysis": {}})
_CASE = Whose(ANALYSIS, MISSING, frozenset({SPECIALIST}), {"reply": "See me.", "action": "see-soon", "state": "closed"})
_HISTOLOGY = frozenset({SPECIALIST, "service"})
_OUTCOME = {"diagnosis": "melanoma", "on_date": "2026-01-05"}
_STUDY = Whose(PUBLIC_STUDY, "0" * 16, _MINE_OR_MY_SITES)
_REQUEST = Whose(REQUEST, MISSING, frozenset({OWNER}))

WHOSE: dict[str, Whose | str] = {
    r"/fhir/.*": NOBODYS,
    r"/static/.*": NOBODYS,
    r"/api/v1/predict/.*": NOBODYS,
    r"/api/v1/(results|batches)/.*": OF_A_KEY,
    r"/operation/.*": NOBODYS,
    r"/administration/.*": NOBODYS,
    r"/account/sessions/\{id\}/end": ONES_OWN,
    r"/study/drafts/\{draft_id\}": "of the account that made it; tests/component/test_study_pages.py",
    r"/(ohif/|dicom-web/)?\{path:path\}": IN_THE_VIEWER,
    r"/(api/v1/analyses|cases)/\{(id|public_id)\}/outcome": Whose(ANALYSIS, MISSING, _HISTOLOGY, _OUTCOME),
    r"/(api/v1/)?analyses/\{id\}/redo": _REDO,
    r"/(api/v1/)?analyses/\{id\}/withdraw": _OWN_ANALYSIS,
    r"/(api/v1/)?analyses/\{id\}.*": _ANALYSIS,
    r"/api/getAnalysis/\{id\}": _OWN_ANALYSIS,
    r"/cases/\{public_id\}.*": _CASE,
    r"/view/\{public_id\}": _STUDY,
    r"/view/request/\{public_id\}": _REQUEST,
    r"/study/\{public_id\}.*": _REQUEST,
}
"""Path -> the person's object in it, or why there is none."""


@dataclass
class Matrix:
    """A whole application, everybody who may call it, and one object of each kind."""

    app: Any
    database: Database
    desk: People
    users: dict[str, User]

    @property
    def routes(self) -> list[RouteFacts]:
        return routes_of(self.app)

    def ask(self, who: str | None, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request, in a session of its own: some of what is asked ends it."""
        client = TestClient(
            self.app, base_url="https://127.0.0.1", client=("203.0.113.9", 40000), follow_redirects=False
        )
        headers = {"Accept": "application/json"}
        if who is not None:
            _, secret = self.desk.open_session(self.users[who], PORTAL)
            client.cookies.set("__Host-session", secret)
            headers["X-CSRF-Token"] = csrf_of(secret)
        is_json = path.startswith("/api/")
        return client.request(
            method, path, headers=headers, json=body if is_json and body else None, data=None if is_json else body
        )

    def restore(self) -> None:
        """The objects as they were: what was withdrawn or cancelled by the one is there again for the next."""
        back = {"state": "submitted", "withdrawn_at": None, "withdrawn_reason": None}
        mine = tables.analyses.c.public_id == ANALYSIS
        with self.database.write() as connection:
            connection.execute(update(tables.analyses).where(mine).values(**back))
            connection.execute(update(tables.predictions).values(state="queued", cancel=False))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "ohif").mkdir()
    (folder / "ohif" / "index.html").write_text("<html></html>", encoding="utf-8")
    settings = Settings(
        data={"folder": folder},
        web={"viewer_folder": folder / "ohif"},
        orthanc={"url": "http://127.0.0.1:9"},
        routes=Path(__file__).resolve().parents[2] / "config" / "routes.yaml",
    )
    database = Database(settings.records_url)
    database.migrate()
    make_sites(database)
    users = make_everybody(database) | {NEIGHBOUR: make_user(database, NEIGHBOUR, [Role.CLINICIAN])}
    users["service-there"] = make_user(database, "service-there", [Role.SERVICE], [THERE])
    _make_objects(database, users)
    patch = pytest.MonkeyPatch()
    # What there is to see, without a vault: were there nothing, everybody would find nothing.
    patch.setattr(Analyses, "photo", lambda *_, **__: Photo("image/jpeg", b"picture"))
    patch.setattr(Analyses, "file", lambda *_: ("image/png", b"picture"))
    patch.setattr(StudyDesk, "file", lambda *_: folder / "ohif" / "index.html")
    app = web.make_app(settings, database, put=lambda job: None)
    yield Matrix(app, database, People(settings.people, database), users)
    patch.undo()
    database.close()


def _make_objects(database: Database, users: dict[str, User]) -> None:
    with database.write() as connection:
        add_row(connection, tables.studies, uid=STUDY, public_id=PUBLIC_STUDY, site=HERE)
        add_row(
            connection, tables.analyses, public_id=ANALYSIS, user_id=users[OWNER].id, site=HERE, study_uid=STUDY,
            state="submitted", is_identified=False, pseudonym="ANON-ABCDEFGHIJKL", consent="care",
            declared={"kind": ""}, created_at="2026-01-01T00:00:00.000000+00:00",
        )  # fmt: skip
        add_row(
            connection, tables.predictions, public_id=REQUEST, owner=users[OWNER].public_id, state="queued",
            stage="read", study_uid=STUDY, options={"source": "archive"}, asked="brain-tumour", model="brain-tumour@1",
            inputs=[], warnings=[], created_at="2026-01-01T00:00:00.000000+00:00",
        )  # fmt: skip


def filled(path: str, value: str) -> str:
    """A path with the object in its first place, and something harmless in the others."""
    first = re.sub(r"\{[^}]+\}", value, path, count=1)
    return re.sub(r"\{name\}", "result.json", re.sub(r"\{verb\}", "retry", first))


def whose(path: str) -> Whose | str:
    found = next((one for pattern, one in WHOSE.items() if re.fullmatch(pattern, path)), None)
    assert found is not None, f"{path}: say in WHOSE whose object this is"
    return found


def told(answer: Any, value: str) -> tuple[int, str]:
    """Status and body, without what is different in every answer: its number and the id that was asked for."""
    return answer.status_code, re.sub(r"urn:ainode:request:\w+", "", answer.text).replace(value, "…")


@pytest.mark.parametrize("role", Role)
def test_a_role_gets_through_the_doors_of_its_permissions_and_no_other(matrix: Matrix, role: Role) -> None:
    assert len(matrix.routes) > 100
    for route in matrix.routes:
        assert is_known(route.permission), route.path
        if route.permission == OPEN:
            continue
        permission = route.permission.removeprefix(LOOPBACK)
        for method in route.methods - {"HEAD"}:
            answer = matrix.ask(role, method, filled(route.path, MISSING))
            where = (role, method, route.path, answer.status_code)
            if roles_may([role], permission):
                assert answer.status_code not in (401, 403, 405) and answer.status_code < 500, where
            else:
                assert answer.status_code == 403, where


def test_nobody_gets_through_any_door_that_is_not_open(matrix: Matrix) -> None:
    for route in matrix.routes:
        for method in route.methods - {"HEAD"}:
            if route.permission != OPEN:
                assert matrix.ask(None, method, filled(route.path, MISSING)).status_code == 401, route.path


def test_every_permission_of_people_opens_something(matrix: Matrix) -> None:
    """One that opens nothing is a promise in a table."""
    assert set(MAY) <= {route.permission.removeprefix(LOOPBACK) for route in matrix.routes}


def test_every_object_in_a_path_says_whose_it_is(matrix: Matrix) -> None:
    for route in matrix.routes:
        if "{" in route.path:
            whose(route.path)


@pytest.mark.parametrize("who", OTHERS + tuple(sorted(_MINE_OR_MY_SITES)))
def test_what_is_not_ones_own_is_as_if_it_were_not_there(matrix: Matrix, who: str) -> None:
    walked = 0
    for route in matrix.routes:
        if "{" not in route.path or isinstance(one := whose(route.path), str):
            continue
        if not roles_may(matrix.users[who].roles, route.permission):
            continue
        for method in sorted(route.methods - {"HEAD"}):
            matrix.restore()
            missing = matrix.ask(who, method, filled(route.path, one.missing), one.body)
            there = matrix.ask(who, method, filled(route.path, one.there), one.body)
            where = (who, method, route.path, there.status_code, there.text[:200])
            assert missing.status_code == 404, (where, missing.text[:200])
            if who in one.seen_by:
                assert there.status_code != 404 and there.status_code < 500, where
            else:
                assert told(there, one.there) == told(missing, one.missing), where
            walked += 1
    assert walked >= {"administrator": 0, "operator": 0, "service": 2, "service-there": 2}.get(who, 15), walked


@pytest.mark.parametrize("who", [OWNER, SPECIALIST, *OTHERS[:3]])
def test_the_archive_behind_the_viewer_shows_ones_own_studies_only(matrix: Matrix, who: str) -> None:
    """The archive is away here: 502 is what somebody meets who was let through."""
    for path in (f"/dicom-web/studies/{STUDY}/metadata", f"/dicom-web/studies/{STUDY}/series"):
        there = matrix.ask(who, "GET", path)
        missing = matrix.ask(who, "GET", path.replace(STUDY, MISSING_STUDY))
        if who in _MINE_OR_MY_SITES:
            assert there.status_code == 502 and missing.status_code == 404
        else:
            assert told(there, STUDY) == told(missing, MISSING_STUDY)
            assert there.status_code == 404


def test_who_works_at_another_site_now_sees_its_cases_and_no_longer_those_before(matrix: Matrix) -> None:
    """Asked anew with every request: sites are no copy in the session."""
    from dicom_node.record import people

    specialist = matrix.users["specialist-there"]
    database = matrix.database
    try:
        for sites, status in (([HERE], 200), ([THERE], 404), ([HERE, THERE], 200)):
            with database.write() as connection:
                people.set_roles(connection, "test", specialist, [Role.SPECIALIST], sites)
            assert matrix.ask("specialist-there", "GET", f"/cases/{ANALYSIS}").status_code == status
    finally:
        with database.write() as connection:
            people.set_roles(connection, "test", specialist, [Role.SPECIALIST], [THERE])
