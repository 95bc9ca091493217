"""What a person may do: release or reject what is held, retry or cancel a job.  Each act is audited with its reason.

Every function changes rows in the caller's writing transaction and returns the jobs that must be put afterwards, as
``(queue, job, key, args)``; keys carry the audit entry's number, so that each act starts its own work exactly once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.record import analyses, circuits, request_actions
from dicom_node.record import deliveries as delivery_queries
from dicom_node.record import runs as run_queries
from dicom_node.record.acts import Job as Job
from dicom_node.record.acts import UnknownItem as UnknownItem
from dicom_node.record.acts import number_of, write_down
from dicom_node.record.runs import move
from dicom_node.record.studies import decide_again
from dicom_node.record.tables import artefacts, cases, deliveries, runs, series, studies
from dicom_node.record.timeline import note
from dicom_node.record.withdrawals import NOTICE, is_withdrawn
from dicom_node.refusals import RefusalCode
from dicom_node.words import CaseState, DeliveryState, RunState

NOT_SENT = (DeliveryState.PENDING, DeliveryState.FAILED, DeliveryState.HELD)


def release(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Let a held study, series, case, delivery or transfer go on.

    Raises
    ------
    UnknownItem
        If nothing of that name is held.
    """
    kind, key = _split(item)
    if kind in request_actions.KINDS:
        return request_actions.release(connection, item, actor, reason)
    if kind in ("study", "series"):
        study_uid = _unhold(connection, kind, key, None)
    elif kind == "case":
        study_uid = _pass_case(connection, key)
    elif kind == "delivery":
        row = _delivery(connection, key, DeliveryState.HELD)
        _is_in_force(connection, row, item)
        move(connection, "delivery", int(key), DeliveryState.PENDING, reason=None, first_tried_at=None)
        circuits.probe_now(connection, row["destination"])
        number = _tell(connection, "held.released", actor, reason, item, row["study_uid"])
        return [_deliver(row, number)]
    else:
        raise UnknownItem(f"{item}: a run is never held; `ai-node jobs retry` starts a failed one again")
    number = _tell(connection, "held.released", actor, reason, item, study_uid)
    return [*_decide(connection, study_uid, number), *_go_on(connection, study_uid, number)]


def reject(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Decide that a held item goes no further; what is stored stays stored, what was published of it is taken back.

    Raises
    ------
    UnknownItem
        If nothing of that name is held.
    """
    kind, key = _split(item)
    if kind in request_actions.KINDS:
        return request_actions.reject(connection, item, actor, reason)
    if kind == "study":
        study_uid = _unhold(connection, kind, key, None)
        connection.execute(update(studies).where(studies.c.uid == study_uid).values(cancelled=True))
        _stop_all(connection, study_uid)
    elif kind == "series":
        study_uid = _unhold(connection, kind, key, "rejected")
    elif kind == "case":
        study_uid = _case(connection, key, CaseState.REFUSED)
    elif kind == "delivery":
        row = _delivery(connection, key, DeliveryState.HELD)
        study_uid = row["study_uid"]
        _no_further(connection, row)
    else:
        raise UnknownItem(f"{item}: a run is never held; `ai-node jobs cancel` stops one")
    number = _tell(connection, "held.rejected", actor, reason, item, study_uid)
    if kind == "delivery":
        return [_deliver(row, number)] if is_withdrawn(connection, row["run_id"]) else []
    # what was published of it and stands no longer is taken back by whoever decides on the study
    return _decide(connection, study_uid, number)


def is_study(connection: Connection, study_uid: str) -> bool:
    """Whether something of a study has been read already."""
    return connection.execute(select(studies.c.uid).where(studies.c.uid == study_uid)).first() is not None


def take_back(connection: Connection, study_uid: str, actor: str, reason: str) -> list[Job]:
    """Take a whole study back, held or not: nothing of it goes on, and what was published of it is withdrawn.

    The reason is a person's own words: it stands in the audit log, and on no timeline.
    """
    row = connection.execute(select(studies).where(studies.c.uid == study_uid)).mappings().one()
    if row["cancelled"]:
        return []
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(cancelled=True, held=None))
    _stop_all(connection, study_uid)
    note(connection, "study.withdrawn", study_uid, actor=actor)
    number = write_down(connection, "study.withdrawn", actor, reason, f"study-{row['public_id']}", study_uid)
    return _decide(connection, study_uid, number)


def retry(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Start a failed or cancelled run, delivery, request or transfer again.

    Raises
    ------
    UnknownItem
        If there is no such job, or it has not failed.
    """
    kind, key = _split(item)
    if kind in request_actions.KINDS:
        return request_actions.retry(connection, item, actor, reason)
    if kind == "analysis":
        return _bring_again(connection, item, number_of(key), actor, reason)
    _is_job(kind, item)
    if kind == "run":
        row = connection.execute(select(runs).where(runs.c.id == number_of(key))).mappings().first()
        if row is None or row["state"] not in (RunState.FAILED.value, RunState.CANCELLED.value):
            raise UnknownItem(f"{item}: no failed or cancelled run of that name; `ai-node jobs list` shows them")
        _is_wanted(connection, row["study_uid"], item)
        move(connection, "run", row["id"], RunState.QUEUED, error=None, child_deaths=0, worker_deaths=0, cancel=False)
        number = _tell(connection, "job.retried", actor, reason, item, row["study_uid"])
        return [("model", "infer", f"infer/{row['id']}/retry-{number}", (row["id"],))]
    found = _delivery(connection, key, DeliveryState.FAILED, DeliveryState.CANCELLED, DeliveryState.PENDING)
    _is_in_force(connection, found, item)
    if is_withdrawn(connection, found["run_id"]):
        move(connection, "delivery", found["id"], DeliveryState.PENDING, reason=None, first_tried_at=None)
    else:
        _is_wanted(connection, found["study_uid"], item)
        # the objects of a result go together: what was taken back with this one is open again with it
        again = {DeliveryState.FAILED, DeliveryState.CANCELLED}
        whole = (connection, found["run_id"], again, DeliveryState.PENDING, found["destination"])
        delivery_queries.set_all(*whole, reason=None, first_tried_at=None)
    circuits.probe_now(connection, found["destination"])
    number = _tell(connection, "job.retried", actor, reason, item, found["study_uid"])
    return [_deliver(found, number)]


def _bring_again(connection: Connection, item: str, key: int, actor: str, reason: str) -> list[Job]:
    """A photograph that never reached the road is brought to the door again."""
    if not analyses.set_received(connection, key):
        raise UnknownItem(f"{item}: no failed analysis whose photograph is kept; `ai-node jobs list` shows them")
    number = write_down(connection, "job.retried", actor, reason, item, None)
    return [("photos", "submit", f"submit/{key}/retry-{number}", (key, 0))]


def cancel(connection: Connection, item: str, actor: str, reason: str) -> list[Job]:
    """Stop a run, delivery, request or transfer; a step that is running finishes, and its effects no longer count.

    Raises
    ------
    UnknownItem
        If there is no such job, or it is over.
    """
    kind, key = _split(item)
    if kind in request_actions.KINDS:
        return request_actions.cancel(connection, item, actor, reason)
    _is_job(kind, item)
    if kind == "run":
        row = connection.execute(select(runs).where(runs.c.id == number_of(key))).mappings().first()
        if row is None or row["state"] not in (RunState.QUEUED.value, RunState.RUNNING.value):
            raise UnknownItem(f"{item}: no running or queued run of that name; `ai-node jobs list` shows them")
        move(connection, "run", row["id"], RunState.CANCELLED, cancel=True)
        study_uid = row["study_uid"]
    else:
        found = _delivery(connection, key, *NOT_SENT)
        _no_further(connection, found)
        study_uid = found["study_uid"]
    number = _tell(connection, "job.cancelled", actor, reason, item, study_uid)
    return [_deliver(found, number)] if kind == "delivery" and is_withdrawn(connection, found["run_id"]) else []


def _no_further(connection: Connection, row: dict[str, Any]) -> None:
    """A delivery goes no further; nor does what would follow it, because a result is complete or absent.

    Of a withdrawn run only this one: what else of it is to be taken back, is.
    """
    if is_withdrawn(connection, row["run_id"]):
        move(connection, "delivery", row["id"], DeliveryState.CANCELLED)
        return
    delivery_queries.set_all(connection, row["run_id"], NOT_SENT, DeliveryState.CANCELLED, row["destination"])


def _split(item: str) -> tuple[str, str]:
    kind, _, key = item.partition("-")
    known = ("study", "series", "case", "delivery", "run", "analysis", *request_actions.KINDS)
    if kind not in known or not key:
        raise UnknownItem(f"{item}: expected {', '.join(f'{one}-…' for one in known)} as the lists print them")
    return kind, key


def _is_job(kind: str, item: str) -> None:
    if kind not in ("run", "delivery"):
        raise UnknownItem(
            f"{item}: expected run-…, delivery-…, request-… or transfer-…, as `ai-node jobs list` prints them"
        )


def _is_wanted(connection: Connection, study_uid: str, item: str) -> None:
    if connection.execute(select(studies.c.cancelled).where(studies.c.uid == study_uid)).scalar_one():
        raise UnknownItem(f"{item}: its study was rejected; nothing of it is started again")


def _is_in_force(connection: Connection, row: dict[str, Any], item: str) -> None:
    """Nothing of a superseded or cancelled run is sent by hand: a newer result stands, or none was wanted.

    But for what withdraws it, and for an object that is looked for before that.
    """
    if row["removed_at"]:
        raise UnknownItem(f"{item}: its object was deleted by retention on {row['removed_at'][:10]}; nothing is left")
    is_looked_for = row["kind"] == NOTICE or row["state"] != DeliveryState.CANCELLED.value
    if is_looked_for and is_withdrawn(connection, row["run_id"]):
        return
    if row["run_state"] != RunState.BUILT.value:
        raise UnknownItem(f"{item}: its run is {row['run_state']}; nothing of it is sent any more")


def _unhold(connection: Connection, kind: str, public_id: str, mark: str | None) -> str:
    """Take a hold away; with a mark it stays, decided, and no list shows it any more."""
    table = studies if kind == "study" else series
    row = connection.execute(select(table).where(table.c.public_id == public_id)).mappings().first()
    if row is None or not row["held"] or row["held"].get("rejected"):
        raise UnknownItem(f"{kind}-{public_id}: not held; `ai-node held list` shows what is")
    left = None if mark is None else {**row["held"], mark: True}
    again = {"reader_deaths": 0} if kind == "study" else {}
    connection.execute(update(table).where(table.c.public_id == public_id).values(held=left, **again))
    return str(row["uid"] if kind == "study" else row["study_uid"])


def _case(connection: Connection, key: str, new: CaseState) -> str:
    row = connection.execute(select(cases).where(cases.c.id == number_of(key))).mappings().first()
    if row is None or row["state"] != CaseState.HELD.value:
        raise UnknownItem(f"case-{key}: not held; `ai-node held list` shows what is")
    move(connection, "case", int(key), new)
    return str(row["study_uid"])


def _pass_case(connection: Connection, key: str) -> str:
    """Let a case pass whose series name their patient differently: a person has seen that they are one."""
    row = connection.execute(select(cases).where(cases.c.id == number_of(key))).mappings().first()
    code = None if row is None else (row["refusal"] or {}).get("code")
    if row is not None and row["state"] == CaseState.HELD.value and code != RefusalCode.PATIENT_CONFLICT.value:
        raise UnknownItem(f"case-{key}: it waits for a series that is held: release or reject that one")
    study_uid = _case(connection, key, CaseState.WAITING)
    passed = {**dict(row["refusal"] if row is not None else {}), "passed": True}
    connection.execute(update(cases).where(cases.c.id == number_of(key)).values(refusal=passed))
    return study_uid


def _decide(connection: Connection, study_uid: str, number: int) -> list[Job]:
    decide_again(connection, study_uid)
    return [("cpu", "read", f"route/{number}", ("study", study_uid))]


def _go_on(connection: Connection, study_uid: str, number: int) -> list[Job]:
    """Runs and deliveries that stood still while the study was held."""
    unfinished = [row for row in run_queries.unfinished_runs(connection) if row["study_uid"] == study_uid]
    jobs: list[Job] = [("model", "infer", f"infer/{row['id']}/act-{number}", (row["id"],)) for row in unfinished]
    for run_id, name in delivery_queries.open_pairs(connection):
        if delivery_queries.study_of(connection, run_id) == study_uid:
            jobs.append(_deliver({"run_id": run_id, "destination": name}, number))
    return jobs


def _stop_all(connection: Connection, study_uid: str) -> None:
    """A rejected study goes no further: its runs end, and what has not left the node stays in it."""
    for row in connection.execute(select(runs).where(runs.c.study_uid == study_uid)).mappings().all():
        if row["state"] in (RunState.QUEUED.value, RunState.RUNNING.value):
            move(connection, "run", row["id"], RunState.CANCELLED, cancel=True)
        delivery_queries.set_all(connection, row["id"], NOT_SENT, DeliveryState.CANCELLED)


def _delivery(connection: Connection, key: str, *states: DeliveryState) -> dict[str, Any]:
    query = (
        select(deliveries, runs.c.study_uid, runs.c.state.label("run_state"), artefacts.c.kind, artefacts.c.removed_at)
        .join(runs, runs.c.id == deliveries.c.run_id)
        .join(artefacts, artefacts.c.id == deliveries.c.artefact_id)
        .where(deliveries.c.id == number_of(key), deliveries.c.state.in_([s.value for s in states]))
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
    note(connection, action, study_uid, item=item, actor=actor, reason=reason)
    return write_down(connection, action, actor, reason, item, study_uid)
