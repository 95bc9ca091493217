"""The engine's own queues under the real road: stages overlap, and are bounded; stat overtakes; a batch starves nobody.

The worker runs in a process of its own, with a model that takes a fixed time; what happened stands in the records.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ai_engine.findings import Findings
from ai_engine.prediction import InputVolume
from dicom_node import durable
from dicom_node.models import WarmModels
from dicom_node.record.tables import attempts, events, runs
from dicom_node.road import jobs, queues
from dicom_node.stages.context import Mask
from dicom_node.stages.places import read_put
from tests.fixtures_packages import make_tiny_package
from tests.support import slices
from tests.support.node import Node
from tests.support.quick import FLAIR, Quick, QuickModel

pytestmark = pytest.mark.component

INFER_S = 0.4
SENDERS = (
    {"ae_title": "BATCH"},
    {"ae_title": "SINGLE"},
    {"ae_title": "EMERGENCY", "priority": "stat"},
    {"ae_title": "ORTHANC", "is_archive": True},
)


class SlowModel(QuickModel):
    """Takes its time, one case at a time."""

    def predict(
        self, reference: str, inputs: Mapping[str, InputVolume], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Mask, Findings]:
        time.sleep(INFER_S)
        return super().predict(reference, inputs)


def worker_body(folder: Path, box: Connection) -> None:
    """The worker, until it is told to stop; the engine is a singleton of its process."""
    node = installation(folder)
    node.tools = replace(node.tools, models=SlowModel())
    worker = durable.Worker(node.settings.engine_url, jobs(node.tools), queues(node.settings))
    worker.start()
    box.send("up")
    box.poll(120)
    worker.stop(5)
    node.close()


def installation(folder: Path) -> Quick:
    return Quick(folder, door={"senders": SENDERS}, work={"cpu_jobs": 2})


class Running:
    """A worker beside the test."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._box, theirs = context.Pipe()
        self._process = context.Process(target=worker_body, args=(folder, theirs), daemon=True)
        self._process.start()
        assert self._box.poll(90) and self._box.recv() == "up"

    def stop(self) -> None:
        self._box.send("stop")
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()


def bring(node: Quick, client: durable.Client, folder: Path, title: str, **changes: Any) -> str:
    """A study of one series arrives from a sender and closes; its UID."""
    made = slices.series(folder, 8, **{**FLAIR, **changes})
    node.receive(made.files, calling_ae=title)
    revision = node.close_series(made.series_uid)
    with node.database.write() as connection:
        item = read_put(node.settings, connection, revision)
    client.put(item)
    return made.study_uid


def wait_for(node: Quick, count: int, timeout_s: float = 120.0) -> list[dict[str, Any]]:
    deadline = time.monotonic() + timeout_s
    while sum(row["state"] == "built" for row in node.rows(runs)) < count:
        assert time.monotonic() < deadline, [row["state"] for row in node.rows(runs)]
        threading.Event().wait(0.3)
    return node.rows(runs)


def spans(node: Quick, stage: str) -> list[tuple[datetime, datetime, int]]:
    return [
        (datetime.fromisoformat(row["started_at"]), datetime.fromisoformat(row["ended_at"]), int(row["run_id"]))
        for row in node.rows(attempts)
        if row["stage"] == stage and row["ended_at"]
    ]


def order(node: Quick, name: str) -> list[str]:
    """Studies in the order in which something happened to them."""
    return [str(event["study_uid"]) for event in node.rows(events) if event["name"] == name]


def test_decoding_inference_and_encoding_overlap_and_stay_bounded(tmp_path: Path) -> None:
    node = installation(tmp_path / "node")
    durable.migrate(node.settings.engine_url)
    client = durable.connect(node.settings.engine_url)
    for number in range(6):
        bring(node, client, tmp_path / f"s{number}", "BATCH", PatientID=f"ID-{number}")
    running = Running(tmp_path / "node")
    try:
        wait_for(node, 6)
    finally:
        running.stop()
        client.close()
    inferring, writing = spans(node, "infer"), spans(node, "write")
    reading = [datetime.fromisoformat(e["at"]) for e in node.rows(events) if e["name"] == "series.read"]
    assert any(a <= at <= b for at in reading for a, b, _ in inferring), "a series is decoded while another is inferred"
    together = [(i, w) for a, b, i in inferring for c, d, w in writing if i != w and a < d and c < b]
    assert together, "objects of one study are written while another is inferred"
    ends = sorted(inferring)
    assert all(b <= c for (_, b, _), (c, _, _) in itertools.pairwise(ends)), "one case at a time in the model"
    busy = [sum(a <= moment < b for a, b, _ in writing) for moment, _, _ in writing]
    assert max(busy) <= node.settings.work.cpu_jobs, "no more at once than the queue lets through"
    node.close()


def test_stat_overtakes_a_batch_and_a_single_does_not_wait_for_it(tmp_path: Path) -> None:
    node = installation(tmp_path / "node")
    durable.migrate(node.settings.engine_url)
    client = durable.connect(node.settings.engine_url)
    batch = [bring(node, client, tmp_path / f"b{n}", "BATCH", PatientID=f"B-{n}") for n in range(12)]
    single = bring(node, client, tmp_path / "single", "SINGLE", PatientID="S-1")
    emergency = bring(node, client, tmp_path / "emergency", "EMERGENCY", PatientID="E-1")
    running = Running(tmp_path / "node")
    try:
        wait_for(node, 14)
    finally:
        running.stop()
        client.close()
    inferred = order(node, "run.infer")
    assert len(inferred) == 14 and set(inferred) == {*batch, single, emergency}
    # the two cpu jobs take what is there when the worker comes up; from then on places decide
    assert inferred.index(emergency) <= 2, "stat goes first"
    assert inferred.index(single) <= 4, "one of another sender goes between the first of a batch"
    node.close()


def test_stations_behind_an_archive_take_turns(tmp_path: Path) -> None:
    node = installation(tmp_path / "node")
    durable.migrate(node.settings.engine_url)
    client = durable.connect(node.settings.engine_url)
    for number in range(3):
        bring(node, client, tmp_path / f"a{number}", "ORTHANC", StationName="MR1", PatientID=f"A-{number}")
    bring(node, client, tmp_path / "other", "ORTHANC", StationName="MR2", PatientID="O")
    client.close()
    from dicom_node.record.tables import studies

    rows = node.rows(studies)
    assert [(row["submitter"], row["turn"]) for row in sorted(rows, key=lambda row: row["first_seen_at"])] == [
        ("ORTHANC/MR1", 0), ("ORTHANC/MR1", 1), ("ORTHANC/MR1", 2), ("ORTHANC/MR2", 0)]  # fmt: skip
    node.close()


def test_a_case_that_takes_too_long_ends_with_its_child_and_the_next_one_is_served(tmp_path: Path) -> None:
    """The hard limit of a job, by the road: killed, counted, tried again, given up by name; the node goes on (I11)."""
    models = tmp_path / "models"
    make_tiny_package(models)
    engine = {"models": models, "precision": "f32", "threads": 1, "timeout_s": 0.001}
    node = Node(tmp_path / "node", models, engine=engine, work={"max_deaths": 2})
    try:
        late, good = (slices.series(tmp_path / name, 12, **{**FLAIR, "PatientID": name}) for name in ("late", "good"))
        node.receive(late.files)
        node.close_series(late.series_uid)
        node.engine.run()
        (run,) = node.rows(runs)
        assert run["state"] == "failed" and run["child_deaths"] == 2, node.rows(events)
        assert [row["outcome"] for row in node.rows(attempts)] == ["child-died"] * 2
        assert {event["detail"]["reason"] for event in node.events("run.child-died")} == {"child-timeout"}
        node.settings.engine.__dict__["timeout_s"] = 900.0
        node.tools.models.close()
        node.tools = replace(node.tools, models=WarmModels(node.settings))
        node.engine.jobs.update(jobs(node.tools))
        node.receive(good.files)
        node.close_series(good.series_uid)
        node.engine.run()
        assert [row["state"] for row in node.rows(runs)] == ["failed", "built"]
    finally:
        node.close()
