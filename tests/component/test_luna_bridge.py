"""The bridge without a broker: what waits, what is answered, and what happens to a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dicom_node.desks.analyses import Analyses
from dicom_node.permissions import Person
from dicom_node.record import people
from dicom_node.record.tables import analyses
from dicom_node.refusals import RefusalCode, Refused
from portal.luna import bridge as room
from portal.luna.bridge import Bridge
from portal.luna.broker import BrokerAway, Incoming
from tests.support.clinics import Clinic
from tests.support.luna import IMAGE, Luna, luna_node

pytestmark = pytest.mark.component


class MemoryBroker:
    """Gives out messages, and again those without an answer when the connection is made anew."""

    def __init__(self) -> None:
        self.waiting: dict[int, Incoming] = {}
        self.given: set[int] = set()
        self.answers: list[tuple[str, dict[str, Any], str]] = []
        self.is_away = False
        self.on_answer: Callable[[], None] = lambda: None

    def ask(self, body: dict[str, Any], message_id: str = "") -> None:
        number = len(self.waiting) + len(self.answers) + 1
        self.waiting[number] = Incoming(number, json.dumps(body).encode(), message_id, f"c-{number}")

    def connect(self) -> None:
        self.given.clear()

    def receive(self, wait_s: float) -> list[Incoming]:
        new = [one for one in self.waiting.values() if one.tag not in self.given]
        self.given |= {one.tag for one in new}
        return new

    def answer(self, incoming: Incoming, body: bytes, message_id: str) -> None:
        if self.is_away:
            raise BrokerAway("StreamLost")
        self.on_answer()
        del self.waiting[incoming.tag]
        self.answers.append((incoming.correlation_id, json.loads(body), message_id))

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def luna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luna]:
    made = luna_node(tmp_path_factory.mktemp("bridge"))
    yield made
    made.node.close()


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(luna: Luna, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Bridge:
    monkeypatch.setattr(room, "AGAIN_S", 0.0)
    desk = Analyses(luna.node.settings, luna.node.database, lambda put: None)

    def person_of(public_id: str) -> Person | None:
        with luna.node.database.read() as connection:
            found = people.user_of_public_id(connection, public_id)
        return found.person(None, "bridge") if found is not None and found.is_active else None

    return Bridge(broker, desk, person_of)  # type: ignore[arg-type]


def question(luna: Luna, **more: Any) -> dict[str, Any]:
    return {"image": IMAGE, "userId": luna.ids["ana"], **more}


def test_what_the_node_cannot_take_for_the_moment_waits(
    luna: Luna, broker: MemoryBroker, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(luna.rows(analyses))
    real = Analyses.check_admission

    def busy(desk: Analyses, who: Person) -> None:
        raise Refused(RefusalCode.TOO_BUSY)

    monkeypatch.setattr(Analyses, "check_admission", busy)
    broker.ask(question(luna, description="waits"))
    bridge.turn()
    bridge.turn()
    assert broker.answers == [] and len(luna.rows(analyses)) == before
    monkeypatch.setattr(Analyses, "check_admission", real)
    bridge.turn()
    (row,) = luna.rows(analyses)[before:]
    assert row["description"] == "waits" and broker.answers == [], "there is no result yet"
    assert len(broker.waiting) == 1, "and so it is not acknowledged"


def test_a_message_that_is_given_out_again_is_the_same_analysis(
    luna: Luna, broker: MemoryBroker, bridge: Bridge
) -> None:
    before = len(luna.rows(analyses))
    broker.ask(question(luna, description="again"))
    broker.ask(question(luna, description="again"), "name-1")
    broker.ask(question(luna, description="again"), "name-2")
    bridge.turn()
    broker.connect()
    bridge._open.clear()
    bridge.turn()
    assert len(luna.rows(analyses)) == before + 3


def test_an_answer_that_the_broker_did_not_take_is_still_owed(luna: Luna, broker: MemoryBroker, bridge: Bridge) -> None:
    broker.ask({"image": "!", "userId": luna.ids["ana"]})
    broker.is_away = True
    with pytest.raises(BrokerAway):
        bridge.turn()
    assert len(broker.waiting) == 1
    broker.is_away = False
    broker.connect()
    bridge.turn()
    ((correlation, told, _),) = broker.answers
    assert correlation == "c-1" and told["refusal"]["code"] == "base64-invalid" and told["state"] == "refused"


def test_a_fault_of_ours_is_tried_again_and_then_told(
    luna: Luna, broker: MemoryBroker, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(desk: Analyses, asked: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Analyses, "accept", fault)
    broker.ask(question(luna, description="fault"))
    for _ in range(room.MAX_FAULTS - 1):
        bridge.turn()
    assert broker.answers == []
    broker.ask({"userId": "nobody"})
    bridge.turn()
    told = {correlation: body for correlation, body, _ in broker.answers}
    assert told["c-1"]["state"] == "failed" and "secret" not in json.dumps(told["c-1"])
    assert told["c-2"]["state"] == "refused", "those behind it are not stopped"
    assert broker.waiting == {}


def test_whoever_may_not_ask_is_refused_by_name(luna: Luna, broker: MemoryBroker, bridge: Bridge) -> None:
    """The broker lets anybody write; an account that may not ask for analyses may not do so in a message either."""
    before = len(luna.rows(analyses))
    for name in ("ops", "root"):
        broker.ask({"image": IMAGE, "userId": luna.ids[name]})
    bridge.turn()
    assert [told["refusal"]["code"] for _, told, _ in broker.answers] == ["not-authorised"] * 2
    assert [told["userId"] for _, told, _ in broker.answers] == [None, None]
    assert len(luna.rows(analyses)) == before


def test_a_message_beyond_the_bound_is_not_even_read(luna: Luna, broker: MemoryBroker, bridge: Bridge) -> None:
    broker.ask(question(luna, description="x", image="A" * 2_100_000))
    bridge.turn()
    ((_, told, _),) = broker.answers
    assert told["refusal"]["code"] == "too-large" and told["image"] is None


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    made = Clinic(tmp_path_factory.mktemp("clinic"))
    made.account("ana@post.example")
    yield made
    made.database.close()


def answered(clinic: Clinic, broker: MemoryBroker) -> Bridge:
    """A bridge to a clinic where a message was taken and its result has come."""
    with clinic.database.read() as connection:
        user = people.user_of_email(connection, "ana@post.example")
    assert user is not None
    desk = Analyses(clinic.settings, clinic.database, clinic.puts.append)
    made = Bridge(broker, desk, lambda _: user.person(None, ""))  # type: ignore[arg-type]
    broker.ask({"image": IMAGE, "userId": user.public_id}, str(len(clinic.rows())))
    made.turn()
    assert broker.answers == []
    clinic.answer(dict(clinic.rows()[-1]), malignant=0.9, melanoma=0.9)
    return made


def test_a_result_is_in_the_audit_log_before_it_goes_out(clinic: Clinic, broker: MemoryBroker) -> None:
    made, seen = answered(clinic, broker), list[str]()
    broker.on_answer = lambda: seen.extend(clinic.acts()[-1:])
    made.turn()
    ((_, told, _),) = broker.answers
    assert told["isMelanoma"] and seen == ["analysis-result-seen"]


def test_a_result_that_cannot_be_written_down_does_not_go_out(
    clinic: Clinic, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = answered(clinic, broker)

    def full(desk: Analyses, who: Person, row: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(room, "AGAIN_S", 0.0)
    monkeypatch.setattr(Analyses, "saw_result", full)
    for _ in range(room.MAX_FAULTS):
        made.turn()
    ((_, told, _),) = broker.answers
    assert told["state"] == "failed" and told["result"] is None and told["isMelanoma"] is None
