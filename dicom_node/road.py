"""The road.

A study arrives by C-STORE, the right model reads the right series, and the radiologist finds a segmentation in the
PACS, the EHR finds a report, and everybody can see why:

    read      a closed revision becomes an exact volume; then the study's case is decided        (queue `cpu`)
    infer     the volumes of a case go through one model                                         (queue `model`)
    write     findings become SEG, SR, PDF; they are checked and put into the outbox             (queue `cpu`)
    deliver   one run's objects go to one destination and are then seen there                    (queue `out-<name>`)

A photograph that somebody asked about here comes onto the road by `submit`, through the node's own door; photographs
are read and written in the same queue (`photos`), so that studies and photographs never wait for each other there.
Beside the road, `trial` lets another model version read a case that was read before (queue `model`, behind every case),
and `predict` does on the same queues what was asked for over HTTP.

Each is a job with a derived key, short, idempotent, and returns the jobs that follow from it.  What goes wrong is one
of three kinds: a refusal of the input is written to the revision, case or run; trouble with a peer is tried again by
`deliver`; a fault of ours ends the run as *failed*, visibly, and keeps its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dicom_node.durable import Job, Put
from dicom_node.record import runs, studies, workers
from dicom_node.record.timeline import note
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from dicom_node.stages.analysis_places import QUEUE as PHOTOS
from dicom_node.stages.assemble import assemble
from dicom_node.stages.context import Tools
from dicom_node.stages.deliver import deliver
from dicom_node.stages.destinations import OWN_ENDPOINT, photo_routes
from dicom_node.stages.infer_pictures import infer_run
from dicom_node.stages.predict import predict
from dicom_node.stages.read import read_revision
from dicom_node.stages.submit import submit
from dicom_node.stages.trial import trial
from dicom_node.stages.write import write
from dicom_node.words import HOOK, RunState

log = structlog.get_logger()

NODE_FAULT = "node-fault"
"""Code of the hold of a study that the node itself cannot deal with."""


def queues(settings: Settings) -> dict[str, int]:
    """The queues and how many jobs of each run at once."""
    return {"cpu": settings.work.cpu_jobs, "model": 1, PHOTOS: settings.work.cpu_jobs} | {
        f"out-{name}": 1
        for name in (*settings.destinations, *(f"{HOOK}{name}" for name in settings.webhooks), OWN_ENDPOINT)
    }


def jobs(tools: Tools) -> dict[str, Job]:
    """The kinds of job, bound to this installation; the route file is read here, once.

    Raises
    ------
    RoutesRefused
        If the route file is not understood.
    """
    routes = load_routes(tools.settings.routes)
    tools = replace(tools, stood_in_for=routes.stood_in_for, photo_routes=photo_routes(tools.settings, routes))

    def read(what: str, which: int | str) -> Sequence[Put]:
        if what == "revision":
            revision_id = int(which)
            with tools.database.read() as connection:
                study_uid = str(studies.revision_row(connection, revision_id)["study_uid"])
        else:
            study_uid = str(which)
        if not _take_up(tools, study_uid):
            return []
        try:
            follow = assemble(tools, routes, study_uid, read_revision)
        except Exception as fault:  # the job's boundary: said, and left to the reconciler, which comes back to it
            log.exception("read.fault")
            _count_fault(tools, study_uid, fault)
            raise
        with tools.database.write() as connection:
            workers.end_reading(connection, study_uid)
        return follow

    def run_infer(run_id: int) -> Sequence[Put]:
        return _guarded(tools, run_id, lambda: infer_run(tools, run_id))

    def run_write(run_id: int) -> Sequence[Put]:
        return _guarded(tools, run_id, lambda: write(tools, run_id))

    def run_deliver(run_id: int, name: str, attempt: int) -> Sequence[Put]:
        return deliver(tools, run_id, name, attempt)

    def run_trial(trial_id: int) -> Sequence[Put]:
        return trial(tools, trial_id)

    def run_predict(number: int, stage: str, destination: str = "") -> Sequence[Put]:
        return predict(tools, number, stage, destination)

    def run_submit(number: int, attempt: int) -> Sequence[Put]:
        return submit(tools, number, attempt)

    return {
        "read": read,
        "infer": run_infer,
        "write": run_write,
        "deliver": run_deliver,
        "trial": run_trial,
        "predict": run_predict,
        "submit": run_submit,
    }


def _take_up(tools: Tools, study_uid: str) -> bool:
    """Say who reads a study before it is read; False when too many workers have died of it (I11)."""
    with tools.database.write() as connection:
        if (studies.study_row(connection, study_uid)["held"] or {}).get("code") == NODE_FAULT:
            return False
        return not mourn(tools, connection, study_uid, workers.begin_reading(connection, study_uid, tools.worker))


def mourn(tools: Tools, connection: Connection, study_uid: str, deaths: int) -> bool:
    """Hold a study of which too many workers died in a row; whether it is."""
    if deaths < tools.settings.work.max_worker_deaths:
        return False
    workers.bury_reader(connection, study_uid, deaths)
    told = f"The worker ended {deaths} times while it read this study."
    _hold(connection, study_uid, told, "a worker that ended", "process.ended")
    return True


def _count_fault(tools: Tools, study_uid: str, fault: Exception) -> None:
    """A study that the node fails to decide on again and again ends with a person (I11)."""
    if isinstance(fault, OperationalError) or tools.stopping.is_set():
        return  # the record itself was busy, or the worker was told to stop: no fault of this study
    limit = tools.settings.work.max_deaths
    with tools.database.write() as connection:
        workers.end_reading(connection, study_uid)
        note(connection, "study.fault", study_uid, reason=type(fault).__name__)
        if studies.faults_since_decision(connection, study_uid) >= limit:
            told = f"The node failed {limit} times to decide on this study."
            _hold(connection, study_uid, told, type(fault).__name__, "read.fault")


def _hold(connection: Connection, study_uid: str, message: str, found: str, event: str) -> None:
    advice = f"Look for {event} in the log; after mending, release the study."
    told = {"code": NODE_FAULT, "message": message, "expected": "", "found": found, "advice": advice}
    studies.hold(connection, study_uid, told)
    note(connection, "study.held", study_uid, code=NODE_FAULT)


def _guarded(tools: Tools, run_id: int, body: Job) -> Sequence[Put]:
    """A fault of ours ends the run as failed; its type and place are kept, its text (which may hold data) is not."""
    try:
        return body()
    except Exception as fault:  # the job's boundary
        log.exception("run.fault", run=run_id)
        is_stopping = tools.stopping.is_set()  # then it is left as it is, and taken up at the next start
        with tools.database.write() as connection:
            run = runs.run_row(connection, run_id)
            if not is_stopping and run["state"] in (RunState.QUEUED.value, RunState.RUNNING.value):
                reason = f"a fault of the node: {type(fault).__name__}; see the worker's log at this time"
                runs.move(connection, "run", run_id, RunState.FAILED, error=reason)
                note(connection, "run.failed", run["study_uid"], run_id=run_id, reason=reason)
            for attempt in runs.open_attempts(connection, run_id):
                outcome = "worker-stopped" if is_stopping else "failed"
                runs.end_attempt(connection, runs.Attempt(run_id, int(attempt["number"])), outcome)
        return []
