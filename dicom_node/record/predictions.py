"""Requests for predictions by HTTP: what was asked, how far it is, what came of it.

States are those of a run, and legal moves are those of a run.  Attempts are counted before the work starts, and what an
attempt says is written only while it is the current one of a request that still runs (I11, I12).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dicom_node.record import queueing
from dicom_node.record.database import now
from dicom_node.record.runs import IllegalMove
from dicom_node.record.tables import pixels_seen, prediction_events, predictions
from dicom_node.turns import ROUTINE, place
from dicom_node.words import HOOK, DeliveryState, RunState, may_move

UNFINISHED = (RunState.QUEUED.value, RunState.RUNNING.value)
FIRST_STAGE = "read"


@dataclass(frozen=True)
class NewPrediction:
    """What a request asks for.

    `inputs`: one mapping per upload with ``role`` (may be empty for DICOM), ``kind``, ``sha256``, ``size_bytes``.
    """

    owner: str
    asked: str
    model: str
    inputs: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    body_sha256: str
    warnings: Sequence[str] = ()
    urgency: int = ROUTINE
    batch: str | None = None
    position: int = 0
    idempotency_key: str | None = None
    refusal: Mapping[str, str] | None = None
    """Set where the request was refused before there was anything to do: it is kept as an answer, not as work."""


class IdempotencyTaken(Exception):
    """A request with this Idempotency-Key was there first."""


def add(connection: Connection, asked: Sequence[NewPrediction]) -> list[RowMapping]:
    """Insert requests of one call; their rows, in order.

    Raises
    ------
    IdempotencyTaken
        When the key's owner has used the Idempotency-Key before; nothing is inserted.
    """
    made = []
    for one in asked:
        moment, submitter = now(), queueing.asker(one.owner, in_batch=one.batch is not None)
        values = {
            "public_id": secrets.token_hex(16),
            "owner": one.owner,
            "batch": one.batch,
            "position": one.position,
            "idempotency_key": one.idempotency_key,
            "body_sha256": one.body_sha256,
            "asked": one.asked,
            "model": one.model,
            "inputs": [dict(entry) for entry in one.inputs],
            "options": dict(one.options),
            "warnings": list(one.warnings),
            "priority": place(one.urgency, queueing.take(connection, submitter)),
            "state": (RunState.QUEUED if one.refusal is None else RunState.REFUSED).value,
            "stage": FIRST_STAGE,
            "refusal": None if one.refusal is None else dict(one.refusal),
            "created_at": moment,
            "finished_at": None if one.refusal is None else moment,
            "seconds": {},
        }
        try:
            number = connection.execute(insert(predictions).values(**values).returning(predictions.c.id)).scalar_one()
        except IntegrityError as error:
            raise IdempotencyTaken from error
        if one.refusal is None:
            tell(connection, int(number), "prediction.accepted", inputs=len(one.inputs))
        else:
            tell(connection, int(number), "prediction.refused", refusal=dict(one.refusal))
        made.append(by_id(connection, int(number)))
    return made


def by_id(connection: Connection, number: int) -> RowMapping:
    """One request by its internal number."""
    return connection.execute(select(predictions).where(predictions.c.id == number)).mappings().one()


def owned(connection: Connection, owner: str, public_id: str) -> RowMapping | None:
    """A request by the id that its owner was given; None for a stranger's as for none (S12)."""
    query = select(predictions).where(predictions.c.public_id == public_id, predictions.c.owner == owner)
    return connection.execute(query).mappings().first()


def newest_of(connection: Connection, owner: str, limit: int) -> list[RowMapping]:
    """What somebody asked for about volumes, newest first."""
    is_volume = predictions.c.options["photo"].as_string().is_(None)
    query = select(predictions).where(predictions.c.owner == owner, is_volume)
    return list(connection.execute(query.order_by(predictions.c.id.desc()).limit(limit)).mappings())


def owned_batch(connection: Connection, owner: str, batch: str) -> list[RowMapping]:
    """The requests of one batch in input order; empty for a stranger's as for none."""
    query = select(predictions).where(predictions.c.batch == batch, predictions.c.owner == owner)
    return list(connection.execute(query.order_by(predictions.c.position)).mappings())


def with_idempotency_key(connection: Connection, owner: str, key: str) -> list[RowMapping]:
    """What a caller asked for under this Idempotency-Key before, in input order."""
    query = select(predictions).where(predictions.c.owner == owner, predictions.c.idempotency_key == key)
    return list(connection.execute(query.order_by(predictions.c.position)).mappings())


def waiting(connection: Connection, owner: str | None = None) -> int:
    """How many requests are unfinished, of one caller or of all."""
    query = select(func.count()).select_from(predictions).where(predictions.c.state.in_(UNFINISHED))
    if owner is not None:
        query = query.where(predictions.c.owner == owner)
    return int(connection.execute(query).scalar_one())


def unfinished(connection: Connection) -> list[RowMapping]:
    """Requests without a final state: the reconciler asks for each whether a job is alive."""
    query = select(predictions).where(predictions.c.state.in_(UNFINISHED)).order_by(predictions.c.id)
    return list(connection.execute(query).mappings())


def with_transfers(connection: Connection) -> list[RowMapping]:
    """Finished requests whose results were to go somewhere."""
    query = select(predictions).where(predictions.c.transfers.is_not(None)).order_by(predictions.c.id)
    return list(connection.execute(query).mappings())


@dataclass(frozen=True)
class Turn:
    """A numbered start of one stage of a request; the token without which nothing of it is kept."""

    number: int
    attempt: int


def begin(connection: Connection, number: int, stage: str, worker: str) -> Turn | None:
    """Count a start before the work begins; None when the request is over, cancelled, or past this stage."""
    row = by_id(connection, number)
    if row["state"] not in UNFINISHED or row["cancel"] or row["stage"] != stage:
        return None
    _move(connection, row, RunState.RUNNING, current_attempt=row["current_attempt"] + 1, worker=worker)
    return Turn(number, int(row["current_attempt"]) + 1)


def is_current(connection: Connection, turn: Turn) -> bool:
    """Whether this turn is still the one whose effects count."""
    row = by_id(connection, turn.number)
    return bool(row["current_attempt"] == turn.attempt and row["state"] == RunState.RUNNING.value and not row["cancel"])


def go_on(connection: Connection, turn: Turn, stage: str, seconds: Mapping[str, float], **columns: Any) -> bool:
    """Write what a turn found and name the next stage; False when the turn was stale and nothing was written."""
    if not is_current(connection, turn):
        return False
    row = by_id(connection, turn.number)
    values = {"stage": stage, "worker": None, "seconds": {**row["seconds"], **seconds}, **columns}
    connection.execute(update(predictions).where(predictions.c.id == turn.number).values(**values))
    return True


def finish(connection: Connection, turn: Turn, state: RunState, **columns: Any) -> bool:
    """Give a request its final state; False when the turn was stale and nothing was written."""
    if not is_current(connection, turn):
        return False
    row = by_id(connection, turn.number)
    seconds = {**row["seconds"], **columns.pop("seconds", {})}
    _move(connection, row, state, finished_at=now(), worker=None, seconds=seconds, **columns)
    return True


def give_up(connection: Connection, number: int, reason: str) -> None:
    """End a request as failed, whoever works on it."""
    _move(connection, by_id(connection, number), RunState.FAILED, finished_at=now(), worker=None, error=reason)


def cancel(connection: Connection, number: int) -> bool:
    """End a request that its caller no longer wants; False when it was over already."""
    row = by_id(connection, number)
    if row["state"] not in UNFINISHED:
        return False
    _move(connection, row, RunState.CANCELLED, finished_at=now(), cancel=True)
    tell(connection, number, "prediction.cancelled")
    return True


def begin_again(connection: Connection, number: int) -> None:
    """Queue a request anew that failed or was cancelled, from its first stage; deaths count anew too."""
    counters = {"child_deaths": 0, "worker_deaths": 0, "cancel": False, "worker": None}
    _move(connection, by_id(connection, number), RunState.QUEUED, stage=FIRST_STAGE, error=None, finished_at=None,
          **counters)  # fmt: skip
    tell(connection, number, "prediction.retried")


def counts(connection: Connection) -> dict[str, int]:
    """How many requests are in each state."""
    found = connection.execute(select(predictions.c.state, func.count()).group_by(predictions.c.state))
    return {str(state): int(number) for state, number in found}


def in_state(connection: Connection, *states: RunState) -> list[RowMapping]:
    """Requests in these states, oldest first."""
    query = select(predictions).where(predictions.c.state.in_([state.value for state in states]))
    return list(connection.execute(query.order_by(predictions.c.id)).mappings())


def count_death(connection: Connection, number: int, column: str) -> int:
    """Add one to `child_deaths` or `worker_deaths`; the new count."""
    counter = predictions.c[column]
    connection.execute(update(predictions).where(predictions.c.id == number).values({column: counter + 1}))
    return int(connection.execute(select(counter).where(predictions.c.id == number)).scalar_one())


def release(connection: Connection, number: int) -> None:
    """No worker holds this request any more."""
    connection.execute(update(predictions).where(predictions.c.id == number).values(worker=None))


def warn(connection: Connection, number: int, text: str) -> None:
    """Add a warning to a request's answer, once."""
    row = by_id(connection, number)
    if text not in row["warnings"]:
        values = {"warnings": [*row["warnings"], text]}
        connection.execute(update(predictions).where(predictions.c.id == number).values(**values))


def warn_study(connection: Connection, study_uid: str, text: str) -> None:
    """Add a warning to every request that a study was uploaded for, and say so in its timeline."""
    for number in connection.execute(select(predictions.c.id).where(predictions.c.study_uid == study_uid)).scalars():
        warn(connection, int(number), text)
        tell(connection, int(number), "prediction.warned", warning=text)


def set_transfer(connection: Connection, number: int, name: str, told: Mapping[str, Any]) -> None:
    """Write how far the results of a request are on their way to one destination."""
    transfers = dict(by_id(connection, number)["transfers"] or {})
    transfers[name] = dict(told)
    connection.execute(update(predictions).where(predictions.c.id == number).values(transfers=transfers))


def finished_before(connection: Connection, moment: str) -> list[RowMapping]:
    """Requests that ended before a moment, oldest first."""
    query = select(predictions).where(predictions.c.finished_at.is_not(None), predictions.c.finished_at < moment)
    return list(connection.execute(query.order_by(predictions.c.id)).mappings())


def forget(connection: Connection, number: int) -> None:
    """Delete a request and its events."""
    connection.execute(delete(prediction_events).where(prediction_events.c.prediction_id == number))
    connection.execute(delete(predictions).where(predictions.c.id == number))


def uploads_in_use(connection: Connection, finished_after: str) -> set[str]:
    """Digests of the uploads that unfinished requests, and those that ended after a moment, are made from."""
    used: set[str] = set()
    for state, finished_at, inputs in connection.execute(
        select(predictions.c.state, predictions.c.finished_at, predictions.c.inputs)
    ):
        if state in UNFINISHED or (finished_at or "") >= finished_after:
            used |= {str(entry["sha256"]) for entry in inputs}
    return used


def tell(connection: Connection, number: int, name: str, **detail: Any) -> None:
    """Write one event of a request; names are in docs/reference/api.md.  Counts and codes only, no patient data."""
    connection.execute(insert(prediction_events).values(prediction_id=number, at=now(), name=name, detail=detail))


def events(connection: Connection, number: int, after: int = 0) -> list[RowMapping]:
    """The events of a request behind an event's id, oldest first."""
    query = select(prediction_events).where(prediction_events.c.prediction_id == number, prediction_events.c.id > after)
    return list(connection.execute(query.order_by(prediction_events.c.id)).mappings())


def other_patients(connection: Connection, pixels_sha256: str, patient_sha256: str, study_uid: str) -> list[str]:
    """Write down who brought these pixels; studies of *other* patients that brought the same, where this is news."""
    known = select(pixels_seen).where(pixels_seen.c.pixels_sha256 == pixels_sha256)
    rows = list(connection.execute(known).mappings())
    if any(row["patient_sha256"] == patient_sha256 and row["study_uid"] == study_uid for row in rows):
        return []
    values = {"pixels_sha256": pixels_sha256, "patient_sha256": patient_sha256, "study_uid": study_uid, "at": now()}
    connection.execute(insert(pixels_seen).values(**values))
    return sorted({row["study_uid"] for row in rows if row["patient_sha256"] != patient_sha256})


def _move(connection: Connection, row: RowMapping, new: RunState, **columns: Any) -> None:
    if not may_move(RunState(row["state"]), new):
        raise IllegalMove(f"prediction: {row['state']} -> {new.value}")
    values = {"state": new.value, **columns}
    if new.value not in UNFINISHED and row["options"].get("callback"):
        # in the transaction that ends the request: whatever dies next, its caller is told
        name = f"{HOOK}{row['options']['callback']}"
        values["transfers"] = {**(values.get("transfers") or row["transfers"] or {}), name: dict(_TO_BE_TOLD)}
    connection.execute(update(predictions).where(predictions.c.id == row["id"]).values(**values))


_TO_BE_TOLD = {"state": DeliveryState.PENDING.value, "tries": 0}
