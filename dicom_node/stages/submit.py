"""Submit: a photograph that somebody asked about becomes an object, and goes through the node's own door (queue
`photos`).

From there on it walks the road of every series; there is no second one.  The object is written down, and its UIDs are
committed, before anything of it is sent, so that whatever dies where it may: the same bytes go under the same UIDs, and
the door knows them again.  One that was taken back meanwhile is taken back as a study, once it is one.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import RowMapping
from sqlalchemy.exc import OperationalError

from dicom_node import files
from dicom_node.delivery import CStoreTarget, Outcome, OutgoingObject
from dicom_node.delivery.dimse import store
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.photo import Importer, Occasion, Patient, PhotoClass, PhotoLimits, wrap
from dicom_node.record import actions, analyses, arrivals, now
from dicom_node.record.timeline import note
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.sealing import at_rest
from dicom_node.stages.analysis_facts import occasion_of, patient_of
from dicom_node.stages.analysis_places import photo_spool, submit_put
from dicom_node.stages.context import Tools
from dicom_node.words import PHOTOS_AE

log = structlog.get_logger()

SPAN_H = 24.0
"""So long the node's own door is tried; it stands on the same machine, and is away when it is started again."""
_GRACE_S = 3600.0
_LOOKS = 10
"""So often, over six minutes, an object is looked for that was on its way when it was taken back."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


_submitting: WeakValueDictionary[int, threading.Lock] = WeakValueDictionary()
_table = threading.Lock()


class _UploadGone(Exception):
    """The upload is not there: it was taken back meanwhile, or the disk lost it."""


def submit(tools: Tools, number: int, attempt: int) -> list[Put]:
    """Bring one photograph to the door, once; the next try where it does not take it.

    What another job has to do about the same photograph, which was taken back meanwhile, waits until this one knows.
    """
    with _table:
        lock = _submitting.setdefault(number, threading.Lock())
    with lock:
        return _submit(tools, number, attempt)


def _submit(tools: Tools, number: int, attempt: int) -> list[Put]:
    with tools.database.read() as connection:
        row = analyses.by_id(connection, number)
    if row["state"] == analyses.WITHDRAWN:
        return _settle(tools, row, attempt)
    if row["state"] != analyses.RECEIVED:
        return []
    try:
        outgoing = _object(tools, row)
        with tools.database.write() as connection:
            place_of = (outgoing.study_uid, outgoing.series_uid, outgoing.sop_instance_uid)
            if not analyses.set_place(connection, number, *place_of):
                return [submit_put(row, "/withdrawn")]
        reach("S3")
        trouble = _sent(tools, outgoing)
        if trouble is not None:
            return _later(tools, row, attempt, trouble)
    except Refused as refused:
        return _fail(tools, row, {"refusal": refused.refusal.to_json()}, refused.refusal.code.value)
    except _UploadGone:
        return _fail(tools, row, {"reason": "its photograph is not kept any more: it has to be taken again"}, "gone")
    except OperationalError:  # of the record itself: the reconciler comes back to it
        raise
    except Exception as fault:  # the job's boundary: said, counted as ours, and never left waiting
        log.exception("analysis.fault")
        if tools.stopping.is_set():
            return []
        return _fail(tools, row, {"reason": f"a fault of the node: {type(fault).__name__}"}, "fault")
    reach("S4")
    with tools.database.write() as connection:
        is_submitted = analyses.set_submitted(connection, number)
        if is_submitted:
            waited_s = (datetime.fromisoformat(now()) - datetime.fromisoformat(row["created_at"])).total_seconds()
            is_private = analyses.private_reason(connection, outgoing.study_uid) is not None
            note(connection, "analysis.submitted", outgoing.study_uid, analysis=row["public_id"], private=is_private,
                 seconds=round(waited_s, 3))  # fmt: skip
    reach("S5")
    _object_path(tools, row).unlink(missing_ok=True)
    return [] if is_submitted else [submit_put(row, "/withdrawn")]


def unsubmitted_puts(tools: Tools, is_live: Callable[[str], bool], suffix: str) -> list[Put]:
    """Jobs for the photographs that the road does not have and that no job is alive for."""
    with tools.database.read() as connection:
        rows = analyses.unsubmitted(connection)
    return [submit_put(row, f"/{suffix}") for row in rows if not is_live(f"submit/{row['id']}")]


def sweep_photos(tools: Tools) -> int:
    """Delete uploads and objects that no analysis needs any more; how many files went."""
    with tools.database.read() as connection:
        in_use = analyses.photos_in_use(connection)
        waiting = {str(row["public_id"]) for row in analyses.unsubmitted(connection)}
    left = [path for path in _objects(tools).glob("*.dcm") if path.stem not in waiting]
    for path in left:
        path.unlink(missing_ok=True)
    return photo_spool(tools.settings).sweep(in_use, _GRACE_S) + len(left)


# -- the object


def _object(tools: Tools, row: RowMapping) -> OutgoingObject:
    """The object of a photograph, the one that was written down where there is one.

    Raises
    ------
    Refused
        Every code of photographs.
    """
    path = _object_path(tools, row)
    if not path.is_file():
        data = _wrapped(tools, row)
        reach("S1")
        files.write_sealed(path, data)
        reach("S2")
    return OutgoingObject.read(at_rest.read(path))


def _wrapped(tools: Tools, row: RowMapping) -> bytes:
    upload = photo_spool(tools.settings).path(row["photo_sha256"])
    try:
        data = at_rest.read(upload)
    except FileNotFoundError:
        raise _UploadGone from None
    settings = tools.settings
    patient, occasion, declared = _facts(tools, row)
    return wrap(
        data,
        patient,
        occasion,
        Importer(uuid.UUID(tools.site_namespace), tools.version, tools.node_instance),
        photo_class=PhotoClass(settings.photos.store_as) if declared == "dermoscopic" else PhotoClass.VL_PHOTOGRAPHIC,
        claimed=str(row["declared"]["claimed"]),
        limits=PhotoLimits(
            max_bytes=settings.api.max_photo_mb * 1_000_000,
            child_memory_bytes=min(settings.work.decode_memory_mb, 2048) * 1024**2,
            child_wall_s=settings.work.decode_timeout_s,
        ),
    ).data


def _facts(tools: Tools, row: RowMapping) -> tuple[Patient, Occasion, str]:
    occasion = occasion_of(row, tools.settings.node)
    return patient_of(row), occasion, occasion.declared


def _objects(tools: Tools) -> Path:
    return tools.settings.data.folder / "analyses"


def _object_path(tools: Tools, row: RowMapping) -> Path:
    return _objects(tools) / f"{row['public_id']}.dcm"


# -- the door


def _sent(tools: Tools, outgoing: OutgoingObject) -> str | None:
    """C-STORE to the node's own listener: None when the object is in the vault and its row is committed, else why not.

    A listener that refuses the node's own object is out of order, and is tried again as one that is away.
    """
    door, node = tools.settings.door, tools.settings.node
    target = CStoreTarget(
        host=_EVERYWHERE.get(door.host, door.host),
        port=door.port,
        ae_title=node.ae_title,
        calling_ae_title=PHOTOS_AE,
        insecure_ok_because="the node's own listener, on this very machine",
    )
    try:
        status, outcome = store(target, outgoing)
    except PeerTrouble as trouble:
        return str(trouble)
    except Refused as refused:
        told = refused.refusal
        return f"the node's own listener refused it ({told.code.value}): expected {told.expected}, found {told.found}"
    return None if outcome is Outcome.CLAIMED else f"the node's own listener answered {status:04X}H"


def _later(tools: Tools, row: RowMapping, attempt: int, trouble: str) -> list[Put]:
    waited = datetime.fromisoformat(now()) - datetime.fromisoformat(row["created_at"])
    if waited > timedelta(hours=SPAN_H):
        return _fail(tools, row, {"reason": f"{trouble}; given up after {SPAN_H:.0f} hours"}, "door")
    delay_s = min(60.0, 1.0 * 2**attempt)
    log.warning("analysis.door-away", attempt=attempt, pause_s=delay_s)
    # the time makes the key new: after a start of the worker attempts begin again
    return [submit_put(row, f"/try-{now()}", attempt=min(attempt + 1, 10), delay_s=delay_s)]


def _fail(tools: Tools, row: RowMapping, told: dict[str, object], code: str) -> list[Put]:
    with tools.database.write() as connection:
        is_failed = analyses.set_failed(connection, int(row["id"]), told)
    if not is_failed:  # taken back meanwhile
        return [submit_put(row, "/withdrawn")]
    log.warning("analysis.failed", code=code)
    _object_path(tools, row).unlink(missing_ok=True)
    return []


# -- taken back on the way


def _settle(tools: Tools, row: RowMapping, attempt: int) -> list[Put]:
    """What has become of one that was taken back while its object was on its way is taken back too."""
    if row["study_uid"] is None or row["submitted_at"] is not None:
        _object_path(tools, row).unlink(missing_ok=True)
        return []
    with tools.database.write() as connection:
        has_come = arrivals.stored_path(connection, row["sop_instance_uid"]) is not None
        if has_come and not actions.is_study(connection, row["study_uid"]):
            return [submit_put(row, f"/withdrawn-{now()}", attempt=attempt + 1, delay_s=1.0)]
        if not has_come and attempt < _LOOKS:  # a door that did not answer in time may keep it all the same
            delay_s = min(60.0, 2.0**attempt)
            return [submit_put(row, f"/withdrawn-{now()}", attempt=attempt + 1, delay_s=delay_s)]
        jobs = actions.take_back(connection, row["study_uid"], "worker", row["withdrawn_reason"]) if has_come else []
        analyses.set_settled(connection, int(row["id"]))
    _object_path(tools, row).unlink(missing_ok=True)
    return [Put(*job) for job in jobs]
