"""A study picked in a real Orthanc: found by a whole number only, analysed, and opened in the viewer by who asked."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.delivery.searching import SearchableArchive
from dicom_node.demo.site import free_ports
from dicom_node.orthanc import OrthancChild
from dicom_node.permissions import Role
from dicom_node.record.sites import add_site, close_site, site_of
from dicom_node.record.tables import audit, sites, studies
from tests.component.test_study_pages import FLAIR, finished, node_study, roles
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom
from tests.support.browsing import served
from tests.support.visits import Visit, visit, words

pytestmark = pytest.mark.component

JANE = {"PatientName": "ROE^JANE", "PatientID": "ID-4711", "PatientBirthDate": "19480817", "AccessionNumber": "A-77"}
JOHN = {"PatientName": "DOE^JOHN", "PatientID": "ID-4712", "PatientBirthDate": "19500101", "AccessionNumber": "A-78"}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancChild]:
    folder = tmp_path_factory.mktemp("orthanc")
    http_port, dicom_port, node_port = free_ports(3)
    with OrthancChild(folder, http_port, dicom_port, node_port=node_port) as made:
        yield made


@pytest.fixture(scope="module")
def held(orthanc: OrthancChild, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Study Instance UID by Patient ID of what the archive holds."""
    found = {}
    with orthanc.client() as client:
        for number, patient in enumerate((JANE, JOHN)):
            files = dicom(tmp_path_factory.mktemp(f"study{number}"), **FLAIR, **patient)
            for path in files:
                assert client.post("/instances", content=path.read_bytes()).status_code == httpx.codes.OK
            found[patient["PatientID"]] = node_study(files)
    return found


@pytest.fixture(scope="module")
def node(orthanc: OrthancChild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("node")
    make_tiny_package(folder / "models", role="flair")
    viewer = folder / "ohif"
    viewer.mkdir()
    (viewer / "index.html").write_text("<html><body>viewer</body></html>")
    section = {"url": orthanc.url, "username": orthanc.username, "password_file": orthanc.password_file}
    made = ApiNode(folder / "node", folder / "models", orthanc=section, web={"viewer_folder": viewer})
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(node: ApiNode) -> Iterator[str]:
    with served(node.app) as made:
        yield made


def doctor(node: ApiNode, address: str, *roles_of: Role, sites: tuple[str, ...] = ("base",)) -> Visit:
    chosen = roles_of or (Role.CLINICIAN,)
    return visit(node.app, node.settings, node.database, *chosen, sites=sites, address=address)


def test_a_study_is_found_by_its_whole_number_and_by_nothing_less(
    node: ApiNode, address: str, held: dict[str, str]
) -> None:
    somebody = doctor(node, address)
    page = words(somebody.post("/study/search", by="patient", value="ID-4711").text)
    assert "ROE JANE" in page and "17 Aug 1948" in page and "DOE" not in page and "24 images" in page
    assert "MARKERPHI description" in page, "what the archive says only when it is asked for it"
    assert "DOE JOHN" in words(somebody.post("/study/search", by="accession", value="A-78").text)
    for less in ("ID-471*", "*", "ID-471?", "4711", "id-4711 ", "\\"):
        page = words(somebody.post("/study/search", by="patient", value=less).text)
        assert "no study of your sites with this number" in page, less
    rows = [row for row in node.rows(audit) if row["action"] == "archive.searched"]
    assert rows[0]["actor"] == somebody.person.actor and rows[0]["detail"]["studies"] == [held["ID-4711"]]
    assert "ID-4711" not in str(rows), "the number itself stays out of the log"


def test_it_is_analysed_now_and_opened_in_the_viewer_by_who_asked(
    node: ApiNode, address: str, held: dict[str, str]
) -> None:
    somebody, study = doctor(node, address), held["ID-4711"]
    series = f"/dicom-web/studies/{study}/series"
    assert somebody.get(series).status_code == 404, "not asked yet"
    forged = somebody.post("/study/pick", by="patient", value="ID-4711", study=held["ID-4712"])
    assert forged.status_code == 200 and "a study that the search finds" in words(forged.text)
    picked = somebody.post("/study/pick", by="patient", value="ID-4711", study=study)
    page = somebody.follow(picked)
    assert roles(page.text) == ["flair"] and "ROE JANE" in words(page.text)
    asked = somebody.post(picked.headers["location"], model="tiny-bright", role_0="flair", transfer="")
    location = asked.headers["location"]
    told = finished(somebody, location)
    assert f'href="/view/request/{location.rpartition("/")[2]}"' in told
    opened = somebody.get(f"/view/request/{location.rpartition('/')[2]}")
    assert opened.headers["location"] == f"/ohif/viewer?StudyInstanceUIDs={study}&lng=en-US"
    assert somebody.get(opened.headers["location"]).status_code == 200
    assert somebody.get(series).json()[0]["0020000D"]["Value"] == [study]
    assert len(somebody.get(f"/dicom-web/studies?StudyInstanceUID={study}").json()) == 1
    # others, and other studies, and a look over the whole archive: nothing
    assert somebody.get(f"/dicom-web/studies/{held['ID-4712']}/series").status_code == 404
    whole = somebody.get("/dicom-web/studies").json()
    assert [one["0020000D"]["Value"] for one in whole] == [[study]], "of the whole archive what she may see"
    for query in ("?PatientID=ID-4712", f"?StudyInstanceUID={held['ID-4712']}",
                  f"?StudyInstanceUID={study}&StudyInstanceUID={held['ID-4712']}"):  # fmt: skip
        assert somebody.get(f"/dicom-web/studies{query}").json() == [], query
    stranger = doctor(node, address)
    assert stranger.get(series).status_code == 404
    assert stranger.get(f"/view/request/{location.rpartition('/')[2]}").status_code == 404
    operator = doctor(node, address, Role.OPERATOR, sites=())
    assert operator.get(series).status_code == 403 and operator.get("/ohif/viewer").status_code == 403
    somebody.client.cookies.clear()
    assert somebody.client.get(series).status_code == 401, "a session that ended opens nothing"


@pytest.fixture
def two_sites(node: ApiNode) -> None:
    with node.database.write() as connection:
        for key in ("base", "coast"):
            if site_of(connection, key) is None:
                add_site(connection, "test", key=key, title=key.title())


def search(visitor: Visit, value: str) -> str:
    return words(visitor.post("/study/search", by="patient", value=value).text)


@pytest.mark.usefixtures("two_sites")
def test_the_archive_shows_each_site_its_own_studies_and_no_others(
    node: ApiNode, address: str, orthanc: OrthancChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose a study is: the node's own record says it, else the institution of its images, else nobody knows."""
    patient = {"PatientName": "POE^JIM", "PatientID": "ID-4713", "InstitutionName": "Hospital  de la COSTA"}
    files = dicom(tmp_path, **FLAIR, **patient)
    with orthanc.client() as client:
        for path in files:
            assert client.post("/instances", content=path.read_bytes()).status_code == httpx.codes.OK
    study = node_study(files)
    base, coast = doctor(node, address), doctor(node, address, sites=("coast",))
    both = doctor(node, address, sites=("base", "coast"))

    def seen() -> list[bool]:
        found = ["POE JIM" in search(one, "ID-4713") for one in (base, coast, both)]
        picked = [one.post("/study/pick", by="patient", value="ID-4713", study=study) for one in (base, coast, both)]
        assert [answer.status_code == 303 for answer in picked] == found, "what is not found cannot be picked"
        return found

    assert seen() == [False, False, False], "nobody knows whose it is"
    strangers = re.sub("ID-47..", "", search(base, "ID-4713")), re.sub("ID-47..", "", search(base, "ID-4799"))
    assert strangers[0] == strangers[1], "as one that does not exist"
    named = node.settings.orthanc.model_copy(update={"institutions": {"Hospital de la Costa": "coast"}})
    monkeypatch.setitem(node.settings.__dict__, "orthanc", named)
    assert seen() == [False, True, True], "the institution of its images stands for the coast"
    moment = "2026-11-22T12:00:00.000000+00:00"
    with node.database.write() as connection:
        values = {"uid": study, "public_id": "e" * 16, "identity": {}, "site": "base",
                  "first_seen_at": moment, "last_activity_at": moment}  # fmt: skip
        connection.execute(studies.insert().values(**values))
    assert seen() == [True, False, True], "the node's own record goes before what images say"
    with node.database.write() as connection:
        close_site(connection, "test", "coast")
        connection.execute(studies.update().where(studies.c.uid == study).values(site=None))
    monkeypatch.setitem(node.settings.__dict__, "orthanc", named.model_copy(update={"institutions": {}}))
    try:
        assert seen() == [False, False, False], "a site that closed leaves its studies to nobody"
    finally:
        with node.database.write() as connection:
            connection.execute(sites.update().values(closed_at=None))
            connection.execute(studies.delete().where(studies.c.uid == study))
    last = [row for row in node.rows(audit) if row["action"] == "archive.searched"][-1]
    assert last["detail"]["found"] == 0, "the log says what was shown, not what there was"


def test_a_study_of_the_node_is_opened_by_its_site(node: ApiNode, address: str, held: dict[str, str]) -> None:
    moment = "2026-11-22T12:00:00.000000+00:00"
    with node.database.write() as connection:
        if site_of(connection, "coast") is None:
            add_site(connection, "test", key="coast", title="Coast")
        values = {"uid": held["ID-4712"], "public_id": "c" * 16, "identity": {}, "site": "coast",
                  "first_seen_at": moment, "last_activity_at": moment}  # fmt: skip
        connection.execute(studies.insert().values(**values))
    hers = doctor(node, address, Role.SPECIALIST, sites=("coast",))
    opened = hers.get(f"/view/{'c' * 16}")
    assert opened.headers["location"].endswith(f"{held['ID-4712']}&lng=en-US")
    assert hers.get(f"/dicom-web/studies/{held['ID-4712']}/series").status_code == 200
    for other in (doctor(node, address, Role.SPECIALIST), doctor(node, address, sites=("coast",))):
        assert other.get(f"/view/{'c' * 16}").status_code == 404
        assert other.get(f"/dicom-web/studies/{held['ID-4712']}/series").status_code == 404
    assert hers.get(f"/view/{'d' * 16}").status_code == 404


def test_an_archive_that_is_away_is_said_so(
    node: ApiNode, address: str, held: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc = node.settings.orthanc
    gone = orthanc.model_copy(update={"url": "http://127.0.0.1:9"})
    monkeypatch.setitem(node.settings.__dict__, "orthanc", gone)
    began = time.monotonic()
    page = doctor(node, address).post("/study/search", by="patient", value="ID-4711")
    assert "PACS did not answer" in words(page.text) and time.monotonic() - began < 30
    assert SearchableArchive.__name__ not in page.text
