"""What a person may do: release or reject what is held, retry or cancel a job.  Each act is audited with its reason.

Every function changes rows in the caller's writing transaction and returns the jobs that must be put afterwards, as
``(queue, job, key, args)``; keys carry the audit entry's number, so that each act starts its own work exactly once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.record import audit
from dicom_node.record import deliveries as delivery_queries
from dicom_node.record.runs import move
from dicom_node.record.tables import cases, deliveries, runs, series, studies
from dicom_node.record.timeline import note
from dicom_node.words import CaseState, DeliveryState, RunState

Job = tuple[str, str, str, tuple[Any, ...]]


class UnknownItem(LookupError):
    """There is no such study, job or held item, or it is not in a state in which this can be done to it."""


def release(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Let a held study, series, case or delivery go on.

    Raises
    ------
    UnknownItem
        If nothing of that name is held.
    """
    kind, key = _split(item)
    if kind in ("study", "series"):
        study_uid = _unhold(connection, kind, key)
    elif kind == "case":
        study_uid = _case(connection, key, CaseState.READY)
    else:
        row = _delivery(connection, key, DeliveryState.HELD)
        move(connection, "delivery", int(key), DeliveryState.PENDING, reason=None, first_tried_at=None)
        number = _tell(connection, "held.released", actor, reason, item, row["study_uid"])
        return [_deliver(row, number)]
    number = _tell(connection, "held.released", actor, reason, item, study_uid)
    return [("cpu", "read", f"route/{number}", ("study", study_uid))]


def reject(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Decide that a held item goes no further; what is stored stays stored.

    Raises
    ------
    UnknownItem
        If nothing of that name is held.
    """
    kind, key = _split(item)
    if kind in ("study", "series"):
        study_uid = _unhold(connection, kind, key)
        if kind == "study":
            connection.execute(update(studies).where(studies.c.uid == study_uid).values(cancelled=True))
        else:
            connection.execute(update(series).where(series.c.public_id == key).values(role="rejected"))
    elif kind == "case":
        study_uid = _case(connection, key, CaseState.REFUSED)
    else:
        row = _delivery(connection, key, DeliveryState.HELD)
        study_uid = row["study_uid"]
        rest = delivery_queries.of_run(connection, row["run_id"], row["destination"])
        for other in rest:
            if other["state"] in (DeliveryState.HELD.value, DeliveryState.PENDING.value):
                move(connection, "delivery", other["id"], DeliveryState.CANCELLED)
    _tell(connection, "held.rejected", actor, reason, item, study_uid)
    return []


def retry(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Start a failed or cancelled run or delivery again.

    Raises
    ------
    UnknownItem
        If there is no such job, or it has not failed.
    """
    kind, key = _split(item)
    if kind == "run":
        row = connection.execute(select(runs).where(runs.c.id == _number(key))).mappings().first()
        if row is None or row["state"] not in (RunState.FAILED.value, RunState.CANCELLED.value):
            raise UnknownItem(f"{item}: no failed or cancelled run of that name; `ai-node jobs list` shows them")
        move(connection, "run", row["id"], RunState.QUEUED, error=None, child_deaths=0, worker_deaths=0, cancel=False)
        number = _tell(connection, "job.retried", actor, reason, item, row["study_uid"])
        return [("model", "infer", f"infer/{row['id']}/retry-{number}", (row["id"],))]
    found = _delivery(connection, key, DeliveryState.FAILED, DeliveryState.CANCELLED, DeliveryState.PENDING)
    if found["state"] != DeliveryState.PENDING.value:
        move(connection, "delivery", int(key), DeliveryState.PENDING, reason=None, first_tried_at=None)
    number = _tell(connection, "job.retried", actor, reason, item, found["study_uid"])
    return [_deliver(found, number)]


def cancel(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Stop a run or delivery; a step that is running finishes, and its effects no longer count.

    Raises
    ------
    UnknownItem
        If there is no such job, or it is over.
    """
    kind, key = _split(item)
    if kind == "run":
        row = connection.execute(select(runs).where(runs.c.id == _number(key))).mappings().first()
        if row is None or row["state"] not in (RunState.QUEUED.value, RunState.RUNNING.value):
            raise UnknownItem(f"{item}: no running or queued run of that name; `ai-node jobs list` shows them")
        move(connection, "run", row["id"], RunState.CANCELLED, cancel=True)
        study_uid = row["study_uid"]
    else:
        found = _delivery(connection, key, DeliveryState.PENDING, DeliveryState.FAILED, DeliveryState.HELD)
        move(connection, "delivery", int(key), DeliveryState.CANCELLED)
        study_uid = found["study_uid"]
    _tell(connection, "job.cancelled", actor, reason, item, study_uid)
    return []


def _split(item: str) -> tuple[str, str]:
    kind, _, key = item.partition("-")
    if kind not in ("study", "series", "case", "delivery", "run") or not key:
        raise UnknownItem(f"{item}: expected study-…, series-…, case-…, delivery-… or run-…, as the lists print them")
    return kind, key


def _number(key: str) -> int:
    if not key.isdigit():
        raise UnknownItem(f"{key}: expected a number")
    return int(key)


def _unhold(connection: Connection, kind: str, public_id: str) -> str:
    table = studies if kind == "study" else series
    row = connection.execute(select(table).where(table.c.public_id == public_id)).mappings().first()
    if row is None or not row["held"]:
        raise UnknownItem(f"{kind}-{public_id}: not held; `ai-node held list` shows what is")
    connection.execute(update(table).where(table.c.public_id == public_id).values(held=None))
    return str(row["uid"] if kind == "study" else row["study_uid"])


def _case(connection: Connection, key: str, new: CaseState) -> str:
    row = connection.execute(select(cases).where(cases.c.id == _number(key))).mappings().first()
    if row is None or row["state"] != CaseState.HELD.value:
        raise UnknownItem(f"case-{key}: not held; `ai-node held list` shows what is")
    move(connection, "case", int(key), new)
    return str(row["study_uid"])


def _delivery(connection: Connection, key: str, *states: DeliveryState) -> dict[str, Any]:
    query = (
        select(deliveries, runs.c.study_uid)
        .join(runs, runs.c.id == deliveries.c.run_id)
        .where(deliveries.c.id == _number(key), deliveries.c.state.in_([s.value for s in states]))
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        expected = ", ".join(s.value for s in states)
        raise UnknownItem(f"delivery-{key}: expected a delivery that is {expected}")
    return dict(row)


def _deliver(row: dict[str, Any], number: int) -> Job:
    name = row["destination"]
    return f"out-{name}", "deliver", f"deliver/{row['run_id']}/{name}/act-{number}", (row["run_id"], name, 0)


def _tell(connection: Connection, action: str, actor: str, reason: str, item: str, study_uid: str) -> int:
    audit.append(connection, actor, action, study_uid, item=item, reason=reason)
    note(connection, action, study_uid, item=item, actor=actor, reason=reason)
    return audit.head(connection)[0]
