"""Transfer: what came of a request goes to the configured destinations that its caller named (queue `out-<name>`).

An archive gets the DICOM objects, a file destination the kinds that its `objects` names.  A destination that is down is
tried again with back-off for its `retry_span_h`, and left alone while its circuit is open; what needs a person is
*held*, and the answer says so.  Inference is never repeated for it (I26).  The call to a webhook goes the same way.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import RowMapping

from dicom_node import delivery
from dicom_node.durable import Put
from dicom_node.record import now, predictions, transfers
from dicom_node.record.transfers import CONFIRMED, FAILED, HELD, PENDING
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.routing.gate import Channel
from dicom_node.sealing import at_rest
from dicom_node.settings import FileDestination, Settings
from dicom_node.stages import circuit
from dicom_node.stages.callback import finished_call
from dicom_node.stages.context import Tools
from dicom_node.stages.prediction_words import takes_results
from dicom_node.stages.publication import holds
from dicom_node.stages.targets import target, webhook_target
from dicom_node.words import HOOK

log = structlog.get_logger()

NOT_CONFIGURED = "it is not configured any more"
_ARCHIVED = ("photo.dcm", "seg.dcm", "pdf.dcm", "sc.dcm", "sr.dcm")
_KINDS = {
    "seg": "seg.dcm",
    "pdf": "pdf.dcm",
    "sc": "sc.dcm",
    "sr": "sr.dcm",
    "mask": "mask.nii.gz",
    "report": "report.pdf",
    "overlay": "overlay.png",
    "result": "result.json",
}
_jitter = random.SystemRandom()


def first_transfers(
    tools: Tools, wanted: list[str], attributes: Mapping[str, Any], study_uid: str
) -> dict[str, dict[str, Any]]:
    """How the transfers of a request begin: pending, or held where images of this kind are not published at all."""
    barred = [h.reason for h in holds(tools, attributes, study_uid) if Channel.PACS in h.closes] if study_uid else []
    begun: dict[str, Any] = (
        {"state": PENDING, "tries": 0} if not barred else {"state": HELD, "tries": 0, "reasons": barred}
    )
    return {name: {**begun, "tries": 0} for name in wanted}


def _put(row: RowMapping, name: str, what: str, delay_s: float = 0.0) -> Put:
    key, args = f"predict/{row['id']}/{what}", (row["id"], "send", name)
    return Put(f"out-{name}", "predict", key, args, row["priority"], delay_s)


def transfer(tools: Tools, number: int, name: str) -> list[Put]:
    """Send what one destination is to have of a request, once; the next try where it is down."""
    with tools.database.write() as connection:
        found = transfers.waiting(connection, number, name)
        if found is None:
            return []
        row = found.row
        until = circuit.again_at(tools, connection, name)
        if until is None:
            told = transfers.begin_try(connection, found, tools.worker)
    if until is not None:
        return _postpone(tools, row, name, {**found.told, "since": found.told.get("since") or now()}, until)
    try:
        if not is_peer(tools.settings, name):
            return _end(tools, number, name, {**told, "state": HELD, "reasons": [NOT_CONFIGURED]})
        sent = _sent(tools, row, name, told["tries"])
    except PeerTrouble as trouble:
        circuit.count(tools, name, trouble)
        return _later(tools, row, name, told, trouble)
    except Refused as refused:
        circuit.count(tools, name, refused)
        return _end(tools, number, name, {**told, "state": HELD, "refusal": refused.refusal.to_json()})
    except Exception as fault:  # the job's boundary: never left pending without a word
        log.exception("transfer.fault", destination=name)
        return _end(tools, number, name, {**told, "state": FAILED, "reasons": [type(fault).__name__]})
    with tools.database.write() as connection:
        circuit.answered(tools, connection, name)
    seen = min((one.seen.value for one in sent), default="nothing to send")
    return _end(tools, number, name, {**told, "state": CONFIRMED, "objects": len(sent), "seen": seen})


def is_peer(settings: Settings, name: str) -> bool:
    """Whether the configuration knows where this goes: a destination that takes results, or a webhook."""
    return name in takes_results(settings) or (name.startswith(HOOK) and settings.peer(name) is not None)


def _sent(tools: Tools, row: RowMapping, name: str, attempt: int) -> list[delivery.Confirmation]:
    if name.startswith(HOOK):
        return [delivery.call(finished_call(row), webhook_target(tools.settings, name.removeprefix(HOOK)))]
    where = target(tools.settings, name)
    return [delivery.send(one, where, attempt=attempt) for one in _outgoing(tools, row, name)]


def _outgoing(tools: Tools, row: RowMapping, name: str) -> list[delivery.OutgoingObject | delivery.OutgoingFile]:
    folder = tools.settings.data.folder / "predictions" / str(row["public_id"])
    files: Mapping[str, str] = row["files"]
    if (only := row["transfers"][name].get("files")) is not None:
        return [delivery.OutgoingObject.read(at_rest.read(folder / files[one])) for one in only]
    destination = tools.settings.destinations[name]
    if not isinstance(destination, FileDestination):
        return [delivery.OutgoingObject.read(at_rest.read(folder / files[one])) for one in _ARCHIVED if one in files]
    wanted = [_KINDS[kind] for kind in destination.objects if kind in _KINDS and _KINDS[kind] in files]
    if not wanted:  # of a NIfTI file there are no objects: whoever asked for a transfer wants what there is
        wanted = [one for one in ("mask.nii.gz", "report.pdf", "result.json") if one in files]
    return [
        delivery.OutgoingFile.named(f"{row['public_id']}/{one}", at_rest.read(folder / files[one])) for one in wanted
    ]


def _later(tools: Tools, row: RowMapping, name: str, told: dict[str, Any], trouble: PeerTrouble) -> list[Put]:
    settings = tools.settings.peer(name)
    tries = int(told["tries"])
    if settings is None or _is_over(tools, name, told):
        return _end(tools, row["id"], name, {**told, "state": HELD, "reasons": [str(trouble)]})
    delay = delivery.backoff(
        tries, settings.retry_first_s, settings.retry_cap_s, _jitter, retry_after_s=trouble.retry_after_s
    )
    if not end_transfer(tools, row["id"], name, {**told, "state": PENDING, "reasons": [str(trouble)]}):
        return []
    return [_put(row, name, f"send-{name}/{tries}", delay)]


def _postpone(tools: Tools, row: RowMapping, name: str, told: dict[str, Any], until: datetime) -> list[Put]:
    """Come back when the destination is no longer left alone: nothing was tried."""
    paused = circuit.is_paused(tools, name)
    reasons = ["the destination is paused" if paused else "the destination is left alone"]
    if not paused and _is_over(tools, name, told):
        return _end(tools, row["id"], name, {**told, "state": HELD, "reasons": reasons})
    with tools.database.write() as connection:
        if not transfers.end_try(connection, row["id"], name, {**told, "reasons": reasons}):
            return []
    key = f"predict/{row['id']}/send-{name}/postponed-{now()}"
    return [
        Put(f"out-{name}", "predict", key, (row["id"], "send", name), row["priority"], delay_s=circuit.pause_s(until))
    ]


def _is_over(tools: Tools, name: str, told: Mapping[str, Any]) -> bool:
    waited = datetime.fromisoformat(now()) - datetime.fromisoformat(told["since"])
    peer = tools.settings.peer(name)
    return peer is not None and waited > timedelta(hours=peer.retry_span_h)


def end_transfer(tools: Tools, number: int, name: str, told: Mapping[str, Any]) -> bool:
    """Write what came of a try, and tell the caller; False when a person has decided otherwise meanwhile."""
    with tools.database.write() as connection:
        if not transfers.end_try(connection, number, name, told):
            return False
        predictions.tell(
            connection, number, "prediction.transfer", destination=name, state=told["state"], tries=told.get("tries", 0)
        )
    return True


def _end(tools: Tools, number: int, name: str, told: Mapping[str, Any]) -> list[Put]:
    """The end of a transfer: no jobs follow."""
    end_transfer(tools, number, name, told)
    return []
