"""What the worker does for requests at its start and every few minutes: count deaths, take up, and throw away.

Uploads are deleted `api.keep_uploads_h` after the end of their request, everything else `api.keep_results_h` after it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from dicom_node.durable import Put
from dicom_node.record import now, predictions, transfers, workers
from dicom_node.record.transfers import HELD, PENDING
from dicom_node.stages.context import Tools
from dicom_node.stages.prediction_places import folder_of, spool_of
from dicom_node.stages.prediction_words import stage_put, transfer_puts
from dicom_node.stages.transfer import NOT_CONFIGURED, end_transfer, is_peer

log = structlog.get_logger()

GRACE_S = 3600.0
"""An upload younger than this may belong to a request that is on its way to the record."""


def bury_requests(tools: Tools) -> None:
    """Count the deaths of earlier workers against the requests and transfers that they were at work on.

    At too many, end these.
    """
    limit = tools.settings.work.max_worker_deaths
    with tools.database.write() as connection:
        for row in predictions.unfinished(connection):
            if row["worker"] in (None, tools.worker):
                continue
            if workers.was_stopped(connection, row["worker"]):
                predictions.release(connection, row["id"])
                continue
            deaths = predictions.count_death(connection, row["id"], "worker_deaths")
            predictions.release(connection, row["id"])
            predictions.tell(connection, row["id"], "prediction.worker-died", deaths=deaths)
            if deaths >= limit:
                reason = f"the worker ended {deaths} times while this request was active; given up after {limit}"
                predictions.give_up(connection, row["id"], reason)
                predictions.tell(connection, row["id"], "prediction.failed", reason=reason)
        for transfer in transfers.in_state(connection, PENDING):
            worker = transfer.told.get("worker")
            if worker in (None, tools.worker):
                continue
            died = not workers.was_stopped(connection, worker)
            state = transfers.bury(connection, transfer, died=died, limit=limit)
            if died:
                told = {"destination": transfer.destination, "state": state, "tries": transfer.tries}
                predictions.tell(connection, transfer.number, "prediction.transfer", **told)


def hold_homeless(tools: Tools) -> None:
    """Hold the transfers to destinations that are not configured any more: nothing waits for ever (I11)."""
    with tools.database.read() as connection:
        rows = predictions.with_transfers(connection)
    for row in rows:
        for name, told in row["transfers"].items():
            if told["state"] == PENDING and not is_peer(tools.settings, name):
                end_transfer(tools, row["id"], name, {**told, "state": HELD, "reasons": [NOT_CONFIGURED]})


def unfinished_puts(tools: Tools, is_live: Callable[[str], bool], suffix: str) -> list[Put]:
    """Jobs for the requests that have no final state and no live job."""
    with tools.database.read() as connection:
        rows = predictions.unfinished(connection)
        sending = predictions.with_transfers(connection)
    puts = [stage_put(row, f"/{suffix}") for row in rows if not is_live(f"predict/{row['id']}")]
    waiting = [put for row in sending for put in transfer_puts(row)]
    return puts + [replace(put, key=f"{put.key}/{suffix}") for put in waiting if not is_live(put.key)]


def throw_away(tools: Tools) -> int:
    """Delete what has been kept long enough; how many requests were forgotten."""
    api = tools.settings.api
    moment = datetime.fromisoformat(now())
    line = (moment - timedelta(hours=api.keep_results_h)).isoformat(timespec="microseconds")
    with tools.database.read() as connection:
        # results that are still on their way somewhere are kept until they are there, or held
        old = [row for row in predictions.finished_before(connection, line) if not transfer_puts(row)]
    for row in old:
        shutil.rmtree(folder_of(tools, row), ignore_errors=True)
        with tools.database.write() as connection:
            predictions.forget(connection, row["id"])
    kept_since = (moment - timedelta(hours=api.keep_uploads_h)).isoformat(timespec="microseconds")
    with tools.database.read() as connection:
        in_use = predictions.uploads_in_use(connection, kept_since)
    swept = spool_of(tools).sweep(in_use, GRACE_S)
    if old or swept:
        log.info("predictions.thrown-away", count=len(old), files=swept)
    return len(old)
