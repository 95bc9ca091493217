"""How every system fares that the node calls: destinations, webhooks, the node's own FHIR endpoint.

For the person on duty, on the command line and on the page alike.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping

from dicom_node.record import circuits, deliveries, pauses, transfers
from dicom_node.settings import Settings
from dicom_node.stages.destinations import OWN_ENDPOINT
from dicom_node.words import HOOK, DeliveryState

WORKS, FAILING, LEFT_ALONE, PAUSED = "works", "failing", "left-alone", "paused"

_OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)


@dataclass(frozen=True)
class Standing:
    """One peer: whether it is tried, and what waits for it.

    Attributes
    ----------
    kind
        As in the settings; ``webhook``, ``own`` (the node's FHIR endpoint) or ``gone`` (rows name it, settings do not).
    state
        ``works``, ``failing`` (failed lately, still tried), ``left-alone`` (only probes), ``paused`` (by a person).
    why
        What failed, in fixed words, or the reason of the person who paused it.
    next_try_at
        Of a destination that is left alone.
    waiting, held, failed, confirmed
        Objects of runs, and transfers of requests.
    oldest_at
        When the oldest object was built that still waits.
    """

    name: str
    kind: str
    after: str | None
    state: str
    why: str
    since: str | None
    next_try_at: str | None
    actor: str
    waiting: int
    held: int
    failed: int
    confirmed: int
    oldest_at: str | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; keys are stable."""
        return asdict(self)


def peers(settings: Settings) -> dict[str, str]:
    """Every peer by name, with its kind."""
    found = {name: str(chosen.kind) for name, chosen in settings.destinations.items()}
    found |= {f"{HOOK}{name}": "webhook" for name in settings.webhooks}
    return {**found, OWN_ENDPOINT: "own"}


def standing(settings: Settings, connection: Connection) -> list[Standing]:
    """How each peer fares, in the order of the settings; those that only old rows name come last."""
    counts = deliveries.counts(connection)
    for transfer in transfers.in_state(connection, *DeliveryState):
        counts[transfer.destination, transfer.state] += 1
    known = peers(settings)
    waiting = {name for name, state in counts if state != DeliveryState.CONFIRMED.value}
    known |= {name: "gone" for name in sorted(waiting - set(known))}
    circuit = circuits.all_rows(connection)
    paused = {row["destination"]: row for row in pauses.rows(connection)}
    states, oldest = circuits.states(connection), deliveries.oldest_open(connection)
    return [
        _standing(settings, name, kind, counts, circuit.get(name), states.get(name), paused.get(name), oldest.get(name))
        for name, kind in known.items()
    ]


def _standing(
    settings: Settings,
    name: str,
    kind: str,
    counts: Counter[tuple[str, str]],
    circuit: RowMapping | None,
    state: str | None,
    pause: RowMapping | None,
    oldest_at: str | None,
) -> Standing:
    chosen = settings.destinations.get(name)
    told = WORKS if circuit is None else FAILING if state == circuits.CLOSED else LEFT_ALONE
    why = "" if circuit is None else str(circuit["reason"] or "")
    return Standing(
        name=name,
        kind=kind,
        after=None if chosen is None else chosen.after,
        state=told if pause is None else PAUSED,
        why=why if pause is None else str(pause["reason"]),
        since=pause["since"] if pause else circuit["opened_at"] if circuit else None,
        next_try_at=circuit["probe_at"] if circuit and told == LEFT_ALONE and not pause else None,
        actor=str(pause["actor"]) if pause else "",
        waiting=sum(counts[name, one] for one in _OPEN),
        held=counts[name, DeliveryState.HELD.value],
        failed=counts[name, DeliveryState.FAILED.value],
        confirmed=counts[name, DeliveryState.CONFIRMED.value],
        oldest_at=oldest_at,
    )
