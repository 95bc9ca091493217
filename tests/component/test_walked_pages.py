"""Every page of the route table is in a walk, or says here why it is no page.

tests/system/test_walks.py goes the walks; this is quick, so that a new page without a walk is found at once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dicom_node.cli import web
from dicom_node.record import Database
from dicom_node.settings import Settings
from portal.gate import RouteFacts, routes_of
from tests.support import walks_account, walks_clinic, walks_rooms
from tests.support.walking import WALKS, page_of
from tests.support.whole import PEOPLE

pytestmark = pytest.mark.component

assert walks_account and walks_clinic and walks_rooms  # entered into the table by being there

NO_PAGE: dict[str, str] = {
    r"/api/.*": "for programs",
    r"/fhir/.*": "for programs",
    r"/static/.*": "style sheets, scripts, icons",
    r"/docs|/openapi\.json": "for programs and who writes them, behind a key: no person's session opens it",
    r"/livez|/readyz|/metrics": "for programs",
    r"/manifest\.webmanifest|/worker\.js": "for the browser",
    r"/": "leads to the first of somebody's places",
    r"/account/token": "for the script that sends what waited",
    r"/trust/authority\.(crt|pem)": "a file",
    r"/analyse/recent": "a part of /analyse",
    r"/analyses/list": "a part of /analyses",
    r"/analyses/\{id\}/(state|picture)": "a part of /analyses/{id}",
    r"/analyses/\{id\}/(photo|heat-map|pdf)": "a file",
    r"/cases/outcomes\.csv": "a file",
    r"/study/\{public_id\}/state": "a part of /study/{public_id}",
    r"/study/\{public_id\}/files/\{name\}": "a file",
    r"/(ohif|ohif/\{path:path\}|\{path:path\})": "OHIF's own; tests/system/test_viewer_people.py opens it",
    r"/dicom-web/\{path:path\}": "the archive's answers to the viewer",
    r"/open|/view/.*": "leads into the viewer",
}
"""What is fetched by GET and is no page of ours, and what it is."""


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[RouteFacts]:
    """Of an application with every room open."""
    folder = tmp_path_factory.mktemp("walked")
    settings = Settings(
        data={"folder": folder},
        web={"viewer_folder": folder, "tls": True},
        orthanc={"url": "http://127.0.0.1:9"},
        routes=Path(__file__).resolve().parents[2] / "config/routes.yaml",
    )
    database = Database(settings.records_url)
    database.migrate()
    found = routes_of(web.make_app(settings, database, put=lambda job: None))
    database.close()
    return found


def test_every_page_is_in_a_walk(routes: list[RouteFacts]) -> None:
    walked = {page for one in WALKS for page in one.pages}
    pages = {
        route.path
        for route in routes
        if "GET" in route.methods and not any(re.fullmatch(pattern, route.path) for pattern in NO_PAGE)
    }
    assert len(pages) >= 30
    assert not pages - walked, "enter these pages into a walk (tests/support/walks_*.py), or say why they are none"


def test_no_walk_and_no_reason_is_about_what_is_not_there(routes: list[RouteFacts]) -> None:
    paths = {route.path for route in routes}
    assert {page for one in WALKS for page in one.pages} <= paths
    unused = [one for one in NO_PAGE if not any(re.fullmatch(one, path) for path in paths)]
    assert not unused
    assert {one.who for one in WALKS} == {"", *PEOPLE}


def test_an_address_is_told_to_be_of_its_page() -> None:
    known = ["/cases/outcomes", "/cases/{public_id}", "/cases"]
    assert page_of("/cases/outcomes", known) == "/cases/outcomes"
    assert page_of("/cases/0123", known) == "/cases/{public_id}"
    assert page_of("/nothing", known) == "/nothing"
