"""The operation pages over a real record: every page in both languages, every act audited, nobody named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.cli.web import make_app
from dicom_node.permissions import Role
from dicom_node.record.tables import analyses, audit, deliveries
from portal.operation.pages import STATES, TROUBLES
from portal.pages.language import LANGUAGES, dictionary
from tests.support import slices
from tests.support.quick import FLAIR, Quick, Trouble, down
from tests.support.rows import add_row
from tests.support.visits import Visit, visit, words

pytestmark = pytest.mark.component

PAGES = ("", "/held", "/queue", "/destinations", "/models", "/routes", "/health")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node")
    yield made
    made.close()


@pytest.fixture
def app(node: Quick) -> Any:
    return make_app(node.settings, node.database, node.engine.put)


def operator(app: Any, node: Quick, language: str = "en") -> Visit:
    return visit(app, node.settings, node.database, Role.OPERATOR, language=language)


def stuck(node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> slices.SeriesFiles:
    """A study whose result cannot be delivered, one that no rule wants, and one that is held."""
    Trouble(monkeypatch).queue["archive"] = down(1000)
    flair = slices.series(tmp_path / "flair", 8, **{**FLAIR, "SeriesDescription": "flair JANE <b>ROE</b>"})
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.run(until_s=2.0)
    chest = slices.series(tmp_path / "ct", 8, **{**FLAIR, "Modality": "CT", "PatientID": "ID-9"})
    node.receive(chest.files)
    node.close_series(chest.series_uid)
    node.quiet(chest.study_uid)
    node.engine.run(until_s=3.0)
    mixed = slices.series(tmp_path / "mixed", 8, **{**FLAIR, "Modality": "CT", "PatientID": "ID-9"})
    node.receive(mixed.files)
    other = {"PatientName": "DOE^JOHN", "StudyInstanceUID": mixed.study_uid}
    node.receive(slices.series(tmp_path / "other", 8, **{**FLAIR, **other}).files)
    return flair


def audited(node: Quick) -> list[tuple[str, str, str]]:
    return [(row["actor"], row["action"], row["detail"].get("reason", "")) for row in node.rows(audit)]


@pytest.mark.parametrize("language", ["en", "es"])
def test_every_page_is_made_in_both_languages_and_names_nobody(
    app: Any, node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    flair = stuck(node, tmp_path, monkeypatch)
    somebody = operator(app, node, language)
    first = somebody.get("/operation")
    assert first.status_code == 200 and f'lang="{language}"' in first.text
    studies = sorted({part.split('"')[0] for part in first.text.split('href="/operation/studies/')[1:]})
    assert len(studies) == 3
    pages = [somebody.get(f"/operation{page}") for page in PAGES]
    pages += [somebody.get(f"/operation/studies/{one}") for one in studies]
    for answer in pages:
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        for secret in ("JANE", "ROE", "DOE", "ID-4711", "ID-9", flair.study_uid, flair.series_uid):
            assert secret not in answer.text, (answer.url, secret)
        assert "<b>" not in answer.text and 'style="' not in answer.text and "<img" not in answer.text
    whole = words("".join(answer.text for answer in pages))
    told = {
        "en": ("No rule asks for any series", "has not taken it yet", "Modality equals MR", "publishes everywhere"),
        "es": ("Ninguna regla pide una serie", "todavía no lo ha aceptado", "publica en todas partes"),
    }
    for text in told[language]:
        assert text in whole, text


def test_a_held_item_is_decided_with_a_reason_and_by_who_may(
    app: Any, node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck(node, tmp_path, monkeypatch)
    (item,) = node.held()
    somebody = operator(app, node)
    path = f"/operation/items/{item}/release"
    assert "10 a 300" not in words(somebody.get("/operation/held").text)
    answer = somebody.post(path, reason=" ", back="/operation/held")
    assert "Write a reason" in words(somebody.follow(answer).text) and node.held() == [item]
    assert somebody.post(path, guarded=False, reason="merged in the PACS").status_code == 403
    stranger = visit(app, node.settings, node.database, Role.CLINICIAN, sites=("base",))
    assert stranger.get("/operation/held").status_code == 403
    assert stranger.post(path, reason="merged in the PACS").status_code == 403
    assert node.held() == [item]
    answer = somebody.post(path, reason="merged in\nthe PACS", back="https://elsewhere.example/")
    assert answer.headers["location"].startswith("/operation?"), "only back to a page of ours"
    assert "Released" in words(somebody.follow(answer).text) and node.held() == []
    assert (somebody.person.actor, "held.released", "merged in the PACS") in audited(node)
    again = somebody.post(path, reason="twice, by another tab", back="/operation/held")
    assert "Nothing was done" in words(somebody.follow(again).text)


def test_a_destination_is_paused_resumed_and_a_delivery_retried_and_cancelled(
    app: Any, node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble(monkeypatch)
    trouble.queue["archive"] = down(1000)
    flair = slices.series(tmp_path / "flair", 8, **FLAIR)
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.run(until_s=2.0)
    somebody = operator(app, node)
    for verb, said in (("pause", "Paused"), ("resume", "Resumed")):
        answer = somebody.post(
            f"/operation/destinations/archive/{verb}", reason="migration", back="/operation/destinations"
        )
        page = words(somebody.follow(answer).text)
        assert said in page and ("paused by a person" in page) == (verb == "pause")
    trouble.queue["archive"] = []
    number = next(row["id"] for row in node.rows(deliveries) if row["destination"] == "archive")
    somebody.post(f"/operation/items/delivery-{number}/retry", reason="it is back")
    node.engine.run()
    assert set(node.states()) == {"confirmed"}
    acts = [action for actor, action, _ in audited(node) if actor == somebody.person.actor and "." in action]
    assert acts == ["destination.paused", "destination.resumed", "job.retried"]
    assert somebody.post("/operation/destinations/nowhere/pause", reason="migration").status_code == 303
    for wrong in ("/operation/items/delivery-1/explode", "/operation/items/shoe-1/retry"):
        assert somebody.post(wrong, reason="because").status_code == 404


def test_a_study_is_found_by_its_numbers_and_shown_by_its_id(app: Any, node: Quick, tmp_path: Path) -> None:
    flair = slices.series(tmp_path / "flair", 8, **{**FLAIR, "AccessionNumber": "A-77"})
    node.bring(flair)
    somebody = operator(app, node)
    for told in (flair.study_uid, "A-77"):
        answer = somebody.post("/operation/find", study=f" {told} ")
        assert told not in answer.headers["location"]
        assert somebody.follow(answer).status_code == 200
    assert "No such study" in words(somebody.follow(somebody.post("/operation/find", study="B-1")).text)
    for wrong in (flair.study_uid, "0" * 32, "x"):
        assert somebody.get(f"/operation/studies/{wrong}").status_code == 404
    assert somebody.get("/operation/studies/" + "0" * 32).status_code == 404


def test_what_became_of_a_photograph_is_found_by_the_number_on_its_doctors_page(
    app: Any, node: Quick, tmp_path: Path
) -> None:
    flair = slices.series(tmp_path / "flair", 8, **FLAIR)
    node.bring(flair)
    somebody = operator(app, node)
    states = {
        "received": {"state": "received"},
        "withdrawn": {"state": "withdrawn"},
        "failed": {"state": "failed", "error": '{"reason": "the door was away"}'},
        "refused": {"state": "failed", "error": '{"refusal": {"code": "not-an-image"}}'},
    }
    with node.database.write() as connection:
        own = {"user_id": somebody.person.user_id, "site": "base", "patient": None}
        add_row(connection, analyses, public_id=32 * "a", state="submitted", study_uid=flair.study_uid, **own)
        for number, known in enumerate(states.values()):
            add_row(connection, analyses, public_id=f"{number:032x}", **known, **own)
    assert "Series" in words(somebody.follow(somebody.post("/operation/find", study=32 * "a")).text)
    for number, state in enumerate(states):
        answer = somebody.post("/operation/find", study=f"{number:032x}")
        assert answer.headers["location"] == f"/operation?trouble=photograph-{state}"
        assert "No such study" not in words(somebody.follow(answer).text)
    for language in LANGUAGES:
        assert {f"operation.trouble_{one}" for one in TROUBLES} <= set(dictionary(language))


def test_a_filter_says_of_how_many_studies_it_speaks(app: Any, node: Quick, tmp_path: Path) -> None:
    node.bring(slices.series(tmp_path / "flair", 8, **FLAIR))
    somebody = operator(app, node)
    assert "None of the newest 500 studies is in this state" in words(somebody.get("/operation?state=failed").text)
    state = next(one for one in STATES if "studies/" in somebody.get(f"/operation?state={one}").text)
    assert "One of the newest 500 studies" in words(somebody.get(f"/operation?state={state}").text)
    assert "The newest study" in words(somebody.get("/operation").text)


def test_a_photograph_that_never_reached_the_road_is_brought_again_by_its_button(app: Any, node: Quick) -> None:
    somebody = operator(app, node)
    known = {"public_id": 32 * "a", "site": "base", "state": "failed", "error": '{"reason": "the door was away"}'}
    with node.database.write() as connection:
        number = add_row(
            connection, analyses, user_id=somebody.person.user_id, photo_path="spool/aa/bb", patient=None, **known
        )
    action = f"/operation/items/analysis-{number}/retry"
    assert action in somebody.get("/operation/queue").text
    answer = somebody.post(action, reason="the listener is mended", back="/operation/queue")
    assert answer.status_code == 303 and "said=retry" in answer.headers["location"]
    assert [row["state"] for row in node.rows(analyses)] == ["received"]
    assert (somebody.person.actor, "job.retried", "the listener is mended") in audited(node)
