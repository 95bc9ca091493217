"""Work: the process that runs the road.  It owns the engine, the warm models and the reconciler.

At its start it counts the attempts, and the readings, that died with the worker before it; at 20 deaths of the worker
while one run was active that run has failed, and a study of which 20 died while they read it is held (design section
4).  A worker that was told to stop has not died.  Every few minutes the *reconciler* submits again, under a new suffix,
what has no final state and no live job, and says so on the timeline: the engine's own books are never the only ones.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import structlog

from ai_engine.packages import list_packages
from dicom_node import durable, nursery
from dicom_node.auditing import AuditOut
from dicom_node.durable import Put, Worker
from dicom_node.record import deliveries, now, registry, runs, studies, withdrawals, workers
from dicom_node.record.tables import cases
from dicom_node.record.timeline import note
from dicom_node.registry import in_force
from dicom_node.road import jobs, mourn, queues
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from dicom_node.stages.context import Tools
from dicom_node.stages.deliver import is_due
from dicom_node.stages.destinations import is_configured, waits_for
from dicom_node.stages.prediction_care import bury_requests, hold_homeless, throw_away, unfinished_puts
from dicom_node.stages.read import trim_cache
from dicom_node.stages.retention import Retention
from dicom_node.stages.submit import sweep_photos, unsubmitted_puts
from dicom_node.stages.trial import trial_put
from dicom_node.words import DeliveryState, RunState

log = structlog.get_logger()

PURGE_AFTER_S = 7 * 24 * 3600.0
RETENTION_S = 600.0
"""So often the worker looks what the site keeps no longer."""
BEAT_S = 10.0
"""So often the worker says that it lives."""
OPEN = (DeliveryState.PENDING, DeliveryState.SENDING)


def run_work(settings: Settings, tools: Tools, stop: threading.Event) -> None:
    """Run the road until `stop` is set.

    Raises
    ------
    AlreadyRunning
        When another worker holds this data folder.
    """
    with nursery.kept():
        _run(settings, tools, stop)


def _run(settings: Settings, tools: Tools, stop: threading.Event) -> None:
    worker = Worker(settings.engine_url, jobs(tools), queues(settings))
    worker.start()
    try:
        bury_the_dead(tools)
        threading.Thread(
            target=AuditOut(tools.settings, tools.database).run, args=(stop,), name="audit-out", daemon=True
        ).start()
        threading.Thread(target=warm_up, args=(tools,), name="warm-up", daemon=True).start()
        threading.Thread(target=retain, args=(tools, stop), name="retention", daemon=True).start()
        client = durable.connect(settings.engine_url)
        reconcile(tools, client, is_start=True)
        log.info("work.started")
        due = time.monotonic() + settings.work.reconcile_s
        while not stop.wait(min(BEAT_S, settings.work.reconcile_s)):
            try:
                nursery.look_after()
                with tools.database.write() as connection:
                    workers.beat(connection)
                if time.monotonic() >= due:
                    due = time.monotonic() + settings.work.reconcile_s
                    reconcile(tools, client, is_start=False)
                    client.purge(PURGE_AFTER_S)
                    trim_cache(tools)
                    throw_away(tools)
                    sweep_photos(tools)
            except Exception:  # the loop's boundary: a reconciler that fails once must come again
                log.exception("work.reconcile-failed")
        client.close()
    finally:
        if stop.is_set():
            say_stopping(tools)
        worker.stop()
        tools.models.close()
        log.info("work.stopped")


def retain(tools: Tools, stop: threading.Event) -> None:
    """Delete what the site keeps no longer, behind the road, until `stop` is set."""
    retention = Retention(tools.settings, tools.database)
    pause_s = min(tools.settings.work.reconcile_s, RETENTION_S)
    while not stop.wait(pause_s):
        pause_s = RETENTION_S
        try:
            made = retention.run("worker", stop.is_set, waits=True)
            if made.studies:
                log.info("retention.round", outcome=made.outcome, count=made.studies, files=made.files)
        except Exception:  # the loop's boundary: what was begun is ended by the next round
            log.exception("work.retention-failed")


def say_stopping(tools: Tools) -> None:
    """From here on nothing that ends unfinished is a fault or a death: it is taken up at the next start."""
    tools.stopping.set()
    with tools.database.write() as connection:
        workers.note_stopping(connection, tools.worker)


def warm_up(tools: Tools) -> None:
    """Load the models of routes now, and then those of the API's aliases, so that the first case does not wait for it.

    As many as fit into the memory budget: one that is loaded is not pushed out by another that is only warmed up.
    """
    routes = [route.model for route in load_routes(tools.settings.routes).routes if route.enabled]
    installed = {name for name, _, _ in list_packages(tools.settings.engine.models)}
    asked = [alias.model for alias in tools.settings.api.aliases.values() if alias.model.partition("@")[0] in installed]
    ready: set[str] = set()
    for name in dict.fromkeys([*routes, *asked]):
        reference = name
        try:
            with tools.database.read() as connection:
                wanted = in_force(connection, name)
            for reference in sorted(wanted.keys() - ready):
                if ready and not tools.models.has_room(reference):
                    log.info("work.model-left-cold", model=reference)
                    continue
                tools.models.describe(reference)
                ready.add(reference)
                log.info("work.model-ready", model=reference)
        except Exception:  # a warm-up that fails changes nothing: the first job meets the same trouble and reports it
            log.exception("work.model-not-ready", model=reference)


def bury_the_dead(tools: Tools) -> None:
    """Close what the last worker left unfinished; where it died, count that against its runs and studies."""
    limit = tools.settings.work.max_worker_deaths
    with tools.database.write() as connection:
        workers.beat(connection)
        for study in workers.unread(connection, tools.worker):
            died = not workers.was_stopped(connection, study["reader"])
            deaths = int(study["reader_deaths"]) + (1 if died else 0)
            workers.bury_reader(connection, study["uid"], deaths)
            if died:
                note(connection, "study.reader-died", study["uid"], deaths=deaths)
                mourn(tools, connection, study["uid"], deaths)
        for row in runs.open_attempts(connection):
            if row["worker"] == tools.worker:
                continue  # begun by this very process: the engine takes its jobs up as soon as it is started
            attempt = runs.Attempt(int(row["run_id"]), int(row["number"]))
            if workers.was_stopped(connection, row["worker"]):
                runs.end_attempt(connection, attempt, "worker-stopped")
                continue
            runs.end_attempt(connection, attempt, "worker-died")
            run = runs.run_row(connection, attempt.run_id)
            if run["state"] != RunState.RUNNING.value:
                continue
            deaths = runs.count_death(connection, attempt.run_id, "worker_deaths")
            if deaths >= limit:
                reason = f"the worker ended {deaths} times while this run was active; given up after {limit}"
                runs.move(connection, "run", attempt.run_id, RunState.FAILED, error=reason)
                note(connection, "run.failed", run["study_uid"], run_id=attempt.run_id, reason=reason)
    bury_requests(tools)


def reconcile(tools: Tools, engine: durable.Putter, *, is_start: bool) -> int:
    """Submit again what has no final state and no live job; how many were submitted.

    Keys get a new suffix (the time), because putting the key of finished work again starts nothing.
    """
    suffix = f"again-{now()}"
    wanted: list[tuple[str, Put, str]] = []
    live = set(engine.live())
    _give_up(tools)
    hold_homeless(tools)

    def is_live(prefix: str) -> bool:
        return any(key == prefix or key.startswith(prefix + "/") for key in live)

    with tools.database.read() as connection:
        for run in runs.unfinished_runs(connection):
            number = int(run["id"])
            if not is_live(f"infer/{number}") and not is_live(f"write/{number}"):
                priority = int(runs.row(connection, cases, run["case_id"])["priority"])
                put = Put("model", "infer", f"infer/{number}/{suffix}", (number,), priority)
                wanted.append((run["study_uid"], put, "run"))
        for number, name in deliveries.open_pairs(connection):
            if not is_live(f"deliver/{number}/{name}") and is_due(tools, connection, number, name):
                priority = int(runs.row(connection, cases, runs.run_row(connection, number)["case_id"])["priority"])
                key = f"deliver/{number}/{name}/{suffix}"
                put = Put(f"out-{name}", "deliver", key, (number, name, 0), priority)
                wanted.append((deliveries.study_of(connection, number), put, "delivery"))
        for trial_id in registry.queued_trials(connection):
            if not is_live(f"trial/{trial_id}"):
                study_uid = runs.run_row(connection, int(registry.trial(connection, trial_id)["run_id"]))["study_uid"]
                wanted.append((study_uid, trial_put(trial_id, f"/{suffix}"), "trial"))
        told: set[str] = set()
        for revision in studies.unassembled_revisions(connection):
            if revision["study_uid"] in told:
                continue  # one decision is about the whole study
            told.add(revision["study_uid"])
            if not is_live(f"read/{revision['id']}") and not is_live(f"quiet/{revision['study_uid']}"):
                put = Put("cpu", "read", f"read/{revision['id']}/{suffix}", ("revision", revision["id"]))
                wanted.append((revision["study_uid"], put, "revision"))
    requests = unfinished_puts(tools, is_live, suffix) + unsubmitted_puts(tools, is_live, suffix)
    for put in requests:
        engine.put(put)
    for study_uid, put, what in wanted:
        engine.put(put)
        with tools.database.write() as connection:
            note(connection, "work.submitted-again", study_uid, what=what, at_start=is_start)
    count = len(wanted) + len(requests)
    if count:
        log.warning("work.submitted-again", count=count)
    return count


def _give_up(tools: Tools) -> None:
    """End, visibly, what can never be sent: nothing waits for ever for what somebody has decided against (I11)."""
    with tools.database.write() as connection:
        for run_id, name in deliveries.open_pairs(connection):
            study_uid = deliveries.study_of(connection, run_id)
            if not is_configured(tools.settings, name):
                reason = {
                    "peer": f"no destination {name!r} is configured any more: bring it back and release, or reject"
                }
                deliveries.set_all(connection, run_id, OPEN, DeliveryState.HELD, name, reason=reason)
                withdrawals.hold_notice(connection, run_id, name, reason)
                note(connection, "delivery.held", study_uid, run_id=run_id, destination=name, reason=reason)
                continue
            if withdrawals.is_withdrawn(connection, run_id):
                continue  # what is taken back waits for no other destination
            names = {str(row["destination"]) for row in deliveries.of_run(connection, run_id)}
            gone = [n for n in waits_for(tools.settings, name, names) if deliveries.is_given_up(connection, run_id, n)]
            if gone:
                reason = {"after": f"{', '.join(sorted(gone))} does not get all of this result"}
                deliveries.set_all(connection, run_id, OPEN, DeliveryState.CANCELLED, name, reason=reason)
                note(connection, "delivery.cancelled", study_uid, run_id=run_id, destination=name, reason=reason)


def until_told(run: Callable[[threading.Event], None]) -> int:
    """Run a process body until SIGTERM or SIGINT; the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    run(stop)
    return 0
