"""Nobody is told a result that is not written down first: in lists, by repeated calls; and nobody without the log."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dicom_node.permissions import Person, Role
from dicom_node.record import audit as audit_log
from dicom_node.record.tables import analyses, api_keys, audit, outcomes, reviews, sites, users
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.clinic import RUT, Clinic, Warm, patient
from tests.support.visits import visit

pytestmark = pytest.mark.component

URL = "/api/v1/analyses"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_classifier(root)
    warm = Warm(root)
    made = Clinic(tmp_path_factory.mktemp("post") / "node", warm)
    yield made
    made.close()
    warm.close()


@pytest.fixture
def app(clinic: Clinic) -> Any:
    return clinic.app()


@pytest.fixture(scope="module")
def done(clinic: Clinic) -> Any:
    """An analysis of Ana's, completed."""
    with clinic.open():
        row = clinic.desk.accept(clinic.asked(patient=patient(), client_id="once"))
        clinic.until(row, "completed")
    return clinic.row(row["public_id"])


def acts(clinic: Clinic, person: Person) -> list[tuple[str, list[str]]]:
    return [(row["action"], row["detail"].get("ids", [])) for row in clinic.rows(audit) if row["actor"] == person.actor]


@pytest.mark.parametrize("path", [URL, f"{URL}?sites=true&limit=5", "/api/me/getAnalysisList"])
def test_a_list_of_results_is_written_down_once_in_a_while(clinic: Clinic, app: Any, done: Any, path: str) -> None:
    who = clinic.sara if "sites" in path else clinic.ana
    client, before = clinic.client(app, who), len(acts(clinic, who))
    for _ in range(3):  # a client that asks again and again
        assert done["public_id"] in client.get(path).text
    assert acts(clinic, who)[before:] == [("analysis-results-listed", [done["public_id"]])]


def test_who_sends_the_same_again_and_is_told_the_result_has_seen_it(clinic: Clinic, app: Any, done: Any) -> None:
    client, image = clinic.client(app, clinic.ana), base64.b64encode(jpeg(drawn_lesion())).decode()
    said = {"id": RUT, "type": "rut", "name": "Doe^Jane", "birth_date": "1970-01-01", "sex": "F", "confirmed": True}
    body = {"image": image, "kind": "dermoscopic", "consent": "care", "patient": said}
    before = len(acts(clinic, clinic.ana))
    answer = client.post(URL, json=body, headers={"Idempotency-Key": "once"})
    assert (answer.json()["id"], answer.json()["state"]) == (done["public_id"], "completed")
    assert acts(clinic, clinic.ana)[before:] == [("analysis-result-seen", [done["public_id"]])]


# -- a log that cannot be written: a full disk, a database that stays locked


def _away(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: Any, **__: Any) -> None:
        raise OperationalError("insert", {}, Exception("database or disk is full"))

    monkeypatch.setattr(audit_log, "append", append)


def _is_silent(answer: Any) -> None:
    assert answer.status_code == 500
    for told in (b"Doe", RUT.encode(), b"\xff\xd8\xff", b"%PDF", b"melanoma", b"sign-in", b"0,000"):
        assert told not in answer.content


@pytest.mark.parametrize(
    "path",
    [
        URL, f"{URL}/{{id}}", f"{URL}/{{id}}/photo", f"{URL}/{{id}}/files/heat_map.png",
        f"{URL}/{{id}}/files/report.pdf", "/api/me/getAnalysisList", "/api/getAnalysis/{id}",
    ],
)  # fmt: skip
def test_a_program_is_told_nothing(
    clinic: Clinic, app: Any, done: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, where = clinic.client(app, clinic.ana), path.format(id=done["public_id"])
    _away(monkeypatch)
    _is_silent(client.get(where))
    monkeypatch.undo()
    assert client.get(where).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/analyses/{id}", "/analyses/{id}/state", "/analyses/{id}/photo", "/analyses/{id}/heat-map",
        "/analyses/{id}/pdf", "/cases", "/cases/{id}",
    ],
)  # fmt: skip
def test_a_person_is_shown_nothing(
    clinic: Clinic, app: Any, done: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = visit(app, clinic.settings, clinic.database, Role.SPECIALIST, sites=["post"])
    where = path.format(id=done["public_id"])
    _away(monkeypatch)
    _is_silent(browser.get(where))
    monkeypatch.undo()
    assert browser.get(where).status_code == 200


def test_nothing_is_changed_or_taken_away(clinic: Clinic, app: Any, done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = visit(app, clinic.settings, clinic.database, Role.ADMINISTRATOR)
    sara = visit(app, clinic.settings, clinic.database, Role.SPECIALIST, sites=["post"])
    account = next(row for row in clinic.rows(users) if row["email"] == clinic.eva.email)
    before = {table.name: clinic.rows(table) for table in (users, sites, api_keys, reviews, outcomes, analyses)}
    _away(monkeypatch)
    mine = f"/administration/users/{account['public_id']}"
    for answer in (
        root.post("/administration/audit/export", reason="a yearly review"),
        root.post(f"{mine}/roles", roles="administrator"),
        root.post(f"{mine}/state", state="disabled"),
        root.post(f"{mine}/password"),
        root.post("/administration/sites", key="west", title="West"),
        root.post("/administration/sites/close", key="hospital"),
        root.post("/administration/keys", name="ehr", scopes="fhir:read"),
        sara.post(f"/cases/{done['public_id']}/reply", reply="Please see her.", action="see-in-person", seen="0"),
        sara.post(f"/cases/{done['public_id']}/outcome", diagnosis="melanoma", on_date=done["created_at"][:10]),
    ):
        _is_silent(answer)
    monkeypatch.undo()
    assert before == {table.name: clinic.rows(table) for table in (users, sites, api_keys, reviews, outcomes, analyses)}
