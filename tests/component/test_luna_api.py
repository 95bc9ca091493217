"""The LUNA API over HTTP: accounts and tokens, photographs, and whose analysis is whose."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.desks import analysis_patients, backoff
from dicom_node.desks.analyses import Analyses
from dicom_node.desks.people import LUNA, PORTAL, Asked, People
from dicom_node.identity import LookedUp
from dicom_node.luna_settings import LunaSection
from dicom_node.permissions import Role
from dicom_node.record import keys, people, sites
from dicom_node.record.tables import analyses, sessions
from dicom_node.spool import Upload
from dicom_node.web_settings import ApiSection
from portal.luna import KeyFile, Tokens
from portal.luna.asking import asked_of
from portal.luna.bodies import ImageProcess
from portal.services import PortalSettings
from tests.support.luna import ACCESS_TOKEN, AUTHORIZATION, IMAGE, PASSWORD, PHOTO, Luna, address, luna_node

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def luna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luna]:
    made = luna_node(tmp_path_factory.mktemp("luna"))
    yield made
    made.node.close()


# -- accounts and tokens


def test_signing_in_gives_the_account_and_a_token(luna: Luna) -> None:
    told = luna.sign_in("ana").json()
    assert told["user"] == {
        "id": luna.ids["ana"], "_id": luna.ids["ana"], "name": "Ana", "username": "Ana", "email": address("ana"),
        "roles": ["user"], "language": "en", "sites": ["north"],
    }  # fmt: skip
    assert luna.client(told["token"]).get("/api/me").json() == told["user"]
    by_other_header = luna.client(told["token"], header=ACCESS_TOKEN)
    assert by_other_header.get("/api/me").json() == told["user"]
    assert (
        luna.client().post("/signin", json={"username": "ANA@post.example ", "password": PASSWORD}).status_code == 200
    )
    assert luna.as_("root").get("/api/me").json()["roles"] == ["admin"]


def test_who_may_not_is_told_the_same_whoever_she_is(luna: Luna) -> None:
    wrong, unknown = luna.sign_in("ana", "not the password at all"), luna.sign_in("nobody-here")
    assert wrong.status_code == unknown.status_code == 401
    assert {**wrong.json(), "instance": ""} == {**unknown.json(), "instance": ""}
    assert "password" in wrong.json()["message"]
    assert luna.client().post("/signin", json={"email": address("ana"), "password": ""}).status_code == 400


def test_too_many_wrong_passwords_have_to_wait(luna: Luna) -> None:
    luna.add("slow", "operator")
    answers = [luna.sign_in("slow", "not the password at all") for _ in range(backoff.ACCOUNT.free + 1)]
    assert [answer.status_code for answer in answers] == [401] * backoff.ACCOUNT.free + [429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60


def test_signing_out_ends_the_token_and_no_other(luna: Luna) -> None:
    first, second = (luna.sign_in("ops").json()["token"] for _ in range(2))
    assert luna.client(first).post("/logout").status_code == 200
    assert luna.client(first).get("/api/me").status_code == 401
    assert luna.client(second).get("/api/me").status_code == 200
    assert (f"user:{luna.ids['ops']}", "session-ended") in luna.acts()


@pytest.mark.parametrize("change", ["password", "role", "disabled"])
def test_what_changes_an_account_ends_its_tokens(luna: Luna, change: str) -> None:
    name = f"changed-{change}"
    luna.add(name, "operator")
    client = luna.as_(name)
    assert client.get("/api/me").status_code == 200
    with luna.node.database.write() as connection:
        user = people.user_of_public_id(connection, luna.ids[name])
        assert user is not None
        if change == "password":
            people.set_password(connection, "test", user, user.password_hash)
        elif change == "role":
            people.set_roles(connection, "test", user, ["administrator"])
        else:
            people.set_state(connection, "test", user, people.DISABLED)
    assert client.get("/api/me").status_code == 401


def test_a_token_is_nothing_without_its_session(luna: Luna) -> None:
    token = luna.sign_in("ops").json()["token"]
    kept = luna.rows(sessions)[-1]
    assert kept["kind"] == "luna" and kept["token_sha256"] not in token
    with luna.node.database.write() as connection:
        connection.execute(sessions.delete().where(sessions.c.id == kept["id"]))
    assert luna.client(token).get("/api/me").status_code == 401


def test_a_token_outlives_a_change_of_keys(luna: Luna) -> None:
    token = luna.sign_in("ops").json()["token"]
    KeyFile(luna.node.settings.data.folder / "luna-keys.json").rotate(timedelta(hours=8))
    assert luna.client(token).get("/api/me").status_code == 200
    assert luna.client(luna.sign_in("ops").json()["token"]).get("/api/me").status_code == 200


@pytest.mark.parametrize("shown", ["", "x", "a.b.c", "ain_00000000_" + "a" * 43, "\u00e9"])
def test_a_stranger_is_turned_away(luna: Luna, shown: str) -> None:
    for header in (AUTHORIZATION, ACCESS_TOKEN):
        value = (f"Bearer {shown}" if header == AUTHORIZATION else shown).encode("latin-1")
        for method, path in (("GET", "/api/me"), ("POST", "/logout"), ("POST", "/api/imageProcess"),
                             ("GET", "/api/me/getAnalysisList"), ("POST", "/api/auth/signup"),
                             ("GET", f"/api/getAnalysis/{'0' * 32}")):  # fmt: skip
            answer = luna.client().request(method, path, headers=[(header.encode(), value)])
            assert answer.status_code == 401, (method, path)


def test_a_token_that_is_made_elsewhere_opens_nothing(luna: Luna, tmp_path: Path) -> None:
    """Not with the secret of a living session, not in somebody else's name."""
    settings, accounts = luna.node.settings, People(luna.node.settings.people, luna.node.database)
    with luna.node.database.read() as connection:
        user = people.user_of_public_id(connection, luna.ids["ana"])
    assert user is not None
    _, secret = accounts.open_session(user, LUNA)
    issuer = f"urn:uuid:{settings.node.site_namespace}"
    ours = Tokens(KeyFile(settings.data.folder / "luna-keys.json"), issuer, timedelta(hours=8))
    theirs = Tokens(KeyFile(tmp_path / "keys.json"), issuer, timedelta(hours=8))
    assert luna.client(ours.issue(luna.ids["ana"], secret).token).get("/api/me").status_code == 200
    assert luna.client(theirs.issue(luna.ids["ana"], secret).token).get("/api/me").status_code == 401
    assert luna.client(ours.issue(luna.ids["root"], secret).token).get("/api/me").status_code == 401
    _, of_the_portal = accounts.open_session(user, PORTAL)
    assert luna.client(ours.issue(luna.ids["ana"], of_the_portal).token).get("/api/me").status_code == 401
    assert luna.client(secret).get("/api/me").status_code == 401, "the secret alone is no token"


def test_only_an_administrator_makes_accounts(luna: Luna) -> None:
    new = {"username": "Eva Rojas", "email": address("eva"), "password": PASSWORD, "roles": ["user"], "site": "south"}
    for name in ("ana", "sol", "ops"):
        assert luna.as_(name).post("/api/auth/signup", json=new).status_code == 403
    answer = luna.as_("root").post("/api/auth/signup", json=new)
    assert (answer.status_code, answer.json()["user"]["roles"]) == (200, ["user"])
    assert luna.sign_in("eva").json()["user"]["sites"] == ["south"]
    with luna.node.database.read() as connection:
        made = people.user_of_email(connection, address("eva"))
    assert made is not None and made.roles == {Role.CLINICIAN} and made.name == "Eva Rojas"
    again = luna.as_("root").post("/api/auth/signup", json=new)
    assert again.status_code == 400 and "already" in again.json()["expected"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"password": "short"}, "12"),
        ({"password": "passwordpassword"}, "guesser"),
        ({"email": "no address"}, "e-mail"),
        ({"roles": ["root"]}, "roles"),
        ({"roles": []}, "roles"),
        ({"site": "nowhere"}, "site"),
        ({"site": ""}, "site"),
        ({"isAdmin": True}, "fields among"),
    ],
)
def test_an_account_that_cannot_be_is_refused_with_the_reason(luna: Luna, change: dict[str, Any], word: str) -> None:
    new = {"name": "Some One", "email": address("some.one"), "password": PASSWORD, "roles": ["user"], "site": "north"}
    answer = luna.as_("root").post("/api/auth/signup", json={**new, **change})
    assert answer.status_code == 400 and word in answer.json()["expected"], answer.text
    assert PASSWORD not in answer.text and address("some.one") not in answer.text


def test_the_only_site_need_not_be_said(luna: Luna) -> None:
    with luna.node.database.write() as connection:
        sites.close_site(connection, "test", "south")
    new = {"email": address("ida"), "password": PASSWORD}
    told = luna.as_("root").post("/api/auth/signup", json=new).json()
    assert (told["user"]["sites"], told["user"]["name"], told["user"]["roles"]) == (["north"], "ida", ["user"])


# -- photographs


def sent(luna: Luna, name: str, **said: Any) -> dict[str, Any]:
    answer = luna.as_(name).post("/api/imageProcess", json={"image": IMAGE, **said})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_photograph_is_an_analysis_of_its_sender(luna: Luna) -> None:
    told = sent(luna, "ana", description="left arm, ¿crece? <b>")
    assert told["userId"] == luna.ids["ana"] and told["state"] == "waiting" and told["isPrivate"]
    assert [told[name] for name in ("result", "isMelanoma", "malignancy", "analysisDate", "patient")] == [None] * 5
    row = luna.rows(analyses)[-1]
    assert (row["public_id"], row["description"], row["site"]) == (told["id"], "left arm, ¿crece? <b>", "north")
    assert row["patient"] is None and row["pseudonym"].startswith("ANON-")
    assert luna.node.settings.data.folder.joinpath(row["photo_path"]).read_bytes() == PHOTO
    (mine, *_) = luna.as_("ana").get("/api/me/getAnalysisList").json()
    assert mine == {**told, "image": None}
    assert luna.as_("ana").get(f"/api/getAnalysis/{told['id']}").json() == told


def test_with_a_patient_it_has_an_identity_that_a_person_has_to_confirm(luna: Luna) -> None:
    """No FHIR server: a number that a client sends is nobody's yes, unless the site says that it is."""
    said = {"patientId": "12.345.678-5", "bodySite": "back", "orderId": "A-1"}
    told = sent(luna, "ana", **said)
    assert told["patient"]["id"] == "12345678-5" and not told["patient"]["isConfirmed"] and told["isPrivate"]
    row = luna.rows(analyses)[-1]
    assert (row["order_id"], row["body_site"], row["patient"]["issuer"]) == ("A-1", "back", "CHILE")
    assert row["patient"]["confirmed"] == ""

    settings = luna.node.settings.model_copy(update={"luna": LunaSection(client_confirms=True)})
    desk = Analyses(settings, luna.node.database, lambda put: None)
    ana = People(settings.people, luna.node.database).sign_in(Asked(address("ana"), PASSWORD), LUNA).person
    body = ImageProcess(image=IMAGE, patientId="12.345.678-5")
    asked = asked_of(desk, ana, body, Upload("0" * 64, 1), "image/jpeg", None)
    assert asked.patient is not None and asked.patient.confirmed


SERVER_SAYS: dict[str, tuple[LookedUp, int, str]] = {
    "found": (LookedUp("found", "12345678-5", "Soto^Eva", "19600229", "F"), 200, "fhir"),
    "away": (LookedUp("away", "12345678-5"), 200, ""),
    "not found": (LookedUp("not-found", "12345678-5"), 422, "patient-not-found"),
    "several": (LookedUp("several", "12345678-5"), 422, "patient-ambiguous"),
}


@pytest.mark.parametrize("name", SERVER_SAYS)
def test_what_the_sites_server_says_of_a_patient_counts(luna: Luna, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said, status, word = SERVER_SAYS[name]
    monkeypatch.setattr(analysis_patients, "look_up", lambda *_: said)
    # by somebody to whom the server has shown nobody yet
    who = f"who-{name.replace(' ', '-')}"
    luna.add(who, "clinician", site="north")
    before = len(luna.rows(analyses))
    answer = luna.as_(who).post("/api/imageProcess", json={"image": IMAGE, "patientId": "12.345.678-5"})
    told = answer.json()
    assert answer.status_code == status, told
    if status == 422:
        assert told["code"] == word and len(luna.rows(analyses)) == before
        assert "345" not in answer.text
        return
    kept = luna.rows(analyses)[-1]["patient"]
    assert (kept["confirmed"], kept["name"], kept["birth_date"]) == (word, said.name, said.birth_date)
    is_known = name == "found"
    assert told["isPrivate"] is not is_known and told["patient"]["isConfirmed"] is is_known
    assert told["patient"]["name"] == said.name, "so that whoever asked sees whom the server means"


def test_whom_the_server_showed_to_one_person_it_did_not_show_to_another(
    luna: Luna, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who saw the server's answer has compared it with the person before her."""
    monkeypatch.setattr(analysis_patients, "look_up", lambda *_: SERVER_SAYS["found"][0])
    node = luna.node
    desk = analysis_patients.Patients(node.settings, node.database)
    signed = People(node.settings.people, node.database)
    ana, ben = (signed.sign_in(Asked(address(name), PASSWORD), LUNA).person for name in ("ana", "ben"))
    desk.look_up(ana, "north", "rut", "12.345.678-5")
    with node.database.read() as connection:
        site = sites.site_of(connection, "north")
    assert site is not None
    typed = analysis_patients.PatientSaid("12345678-5", "rut", name="Rojas^Ana", confirmed=True)
    told = [desk.confirmed(who, site, typed) for who in (ana, ben)]
    assert [(one["confirmed"], one["name"]) for one in told] == [("fhir", "Soto^Eva"), ("user", "Rojas^Ana")]


def test_a_closed_site_takes_no_photograph(tmp_path: Path) -> None:
    closing = luna_node(tmp_path)
    try:
        ana = closing.as_("ana")
        assert ana.post("/api/imageProcess", json={"image": IMAGE}).status_code == 200
        with closing.node.database.write() as connection:
            sites.close_site(connection, "test", "north")
        answer = ana.post("/api/imageProcess", json={"image": IMAGE, "description": "another"})
        assert (answer.status_code, answer.json()["code"]) == (400, "validation")
        assert len(closing.rows(analyses)) == 1
        assert len(ana.get("/api/me/getAnalysisList").json()) == 1, "what was asked there can still be read"
    finally:
        closing.node.close()


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "wrong check digit": ({"image": IMAGE, "patientId": "12.345.678-9"}, 400, "validation"),
    "unknown type": ({"image": IMAGE, "patientId": "1", "patientIdType": "passport"}, 400, "validation"),
    "type alone": ({"image": IMAGE, "patientIdType": "rut"}, 400, "validation"),
    "unknown body site": ({"image": IMAGE, "bodySite": "moon"}, 400, "validation"),
    "long order": ({"image": IMAGE, "orderId": "A" * 17}, 400, "validation"),
    "unknown field": ({"image": IMAGE, "userId": "0" * 32}, 400, "validation"),
    "no image": ({"description": "x"}, 400, "validation"),
    "no text": ({"image": 7}, 400, "validation"),
    "long description": ({"image": IMAGE, "description": "x" * 2001}, 400, "validation"),
    "no base64": ({"image": "not base64!"}, 422, "base64-invalid"),
    "a program": ({"image": base64.b64encode(b"MZ" + bytes(40)).decode()}, 415, "not-an-image"),
    "another type than said": ({"image": f"data:image/png;base64,{IMAGE}"}, 415, "image-type-mismatch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_question_is_refused_by_name(luna: Luna, name: str) -> None:
    body, status, code = REFUSED[name]
    before = len(luna.rows(analyses))
    answer = luna.as_("ana").post("/api/imageProcess", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(luna.rows(analyses)) == before


def test_only_photographs_may_be_large(luna: Luna) -> None:
    assert (ApiSection().max_photo_mb, PortalSettings().max_body_bytes) == (30, 1_000_000), "where nobody says another"
    ana = luna.as_("ana")
    assert ana.post("/api/imageProcess", json={"image": "A" * 1_500_000}).status_code == 415, "read, and no picture"
    assert ana.post("/api/imageProcess", json={"image": "A" * 2_100_000}).status_code == 413
    large = json.dumps({"email": "x" * 1_000_001, "password": "y"})
    assert luna.client().post("/signin", content=large, headers={"Content-Type": "application/json"}).status_code == 413
    for body in (b"[" * 40 + b"]" * 40, b'{"email": "a", "email": "b", "password": "c"}', b"{", b"\xff"):
        answer = luna.client().post("/signin", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), body
    for body in (b'{"image": "AA==", "image": "AA=="}', b"[" * 100_000, b"[]", b"\xff\xfe"):
        answer = ana.post("/api/imageProcess", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body[:40]
    assert luna.client().post("/signin", data={"email": "a", "password": "b"}).status_code in (400, 403)


def test_sent_twice_under_one_key_it_is_one_analysis(luna: Luna) -> None:
    once = {"Idempotency-Key": "upload-1"}
    ana = luna.as_("ana")
    first, again = (ana.post("/api/imageProcess", json={"image": IMAGE}, headers=once).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = ana.post("/api/imageProcess", json={"image": IMAGE, "description": "another"}, headers=once)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")
    assert sent(luna, "ben")["id"] != first["id"]
    assert luna.as_("ben").post("/api/imageProcess", json={"image": IMAGE}, headers=once).json()["id"] != first["id"]


def test_who_asks_for_nothing_clinical_may_not(luna: Luna) -> None:
    for name in ("root", "ops"):
        client = luna.as_(name)
        assert client.post("/api/imageProcess", json={"image": IMAGE}).status_code == 403
        assert client.get("/api/me/getAnalysisList").status_code == 403
        assert client.get(f"/api/getAnalysis/{'0' * 32}").status_code == 403


# -- whose is whose


@pytest.mark.parametrize("stranger", ["ben", "sol"])
def test_somebody_elses_analysis_is_as_if_there_were_none(luna: Luna, stranger: str) -> None:
    """Also for a specialist of the same site: who asked stands in this answer, and is told to nobody else."""
    hers = sent(luna, "ana", description="hers alone")["id"]
    client = luna.as_(stranger)
    found, missing = (client.get(f"/api/getAnalysis/{one}") for one in (hers, "f" * 32))
    assert found.status_code == missing.status_code == 404
    same = ("type", "title", "status")
    assert {k: found.json()[k] for k in same} == {k: missing.json()[k] for k in same}
    assert set(found.json()) == set(missing.json()) and found.headers.keys() == missing.headers.keys()
    listed = client.get("/api/me/getAnalysisList").json()
    assert hers not in [one["id"] for one in listed] and luna.ids["ana"] not in json.dumps(listed)


def test_a_key_without_an_account_has_no_analyses(luna: Luna) -> None:
    key = keys.create(luna.node.database, "program", ["predict:run"])
    assert luna.client(key).get("/api/me").status_code == 403
    assert luna.client(key).post("/api/imageProcess", json={"image": IMAGE}).status_code == 403


def test_words_come_in_the_language_asked_for(luna: Luna) -> None:
    ana = luna.as_("ana")
    spanish = ana.get("/api/me/getAnalysisList", headers={"Accept-Language": "es-CL"}).json()[0]
    assert "no es un diagnóstico" in spanish["disclaimer"] and spanish["message"].startswith("El análisis")
    refused = ana.post("/api/imageProcess", json={"image": "!"}, headers={"Accept-Language": "es"}).json()
    assert "base64" in refused["message"] and "RFC 4648" in refused["detail"] and "imagen" in refused["message"]
    assert "correo" in luna.client().post(
        "/signin", json={"email": "x@y.example", "password": "z"}, headers={"Accept-Language": "es"}
    ).json()["message"]  # fmt: skip


def test_who_calls_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    few = luna_node(tmp_path, requests_per_minute=4, images_per_minute=1)
    try:
        ana = few.as_("ana")
        answers = [ana.post("/api/imageProcess", json={"image": IMAGE}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert int(answers[1].headers["Retry-After"]) >= 1
        # who does not say who she is, by address: her own sign-in was the first of four
        assert [few.sign_in("nobody").status_code for _ in range(4)] == [401, 401, 401, 429]
        # and nobody else behind that address is shut out by it
        assert ana.get("/api/me").status_code == 200
    finally:
        few.node.close()


def test_strangers_of_one_ipv6_network_are_counted_together(tmp_path: Path) -> None:
    """Of the rest of such an address anybody has as many as she likes."""
    few = luna_node(tmp_path, requests_per_minute=2)

    def guess(address: str) -> int:
        client = TestClient(few.node.app, base_url="http://127.0.0.1", client=(address, 40000))
        return client.post("/signin", json={"email": "x@post.example", "password": "y"}).status_code

    try:
        assert [guess(f"2001:db8:1:1::{n}") for n in (1, 2, 3)] == [401, 401, 429]
        assert guess("2001:db8:1:2::1") == 401
    finally:
        few.node.close()


def test_the_key_file_is_where_the_data_are(luna: Luna) -> None:
    path: Path = luna.node.settings.data.folder / "luna-keys.json"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_operator_changes_the_key_while_the_node_runs(luna: Luna, tmp_path: Path) -> None:
    before = luna.sign_in("ops").json()["token"]
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump({"data": {"folder": str(luna.node.settings.data.folder)}}))

    def ai_node(*words: str) -> str:
        done = CliRunner().invoke(app, ["--config", str(config), "tokens", *words])
        assert done.exit_code == 0, done.output
        return done.output

    count = len(json.loads(ai_node("list", "--json")))
    assert "signed by" in ai_node("rotate")
    kids = [one["kid"] for one in json.loads(ai_node("list", "--json"))]
    assert len(kids) == count + 1 and "token-key-rotated" in {act for _, act in luna.acts()}
    assert luna.client(before).get("/api/me").status_code == 200
    head = luna.sign_in("ops").json()["token"].split(".")[0]
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["kid"] == kids[-1]
