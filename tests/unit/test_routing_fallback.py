"""A route gives way to its stand-in when it is not filled, or when its model has refused these very images."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from routing_studies import FRAME, book, guess, nine
from test_routing_cases import arrive, one, only, state

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing import CaseSpec, PastCase, Verb
from dicom_node.routing.explanation import explain
from dicom_node.routing.fallback import OF_THE_IMAGES
from dicom_node.routing.roles import assign_roles

pytestmark = pytest.mark.unit

PARTS = book(("parts", "[[t1c, flair], [t1c]]"), ("whole", "[[flair]]"), extra={"whole": "    fallback_for: parts\n"})
T1C, FLAIR = one(11, guess("t1c")), one(7, guess("flair"))
NATIVE = Refusal(RefusalCode.BRAIN_NOT_FOUND, "a skull-stripped study", "a native head with its skull")


def refused(number: int = 1, refusal: Refusal | None = NATIVE, **revisions: int) -> PastCase:
    return PastCase(number, "parts", "brain", revisions or {"t1c": 11, "flair": 7}, refusal=refusal)


def case_of(found: list, **more: object) -> CaseSpec:
    decision = only(PARTS, state(found, is_quiet=True, **more))
    assert decision.verb is Verb.RUN and decision.case is not None, decision
    return decision.case


def test_flair_alone_goes_to_the_stand_in_which_says_for_whom_it_stands() -> None:
    case = case_of([FLAIR])
    assert (case.route, case.stands_in_for) == ("whole", (("parts", RefusalCode.ROLES_UNFILLED),))
    assert case.reasons[1] == (
        "whole stands in for parts: parts [t1c, flair]: no series for t1c; parts [t1c]: no series for t1c"
    )
    alone = case_of([T1C, FLAIR])
    assert (alone.route, alone.stands_in_for) == ("parts", ())


def test_a_refusal_of_the_images_brings_the_stand_in_after_the_quiet_period() -> None:
    waits = only(PARTS, state([T1C, FLAIR], cases=(refused(),)))
    assert waits.verb is Verb.WAIT
    assert waits.reasons == (
        "parts [t1c, flair]: refused, brain-not-found",
        "parts [t1c]: filled, but it is not the route's best set",
        "whole [flair]: filled, but it only stands in for parts",
    )
    decision = only(PARTS, state([T1C, FLAIR], cases=(refused(),), is_quiet=True))
    assert (decision.verb, decision.supersedes, decision.route) == (Verb.RUN, 1, "whole")
    assert decision.case is not None
    assert decision.case.stands_in_for == (("parts", RefusalCode.BRAIN_NOT_FOUND),)
    assert decision.case.reasons[1] == (
        "whole stands in for parts: the model of parts refused the images (brain-not-found: expected a skull-stripped "
        "study; found a native head with its skull)"
    )


@pytest.mark.parametrize("code", sorted(set(RefusalCode) - OF_THE_IMAGES))
def test_what_is_no_refusal_of_the_images_moves_nobody_aside(code: RefusalCode) -> None:
    cases = (refused(refusal=Refusal(code)),)
    for is_quiet in (False, True):
        assert only(PARTS, state([T1C, FLAIR], cases=cases, is_quiet=is_quiet)).verb is Verb.NOTHING


def test_the_last_refusal_is_the_answer_and_nothing_is_tried_again() -> None:
    both = (
        replace(refused(1), is_superseded=True),
        PastCase(2, "whole", "brain", {"flair": 7}, refusal=Refusal(RefusalCode.OUT_OF_DISTRIBUTION)),
    )
    assert only(PARTS, state([T1C, FLAIR], cases=both, is_quiet=True)).verb is Verb.NOTHING
    assert only(PARTS, state([T1C, FLAIR], cases=both)).verb is Verb.WAIT


def test_without_flair_there_is_nobody_to_stand_in() -> None:
    alone = (refused(t1c=11),)
    assert only(PARTS, state([T1C], cases=alone, is_quiet=True)).verb is Verb.NOTHING


def test_a_standing_stand_in_is_left_alone_and_new_images_are_decided_anew() -> None:
    standing = (replace(refused(1), is_superseded=True), PastCase(2, "whole", "brain", {"flair": 7}))
    assert only(PARTS, state([T1C, FLAIR], cases=standing, is_quiet=True)).verb is Verb.NOTHING
    assert only(PARTS, state([T1C, FLAIR], cases=standing)).verb is Verb.WAIT
    late = replace(FLAIR, revision_id=70)
    decision = only(PARTS, state([T1C, late], cases=standing))
    assert (decision.verb, decision.route, decision.supersedes) == (Verb.RUN, "parts", 2)


def test_a_choice_that_was_taken_up_after_its_refusal_counts_as_it_stands_now() -> None:
    cases = (replace(refused(1), is_superseded=True), refused(3, refusal=None))
    assert only(PARTS, state([T1C, FLAIR], cases=cases, is_quiet=True)).route == "parts"


def test_only_a_route_that_names_it_stands_in_for_the_refused_one() -> None:
    routes = book(("parts", "[[t1c, flair]]"), ("other", "[[flair]]"))
    assert only(routes, state([T1C, FLAIR], cases=(refused(),), is_quiet=True)).verb is Verb.NOTHING
    row = book(
        ("parts", "[[t1c, flair]]"),
        ("middle", "[[t2]]"),
        ("last", "[[flair]]"),
        extra={"middle": "    fallback_for: parts\n", "last": "    fallback_for: middle\n"},
    )
    decision = only(row, state([T1C, FLAIR], cases=(refused(),), is_quiet=True))
    assert decision.case is not None
    assert decision.case.stands_in_for == (
        ("middle", RefusalCode.ROLES_UNFILLED),
        ("parts", RefusalCode.BRAIN_NOT_FOUND),
    )
    assert row.stood_in_for == {"parts", "middle"}


def test_a_stand_in_for_a_route_that_is_switched_off_is_a_first_choice() -> None:
    routes = book(
        ("parts", "[[t1c, flair]]"),
        ("whole", "[[flair]]"),
        extra={"parts": "    enabled: false\n", "whole": "    fallback_for: parts\n"},
    )
    decision = only(routes, state([FLAIR]))
    assert (decision.verb, decision.route) == (Verb.RUN, "whole")
    assert decision.case is not None and decision.case.stands_in_for == ()
    assert routes.stood_in_for == frozenset()


def test_every_order_of_arrival_ends_with_the_stand_in() -> None:
    chance = random.Random(7)
    for _ in range(20):
        order = nine()
        chance.shuffle(order)
        for pauses in ([False] * 9, [True] * 9, [chance.random() < 0.3 for _ in range(9)]):
            node = arrive(PARTS, order, pauses, refuses=["parts"])
            assert [(c.route, c.revisions) for c in node.current()] == [("whole", {"flair": 701})]
            calm = len(node.cases)
            node.step(is_quiet=True)
            assert len(node.cases) == calm
            both = arrive(PARTS, order, pauses, refuses=["parts", "whole"])
            assert [(c.route, c.revisions) for c in both.current()] == [("whole", {"flair": 701})]


def test_explain_says_what_follows_a_refusal() -> None:
    found = nine()
    told = explain(PARTS, found, assign_roles(found))
    assert [case.route for case in told.if_refused["brain"]] == ["whole"]
    assert "    if its model refuses the images: whole-model by route whole (flair: series 701)" in list(told.lines())
    assert told.to_json()["decisions"][0]["if_refused"][0]["stands_in_for"] == {"parts": "out-of-distribution"}
    flair = [s for s in found if s.attributes["SeriesNumber"] == 701 and s.attributes["FrameOfReferenceUID"] == FRAME]
    alone = explain(PARTS, flair, assign_roles(flair))
    assert any("whole stands in for parts" in line for line in alone.lines())
    assert alone.if_refused["brain"] == ()
