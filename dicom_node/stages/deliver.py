"""Deliver: one run's objects go to one destination and are then seen there (queue `out-<destination>`).

A destination that is down holds only its own queue; inference is never repeated for it (I26).  When it failed often
in a row its circuit opens, and nothing but one probe at a time is tried (`record.circuits`).  Every try is counted
before it is made.  Peers that are down or slow are tried again with back-off; what needs a person is *held*; a fault of
ours ends the delivery as *failed*, visibly.  What is left to send of a superseded run goes before its successor's
objects, because the successor's rejection names it; its report goes nowhere any more (I19).  Of a withdrawn run only
what may have arrived is brought to an end, and then the notice of its withdrawal.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dicom_node import delivery, files
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import deliveries, now, removals, runs, studies, withdrawals
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.record.timeline import note
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.settings import FileDestination, SettingsRefused
from dicom_node.stages import circuit
from dicom_node.stages.context import Tools
from dicom_node.stages.destinations import OWN_ENDPOINT, is_report, waits_for
from dicom_node.stages.exports import file_name, outgoing_file
from dicom_node.stages.report import publish_own, publish_to_server
from dicom_node.stages.targets import target
from dicom_node.stages.withdraw import rejection
from dicom_node.words import DeliveryState, RunState

log = structlog.get_logger()

_jitter = random.SystemRandom()
OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
CANCELLED, CONFIRMED = DeliveryState.CANCELLED.value, DeliveryState.CONFIRMED.value
NOTHING_THERE = "nothing"
"""What was seen of a withdrawn result at a destination that never held any of it."""


def deliver(tools: Tools, run_id: int, name: str, attempt: int) -> list[Put]:
    """Send what is still open of one run to one destination, in order; then start those that waited for it."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        case = runs.row(connection, cases, run["case_id"])
        study = studies.study_row(connection, run["study_uid"])
        rows = deliveries.of_run(connection, run_id, name)
        withdrawn = withdrawals.is_withdrawn(connection, run_id)
        stopped = run["cancel"] or study["held"] or (study["cancelled"] and not withdrawn)
        if stopped or not is_due(tools, connection, run_id, name):
            return []
    if run["state"] == RunState.SUPERSEDED.value and is_report(tools.settings, name):
        with tools.database.write() as connection:
            withdraw_reports(tools, connection, run_id, in_flight=name)
            rows = deliveries.of_run(connection, run_id, name)
        if not withdrawn:
            return _next(tools, run_id, name, case["priority"])
    for row in rows:
        if row["state"] not in OPEN:
            if row["state"] == DeliveryState.CONFIRMED.value or (withdrawn and row["state"] == CANCELLED):
                continue
            return []  # held, failed or cancelled: nothing after it may go before a person has decided
        with tools.database.write() as connection:
            until = circuit.again_at(tools, connection, name)
            tries = None if until is not None else deliveries.begin_try(connection, row["id"])
        if until is not None:
            return _postpone(tools, row, run["study_uid"], name, until, attempt, case["priority"])
        if tries is None:
            return []
        reach("K13")
        try:
            confirmation = _send(tools, run_id, name, row, tries=tries)
        except PeerTrouble as trouble:
            circuit.count(tools, name, trouble)
            return _later(tools, row, run["study_uid"], name, trouble, attempt, tries, case["priority"])
        except Refused as refused:
            circuit.count(tools, name, refused)
            if withdrawn and row["kind"] != withdrawals.NOTICE:
                # looked for once more, and not there: nothing to take back, and no more to be sent
                _stop(tools, row, run["study_uid"], name, DeliveryState.CANCELLED, refused.refusal.to_json())
                continue
            _stop(tools, row, run["study_uid"], name, DeliveryState.HELD, refused.refusal.to_json())
            return _next(tools, run_id, name, case["priority"])
        except OperationalError:  # of the record itself: the row stays open, and the reconciler comes back to it
            raise
        except Exception as fault:  # the job's boundary: never left in `sending` without a word
            log.exception("delivery.fault", run=run_id, destination=name)
            told = str(fault) if isinstance(fault, SettingsRefused) else f"{type(fault).__name__}; see the worker's log"
            _stop(tools, row, run["study_uid"], name, DeliveryState.FAILED, {"fault": told})
            return _next(tools, run_id, name, case["priority"])
        reach("K15")
        with tools.database.write() as connection:
            confirmed = deliveries.end_try(
                connection,
                row["id"],
                DeliveryState.CONFIRMED,
                confirmed_at=now(),
                confirmation=confirmation,
                next_try_at=None,
                reason=None,
            )
            circuit.answered(tools, connection, name)
            if not confirmed:
                return []
            note(
                connection,
                "delivery.confirmed",
                run["study_uid"],
                run_id=run_id,
                destination=name,
                object=row["kind"],
                tries=tries,
                seen=confirmation.get("seen", ""),
            )
    reach("K17")
    return _next(tools, run_id, name, case["priority"])


def is_due(tools: Tools, connection: Connection, run_id: int, name: str) -> bool:
    """Whether every destination that this one waits for has confirmed everything, and what the run replaces is out."""
    names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
    # what is taken back waits for nobody
    needs = set() if withdrawals.is_withdrawn(connection, run_id) else waits_for(tools.settings, name, names)
    if not all(deliveries.is_confirmed(connection, run_id, other) for other in needs):
        return False
    older = runs.run_row(connection, run_id)["predecessor_run"]
    return older is None or not deliveries.is_open(connection, int(older), name)


def withdraw_reports(tools: Tools, connection: Connection, run_id: int, *, in_flight: str = "") -> None:
    """Take back what a superseded run has not told anybody yet: no report of it may follow its successor's.

    `in_flight`: the destination whose queue the caller holds; there also what is in state *sending*.
    """
    names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
    for name in sorted(n for n in names if is_report(tools.settings, n)):
        waiting = {DeliveryState.PENDING, DeliveryState.HELD, DeliveryState.FAILED}
        waiting |= {DeliveryState.SENDING} if name == in_flight else set()
        deliveries.set_all(connection, run_id, waiting, DeliveryState.CANCELLED, name)


def _send(tools: Tools, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
    is_notice = row["kind"] == withdrawals.NOTICE
    if is_report(tools.settings, name):
        if name == OWN_ENDPOINT:
            return publish_own(tools, run_id, withdrawn=is_notice)
        return publish_to_server(tools, run_id, name, withdrawn=is_notice)
    outgoing = _outgoing(tools, run_id, name, row, is_notice=is_notice)
    if outgoing is None:
        return {"seen": NOTHING_THERE}
    confirmed = delivery.send(outgoing, target(tools.settings, name), attempt=tries)
    reach("K14")
    return {
        "seen": confirmed.seen.value,
        "was_already_there": confirmed.was_already_there,
        "answer": confirmed.answer,
        "coerced": list(confirmed.coerced),
        "sha256": confirmed.sha256,
        **({"file": outgoing.name} if isinstance(outgoing, delivery.OutgoingFile) else {}),
    }


def _outgoing(
    tools: Tools, run_id: int, name: str, row: Any, *, is_notice: bool
) -> delivery.OutgoingObject | delivery.OutgoingFile | None:
    """What is sent for one row; None where there is nothing to take back."""
    destination = tools.settings.destinations[name]
    if not isinstance(destination, FileDestination):
        if is_notice:
            made = rejection(tools, run_id, name)
            return None if made is None else delivery.OutgoingObject.read(*made)
        data = files.load(tools.artefact_folder, *removals.place(row))
        return delivery.OutgoingObject.read(data, str(row["sha256"]))
    with tools.database.read() as connection:
        if not is_notice:
            return outgoing_file(tools, connection, run_id, destination, row)
        stem = file_name(tools, connection, run_id, destination, row["kind"])
        has_some = any(r["state"] == CONFIRMED for r in deliveries.of_run(connection, run_id, name))
    made = rejection(tools, run_id, name)
    if made is not None:
        return delivery.OutgoingFile.named(f"{stem}.dcm", *made)
    if not has_some:
        return None
    # no DICOM object lies there, and so none can be rejected by one: the notice itself says it
    data = files.load(tools.artefact_folder, *removals.place(row))
    return delivery.OutgoingFile.named(f"{stem}.json", data, str(row["sha256"]))


def _postpone(
    tools: Tools, row: Any, study_uid: str, name: str, until: datetime, attempt: int, priority: int
) -> list[Put]:
    """Come back when the circuit lets the next probe through; nothing was tried, and the span of retries runs on.

    Of a destination that a person has paused it does not: only that person can tell how long it lasts.
    """
    delay = circuit.pause_s(until)
    paused = circuit.is_paused(tools, name)
    over = not paused and _is_over(tools, name, row)
    reason = {"circuit": "paused" if paused else "open", "next_in_s": None if over or paused else round(delay, 1)}
    with tools.database.write() as connection:
        if over:
            runs.move(connection, "delivery", row["id"], DeliveryState.HELD, reason=reason, next_try_at=None)
            note(connection, "delivery.held", study_uid, run_id=row["run_id"], destination=name, object=row["kind"],
                 reason=reason)  # fmt: skip
        else:
            deliveries.postpone(connection, row["id"], next_try_at=until, reason=reason)
            if "circuit" not in (row["reason"] or {}):  # once, not at every probe of somebody else
                note(connection, "delivery.postponed", study_uid, run_id=row["run_id"], destination=name,
                     object=row["kind"], reason=reason)  # fmt: skip
    if over:
        return _next(tools, row["run_id"], name, priority)
    key = f"deliver/{row['run_id']}/{name}/{row['id']}-postponed-{now()}"
    return [Put(f"out-{name}", "deliver", key, (row["run_id"], name, attempt), priority, delay_s=delay)]


def _is_over(tools: Tools, name: str, row: Any) -> bool:
    """Whether a delivery was tried, or waited for its destination, for longer than its span."""
    settings = tools.settings.destinations.get(name)
    since = datetime.fromisoformat(row["first_tried_at"] or now())
    return datetime.fromisoformat(now()) - since > timedelta(hours=72.0 if settings is None else settings.retry_span_h)


def _later(
    tools: Tools, row: Any, study_uid: str, name: str, trouble: PeerTrouble, attempt: int, tries: int, priority: int
) -> list[Put]:
    settings = tools.settings.destinations.get(name)
    first, cap = (5.0, 1800.0) if settings is None else (settings.retry_first_s, settings.retry_cap_s)
    over = _is_over(tools, name, row)
    delay = delivery.backoff(attempt + 1, first, cap, _jitter, retry_after_s=trouble.retry_after_s)
    reason = {"peer": str(trouble), "next_in_s": None if over else round(delay, 1)}
    with tools.database.write() as connection:
        state = DeliveryState.HELD if over else DeliveryState.PENDING
        next_at = (datetime.fromisoformat(now()) + timedelta(seconds=delay)).isoformat(timespec="microseconds")
        if not deliveries.end_try(connection, row["id"], state, reason=reason, next_try_at=None if over else next_at):
            return []
        event = "delivery.held" if over else "delivery.later"
        note(connection, event, study_uid, run_id=row["run_id"], destination=name, object=row["kind"], reason=reason)
    if over:
        return _next(tools, row["run_id"], name, priority)
    # the row's own count makes the key new after a release or a retry, where `attempt` begins again
    key = f"deliver/{row['run_id']}/{name}/{row['id']}-{tries}"
    args = (row["run_id"], name, attempt + 1)
    return [Put(f"out-{name}", "deliver", key, args, priority, delay_s=delay)]


def _stop(tools: Tools, row: Any, study_uid: str, name: str, state: DeliveryState, reason: dict[str, Any]) -> None:
    with tools.database.write() as connection:
        if not deliveries.end_try(connection, row["id"], state, reason=reason, next_try_at=None):
            return
        note(
            connection,
            f"delivery.{state.value}",
            study_uid,
            run_id=row["run_id"],
            destination=name,
            object=row["kind"],
            reason=reason,
        )


def _next(tools: Tools, run_id: int, name: str, priority: int) -> list[Put]:
    """Delivery jobs that waited for this one and now wait for none: other destinations, and the run's successor."""
    with tools.database.read() as connection:
        run = runs.run_row(connection, run_id)
        names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
        waiting = [(run_id, other) for other in sorted(names) if name in waits_for(tools.settings, other, names)]
        if run["superseded_by"] is not None:
            waiting.append((int(run["superseded_by"]), name))
        ready = [
            (number, other)
            for number, other in waiting
            if deliveries.is_open(connection, number, other) and is_due(tools, connection, number, other)
        ]
        count = run["current_attempt"]
    return [
        Put(
            f"out-{other}", "deliver", f"deliver/{number}/{other}/{run_id}-{name}-{count}", (number, other, 0), priority
        )
        for number, other in ready
    ]
