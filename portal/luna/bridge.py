"""The bridge: analyses by messages, for systems that were built around the thesis's queues.

A message ``{image, userId}`` (and what `/api/imageProcess` takes besides) becomes an analysis of that user, down the
same road as any other; its result goes out as a message.  A message stays unacknowledged until its result was taken
over by the broker, so this process keeps no books: after a death the broker gives it out again, and the same message
is the same analysis.  What is refused is answered too, with the reason; what the node cannot take just now waits here.

Whoever may write to the broker's queue may ask in any user's name: the broker's accounts are what guards it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from dicom_node.desks.analyses import Analyses
from dicom_node.permissions import Person
from dicom_node.refusals import Refusal, RefusalCode, Refused
from portal.api.analysis_answers import refusal_answer
from portal.api.photo_body import check_kind, decoded, judged, kept, parsed
from portal.luna import answers
from portal.luna.asking import asked_of
from portal.luna.bodies import Message
from portal.luna.broker import Broker, BrokerAway, Incoming

log = structlog.get_logger("bridge")

LOOK_S = 0.2
"""How often messages and results are looked for."""
AGAIN_S = 5.0
"""After so long a message is tried again that the node could not take."""
MAX_FAULTS = 3
"""So many faults of ours on one message are answered as a failure."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_FOR_NOW = frozenset({RefusalCode.TOO_BUSY, RefusalCode.STORAGE_FULL, RefusalCode.NOT_READY})
_OPEN = frozenset({"waiting"})


@dataclass
class _Open:
    """A message that has no answer yet."""

    incoming: Incoming
    who: Person | None = None
    image: str = ""
    analysis: str = ""
    """Public id, once the analysis is written down."""
    due: float = 0.0
    faults: int = 0


class Bridge:
    """One process's work.

    Parameters
    ----------
    person_of
        The active account of a public id, or None.
    """

    def __init__(self, broker: Broker, desk: Analyses, person_of: Callable[[str], Person | None]) -> None:
        self._broker = broker
        self._desk = desk
        self._person_of = person_of
        self._open: dict[int, _Open] = {}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; come back whenever the broker was away."""
        pause = FIRST_PAUSE_S
        while not stop.is_set():
            try:
                self._broker.connect()
                log.info("bridge.connected")
                while not stop.is_set():
                    self.turn()
                    pause = FIRST_PAUSE_S
            except BrokerAway as away:
                log.warning("bridge.broker-away", error=str(away), pause_s=pause)
                stop.wait(pause)
                pause = min(LONGEST_PAUSE_S, pause * 2)
            finally:
                self._open.clear()  # the broker gives all of them out again
                self._broker.close()

    def turn(self) -> None:
        """Take what has come, and answer what is over.

        Raises
        ------
        BrokerAway
        """
        for incoming in self._broker.receive(LOOK_S):
            self._open[incoming.tag] = _Open(incoming)
        for one in list(self._open.values()):
            if time.monotonic() >= one.due:
                self._go_on(one)

    def _go_on(self, one: _Open) -> None:
        try:
            if not one.analysis:
                self._accept(one)
            self._look(one)
        except BrokerAway:
            raise
        except Refused as refused:
            if refused.refusal.code in _FOR_NOW:
                one.due = time.monotonic() + AGAIN_S
                return
            log.warning("bridge.refused", reason=refused.refusal.code.value)
            self._answer_without(one, "refused", refused.refusal)
        except Exception:  # the message's boundary: one that we cannot do must not stop those behind it
            log.exception("bridge.fault")
            one.faults, one.due = one.faults + 1, time.monotonic() + AGAIN_S
            if one.faults >= MAX_FAULTS:
                self._answer_without(one, "failed")

    def _accept(self, one: _Open) -> None:
        body, desk = one.incoming.body, self._desk
        most = desk.settings.max_photo_mb * 1_000_000
        if len(body) > most:
            raise Refused(RefusalCode.TOO_LARGE, f"at most {most} bytes", "more")
        said = judged(Message, parsed(body))
        one.image, one.who = said.image, self._person_of(said.userId)
        if one.who is None or not one.who.may("analysis:make"):
            one.who = None
            raise Refused(RefusalCode.NOT_AUTHORISED, "userId: an active account that may ask for analyses", "another")
        desk.check_admission(one.who)
        claimed, data = decoded(said.image)
        upload = kept(desk.spool, data)
        check_kind(desk.spool, upload, claimed)
        # a message without a name of its own is known by its content: sent twice by the broker, it is one analysis
        name = hashlib.sha256(one.incoming.message_id.encode() or body).hexdigest()
        row = desk.accept(asked_of(desk, one.who, said, upload, claimed, f"amqp-{name}"))
        one.analysis = str(row["public_id"])

    def _look(self, one: _Open) -> None:
        assert one.who is not None
        row = self._desk.own(one.who, one.analysis)
        assert row is not None
        result = self._desk.result(row)
        if result.state in _OPEN:
            return
        told = answers.analysis(row, result, one.who.public_id, language=one.who.language)
        if result.state == "completed":  # before it goes out: what cannot be written down is not told
            self._desk.saw_result(one.who, row)
        self._answer(one, {**told, "image": one.image}, one.analysis)

    def _answer_without(self, one: _Open, state: str, refusal: Refusal | None = None) -> None:
        language = one.who.language if one.who else "en"
        told = {
            "id": one.analysis or None,
            "userId": one.who.public_id if one.who else None,
            "image": one.image or None,
            "state": state,
            "message": answers.message(state, language),
            "result": None,
            "isMelanoma": None,
            "refusal": refusal_answer(refusal.to_json(), language) if refusal else None,
        }
        self._answer(one, told, one.analysis)

    def _answer(self, one: _Open, told: dict[str, Any], message_id: str) -> None:
        body = json.dumps(told, ensure_ascii=False).encode()
        self._broker.answer(one.incoming, body, message_id or hashlib.sha256(one.incoming.body).hexdigest())
        del self._open[one.incoming.tag]
