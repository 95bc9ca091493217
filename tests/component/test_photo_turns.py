"""Studies and photographs do not wait for each other, and of photographs what is nearly done goes first.

The road's own queues and places, on the real engine: a study that is to be read finds its place free however many
photographs wait, and the other way round.  The worker runs in a process of its own: the engine is its singleton.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from dicom_node import durable
from dicom_node.durable import Put
from dicom_node.road import queues
from dicom_node.settings import Settings
from dicom_node.stages import submit as submitting
from dicom_node.stages.analysis_places import submit_put
from dicom_node.stages.infer_pictures import _write_put
from dicom_node.stages.places import quiet_put, read_put
from dicom_node.turns import ROUTINE, STAT, TRIAL, TURNS, place
from tests.fixtures_classifier import make_tiny_classifier
from tests.support import slices
from tests.support.clinic import Clinic, Warm
from tests.support.quick import FLAIR

pytestmark = pytest.mark.component

PHOTOGRAPHS, TAKES_S = 50, 0.05


def test_of_one_urgency_what_is_nearly_done_goes_first() -> None:
    for turn in (0, 41, TURNS - 1):
        at = place(ROUTINE, turn)
        writes, submits = _write_put(1, 1, at), submit_put({"id": 1}, turn=0)  # type: ignore[arg-type]
        assert place(STAT, TURNS - 1) < writes.priority < at < submits.priority < place(TRIAL, 0)
        assert writes.queue == submits.queue
    assert 0 <= _write_put(1, 1, place(STAT, 0)).priority < place(STAT, 0)
    turns = [submit_put({"id": 1}, turn=turn).priority for turn in (0, 1, 7, 10**9)]  # type: ignore[arg-type]
    assert turns == sorted(set(turns)), "a doctor's hundred still wait for another one's first"


def test_two_jobs_about_one_photograph_take_turns_and_others_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), list[tuple[int, int]]()

    def slow(_tools: Any, number: int, attempt: int) -> list[Put]:
        if (number, attempt) == (1, 0):
            begun.set()
            assert may_end.wait(20)
        done.append((number, attempt))
        return []

    monkeypatch.setattr(submitting, "_submit", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(submitting.submit, None, 1, 0)  # type: ignore[arg-type]
        assert begun.wait(20)
        second = threads.submit(submitting.submit, None, 1, 1)  # type: ignore[arg-type]
        submitting.submit(None, 2, 0)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        may_end.set()
        assert first.result(20) == second.result(20) == []
    assert done == [(2, 0), (1, 0), (1, 1)]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    make_tiny_classifier(tmp_path / "models")
    warm = Warm(tmp_path / "models")
    made = Clinic(tmp_path / "node", warm)
    yield made
    made.close()
    warm.close()


def test_photographs_have_a_queue_of_their_own(clinic: Clinic, tmp_path: Path) -> None:
    seen: list[Put] = []
    put_before = clinic.engine.put
    clinic.engine.put = lambda item: (seen.append(item), put_before(item))[1]  # type: ignore[method-assign, func-returns-value]
    with clinic.open():
        row = clinic.desk.accept(clinic.asked())
        clinic.until(row, "completed")
    taken = {item.job: item for item in seen}
    assert {job: item.queue for job, item in taken.items()} == {
        "submit": "photos", "read": "photos", "infer": "model", "write": "photos"}  # fmt: skip
    assert taken["write"].priority < taken["read"].priority < taken["submit"].priority
    study_uid = str(clinic.row(row["public_id"])["study_uid"])
    with clinic.database.write() as connection:
        assert quiet_put(clinic.settings, connection, study_uid, 1).queue == "photos"
    made = slices.series(tmp_path / "mr", 8, **FLAIR)
    clinic.receive(made.files, calling_ae="MODALITY")
    revision = clinic.close_series(made.series_uid)
    with clinic.database.write() as connection:
        item = read_put(clinic.settings, connection, revision)
        quiet = quiet_put(clinic.settings, connection, made.study_uid, 1)
    assert (item.queue, quiet.queue) == ("cpu", "cpu")


# -- on the real engine


def worker_body(url: str, box: Connection) -> None:
    """Jobs take a fixed time; photographs and studies have the same stages, in the queues that the road gives them."""

    def work(kind: str, number: int, stage: str) -> list[Put]:
        threading.Event().wait(TAKES_S)
        box.send((kind, number, stage))
        at = place(ROUTINE, number if kind == "photograph" else 0)
        if stage == "submit":
            return [Put("photos", "work", f"r/{number}", (kind, number, "read"), at)]
        if stage == "read":
            return [Put("model", "work", f"i/{kind}/{number}", (kind, number, "infer"), at)]
        if stage == "infer":
            write = _write_put(number, 1, at) if kind == "photograph" else Put("cpu", "", "", (), at)
            return [Put(write.queue, "work", f"w/{kind}/{number}", (kind, number, "write"), write.priority)]
        return []

    worker = durable.Worker(url, {"work": work}, queues(Settings()))
    worker.start()
    box.send(("up", 0, ""))
    box.poll(120)
    worker.stop(2)


def test_a_study_keeps_its_share_beside_fifty_photographs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    durable.migrate(url)
    client = durable.connect(url)
    for number in range(PHOTOGRAPHS):
        item = submit_put({"id": number}, turn=0)  # type: ignore[arg-type]
        client.put(Put(item.queue, "work", item.key, ("photograph", number, "submit"), item.priority))
    client.put(Put("cpu", "work", "r/study", ("study", 0, "read"), place(ROUTINE, 0)))
    context = multiprocessing.get_context("spawn")
    box, theirs = context.Pipe()
    process = context.Process(target=worker_body, args=(url, theirs), daemon=True)
    process.start()
    try:
        seen: list[tuple[str, int, str]] = []
        while sum(stage == "write" for _, _, stage in seen) < PHOTOGRAPHS + 1:
            assert box.poll(90), seen
            seen.append(tuple(box.recv()))
    finally:
        box.send("stop")
        client.close()
        process.join(30)
        if process.is_alive():
            process.kill()
    done = [(kind, number) for kind, number, stage in seen if stage == "write"]
    assert done.index(("study", 0)) <= 10, "a study of the last moment is not behind a clinic's fifty"
    half = seen[: [place for place, one in enumerate(seen) if one[2] == "write"][PHOTOGRAPHS // 2]]
    submitted = sum(stage == "submit" for _, _, stage in half)
    assert submitted < PHOTOGRAPHS * 0.8, "half of them have their answer while others have not begun"
    assert all(a != b for a, b in itertools.pairwise(sorted(done))), "each once"
