"""Whether a destination is tried now, as the stages ask: its circuit (`record.circuits`) and a person's pause."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from dicom_node.record import circuits, now, pauses
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.stages.context import Tools
from dicom_node.stages.targets import circuit_rule

log = structlog.get_logger()

PAUSED_S = 300.0
"""How often what waits for a paused destination asks again; whoever ends the pause puts its jobs at once."""

_jitter = random.SystemRandom()
_ITS_ANSWERS = (RefusalCode.PATIENT_CHANGED, RefusalCode.DELIVERY_CONFLICT, RefusalCode.DELIVERY_INCOMPLETE)
"""Refusals that a destination must have been reached for."""


def again_at(tools: Tools, connection: Connection, name: str) -> datetime | None:
    """None: try now.  Otherwise the destination is left alone: when to come again."""
    if pauses.is_paused(connection, name):
        return datetime.fromisoformat(now()) + timedelta(seconds=PAUSED_S)
    rule = circuit_rule(tools.settings, name)
    return None if rule is None else circuits.may_try(connection, name, rule)


def is_paused(tools: Tools, name: str) -> bool:
    """Whether a person, and not the circuit, keeps the node from this destination."""
    with tools.database.read() as connection:
        return pauses.is_paused(connection, name)


def pause_s(until: datetime) -> float:
    """Seconds until then, and a little more, so that not everything that waits comes at once."""
    wait_s = max(0.0, (until - datetime.fromisoformat(now())).total_seconds())
    return wait_s + _jitter.uniform(0.0, min(5.0, 0.25 * wait_s))


def answered(tools: Tools, connection: Connection, name: str) -> None:
    """The destination works."""
    if circuit_rule(tools.settings, name) is not None and circuits.succeeded(connection, name):
        log.info("destination.circuit-closed", destination=name)


def count(tools: Tools, name: str, trouble: PeerTrouble | Refused) -> None:
    """Count what went wrong for or against the destination."""
    rule = circuit_rule(tools.settings, name)
    if rule is None or (isinstance(trouble, Refused) and trouble.refusal.code not in _ITS_ANSWERS):
        return
    with tools.database.write() as connection:
        if isinstance(trouble, Refused) or not trouble.is_down:
            answered(tools, connection, name)
        elif circuits.failed(connection, name, rule, str(trouble), retry_after_s=trouble.retry_after_s):
            log.warning("destination.circuit-open", destination=name)
