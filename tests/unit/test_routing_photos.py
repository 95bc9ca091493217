"""Photographs in routing: what they are taken for, and one case for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing import ClosedSeries, PastCase, RouteBook, StudyState, Verb, decide
from dicom_node.routing.book import RoutesRefused, load_routes, parse_routes
from dicom_node.routing.cases import base_family, own_family
from dicom_node.routing.explanation import explain
from dicom_node.routing.facts import facts
from dicom_node.routing.kinds import PHOTOGRAPHS, kinds
from dicom_node.routing.roles import assign_roles
from dicom_node.volume import PICTURE_CLASSES
from dicom_node.words import PRODUCT, SeriesFacts

pytestmark = pytest.mark.unit

VL, DERMOSCOPIC, CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.77.1.4",
    "1.2.840.10008.5.1.4.1.1.77.1.7",
    "1.2.840.10008.5.1.4.1.1.7",
)
SHIPPED = Path(__file__).resolve().parents[2] / "config" / "routes.yaml"


def photograph(uid: str = "1.2.1", **attributes: Any) -> SeriesFacts:
    told = {"SOPClassUID": VL, "Modality": "XC", "PatientID": "P1", "SeriesNumber": 1, "SamplesPerPixel": 3}
    return SeriesFacts(uid, "1.2", {**told, **attributes})


def routes(**changes: Any) -> RouteBook:
    book = load_routes(SHIPPED)
    (route,) = [one for one in book.routes if one.name == "skin-lesion"]
    return book.model_copy(update={"routes": (route.model_copy(update={"enabled": True, **changes}),)})


def state(*series: SeriesFacts, cases: tuple[PastCase, ...] = (), quiet: bool = False) -> StudyState:
    roles = assign_roles(list(series))
    closed = tuple(ClosedSeries(s, roles[s.series_uid], number) for number, s in enumerate(series, 1))
    return StudyState("1.2", closed, is_quiet=quiet, cases=cases)


@pytest.mark.parametrize(
    ("attributes", "role", "least"),
    [
        ({}, "dermoscopy", 0.5),
        ({"SOPClassUID": DERMOSCOPIC, "Modality": "DMS"}, "dermoscopy", 0.95),
        ({"DeclaredPicture": "dermoscopic"}, "dermoscopy", 0.9),
        ({"DeclaredPicture": "plain"}, "dermoscopy", 0.5),
        ({"SOPClassUID": CAPTURE, "Modality": "OT"}, "dermoscopy", 0.5),
        ({"SOPClassUID": CAPTURE, "Modality": "OT", "SamplesPerPixel": 1}, "other", 0.9),
        ({"SOPClassUID": CAPTURE, "Modality": "MR"}, "derived", 0.9),
        ({"SOPClassUID": CAPTURE, "Modality": "OT", "ManufacturerModelName": PRODUCT}, "own-result", 0.9),
        ({"ManufacturerModelName": PRODUCT}, "own-result", 0.9),
    ],
)
def test_what_a_series_is_taken_for(attributes: dict[str, Any], role: str, least: float) -> None:
    found = assign_roles([photograph(**attributes)])["1.2.1"]
    assert found.role == role and found.confidence >= least


def test_the_shipped_route_takes_photographs_and_no_screens() -> None:
    taken = {
        "photograph": photograph(),
        "dermoscopic": photograph(SOPClassUID=DERMOSCOPIC, Modality="DMS"),
        "capture of skin": photograph(SOPClassUID=CAPTURE, Modality="OT", BodyPartExamined="SKIN"),
        "capture of a mole": photograph(SOPClassUID=CAPTURE, Modality="XC", StudyDescription="Dermatology"),
    }
    left = {
        "screen": photograph(SOPClassUID=CAPTURE, Modality="OT"),
        "burnt in": photograph(BurnedInAnnotation="YES"),
        "own heat map": photograph(SOPClassUID=CAPTURE, Modality="OT", BodyPartExamined="SKIN",
                                   ManufacturerModelName=PRODUCT),
        "MR": photograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR"),
    }  # fmt: skip
    for name, series in taken.items():
        assert [d.verb for d in decide(routes(), state(series))] == [Verb.NOTHING, Verb.RUN], name
    for name, series in left.items():
        assert [d.verb for d in decide(routes(), state(series))] == [Verb.NOTHING], name
    assert "own-result" in kinds(left["own heat map"])


def test_each_photograph_is_a_case_of_its_own_and_stays_it() -> None:
    series = [photograph(f"1.2.{number}", SeriesNumber=number) for number in (1, 2, 3)]
    decisions = {d.result_family: d for d in decide(routes(), state(*series)) if d.verb is Verb.RUN}
    assert set(decisions) == {own_family("skin-lesion", s.series_uid) for s in series}
    for s in series:
        decision = decisions[own_family("skin-lesion", s.series_uid)]
        assert decision.case is not None and dict(decision.case.series) == {"dermoscopy": s.series_uid}
        assert decision.case.result_family == decision.result_family
        assert base_family(decision.result_family) == "skin-lesion"
    past = tuple(
        PastCase(number, "skin-lesion", d.result_family, dict(d.case.revisions))
        for number, d in enumerate(decisions.values(), 1)
        if d.case is not None
    )
    again = decide(routes(), state(*series, cases=past, quiet=True))
    assert {d.verb for d in again} == {Verb.NOTHING}


def header(number: int, **attributes: Any) -> dict[str, Any]:
    told = {"SOPClassUID": VL, "Modality": "XC", "PatientID": "P1", "SeriesNumber": 1, "SamplesPerPixel": 3}
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1", "SOPInstanceUID": f"1.2.1.{number}"}
    return {**told, **uids, **attributes}


def test_facts_tell_photographs_apart_and_slices_are_none() -> None:
    assert PHOTOGRAPHS == PICTURE_CLASSES
    one = facts([header(1)])
    assert (one.instance_uid, one.photographs) == ("1.2.1.1", ())
    several = facts([header(2), header(1, BurnedInAnnotation="YES")], calling_ae="PHONE")
    assert several.instance_uid == "" and [p.instance_uid for p in several.photographs] == ["1.2.1.1", "1.2.1.2"]
    assert [p.attributes.get("BurnedInAnnotation") for p in several.photographs] == ["YES", None]
    assert {p.attributes["CallingAETitle"] for p in several.photographs} == {"PHONE"}
    slices = facts([header(number, SOPClassUID="1.2.840.10008.5.1.4.1.1.4") for number in (1, 2)])
    assert (slices.instance_uid, slices.photographs) == ("", ())
    mixed = facts([header(1), header(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")])
    assert (mixed.instance_uid, mixed.photographs) == ("", ())


def test_each_photograph_of_a_series_is_a_case_and_a_later_one_changes_nothing_about_it() -> None:
    def of(*numbers: int, since: dict[str, int], cases: tuple[PastCase, ...] = ()) -> StudyState:
        told = facts([header(number) for number in numbers])
        role = assign_roles([told])["1.2.1"]
        closed = ClosedSeries(told, role, max(since.values()), since=since)
        return StudyState("1.2", (closed,), is_quiet=True, cases=cases)

    first = decide(routes(), of(1, 2, since={"1.2.1.1": 7, "1.2.1.2": 7}))
    ran = {d.case.instance_uid: d for d in first if d.verb is Verb.RUN and d.case is not None}
    assert set(ran) == {"1.2.1.1", "1.2.1.2"}
    assert {uid: d.result_family for uid, d in ran.items()} == {uid: own_family("skin-lesion", uid) for uid in ran}
    past = tuple(
        PastCase(number, "skin-lesion", d.result_family, dict(d.case.revisions))
        for number, d in enumerate(ran.values(), 1)
        if d.case is not None
    )
    then = decide(routes(), of(1, 2, 3, since={"1.2.1.1": 7, "1.2.1.2": 7, "1.2.1.3": 8}, cases=past))
    (new,) = [d for d in then if d.verb is Verb.RUN]
    assert new.case is not None and new.case.instance_uid == "1.2.1.3" and new.repeats is None
    assert {d.verb for d in then if d is not new} == {Verb.NOTHING}


def test_the_refusal_of_one_photograph_is_not_its_neighbours() -> None:
    book = routes()
    second = book.routes[0].model_copy(
        update={"name": "other", "fallback_for": "skin-lesion", "model": "skin-lesion-cc0"}
    )
    book = book.model_copy(update={"routes": (*book.routes, second)})
    told = facts([header(1), header(2)])
    closed = ClosedSeries(told, assign_roles([told])["1.2.1"], 7, since={"1.2.1.1": 7, "1.2.1.2": 7})
    refused = Refusal(RefusalCode.OUT_OF_DISTRIBUTION)
    past = (
        PastCase(1, "skin-lesion", own_family("skin-lesion", "1.2.1.1"), {"dermoscopy": 7}, refusal=refused),
        PastCase(2, "skin-lesion", own_family("skin-lesion", "1.2.1.2"), {"dermoscopy": 7}),
    )
    found = {d.result_family: d for d in decide(book, StudyState("1.2", (closed,), is_quiet=True, cases=past))}
    stood_in = found[own_family("skin-lesion", "1.2.1.1")]
    assert stood_in.verb is Verb.RUN and stood_in.route == "other"
    assert found[own_family("skin-lesion", "1.2.1.2")].verb is Verb.NOTHING


def test_a_photograph_that_is_gone_takes_its_case_with_it() -> None:
    family = own_family("skin-lesion", "1.2.9")
    past = (PastCase(1, "skin-lesion", family, {"dermoscopy": 9}),)
    found = {d.result_family: d for d in decide(routes(), state(photograph(), cases=past, quiet=True))}
    assert found[family].verb is Verb.REFUSE and found[family].supersedes == 1


def test_one_patient_per_study_all_the_same() -> None:
    mixed = state(photograph("1.2.1"), photograph("1.2.2", PatientID="P2"))
    held = [d for d in decide(routes(), mixed) if d.verb is Verb.HOLD]
    assert len(held) == 2
    assert {d.refusal.code for d in held if d.refusal is not None} == {RefusalCode.PATIENT_CONFLICT}


def test_what_a_route_of_single_series_may_not_say() -> None:
    text = SHIPPED.read_text().replace("      - [dermoscopy]", "      - [dermoscopy, t1]")
    with pytest.raises(RoutesRefused, match="single role"):
        parse_routes(text, "routes.yaml")


def test_explain_says_which_case_a_photograph_makes() -> None:
    series = [photograph()]
    said = "\n".join(explain(routes(), series, assign_roles(series)).lines())
    assert "dermoscopy" in said and "by route skin-lesion" in said


def test_explain_says_a_case_for_each_photograph_of_a_series() -> None:
    series = [facts([header(1), header(2)])]
    told = explain(routes(), series, assign_roles(series))
    ran = [d.case.instance_uid for d in told.decisions if d.case is not None]
    assert sorted(ran) == ["1.2.1.1", "1.2.1.2"]
    assert "\n".join(told.lines()).count("by route skin-lesion") == 2
    assert sorted(d["case"]["photograph"] for d in told.to_json()["decisions"] if "case" in d) == sorted(ran)
