"""Deliver: one run's objects go to one destination and are then seen there (queue `out-<destination>`).

A destination that is down holds only its own queue; inference is never repeated for it (I26).  Every try is counted
before it is made.  Peers that are down or slow are tried again with back-off; what needs a person is *held*.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from dicom_node import delivery, files
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import deliveries, now, runs
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.record.timeline import note
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.settings import CStoreDestination, FolderDestination, StowDestination, read_secret
from dicom_node.stages.context import Tools
from dicom_node.stages.destinations import OWN_ENDPOINT, is_report, waits_for
from dicom_node.stages.report import publish_own, publish_to_server
from dicom_node.words import DeliveryState

log = structlog.get_logger()

_jitter = random.SystemRandom()
OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)


def deliver(tools: Tools, run_id: int, name: str, attempt: int) -> list[Put]:
    """Send what is still open of one run to one destination, in order; then start those that waited for it."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        case = runs.row(connection, cases, run["case_id"])
        rows = deliveries.of_run(connection, run_id, name)
        if run["cancel"] or not is_due(tools, connection, run_id, name):
            return []
    for row in rows:
        if row["state"] not in OPEN:
            if row["state"] == DeliveryState.CONFIRMED.value:
                continue
            return []  # held, failed or cancelled: nothing after it may go before a person has decided
        with tools.database.write() as connection:
            tries = deliveries.begin_try(connection, row["id"])
        reach("K13")
        try:
            confirmation = _send(tools, run_id, name, row, tries=tries)
        except PeerTrouble as trouble:
            return _later(tools, row, run["study_uid"], name, trouble, attempt, case["priority"])
        except Refused as refused:
            _hold(tools, row, run["study_uid"], name, refused)
            return []
        reach("K15")
        with tools.database.write() as connection:
            runs.move(
                connection,
                "delivery",
                row["id"],
                DeliveryState.CONFIRMED,
                confirmed_at=now(),
                confirmation=confirmation,
                next_try_at=None,
                reason=None,
            )
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
    """Whether every destination that this one waits for has confirmed everything."""
    names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
    needs = waits_for(tools.settings, name, names)
    return all(deliveries.is_confirmed(connection, run_id, other) for other in needs)


def _send(tools: Tools, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
    if is_report(tools.settings, name):
        if name == OWN_ENDPOINT:
            return publish_own(tools, run_id)
        return publish_to_server(tools, run_id, name)
    data = files.load(tools.artefact_folder, row["path"], row["sha256"])
    outgoing = delivery.OutgoingObject.read(data, row["sha256"])
    confirmed = delivery.send(outgoing, target(tools, name), attempt=tries)
    reach("K14")
    return {
        "seen": confirmed.seen.value,
        "was_already_there": confirmed.was_already_there,
        "answer": confirmed.answer,
        "coerced": list(confirmed.coerced),
        "sha256": confirmed.sha256,
    }


def target(tools: Tools, name: str) -> delivery.Target:
    """The room's own target for a configured destination; secrets are read when they are needed."""
    settings = tools.settings.destinations[name]
    if isinstance(settings, StowDestination):
        return delivery.StowTarget(
            url=settings.url,
            username=settings.username,
            secret=_secret(settings),
            insecure_ok_because=settings.insecure_ok_because,
            timeout_s=settings.timeout_s,
        )
    if isinstance(settings, CStoreDestination):
        verify = delivery.StowTarget(url=settings.verify_url) if settings.verify_url else None
        return delivery.CStoreTarget(
            host=settings.host,
            port=settings.port,
            ae_title=settings.ae_title,
            calling_ae_title=tools.settings.node.ae_title,
            insecure_ok_because=settings.insecure_ok_because,
            timeout_s=settings.timeout_s,
            verify=verify,
        )
    if isinstance(settings, FolderDestination):
        return delivery.FolderTarget(settings.path)
    raise TypeError(f"destination {name!r} takes no DICOM objects")


def _secret(settings: StowDestination) -> Callable[[], str] | None:
    path = settings.password_file
    return None if path is None else lambda: read_secret(path)


def _later(
    tools: Tools, row: Any, study_uid: str, name: str, trouble: PeerTrouble, attempt: int, priority: int
) -> list[Put]:
    settings = tools.settings.destinations.get(name)
    first, cap, span_h = (
        (5.0, 1800.0, 72.0)
        if settings is None
        else (settings.retry_first_s, settings.retry_cap_s, settings.retry_span_h)
    )
    since = datetime.fromisoformat(row["first_tried_at"] or now())
    over = datetime.fromisoformat(now()) - since > timedelta(hours=span_h)
    delay = delivery.backoff(attempt + 1, first, cap, _jitter, retry_after_s=trouble.retry_after_s)
    reason = {"peer": str(trouble), "next_in_s": None if over else round(delay, 1)}
    with tools.database.write() as connection:
        state = DeliveryState.HELD if over else DeliveryState.PENDING
        next_at = (datetime.fromisoformat(now()) + timedelta(seconds=delay)).isoformat(timespec="microseconds")
        runs.move(connection, "delivery", row["id"], state, reason=reason, next_try_at=None if over else next_at)
        event = "delivery.held" if over else "delivery.later"
        note(connection, event, study_uid, run_id=row["run_id"], destination=name, object=row["kind"], reason=reason)
    if over:
        return []
    key = f"deliver/{row['run_id']}/{name}/{attempt + 1}"
    args = (row["run_id"], name, attempt + 1)
    return [Put(f"out-{name}", "deliver", key, args, priority, delay_s=delay)]


def _hold(tools: Tools, row: Any, study_uid: str, name: str, refused: Refused) -> None:
    reason = refused.refusal.to_json()
    with tools.database.write() as connection:
        runs.move(connection, "delivery", row["id"], DeliveryState.HELD, reason=reason)
        note(
            connection,
            "delivery.held",
            study_uid,
            run_id=row["run_id"],
            destination=name,
            object=row["kind"],
            refusal=reason,
        )


def _next(tools: Tools, run_id: int, name: str, priority: int) -> list[Put]:
    """Delivery jobs of the destinations that waited for this one and now wait for none."""
    with tools.database.read() as connection:
        names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
        confirmed = {other for other in names if deliveries.is_confirmed(connection, run_id, other)}
    ready = []
    for other in sorted(names - confirmed):
        needs = waits_for(tools.settings, other, names)
        if name in needs and needs <= confirmed:
            ready.append(Put(f"out-{other}", "deliver", f"deliver/{run_id}/{other}/0", (run_id, other, 0), priority))
    return ready
