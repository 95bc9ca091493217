"""The seam to the workflow engine: once per key, follow-ups, delays, dead letters, one worker per file, no pickle."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dicom_node import durable
from dicom_node.durable import MemoryEngine, Put

pytestmark = pytest.mark.component


def worker_body(url: str, box: Connection) -> None:
    """Runs in a process of its own: the engine is a singleton of its process."""

    def first(number: int) -> list[Put]:
        box.send(("first", number))
        return [Put("model", "second", f"second/{number}", ({"n": [number]},), delay_s=0.3)]

    def second(value: dict[str, list[int]]) -> list[Put]:
        box.send(("second", value["n"][0]))
        return []

    def broken() -> list[Put]:
        box.send(("broken", 0))
        raise ValueError("PATIENT^NAME must not be printed")

    worker = durable.Worker(url, {"first": first, "second": second, "broken": broken}, {"cpu": 2, "model": 1})
    try:
        worker.start()
    except durable.AlreadyRunning:
        box.send(("already running", 0))
        return
    box.send(("up", 0))
    box.poll(60)
    worker.stop(2)


def slow_poller(url: str, box: Connection) -> None:
    """A worker whose queues look for work every ten seconds only."""
    durable.POLL_S = 10.0

    def step(number: int) -> list[Put]:
        box.send(("step", time.monotonic_ns()))
        if number == 0:
            return [Put("one", "leaf", f"leaf/{n}") for n in range(3)]
        return [Put("model" if number % 2 else "cpu", "step", f"step/{number - 1}", (number - 1,))]

    def leaf() -> list[Put]:
        box.send(("leaf", time.monotonic_ns()))
        return []

    worker = durable.Worker(url, {"step": step, "leaf": leaf}, {"cpu": 2, "model": 1, "one": 1})
    worker.start()
    box.send(("up", 0))
    box.poll(60)
    begin = time.monotonic_ns()
    worker.stop(2)
    box.send(("stopped", time.monotonic_ns() - begin))


class Running:
    def __init__(self, url: str, body: Callable[[str, Connection], None] = worker_body) -> None:
        context = multiprocessing.get_context("spawn")
        self.box, theirs = context.Pipe()
        self.process = context.Process(target=body, args=(url, theirs), daemon=True)
        self.process.start()

    def next(self, timeout_s: float = 60.0) -> tuple[str, int]:
        assert self.box.poll(timeout_s), "nothing happened"
        return tuple(self.box.recv())

    def stop(self) -> None:
        self.box.send("stop")
        self.process.join(30)
        if self.process.is_alive():
            self.process.kill()


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_jobs_run_once_per_key_and_chain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/engine.sqlite"
    durable.migrate(url)
    client = durable.connect(url)
    for _ in range(3):
        client.put(Put("cpu", "first", "first/7", (7,)))
    client.put(Put("cpu", "broken", "broken/1"))
    running = Running(url)
    try:
        assert running.next() == ("up", 0)
        seen = sorted(running.next() for _ in range(3))
        assert seen == [("broken", 0), ("first", 7), ("second", 7)]
        until(lambda: client.live() == [])
        assert client.dead() == ["broken/1"]
        client.put(Put("cpu", "first", "first/7", (7,)))
        assert not running.box.poll(1.5)
        client.retry("broken/1")
        assert running.next() == ("broken", 0)
        twin = Running(url)
        assert twin.next() == ("already running", 0)
        twin.process.join(20)
    finally:
        running.stop()
        client.close()
    connection = sqlite3.connect(tmp_path / "engine.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    kinds = {row[0] for row in connection.execute("SELECT DISTINCT serialization FROM workflow_status")}
    assert kinds == {"portable_json"}
    output = capfd.readouterr()
    assert "PATIENT" not in output.out + output.err


def test_a_job_that_follows_does_not_wait_for_the_next_look(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'engine.sqlite'}"
    durable.migrate(url)
    worker = Running(url, slow_poller)
    assert worker.next()[0] == "up"
    client = durable.connect(url)
    client.put(Put("cpu", "step", "step/4", (4,)))
    times = [worker.next()[1] for _ in range(8)]
    client.close()
    assert times[4] - times[0] < 8e9, "four follow-ups took a look each, ten seconds apart"
    assert times[7] - times[5] < 8e9, "a place that became free was seen at the next look only"
    worker.box.send("stop")
    assert worker.next()[1] < 8e9, "the queues' threads did not hear the stop"
    worker.stop()


def test_nothing_in_the_engines_tables_is_pickle(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/engine.sqlite"
    durable.migrate(url)
    client = durable.connect(url)
    client.put(Put("cpu", "first", "first/1", (1, {"a": ["b"]})))
    client.close()
    connection = sqlite3.connect(tmp_path / "engine.sqlite")
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    for table in tables:
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            for value in row:
                raw = value if isinstance(value, bytes) else str(value).encode()
                assert not raw.startswith((b"\x80\x04", b"\x80\x05", b"gAS")), table


def test_the_twin_in_memory_keeps_the_same_rules() -> None:
    ran: list[str] = []

    def first(number: int) -> list[Put]:
        ran.append(f"first {number}")
        return [Put("q", "second", f"second/{number}", (), delay_s=5)]

    def second() -> list[Put]:
        ran.append("second")
        raise ValueError

    engine = MemoryEngine({"first": first, "second": second})
    engine.put(Put("q", "first", "a", (1,), priority=5))
    engine.put(Put("q", "first", "a", (1,), priority=5))
    engine.put(Put("q", "first", "b", (2,), priority=1))
    engine.run(until_s=1)
    assert ran == ["first 2", "first 1"] and len(engine.live("second/")) == 2
    assert engine.cancel("second/2") == 1
    engine.run()
    assert ran[-1] == "second" and engine.dead() == ["second/1"]
    engine.retry("second/1")
    engine.run()
    assert ran.count("second") == 2
