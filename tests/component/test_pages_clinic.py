"""The clinic's pages over HTTP with a real record: who sees what, what is written down, what is said and never said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from dicom_node.record import sites, tables
from dicom_node.refusals import RefusalCode
from portal.gate import OPEN, routes_of
from portal.pages.render import PAGE_CSP
from tests.support.clinics import PASSWORD, Clinic
from tests.support.photos import saved, scene
from tests.support.visits import ORIGIN, words

pytestmark = pytest.mark.component

ANA, EVA, IDA = "ana@posta.example", "eva@posta.example", "ida@posta.example"
MARIA = {"id": "12345678-5", "type": "rut", "system": "urn:oid:2.16.152", "issuer": "CL", "name": "Soto Pérez^María",
         "birth_date": "19610203", "sex": "F", "confirmed": "user"}  # fmt: skip
HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'{{7*7}}{%x%}</textarea>&amp;"


class Browser:
    """Somebody's browser as far as HTTP goes."""

    def __init__(self, clinic: Clinic) -> None:
        self.client = TestClient(clinic.app, base_url=ORIGIN, follow_redirects=False)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers={"Accept": "text/html", **headers})

    def post(self, path: str, data: dict[str, str], *, guarded: bool = True, **headers: str) -> Any:
        token = {"csrf": self.token()} if guarded else {}
        return self.client.post(
            path, data={**data, **token}, headers={"Accept": "text/html", "Origin": ORIGIN, **headers}
        )

    def token(self) -> str:
        told = self.client.get("/account/token", headers={"Accept": "application/json"})
        return str(told.json()["csrf"]) if told.status_code == 200 else ""

    def sign_in(self, email: str, password: str = PASSWORD, way: str = "") -> Any:
        return self.post("/sign-in", {"email": email, "password": password, "next": way}, guarded=False)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    (tmp_path / "data").mkdir()
    made = Clinic(tmp_path / "data")
    for email, roles, where in (
        (ANA, ("clinician",), ("post-1",)),
        (EVA, ("clinician",), ("post-1",)),
        (IDA, ("specialist",), ("post-1", "post-2")),
        ("oda@posta.example", ("operator", "administrator"), ()),
    ):
        made.account(email, *roles, sites=where)
    yield made
    made.database.close()


@pytest.fixture
def ana(clinic: Clinic) -> Browser:
    made = Browser(clinic)
    assert made.sign_in(ANA).status_code == 303
    return made


def asked_by(clinic: Clinic, email: str = ANA, **known: Any) -> dict[str, Any]:
    return clinic.ask(email, **{"is_identified": True, "patient": MARIA, "pseudonym": None, **known})


# -- signing in


def test_signing_in_leads_where_one_wanted_to_go_and_nowhere_else(clinic: Clinic) -> None:
    for way, led in (
        ("/analyses", "/analyses"),
        ("", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/analyses?x=1", "/"),
        ("/sign-in", "/"),
    ):
        assert Browser(clinic).sign_in(ANA, way=way).headers["location"] == led
    nobody = Browser(clinic)
    assert nobody.get("/analyses").headers["location"] == "/sign-in?next=/analyses"
    assert nobody.client.get("/analyses", headers={"Accept": "application/json"}).status_code == 401
    assert nobody.get("/analyses/list", **{"HX-Request": "true"}).status_code == 401
    assert nobody.get("/").headers["location"] == "/sign-in"


def test_a_wrong_address_and_a_wrong_password_are_told_the_same(clinic: Clinic) -> None:
    wrong = [Browser(clinic).sign_in(email, "not the right one") for email in (ANA, "nobody@posta.example")]
    assert [one.status_code for one in wrong] == [401, 401]
    assert words(wrong[0].text) == words(wrong[1].text)
    assert "E-mail address or password is wrong." in wrong[0].text


def test_who_tries_too_often_is_told_when_to_try_again(clinic: Clinic) -> None:
    browser = Browser(clinic)
    answers = [browser.sign_in(ANA, f"wrong {number}") for number in range(12)]
    slow = [one for one in answers if one.status_code == 429]
    assert slow and int(slow[-1].headers["retry-after"]) > 0
    assert re.search(r"Try again in \d+ (second|minute)s?\.", slow[-1].text)


def test_language_follows_the_person_else_the_device_else_the_browser(clinic: Clinic) -> None:
    browser = Browser(clinic)
    assert '<html lang="es">' in browser.get("/sign-in", **{"Accept-Language": "es-CL,es;q=0.9"}).text
    assert browser.get("/sign-in?language=es&next=/account").headers["location"] == "/sign-in?next=%2Faccount"
    assert "Iniciar sesión" in browser.get("/sign-in", **{"Accept-Language": "en"}).text
    browser.sign_in(ANA)
    assert '<html lang="en">' in browser.get("/account").text
    assert browser.post("/account", {"name": "Ana", "language": "es"}).status_code == 303
    assert '<html lang="es">' in browser.get("/account").text


def test_a_password_is_changed_and_the_other_devices_are_signed_out(clinic: Clinic, ana: Browser) -> None:
    other = Browser(clinic)
    other.sign_in(ANA)
    new = "purple kettles sing at dawn"
    for old, first, second, because in (
        (PASSWORD, new, new + "x", "are not the same"),
        (PASSWORD, "short", "short", "fewer than twelve"),
        (PASSWORD, "passwordpassword", "passwordpassword", "easy to guess"),
        ("wrong one entirely", new, new, "present password is wrong"),
    ):
        answer = ana.post("/account/password", {"old": old, "new": first, "again": second})
        assert answer.status_code == 422 and because in answer.text
    assert ana.post("/account/password", {"old": PASSWORD, "new": new, "again": new}).status_code == 303
    assert ana.get("/account").status_code == 200
    assert other.get("/account").status_code == 303, "signed out"
    assert Browser(clinic).sign_in(ANA, new).status_code == 303


def test_a_one_time_link_sets_a_password_once(clinic: Clinic) -> None:
    token, new = clinic.people.password_token("test", ANA), "purple kettles sing at dawn"
    browser = Browser(clinic)
    assert f'value="{token}"' in browser.get(f"/new-password?token={token}").text
    told = {"token": token, "new": new, "again": new}
    assert browser.post("/new-password", told, guarded=False).headers["location"] == "/sign-in?said=password"
    assert "used or is too old" in browser.post("/new-password", told, guarded=False).text
    assert browser.sign_in(ANA, new).status_code == 303


def test_whoever_must_change_her_password_can_do_nothing_else_first(clinic: Clinic) -> None:
    with clinic.database.write() as connection:
        connection.execute(update(tables.users).where(tables.users.c.email == ANA).values(must_change_password=True))
    browser = Browser(clinic)
    assert browser.sign_in(ANA).headers["location"] == "/account/password"
    led = browser.get("/analyses")
    assert (led.status_code, led.headers["location"]) == (303, "/account/password")
    assert "choose a password that only you know" in browser.get("/account/password").text


def test_sessions_are_listed_and_ended_one_by_one_and_nobody_elses(clinic: Clinic, ana: Browser) -> None:
    other, stranger = Browser(clinic), Browser(clinic)
    other.sign_in(ANA)
    stranger.sign_in(EVA)
    ends = re.findall(r"/account/sessions/(\d+)/end", ana.get("/account").text)
    assert len(ends) == 1, "the present one has no button"
    assert stranger.post(f"/account/sessions/{ends[0]}/end", {}).status_code == 404
    assert ana.post(f"/account/sessions/{ends[0]}/end", {}).status_code == 303
    assert other.get("/account").status_code == 303
    assert ana.post("/sign-out", {}).headers["location"] == "/sign-in?said=out"
    assert ana.get("/account").status_code == 303


def test_a_page_that_asks_by_itself_does_not_keep_a_session_alive(clinic: Clinic, ana: Browser) -> None:
    old = (datetime.now(UTC) - timedelta(minutes=10)).isoformat(timespec="microseconds")

    def seen_at() -> str:
        with clinic.database.read() as connection:
            return str(connection.execute(select(tables.sessions.c.seen_at)).scalar_one())

    with clinic.database.write() as connection:
        connection.execute(update(tables.sessions).values(seen_at=old))
    assert ana.get("/analyses/list", **{"X-Unattended": "yes"}).status_code == 200
    assert seen_at() == old
    assert ana.get("/analyses").status_code == 200
    assert seen_at() > old


# -- every page


def test_no_page_may_run_what_is_not_ours_nor_be_kept(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    clinic.answer(row, 0.2, 0.1)
    one = f"/analyses/{row['public_id']}"
    for path in ("/sign-in", "/account", "/account/password", "/analyse", "/analyse/recent", "/analyses",
                 "/analyses/list", one, f"{one}/state", f"{one}/picture", f"{one}/redo", "/offline",
                 "/nothing-here"):  # fmt: skip
        answer = ana.get(path)
        assert answer.headers["content-security-policy"] == PAGE_CSP, path
        assert answer.headers["cache-control"] == "no-store", path
        assert answer.headers["referrer-policy"] == "same-origin", path
        assert answer.headers["x-content-type-options"] == "nosniff", path
    for path in (f"{one}/photo", f"{one}/heat-map", f"{one}/pdf"):
        answer = ana.get(path)
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store", path
    assert "'unsafe" not in PAGE_CSP and "http" not in PAGE_CSP


def test_every_form_refuses_what_does_not_show_the_sessions_token(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    posts = [
        route.path.replace("{id}", row["public_id"])
        for route in routes_of(clinic.app)
        if "POST" in route.methods
        and route.permission != OPEN
        and route.path.startswith(("/account", "/analys", "/sign-out"))
    ]
    assert len(posts) >= 7
    for path in posts:
        assert ana.post(path, {}, guarded=False).status_code == 403, path
        stolen = {"Accept": "text/html", "Origin": "https://evil.example"}
        answer = ana.client.post(path, data={"csrf": ana.token()}, headers=stolen)
        assert answer.status_code == 403, path
    assert clinic.rows()[0]["withdrawn_at"] is None


def test_what_stays_on_the_phone_holds_nothing_of_a_person_or_patient(clinic: Clinic, ana: Browser) -> None:
    asked_by(clinic)
    kept = ana.get("/analyse?kept=yes").text
    for secret in (ana.token(), "Soto", "12345678", "María José", ANA):
        assert secret not in kept
    offline = ana.get("/offline?language=es").text
    assert "Sin conexión" in offline and "data-user" not in offline and "/account" not in offline
    assert "Soto" not in offline and ana.token() not in offline


# -- whose analyses


def test_a_strangers_analysis_is_answered_like_one_that_is_not_there(clinic: Clinic) -> None:
    row = asked_by(clinic, EVA)
    clinic.answer(row, 0.2, 0.1)
    ana = Browser(clinic)
    ana.sign_in(ANA)
    missing = "f" * 32
    for tail in ("", "/state", "/picture", "/photo", "/heat-map", "/pdf", "/redo"):
        there, nowhere = (ana.get(f"/analyses/{one}{tail}") for one in (row["public_id"], missing))
        assert there.status_code == nowhere.status_code == 404, tail
        assert there.text == nowhere.text, tail
    for tail in ("/withdraw", "/redo"):
        assert ana.post(f"/analyses/{row['public_id']}{tail}", {"reason": "other", "words": "x"}).status_code == 404
    assert "Soto" not in ana.get("/analyses").text
    assert clinic.rows()[0]["withdrawn_at"] is None
    assert not {"analysis-revealed", "analysis-result-seen"} & set(clinic.acts())


def test_roles_without_patients_reach_no_page_of_them(clinic: Clinic) -> None:
    row = asked_by(clinic)
    browser = Browser(clinic)
    browser.sign_in("oda@posta.example")
    for path in ("/analyse", "/analyses", f"/analyses/{row['public_id']}", f"/analyses/{row['public_id']}/photo"):
        assert browser.get(path).status_code == 403, path
    assert "/analyse" not in browser.get("/account").text


def test_a_picture_is_hidden_until_asked_for_and_then_written_down(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    clinic.answer(row, 0.2, 0.1, saved(scene()))
    one = f"/analyses/{row['public_id']}"
    shown = ana.get(one).text
    assert "/photo" not in shown and "/heat-map" not in shown and "analysis-revealed" not in clinic.acts()
    part = ana.get(f"{one}/picture").text
    assert f'src="{one}/photo"' in part and f'src="{one}/heat-map"' in part
    assert "analysis-revealed" not in clinic.acts(), "nothing was shown yet"
    photo = ana.get(f"{one}/photo")
    assert photo.headers["content-type"] == "image/jpeg" and photo.content[:2] == b"\xff\xd8"
    assert clinic.acts().count("analysis-revealed") == 1 and clinic.rows()[0]["revealed_at"]
    assert ana.get(f"{one}/pdf").headers["content-disposition"].startswith("attachment")
    assert ana.get(f"{one}/heat-map").status_code == 200
    looked = [(row["action"], row["detail"].get("file")) for row in clinic.audited() if "file" in row["detail"]]
    assert looked == [
        ("analysis-revealed", "photo"), ("analysis-exported", "report.pdf"), ("analysis-revealed", "heat_map.png"),
    ]  # fmt: skip


# -- results


def test_a_result_is_told_with_threshold_meaning_and_limits_and_never_as_a_diagnosis(
    clinic: Clinic, ana: Browser
) -> None:
    above = asked_by(clinic, impression="benign")
    clinic.answer(above, 0.231, 0.12)
    text = words(ana.get(f"/analyses/{above['public_id']}").text)
    for said in ("23 %", "4.4 %", "12 %", "6.9 %", "At or above the threshold", "does not say that it is",
                 "This is not a diagnosis", "Your impression and the model do not agree", "Your impression: benign",
                 "skin-lesion@1.0.0", "some malignant lesions are missed at every threshold"):  # fmt: skip
        assert said in text, said
    assert "María Soto Pérez" in text and "12345678-5" in text and "3 Feb 1961" in text
    assert clinic.acts().count("analysis-result-seen") == 1
    below = asked_by(clinic, impression="suspicious")
    clinic.answer(below, 0.012, 0.004)
    text = words(ana.get(f"/analyses/{below['public_id']}").text)
    for said in (
        "1.2 %",
        "0.4 %",
        "Below the threshold",
        "does NOT exclude malignancy",
        "Your impression: suspicious",
        "fewer than 1",
    ):
        assert said in text, said
    agreed = asked_by(clinic, impression="suspicious")
    clinic.answer(agreed, 0.5, 0.3)
    assert "do not agree" not in ana.get(f"/analyses/{agreed['public_id']}").text


def test_a_refused_picture_has_a_reason_and_no_number(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    clinic.refuse(row, RefusalCode.IMAGE_TOO_BLURRED)
    ana.post("/account", {"name": "Ana", "language": "es"})
    text = words(ana.get(f"/analyses/{row['public_id']}").text)
    assert "La imagen está borrosa." in text and "Repítala" in text and "El modelo no dio ningún número" in text
    assert "%" not in text
    assert "La imagen está borrosa." in words(ana.get("/analyses").text)


def test_a_page_that_waits_is_told_nothing_until_there_is_news(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    page = ana.get(f"/analyses/{row['public_id']}").text
    poll = re.search(r'hx-get="(/analyses/[0-9a-f]{32}/state\?seen=waiting)"', page)
    assert poll is not None
    assert ana.get(poll[1]).status_code == 204
    listed = re.search(r'hx-get="(/analyses/list\?[^"]*)"', ana.get("/analyses").text)
    assert listed is not None
    address = listed[1].replace("&amp;", "&")
    assert ana.get(address).status_code == 204
    clinic.answer(row, 0.2, 0.1)
    news = ana.get(poll[1])
    assert news.status_code == 200 and "20 %" in news.text and "hx-trigger" not in news.text
    assert "Completed" in ana.get(address).text


def test_a_list_in_which_nothing_waits_asks_less_often(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    assert 'hx-trigger="every 5s"' in ana.get("/analyses").text
    clinic.answer(row, 0.2, 0.1)
    assert 'hx-trigger="every 20s"' in ana.get("/analyses").text


def test_the_list_is_filtered_by_day_and_state(clinic: Clinic, ana: Browser) -> None:
    for day, text in (("2026-03-01", "the first"), ("2026-03-02", "the second"), ("2026-03-03", "the third")):
        asked_by(clinic, created_at=f"{day}T15:00:00.000000+00:00", description=text)
    clinic.answer(clinic.rows()[1], 0.2, 0.1)

    def seen(query: str) -> list[str]:
        return re.findall(r"the (first|second|third)", ana.get(f"/analyses?{query}").text)

    assert seen("") == ["third", "second", "first"]
    assert seen("since=2026-03-02") == ["third", "second"]
    assert seen("until=2026-03-01") == ["first"]
    assert seen("state=completed") == ["second"]
    assert seen("since=2026-02-31") == [] and seen("since=nonsense&state=nonsense") == ["third", "second", "first"]


# -- taking back


def test_withdrawing_needs_a_reason_and_leaves_no_result(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    clinic.answer(row, 0.231, 0.12)
    path = f"/analyses/{row['public_id']}"
    for told in ({}, {"reason": "nonsense"}, {"reason": "other", "words": "  "}):
        answer = ana.post(f"{path}/withdraw", told)
        assert answer.status_code == 422 and "Say the reason" in answer.text
    assert clinic.rows()[0]["withdrawn_at"] is None
    assert ana.post(f"{path}/withdraw", {"reason": "other", "words": "seen twice"}).status_code == 303
    text = words(ana.get(path).text)
    assert "Withdrawn" in text and "Another reason. seen twice" in text and "23 %" not in text
    assert "analysis-withdrawn" in clinic.acts()


def test_the_wrong_patients_analysis_is_done_over_for_the_right_one(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic, description="grows", impression="unsure")
    clinic.answer(row, 0.231, 0.12)
    path = f"/analyses/{row['public_id']}/redo"
    assert "RUT" in ana.get(path).text
    told = {"site": "post-1", "patient_type": "rut", "patient_id": "9876543-3", "patient_family": "Riquelme",
            "patient_given": "Juan", "patient_birth_date": "1950-01-02", "patient_sex": "M"}  # fmt: skip
    answer = ana.post(path, told)
    assert answer.status_code == 422 and "Confirm who the patient is" in answer.text
    wrong = ana.post(path, {**told, "patient_id": "9876543-1", "patient_confirmed": "yes"})
    assert wrong.status_code == 422
    done = ana.post(path, {**told, "patient_confirmed": "yes", "words": "next in the queue"})
    assert done.status_code == 303
    old, new = clinic.rows()
    assert old["withdrawn_reason"] == "wrong-patient: next in the queue" and old["patient"]["id"] == "12345678-5"
    assert new["replaces_id"] == old["id"] and new["patient"]["name"] == "Riquelme^Juan"
    assert (new["patient"]["birth_date"], new["description"], new["impression"]) == ("19500102", "grows", "unsure")
    assert done.headers["location"] == f"/analyses/{new['public_id']}"


def test_whose_photograph_it_is_can_be_confirmed_later(clinic: Clinic, ana: Browser) -> None:
    """As of a LUNA client that named a number: the page says that it stays here, and leads to a person's yes."""
    said = {**MARIA, **dict.fromkeys(("name", "birth_date", "sex", "confirmed"), "")}
    row = asked_by(clinic, patient=said)
    clinic.answer(row, 0.231, 0.12)
    path = f"/analyses/{row['public_id']}"
    shown, form = words(ana.get(path).text), ana.get(f"{path}/redo").text
    assert "stays in the node" in shown and "Confirm who this is" in shown and said["id"] in form
    told = {"site": "post-1", "patient_type": "rut", "patient_id": said["id"], "patient_normal": said["id"],
            "patient_family": "Soto", "patient_given": "Rosa", "patient_birth_date": "1961-02-03",
            "patient_sex": "F"}  # fmt: skip
    assert ana.post(f"{path}/redo", told).status_code == 422, "without a yes nothing is confirmed"
    done = ana.post(f"{path}/redo", {**told, "patient_confirmed": "yes"})
    assert done.status_code == 303
    old, new = clinic.rows()
    assert (old["withdrawn_reason"], new["patient"]["confirmed"]) == ("identity-confirmed", "user")
    assert "Confirm who this is" not in ana.get(done.headers["location"]).text
    assert "was confirmed" in words(ana.get(path).text)


def test_a_patient_is_looked_up_without_an_identifier_in_any_address(clinic: Clinic, ana: Browser) -> None:
    asked = {"site": "post-1", "patient_type": "rut", "patient_id": "12.345.678-5"}
    found = ana.post("/analyse/patient", asked)
    assert "looks up no patients" in found.text and 'value="12345678-5"' in found.text
    assert "Compare it with the card" in ana.post("/analyse/patient", {**asked, "patient_id": "12.345.678-9"}).text
    assert "Compare it with the card" in ana.post("/analyse/patient", {**asked, "site": "post-2"}).text
    assert ana.get("/analyse/patient?patient_id=1").status_code in (404, 405)
    assert "patient-looked-up" in clinic.acts()


def test_nobody_reads_a_register_by_trying_its_numbers(clinic: Clinic, ana: Browser) -> None:
    asked = {"site": "post-1", "patient_type": "rut", "patient_id": "12.345.678-5"}
    answers = [ana.post("/analyse/patient", asked).status_code for _ in range(140)]
    assert answers[0] == 200 and answers[-1] == 429
    eva = Browser(clinic)
    eva.sign_in(EVA)
    assert eva.post("/analyse/patient", asked).status_code == 200, "another doctor's patience is her own"


# -- hostile words


class _Live(HTMLParser):
    """Notes every tag of a page that would run something that is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        runs = any(name.startswith("on") or name == "style" for name in told)
        foreign = not told.get("src", "/").startswith("/") or told.get("href", "/").split(":")[0] == "javascript"
        if runs or foreign or (tag == "script" and "src" not in told):
            self.found.append(tag)


def alive(html: str) -> list[str]:
    """Tags of a page that run what nobody of ours has written."""
    looking = _Live()
    looking.feed(html)
    return looking.found


def test_hostile_words_are_shown_as_words_in_every_field(clinic: Clinic, ana: Browser) -> None:
    hostile = {**MARIA, "id": HOSTILE[:60], "name": f"{HOSTILE[:40]}^{HOSTILE[40:]}"}
    row = asked_by(clinic, patient=hostile, description=HOSTILE, order_id=HOSTILE[:16], pseudonym=HOSTILE[:32])
    clinic.answer(row, 0.2, 0.1)
    with clinic.database.write() as connection:
        sites.add_site(connection, "test", key="post-9", title=HOSTILE[:100])
        connection.execute(update(tables.users).where(tables.users.c.email == ANA).values(sites=["post-1", "post-9"]))
    assert ana.post("/account", {"name": HOSTILE[:100], "language": "en"}).status_code == 303
    one = f"/analyses/{row['public_id']}"
    ana.post(f"{one}/withdraw", {"reason": "other", "words": HOSTILE})
    agent = ana.client.post("/sign-in", data={"email": ANA, "password": PASSWORD, "next": HOSTILE, "csrf": ana.token()},
                            headers={"Accept": "text/html", "Origin": ORIGIN, "User-Agent": HOSTILE})  # fmt: skip
    assert agent.status_code == 303
    pages = [one, f"{one}/state", f"{one}/picture", f"{one}/redo", "/analyses", "/analyse", "/analyse/recent",
             "/account", f"/sign-in?next={HOSTILE}&said={HOSTILE}&language={HOSTILE}",
             f"/analyses?since={HOSTILE}&state={HOSTILE}",
             f"/new-password?token={HOSTILE}", f"/offline?language={HOSTILE}"]  # fmt: skip
    for path in pages:
        answer = ana.get(path)
        assert answer.status_code in (200, 400, 422), path
        assert not alive(answer.text), path
    refused = ana.sign_in(HOSTILE, HOSTILE)
    assert not alive(refused.text) and "&lt;img" in refused.text
    assert alive(f"<p>{HOSTILE}</p>") == ["img", "script"], "the look itself sees what is alive"


def test_unknown_doubled_and_endless_fields_are_refused(clinic: Clinic, ana: Browser) -> None:
    row = asked_by(clinic)
    path = f"/analyses/{row['public_id']}/withdraw"
    assert ana.post(path, {"reason": "other", "words": "x", "state": "completed"}).status_code == 400
    assert ana.post(path, {"reason": "other", "words": "x" * 10_001}).status_code == 400
    doubled = f"reason=other&reason=other&words=x&csrf={ana.token()}"
    headers = {"Accept": "text/html", "Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    assert ana.client.post(path, content=doubled, headers=headers).status_code == 400
    assert clinic.rows()[0]["withdrawn_at"] is None


def test_the_manifest_and_the_worker_are_whole_in_both_languages(clinic: Clinic) -> None:
    browser = Browser(clinic)
    for language, name in (("en", "photographs"), ("es", "fotografías")):
        told = json.loads(browser.get(f"/manifest.webmanifest?language={language}").content)
        assert told["lang"] == language and name in told["name"] and told["start_url"] == "/" == told["scope"]
        assert {icon["sizes"] for icon in told["icons"]} == {"192x192", "512x512"}
        assert any(icon.get("purpose") == "maskable" for icon in told["icons"])
        for icon in told["icons"]:
            assert browser.client.get(icon["src"]).content[:4] == b"\x89PNG"
    worker = browser.get("/worker.js")
    assert worker.headers["content-type"].startswith("text/javascript")
    kept = json.loads(re.search(r"const FILES = (\[.*?\]);", worker.text)[1])  # type: ignore[index]
    assert any(url.startswith("/offline") for url in kept)
    for url in kept:
        answer = browser.client.get(url)
        assert answer.status_code == 200 and (
            url.startswith("/offline") or "immutable" in answer.headers["cache-control"]
        )
