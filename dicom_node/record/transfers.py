"""Transfers: how far the results of a request by HTTP are on their way to each destination (`predictions.transfers`).

One mapping per destination: ``state``, ``tries``, ``since`` (of the first try), ``reasons`` or ``refusal``, and while a
try lasts ``worker``.  A try is counted before it is made, and what came of it is written only while nobody has decided
otherwise; deaths of the worker in the middle of one are counted too (I11, I12).  A call to a webhook is a transfer of
nothing but the word that the request is over; its name begins with ``hook-``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from dicom_node.record import predictions as requests
from dicom_node.record.database import now
from dicom_node.record.tables import predictions
from dicom_node.words import HOOK, DeliveryState, RunState

PENDING = DeliveryState.PENDING.value
CONFIRMED = DeliveryState.CONFIRMED.value
HELD = DeliveryState.HELD.value
FAILED = DeliveryState.FAILED.value
CANCELLED = DeliveryState.CANCELLED.value


@dataclass(frozen=True)
class Transfer:
    """One transfer, and the row of its request."""

    row: RowMapping
    destination: str
    told: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The request's."""
        return int(self.row["id"])

    @property
    def state(self) -> str:
        return str(self.told["state"])

    @property
    def tries(self) -> int:
        """How often it was tried; rows of older versions may not say."""
        return int(self.told.get("tries", 0))

    @property
    def reason(self) -> dict[str, Any]:
        """Why it stands where it does, as holds say it."""
        if self.told.get("refusal"):
            return dict(self.told["refusal"])
        return {"peer": "; ".join(self.told["reasons"])} if self.told.get("reasons") else {}


def in_state(connection: Connection, *states: str) -> list[Transfer]:
    """The transfers in these states, oldest request first."""
    return [
        Transfer(row, name, told)
        for row in requests.with_transfers(connection)
        for name, told in row["transfers"].items()
        if told["state"] in states
    ]


def find(connection: Connection, number: int, name: str) -> Transfer | None:
    """One transfer; None when there is none of this request to this destination."""
    row = connection.execute(select(predictions).where(predictions.c.id == number)).mappings().first()
    told = None if row is None else (row["transfers"] or {}).get(name)
    return None if row is None or told is None else Transfer(row, name, told)


def waiting(connection: Connection, number: int, name: str) -> Transfer | None:
    """A transfer that is still to be made; None for any other.

    A result has to be there before it is sent; a call is made whatever came of the request.
    """
    found = find(connection, number, name)
    if found is None or found.state != PENDING:
        return None
    is_call = name.startswith(HOOK) and found.row["state"] not in requests.UNFINISHED
    return found if is_call or found.row["state"] == RunState.BUILT.value else None


def begin_try(connection: Connection, transfer: Transfer, worker: str) -> dict[str, Any]:
    """Count a try before it is made; what is known of the transfer from then on."""
    told = dict(transfer.told)
    told |= {"since": told.get("since") or now(), "tries": transfer.tries + 1, "worker": worker}
    requests.set_transfer(connection, transfer.number, transfer.destination, told)
    return told


def end_try(connection: Connection, number: int, name: str, told: Mapping[str, Any]) -> bool:
    """Write what came of a try; False when somebody decided otherwise meanwhile, and nothing was written."""
    found = waiting(connection, number, name)
    if found is None or found.tries != int(told.get("tries", 0)):
        return False
    kept = {key: value for key, value in told.items() if key != "worker"}
    requests.set_transfer(connection, number, name, kept)
    return True


def bury(connection: Connection, transfer: Transfer, *, died: bool, limit: int) -> str:
    """Nobody tries this transfer any more; count a death against it, and end it at too many; its state."""
    told = {key: value for key, value in transfer.told.items() if key != "worker"}
    if died:
        told["deaths"] = int(told.get("deaths", 0)) + 1
        if told["deaths"] >= limit:
            reason = f"the worker ended {told['deaths']} times during this transfer; given up after {limit}"
            told |= {"state": FAILED, "reasons": [reason]}
    requests.set_transfer(connection, transfer.number, transfer.destination, told)
    return str(told["state"])


def decide(connection: Connection, transfer: Transfer, state: str) -> None:
    """A person's word about a transfer: open again from the start of its span of retries, or over."""
    left = {"since", "reasons", "refusal", "worker", "deaths"}
    told = {key: value for key, value in transfer.told.items() if key not in left}
    requests.set_transfer(connection, transfer.number, transfer.destination, {**told, "state": state})


def counts(connection: Connection) -> Counter[str]:
    """How many transfers are in each state."""
    return Counter(transfer.state for transfer in in_state(connection, *DeliveryState))
