"""Why did nothing happen to this study?  The answer names what stops it, and nobody by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dicom_node.desks.operation import Found, Operation
from dicom_node.desks.veil import HIDDEN, Veil
from dicom_node.desks.why import Why
from dicom_node.durable import Put
from dicom_node.record import audit, pauses
from dicom_node.record.actions import UnknownItem
from tests.support import slices
from tests.support.node import ROUTES
from tests.support.quick import FLAIR, Quick, Trouble, down

pytestmark = pytest.mark.component

NOT_PUBLISHED = ROUTES.replace("publish: all", "publish: nothing")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node")
    yield made
    made.close()


def desk(node: Quick) -> Operation:
    return Operation(node.settings, node.database, node.engine.put)


def asked(node: Quick) -> Why:
    at = desk(node)
    found = at.why(at.studies(10)[0]["id"])
    assert found is not None
    return found


def codes(node: Quick) -> list[str]:
    return [because.code for because in asked(node).because]


def brought(node: Quick, folder: Path, **attributes: Any) -> slices.SeriesFiles:
    files = slices.series(folder, 8, **{**FLAIR, **attributes})
    node.bring(files)
    return files


def test_a_result_that_was_delivered_says_so(node: Quick, tmp_path: Path) -> None:
    brought(node, tmp_path / "flair")
    found = asked(node)
    assert [b.code for b in found.because] == ["delivered", "delivered"]
    assert {b.values["destination"] for b in found.because} == {"archive", "own-fhir"}
    (series,) = found.series
    assert series["role"] == "flair" and series["grade"] and series["objects"] == {"readable": 8}
    assert sum(a.objects for a in found.arrivals) == 8
    assert found.runs[0]["deliveries"][0]["seen"]
    assert found.timeline[0]["name"] == "study.seen"


def test_a_study_that_no_rule_wants_shows_every_clause(node: Quick, tmp_path: Path) -> None:
    files = brought(node, tmp_path / "ct", Modality="CT", SeriesDescription="thorax")
    node.quiet(files.study_uid)
    node.engine.run()
    found = asked(node)
    assert [b.code for b in found.because] == ["no_rule"]
    (route,) = found.routes
    (judged,) = route["series"]
    assert judged["holds"] is False
    assert judged["when"]["parts"] == [{"holds": False, "expected": "Modality equals MR", "found": "CT"}]


def test_a_route_that_publishes_nothing_is_named(tmp_path: Path) -> None:
    node = Quick(tmp_path / "node", routes=NOT_PUBLISHED)
    brought(node, tmp_path / "flair")
    (because,) = asked(node).because
    assert (because.code, because.values["route"]) == ("publishes_nothing", "brain-flair")
    node.close()


def test_a_destination_that_is_down_or_paused_is_named(
    node: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trouble(monkeypatch).queue["archive"] = down(1000)
    files = slices.series(tmp_path / "flair", 8, **FLAIR)
    node.receive(files.files)
    node.close_series(files.series_uid)
    node.engine.run(until_s=2.0)
    (archive, _) = asked(node).because
    assert (archive.code, archive.values["peer"]) == ("delivery_tried", "down")
    with node.database.write() as connection:
        pauses.pause(connection, "archive", "tester", "x")
    assert codes(node)[0] == "delivery_left_alone"


def test_a_failed_run_can_be_retried_from_the_answer(node: Quick, tmp_path: Path) -> None:
    node.model.deaths = 100
    brought(node, tmp_path / "flair")
    (because,) = asked(node).because
    assert because.code == "run_failed" and because.values["error"]
    node.model.deaths = 0
    assert desk(node).act("retry", because.item, "user:night", "more memory") == 1
    node.engine.run()
    assert codes(node) == ["delivered", "delivered"]
    with node.database.read() as connection:
        last = audit.verify(connection)
    assert last is None
    with pytest.raises(UnknownItem):
        desk(node).act("retry", because.item, "user:night", "again")


def test_a_held_study_is_released_from_the_answer(node: Quick, tmp_path: Path) -> None:
    first = slices.series(tmp_path / "a", 8, **FLAIR)
    other = slices.series(
        tmp_path / "b", 8, **{**FLAIR, "PatientName": "DOE^JOHN", "StudyInstanceUID": first.study_uid}
    )
    node.bring(first)
    node.bring(other)
    held = next(b for b in asked(node).because if b.code == "study_held")
    assert held.told is not None and held.told["code"] == "patient-conflict"
    assert [row["id"] for row in desk(node).held()] == [held.item]
    desk(node).act("release", held.item, "user:night", "the same person, married")
    assert "study_held" not in codes(node)


def test_nobody_is_named_and_no_uid_is_shown(node: Quick, tmp_path: Path) -> None:
    """Technicians type names into descriptions; the explanation shows descriptions, because rules ask about them."""
    files = brought(
        node, tmp_path / "flair", SeriesDescription="flair JANE ROE-SMITH ID-4711", PatientBirthDate="19480817"
    )
    at = desk(node)
    found = asked(node)
    shown = json.dumps(
        [asdict(found), at.studies(10), at.held(), at.jobs(), [d.to_json() for d in at.destinations()]], default=str
    )
    for secret in ("JANE", "ROE", "4711", "19480817", files.study_uid, files.series_uid):
        assert secret not in shown, secret
    assert HIDDEN in found.series[0]["description"] and "flair" in found.series[0]["description"]
    assert at.find(files.study_uid).study == found.study["id"] and at.find("unheard-of") == Found()
    assert at.why(files.study_uid) is None, "an address names an id and never a UID"


def test_the_veil_hides_whole_words_of_this_patient_only() -> None:
    veil = Veil({"PatientName": "AXEL^T2^MO", "PatientID": "77", "PatientBirthDate": "19900102"}, {"1.2.3.4.5.6": "7"})
    assert veil("axel t2 ax AXELROD 1990-01-02") == f"{HIDDEN} t2 ax AXELROD {HIDDEN}"
    assert veil({"1.2.3.4.5.6": ["1.2.3.4.5.6.7", 5, None, "0.9.1"]}) == {"7": [HIDDEN, 5, None, "0.9.1"]}


def test_models_routes_and_disk_are_told(node: Quick) -> None:
    node.settings.data.folder.mkdir(exist_ok=True, parents=True)
    at = desk(node)
    book = at.routes()
    assert book is not None and book.routes[0].publish.value == "all"
    disk = at.disk()
    assert disk.total_bytes > disk.free_bytes > 0 and disk.line_bytes > 0
    assert at.models() == []
    put: list[Put] = []
    with pytest.raises(UnknownItem, match="no such destination"):
        Operation(node.settings, node.database, put.append).pause("unheard-of", "x", "y")
