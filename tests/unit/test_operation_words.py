"""Whatever the node may say of a study, the operation pages have words for it, in both languages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.desks import why
from dicom_node.desks.operation import ACTS
from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import SPANISH
from dicom_node.stages import peers
from dicom_node.words import DeliveryState, Grade, Publish, RunState
from portal.pages.language import dictionary

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TIMELINE = (ROOT / "docs/reference/timeline.md").read_text(encoding="utf-8").split("## Log")[0]


@pytest.fixture(params=["en", "es"])
def known(request: pytest.FixtureRequest) -> set[str]:
    return {key.partition(".")[2] for key in dictionary(request.param) if key.startswith("operation.")}


def test_every_event_of_a_timeline_has_words(known: set[str]) -> None:
    named = [
        name for row in re.findall(r"^\| (`.*?`) \|", TIMELINE, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    ]
    assert len(named) > 40
    assert {f"event_{name.replace('.', '_').replace('-', '_')}" for name in named} <= known


def codes() -> Iterator[str]:
    """The first argument of every `Because(...)`, and what an f-string in its place may become."""
    for node in ast.walk(ast.parse(Path(why.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Because":
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)
    yield from ("run_queued", "run_running", "delivery_held", "delivery_failed", "delivery_cancelled")
    yield from ("delivery_left_alone", "delivery_tried", "delivery_waits")


def test_every_answer_has_words(known: set[str]) -> None:
    found = set(codes())
    assert len(found) > 20
    assert {f"why_{code}" for code in found} <= known


def test_every_state_and_act_has_words(known: set[str]) -> None:
    assert {f"run_{state.value}" for state in RunState} <= known
    assert {f"delivery_{state.value}" for state in DeliveryState} <= known
    assert {f"publish_{value.value}" for value in Publish} | {
        f"publish_hint_{value.value}" for value in Publish
    } <= known
    assert {f"grade_{grade.value}" for grade in Grade} <= known
    verbs = [*ACTS, "pause", "resume"]
    assert {f"{kind}_{verb}" for verb in verbs for kind in ("do", "effect", "said")} <= known
    states = (peers.WORKS, peers.FAILING, peers.LEFT_ALONE, peers.PAUSED)
    assert {f"destination_{state.replace('-', '_')}" for state in states} <= known


def test_every_check_of_readiness_has_words(known: set[str]) -> None:
    source = (ROOT / "dicom_node/cli/readiness.py").read_text(encoding="utf-8")
    asked = re.findall(r'"([a-z]+)": self\.', source)
    assert len(asked) > 6
    assert {f"check_{name}" for name in asked} <= known


def test_every_refusal_is_said_in_spanish() -> None:
    assert set(SPANISH) == set(RefusalCode)
