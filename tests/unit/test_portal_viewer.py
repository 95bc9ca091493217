"""The viewer: tickets are good once, a visitor sees one study, a path names no host (I9, S12, S22)."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.metrics import Metrics
from dicom_node.record.keys import SCOPES, KeyIdentity
from fhir_bridge.server import Access
from portal import PortalServices, TicketOffice, ViewerSettings, create_app
from portal.tickets import ANY_STUDY, COOKIE, TicketRefused, Visitor
from portal.viewer import static_file
from portal.viewer_paths import accept_for, allowed_study, query_for

pytestmark = pytest.mark.unit

MINE, OTHER = "1.2.3", "1.2.4"
SECRET = '[{"00100010": "DOE^JANE"}]'


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def office(tmp_path: Path, clock: list[float]) -> TicketOffice:
    return TicketOffice(tmp_path / "tickets", ticket_life_s=60, visit_life_s=600, clock=lambda: clock[0])


@pytest.fixture
def build(tmp_path: Path) -> Path:
    folder = tmp_path / "ohif"
    (folder / "assets").mkdir(parents=True)
    page = '<html><head><script src="/app.js"></script><script>window.PUBLIC_URL="/"</script></head></html>'
    (folder / "index.html").write_text(page)
    (folder / "app.js").write_text("1")
    (folder / "app.css").write_text("@font-face{src:url(/a.woff2)}")
    (folder / "codec.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def looks() -> list[Access]:
    """What was written down of those who looked."""
    return []


@pytest.fixture
def trouble() -> list[Exception]:
    """What writing down fails with, once for each."""
    return []


@pytest.fixture
def client(office: TicketOffice, build: Path, looks: list[Access], trouble: list[Exception]) -> TestClient:
    def on_access(_request: Request, access: Access) -> None:
        if trouble:
            raise trouble.pop()
        looks.append(access)

    viewer = ViewerSettings(build, "http://127.0.0.1:9/dicom-web", office)
    key = KeyIdentity("all", "1", frozenset(SCOPES))
    services = PortalServices({"all": key}.get, {}, metrics=Metrics(), viewer=viewer, on_access=on_access)
    return TestClient(create_app(services), base_url="http://127.0.0.1", follow_redirects=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an archive that always answers was asked."""
    found: list[str] = []

    async def send(_client: httpx.AsyncClient, request: httpx.Request, **_: Any) -> httpx.Response:
        found.append(request.url.raw_path.decode())
        return httpx.Response(200, stream=httpx.ByteStream(SECRET.encode()), request=request)

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    return found


def _visit(client: TestClient, office: TicketOffice, study: str) -> Any:
    return client.get(office.link("", study))


def test_a_ticket_opens_its_study_once(client: TestClient, office: TicketOffice) -> None:
    assert client.get("/ohif/viewer").status_code == 401
    link = office.link("", MINE)
    answer = client.get(link)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/ohif/viewer?StudyInstanceUIDs={MINE}"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert client.get("/ohif/viewer").status_code == 200
    client.cookies.clear()
    assert client.get(link).status_code == 401


def test_a_ticket_survives_no_restart_as_a_second_one(tmp_path: Path, office: TicketOffice) -> None:
    ticket = office.issue(MINE)
    again = TicketOffice(tmp_path / "tickets", clock=lambda: 1000.0)
    assert again.redeem(ticket, MINE)
    with pytest.raises(TicketRefused):
        TicketOffice(tmp_path / "tickets", clock=lambda: 1000.0).redeem(ticket, MINE)


def test_tickets_that_are_not_good(office: TicketOffice, clock: list[float], tmp_path: Path) -> None:
    ticket = office.issue(MINE)
    body, _, signature = ticket.partition(".")
    foreign = TicketOffice(tmp_path / "elsewhere", clock=lambda: clock[0]).issue(MINE)
    visit = office.redeem(office.issue(MINE), MINE)
    for wrong, study in (
        (ticket, OTHER),
        (ticket, ANY_STUDY),
        ("", MINE),
        (f"{body}.", MINE),
        (f"{body}.{signature[:-1]}0" if signature[-1] != "0" else f"{body}.{signature[:-1]}1", MINE),
        (f"{body}é.{signature}", MINE),
        (foreign, MINE),
        (visit, MINE),
    ):
        with pytest.raises(TicketRefused):
            office.redeem(wrong, study)
    clock[0] += 60
    with pytest.raises(TicketRefused):
        office.redeem(ticket, MINE)
    with pytest.raises(ValueError, match="Study Instance UID"):
        office.issue("1.2&x=y")


def test_a_visit_ends(office: TicketOffice, clock: list[float]) -> None:
    visit = office.redeem(office.issue(MINE), MINE)
    visitor = office.visitor({COOKIE: visit})
    assert visitor is not None
    assert visitor.study == MINE
    assert office.visitor({COOKIE: office.issue(MINE)}) is None
    clock[0] += 600
    assert office.visitor({COOKIE: visit}) is None


def test_the_key_and_the_folder_are_private_and_spent_tickets_are_swept(
    office: TicketOffice, clock: list[float], tmp_path: Path
) -> None:
    assert stat.S_IMODE((tmp_path / "tickets" / "ticket.key").stat().st_mode) == 0o600
    for _ in range(3):
        office.redeem(office.issue(MINE), MINE)
    spent = tmp_path / "tickets" / "spent"
    assert len(list(spent.iterdir())) == 3
    clock[0] += 61
    office.redeem(office.issue(MINE), MINE)
    assert len(list(spent.iterdir())) == 1


def test_a_visit_opens_nothing_but_the_viewer(client: TestClient, office: TicketOffice) -> None:
    _visit(client, office, MINE)
    for path in ("/docs", "/openapi.json"):
        assert client.get(path).status_code == 403
    assert client.get("/metrics").status_code == 403


# -- files ------------------------------------------------------------------------------------------------------------


def test_pages_and_files(client: TestClient, build: Path) -> None:
    client.headers["X-API-Key"] = "all"
    for page in ("/ohif/", "/ohif/viewer", "/ohif/local/x"):
        answer = client.get(page)
        assert answer.text == (build / "index.html").read_text()
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert client.get("/codec.wasm").headers["content-type"] == "application/wasm"
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    config = client.get("/app-config.js").text
    assert config.startswith("window.config = {")
    assert "http" not in config
    for missing in ("/ohif/missing.js", "/missing.js", "/missing", "/index.html", "/assets"):
        assert client.get(missing).status_code == 404, missing
    assert client.get("/ohif").headers["location"] == "/ohif/"
    del client.headers["X-API-Key"]
    assert client.get("/app.js").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "..%2fsecret.txt",
        "assets/../../secret.txt",
        "/etc/passwd",
        "%2e%2e/secret.txt",
        "x\0y.js",
        "x" * 5000 + ".js",
    ],
)
def test_no_path_leaves_the_folder(client: TestClient, build: Path, path: str) -> None:
    client.headers["X-API-Key"] = "all"
    assert "secret" not in client.get(f"/{quote(path)}").text
    assert static_file(build, path) is None


# -- the archive behind -----------------------------------------------------------------------------------------------

VISITOR = Visitor("visitor", "", frozenset({"viewer:read"}), study=MINE)
EVERYBODY = KeyIdentity("program", "", frozenset({"viewer:read"}))


@pytest.mark.parametrize(
    "path",
    [
        f"studies/{MINE}",
        f"studies/{MINE}/metadata",
        f"studies/{MINE}/series",
        f"studies/{MINE}/series/1.2/metadata",
        f"studies/{MINE}/series/1.2/instances/1.3/frames/1,2",
        f"studies/{MINE}/series/1.2/instances/1.3/bulk/00420011",
        f"studies/{MINE}/series/1.2/instances/1.3/bulkdata/00420011/1/2",
        f"studies/{MINE}/series/1.2/instances/1.3/rendered",
    ],
)
def test_paths_of_dicomweb(path: str) -> None:
    assert allowed_study(path, VISITOR) == (True, "")
    assert allowed_study(path, EVERYBODY) == (True, "")
    assert allowed_study(path.replace(MINE, OTHER), VISITOR) == (False, "")
    assert allowed_study(path.replace(MINE, OTHER), EVERYBODY) == (True, "")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "series",
        "instances",
        "servers",
        "../instances",
        f"studies/{MINE}/../../../system",
        f"studies/{MINE}/series/../../{OTHER}/series",
        f"studies/{MINE}/series/1.2/instances/1.3/bulk/../../x",
        f"studies/{MINE}/archive",
        f"studies//{MINE}",
        f"studies/{MINE}?x",
        f"studies/{MINE}\n",
        "http://elsewhere/studies",
    ],
)
def test_other_paths_are_not_there(path: str) -> None:
    assert allowed_study(path, EVERYBODY)[0] is False


@given(st.text(alphabet="./0123456789abcstudies%\\@:?#", max_size=60))
def test_no_path_that_passes_climbs_or_names_a_host(path: str) -> None:
    if allowed_study(path, EVERYBODY)[0]:
        assert path.startswith("studies")
        assert not set(path) & set("%\\@:?#")
        assert ".." not in path.split("/")


def test_a_visitors_search_is_narrowed_to_the_one_study() -> None:
    assert allowed_study("studies", VISITOR) == (True, MINE)
    assert allowed_study("studies", EVERYBODY) == (True, "")
    asked = [("00100020", "*"), ("limit", "101"), ("includefield", "00081030")]
    assert query_for(asked, MINE) == [("StudyInstanceUID", MINE), ("limit", "101"), ("includefield", "00081030")]
    assert query_for([("StudyInstanceUID", MINE)], MINE) == [("StudyInstanceUID", MINE)]
    assert query_for([("StudyInstanceUID", OTHER)], MINE) == [("StudyInstanceUID", "0.0")]
    assert query_for([("0020000D", OTHER)], MINE) == [("StudyInstanceUID", "0.0")]
    assert query_for([("a b", "x"), ("ok", "1")], "") == [("ok", "1")]


def test_no_query_names_another_study_than_the_path(client: TestClient, asked: list[str]) -> None:
    client.headers["X-API-Key"] = "all"
    path = f"/dicom-web/studies/{MINE}/series"
    client.get(f"{path}?StudyInstanceUID={OTHER}&0020000d={OTHER}&Modality=MR")
    assert asked == [f"{path}?Modality=MR"]
    client.get(f"/dicom-web/studies?StudyInstanceUID={OTHER}")
    assert asked[1:] == [f"/dicom-web/studies?StudyInstanceUID={OTHER}"]


def test_what_cannot_be_written_down_is_not_shown(
    client: TestClient, asked: list[str], looks: list[Access], trouble: list[Exception]
) -> None:
    client.headers["X-API-Key"] = "all"
    path = f"/dicom-web/studies/{MINE}/metadata"
    trouble += [OSError("disk"), OSError("disk")]
    for _ in range(2):  # a look that was not written down is not taken for one that was
        answer = client.get(path)
        assert answer.status_code == 500 and SECRET not in answer.text
    assert [client.get(path).text for _ in range(2)] == [SECRET, SECRET]
    assert [one.study_uid for one in looks] == [MINE] and len(asked) == 4


def test_bulk_data_is_asked_for_as_octets() -> None:
    path = f"studies/{MINE}/series/1/instances/2/bulk/00420011"
    assert accept_for(path, "application/pdf") == 'multipart/related; type="application/octet-stream"'
    assert accept_for(f"studies/{MINE}/metadata", "application/dicom+json") == "application/dicom+json"
    assert accept_for(f"studies/{MINE}/metadata", "") == "*/*"


def test_an_archive_that_is_down_is_a_problem_without_its_address(client: TestClient) -> None:
    client.headers["X-API-Key"] = "all"
    answer = client.get(f"/dicom-web/studies/{MINE}/metadata")
    assert answer.status_code == 502
    assert answer.json()["type"] == "urn:ainode:problem:peer-trouble"
    assert "127.0.0.1:9" not in answer.text
    assert client.post("/dicom-web/studies").status_code == 405
