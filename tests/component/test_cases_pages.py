"""The cases pages over a real record: whose they are, in which order, what is replied, what histology found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from dicom_node.diagnoses import DIAGNOSES
from dicom_node.permissions import Role
from dicom_node.record import audit, keys, reviews, tables
from dicom_node.record.outcomes import REASONS
from dicom_node.record.reviews import ACTIONS
from dicom_node.refusals import RefusalCode
from portal.pages.language import LANGUAGES, dictionary
from tests.support.clinics import Clinic
from tests.support.visits import ORIGIN, Visit, visit, words

pytestmark = pytest.mark.component

GP = "gp@post.example"
JANE = {"id": "12345678-5", "type": "rut", "system": "x", "issuer": "CL", "name": "ROE^JANE", "birth_date": "19700101",
        "sex": "F", "confirmed": "user"}  # fmt: skip
MARCH = "2026-03-02T10:00:00.000000+00:00"


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(tmp_path / "data")
    made.account(GP, "clinician", name="Gustavo Pérez")
    yield made
    made.database.close()


def visitor(post: Clinic, *roles: Role, sites: tuple[str, ...] = ("post-1",), **more: Any) -> Visit:
    return visit(post.app, post.settings, post.database, *roles, sites=sites, **more)


def asked(post: Clinic, **known: Any) -> dict[str, Any]:
    return post.ask(GP, **{"created_at": MARCH, **known})


def order(page: str) -> list[int]:
    return [int(one, 16) for one in re.findall(r'href="/cases/([0-9a-f]{32})"', page)]


def test_open_cases_come_above_the_threshold_first_and_then_by_waiting(post: Clinic) -> None:
    first, above, refused, waiting, other = (asked(post, impression="benign") for _ in range(5))
    post.answer(first, 0.01, 0.01)
    post.answer(above, 0.3, 0.01)
    post.refuse(refused, RefusalCode.IMAGE_TOO_BLURRED)
    asked(post, site="post-2")
    asked(post, withdrawn_at=MARCH, state="withdrawn")
    somebody = visitor(post, Role.SPECIALIST)
    page = somebody.get("/cases").text
    assert order(page) == [above["id"], first["id"], refused["id"], waiting["id"], other["id"]]
    told = words(page)
    assert "at or above the threshold" in told and "doctor and model disagree" in told and "Refused" in told
    assert "Open 5" in told and "Gustavo" not in page
    assert order(visitor(post, Role.SPECIALIST, sites=("post-2",)).get("/cases").text) == [6]
    with post.database.read() as connection:
        listed = select(tables.audit.c.actor).where(tables.audit.c.action == "cases-listed")
        assert somebody.person.actor in list(connection.execute(listed).scalars())


def test_melanoma_alone_above_its_threshold_counts_as_above(post: Clinic) -> None:
    below, above = asked(post), asked(post)
    post.answer(below, 0.02, 0.01)
    post.answer(above, 0.02, 0.5)
    assert order(visitor(post, Role.SPECIALIST).get("/cases").text) == [above["id"], below["id"]]


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_a_case_shows_all_but_who_asked_and_no_picture(post: Clinic, language: str) -> None:
    row = asked(
        post, patient=JANE, is_identified=True, pseudonym=None, impression="benign", body_site="upper-back",
        description="Grows <b>since</b> May", order_id="ORD-1",
    )  # fmt: skip
    post.answer(row, 0.4, 0.1)
    somebody = visitor(post, Role.SPECIALIST, language=language)
    page = somebody.get(f"/cases/{row['public_id']}")
    assert page.status_code == 200 and f'lang="{language}"' in page.text
    for text in ("JANE ROE", "12345678-5", "Grows &lt;b&gt;since&lt;/b&gt; May", "ORD-1"):
        assert text in page.text, text
    assert "Gustavo" not in page.text and GP not in page.text
    told = {"en": "The doctor and the model do not agree", "es": "El médico y el modelo no coinciden"}
    assert told[language] in words(page.text) and "Your impression" not in page.text
    assert "<img" not in page.text, "a picture only after a tap"
    assert 'style="' not in page.text and page.headers["cache-control"] == "no-store"
    assert "analysis-result-seen" in post.acts() and "analysis-revealed" not in post.acts()
    photo = somebody.get(f"/analyses/{row['public_id']}/photo")
    assert photo.status_code == 200 and "analysis-revealed" in post.acts()


def test_what_is_not_of_her_sites_is_not_there(post: Clinic) -> None:
    row = asked(post, site="post-2")
    post.answer(row, 0.4, 0.1)
    here, there = visitor(post, Role.SPECIALIST), visitor(post, Role.SPECIALIST, sites=("post-2",))
    path = f"/cases/{row['public_id']}"
    missing = here.get(f"/cases/{'f' * 32}")
    for answer in (
        here.get(path),
        here.post(f"{path}/reply", reply="x", action="watch", seen="0"),
        here.post(f"{path}/state", state="closed", seen="0"),
        here.post(f"{path}/outcome", diagnosis="naevus", on_date="2026-03-09"),
        here.get(f"/analyses/{row['public_id']}/photo"),
    ):
        assert answer.status_code == missing.status_code == 404
        assert words(answer.text) == words(missing.text)
    with post.database.read() as connection:
        assert reviews.history(connection, row["id"]) == []
    assert there.get(path).status_code == 200


@pytest.mark.parametrize("role", [Role.CLINICIAN, Role.OPERATOR, Role.ADMINISTRATOR, Role.SERVICE])
def test_only_specialists_read_cases(post: Clinic, role: Role) -> None:
    row = asked(post)
    stranger = visitor(post, role)
    assert stranger.get(f"/cases/{row['public_id']}").status_code == 403
    assert stranger.post(f"/cases/{row['public_id']}/reply", reply="x", action="watch", seen="0").status_code == 403
    answer = stranger.get("/cases")
    assert answer.status_code == (303 if role is Role.SERVICE else 403)


def test_a_reply_is_written_read_by_who_asked_and_never_lost(post: Clinic) -> None:
    row = asked(post)
    post.answer(row, 0.4, 0.1)
    path = f"/cases/{row['public_id']}"
    one, two = (visitor(post, Role.SPECIALIST, name=name) for name in ("Sara Especial", "Olga Otra"))
    assert 'name="seen" value="0"' in one.get(path).text
    without = one.post(f"{path}/reply", reply="  ", action="remove", seen="0")
    assert without.status_code == 422 and "Write a reply" in words(without.text)
    assert one.post(f"{path}/reply", guarded=False, reply="x", action="remove", seen="0").status_code == 403
    page = one.follow(one.post(f"{path}/reply", reply="Excise with 2 mm <margin>.", action="remove", seen="0"))
    assert "Excise it, with histology" in words(page.text) and "Excise with 2 mm &lt;margin&gt;." in page.text
    late = two.post(f"{path}/reply", reply="Watch it.", action="watch", seen="0")
    told = words(late.text)
    assert late.status_code == 422 and "Somebody else has replied" in told
    assert "Excise with 2 mm" in told and ">Watch it.</textarea>" in late.text, "both are before her"
    assert order(one.get("/cases").text) == [] and order(one.get("/cases?state=answered").text) == [row["id"]]
    doctor = visitor(post, Role.CLINICIAN)
    with post.database.write() as connection:
        mine = tables.analyses.update().where(tables.analyses.c.id == row["id"])
        connection.execute(mine.values(user_id=doctor.person.user_id))
    read = doctor.get(f"/analyses/{row['public_id']}").text
    assert "Excise with 2 mm &lt;margin&gt;." in read and "Excise it, with histology" in words(read)
    assert "Sara" not in read and "Sara" not in late.text, "who replied is nobody's business"
    listed = words(doctor.get("/analyses").text)
    assert "A specialist has answered: Excise it, with histology" in listed and "Sara" not in listed


def test_the_doctors_list_tells_of_a_reply_without_being_opened(post: Clinic) -> None:
    row = asked(post)
    post.answer(row, 0.4, 0.1)
    doctor, somebody = visitor(post, Role.CLINICIAN), visitor(post, Role.SPECIALIST)
    with post.database.write() as connection:
        mine = tables.analyses.update().where(tables.analyses.c.id == row["id"])
        connection.execute(mine.values(user_id=doctor.person.user_id))
    page = doctor.get("/analyses").text
    assert "has answered" not in page
    seen = re.search(r"seen=([0-9a-f]{16})", page)
    assert seen and doctor.get(f"/analyses/list?seen={seen[1]}").status_code == 204
    somebody.post(f"/cases/{row['public_id']}/reply", reply="Now, please.", action="see-urgently", seen="0")
    part = doctor.get(f"/analyses/list?seen={seen[1]}")
    assert part.status_code == 200 and "To be seen by a dermatologist urgently" in words(part.text)
    with post.database.write() as connection:
        connection.execute(mine.values(state="withdrawn", withdrawn_at=MARCH))
    assert "has answered" not in doctor.get("/analyses").text


def test_after_a_reply_the_next_open_case_is_one_tap_away(post: Clinic) -> None:
    first, above, other = asked(post), asked(post), asked(post, site="post-2")
    post.answer(first, 0.01, 0.01)
    post.answer(above, 0.4, 0.01)
    somebody = visitor(post, Role.SPECIALIST)

    def after(row: dict[str, Any]) -> str:
        path = f"/cases/{row['public_id']}"
        assert 'id="next"' not in somebody.get(path).text
        return str(somebody.follow(somebody.post(f"{path}/reply", reply="x", action="watch", seen="0")).text)

    assert f'id="next" href="/cases/{first["public_id"]}"' in after(above)
    last = after(first)
    assert 'id="next"' not in last and "No case is open any more" in words(last) and other["public_id"] not in last


def test_a_case_is_closed_and_opened_again_as_the_table_of_steps_allows(post: Clinic) -> None:
    row = asked(post)
    path = f"/cases/{row['public_id']}"
    somebody = visitor(post, Role.SPECIALIST)

    def seen() -> str:
        with post.database.read() as connection:
            newest = reviews.latest(connection, row["id"])
        return str(newest["id"] if newest else 0)

    closed = somebody.follow(somebody.post(f"{path}/state", state="closed", seen=seen()))
    assert "The case is closed" in words(closed.text) and 'name="reply"' not in closed.text
    assert somebody.post(f"{path}/reply", reply="x", action="watch", seen=seen()).status_code == 422
    assert somebody.post(f"{path}/state", state="answered", seen=seen()).status_code == 400
    somebody.post(f"{path}/state", state="open", seen=seen())
    assert order(somebody.get("/cases").text) == [row["id"]]
    assert post.acts()[-2:] == ["case-open", "cases-listed"]


def test_an_outcome_is_told_by_page_and_can_be_corrected(post: Clinic) -> None:
    row = asked(post)
    path = f"/cases/{row['public_id']}"
    somebody = visitor(post, Role.SPECIALIST)
    early = somebody.post(f"{path}/outcome", diagnosis="melanoma", on_date="2026-02-01")
    assert early.status_code == 422 and "older than the photograph" in words(early.text)
    assert '<option value="melanoma" selected>' in early.text
    page = somebody.follow(somebody.post(f"{path}/outcome", diagnosis="melanoma", on_date="2026-03-12"))
    assert "Melanoma , 12 Mar 2026 Malignant" in words(page.text)
    somebody.post(f"{path}/outcome", diagnosis="naevus", on_date="2026-03-14")
    assert "histology known" in words(somebody.get("/cases").text)
    with post.database.read() as connection:
        rows = connection.execute(select(tables.outcomes).order_by(tables.outcomes.c.id)).all()
        assert [(one.diagnosis, one.source) for one in rows] == [("melanoma", "page"), ("naevus", "page")]
        assert audit.verify(connection) is None


def test_a_withdrawn_analysis_takes_no_outcome(post: Clinic) -> None:
    row = asked(post, withdrawn_at=MARCH, state="withdrawn", withdrawn_reason="wrong-patient")
    somebody = visitor(post, Role.SPECIALIST)
    path = f"/cases/{row['public_id']}"
    page = somebody.get(path).text
    assert 'name="diagnosis"' not in page and 'name="reply"' not in page and 'name="state"' not in page
    assert somebody.post(f"{path}/outcome", diagnosis="naevus", on_date="2026-03-09").status_code == 404
    table = f"analysis,diagnosis,on_date\n{row['public_id']},naevus,2026-03-09\n"
    assert "2 No such analysis at your sites" in words(sent(somebody, table).text)
    assert count(post) == 0 and row["public_id"] not in somebody.get("/cases/outcomes.csv").text


def sent(somebody: Visit, text: str, *, guarded: bool = True) -> Any:
    headers = {"Accept": "text/html", "Origin": ORIGIN, "HX-Request": "true"}
    headers |= {"X-CSRF-Token": somebody.csrf} if guarded else {}
    return somebody.client.post("/cases/outcomes", files={"table": ("t.csv", text.encode())}, headers=headers)


def count(post: Clinic) -> int:
    with post.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.outcomes)).scalar_one())


def test_a_table_is_taken_whole_or_not_at_all(post: Clinic) -> None:
    here, more, elsewhere = asked(post), asked(post), asked(post, site="post-2")
    somebody = visitor(post, Role.SPECIALIST)
    head = "analysis;diagnosis;on_date\n"
    good = f"{here['public_id']};naevus;2026-03-09\n{more['public_id']};melanoma;2026-03-09\n"
    wrong = sent(somebody, f"{head}{good}{elsewhere['public_id']};naevus;2026-03-09\n{'a' * 32};naevus;9.3.2026\n")
    told = words(wrong.text)
    assert "2 lines are wrong" in told and "4 No such analysis at your sites" in told and "5 No such" in told
    assert count(post) == 0
    assert sent(somebody, head + good, guarded=False).status_code == 403
    assert "Lines read: 2. New outcomes: 2;" in words(sent(somebody, head + good).text)
    assert "Lines read: 2. New outcomes: 0;" in words(sent(somebody, head + good).text) and count(post) == 2
    assert "must name the columns" in words(sent(somebody, "a,b\n").text)
    empty = somebody.get("/cases/outcomes.csv")
    assert empty.headers["content-disposition"].startswith("attachment")
    assert empty.text.count("\n") == 1, "only those without an outcome, only of her sites"
    assert post.audited()[-1]["action"] == "cases-exported" and post.audited()[-1]["actor"] == somebody.person.actor


def test_a_laboratory_tells_outcomes_by_its_key_and_reads_nothing(post: Clinic) -> None:
    row, elsewhere = asked(post), asked(post, site="post-2")
    laboratory = visitor(post, Role.SERVICE)
    with post.database.read() as connection:
        account = connection.execute(select(tables.users.c.email).order_by(tables.users.c.id.desc())).scalars().first()
    token = keys.create(post.database, "lab", ["outcome:write"], account=str(account))
    client = laboratory.client
    client.cookies.clear()
    headers = {"X-API-Key": token}

    def tell(public_id: str, **body: Any) -> Any:
        return client.post(f"/api/v1/analyses/{public_id}/outcome", json=body, headers=headers)

    told = tell(row["public_id"], diagnosis="bowen-disease", on_date="2026-03-09")
    assert (told.status_code, told.json()["malignant"], told.json()["is_new"]) == (201, True, True)
    again = tell(row["public_id"], diagnosis="bowen-disease", on_date="2026-03-09", malignant=True)
    assert (again.status_code, again.json()["is_new"], count(post)) == (200, False, 1)
    missing = tell("f" * 32, diagnosis="naevus", on_date="2026-03-09")
    hidden = tell(elsewhere["public_id"], diagnosis="naevus", on_date="2026-03-09")
    assert missing.status_code == hidden.status_code == 404
    assert {**missing.json(), "instance": ""} == {**hidden.json(), "instance": ""}
    for body in (
        {"diagnosis": "naevus", "on_date": "2026-03-09", "malignant": True},
        {"diagnosis": "wart", "on_date": "2026-03-09"},
        {"diagnosis": "naevus", "on_date": "9.3.2026"},
        {"diagnosis": "naevus", "on_date": "2026-03-09", "note": "x"},
        {"diagnosis": "naevus"},
    ):
        assert tell(row["public_id"], **body).status_code == 400, body
    assert count(post) == 1
    assert client.get(f"/api/v1/analyses/{row['public_id']}", headers=headers).status_code == 403
    plain = keys.create(post.database, "ehr", ["fhir:read"])
    assert (
        client.post(
            f"/api/v1/analyses/{row['public_id']}/outcome",
            json={"diagnosis": "naevus", "on_date": "2026-03-09"},
            headers={"X-API-Key": plain},
        ).status_code
        == 403
    )


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_every_action_diagnosis_and_reason_has_words(language: str) -> None:
    known = dictionary(language)
    wanted = {f"cases.action_{one}" for one in ACTIONS} | {f"diagnoses.{one}" for one in DIAGNOSES}
    wanted |= {f"cases.outcome_{one}" for one in (*REASONS, "analysis-unknown", "analysis-twice")}
    refused = ("moved-on", "not-possible", "reply-missing", "reply-too-long", "action-unknown")
    wanted |= {f"cases.wrong_{one}" for one in refused}
    wanted |= {f"cases.table_{one}" for one in ("not-text", "columns-missing", "empty", "too-long")}
    assert wanted <= set(known)
