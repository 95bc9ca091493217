"""The thin seam to the workflow engine (DBOS Transact): the only module that imports it.

The engine decides *when and where*; truth is vault + artefacts + records (design section 4), so it can be emptied or
replaced without losing a study.  A job is a name, JSON arguments and a **derived key**: putting one key twice is
putting it once.  A job's function is idempotent, runs as one recorded step, and returns the jobs that follow; they are
put after the step is recorded, so a kill between the two loses nothing and repeats nothing.

Only the worker launches the engine, one per SQLite file (flock); every other process puts jobs through `connect`.
Everything stored is portable JSON: the default serialiser would be pickle (workflow-engine notes, gotcha 8).
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID

from dicom_node.turns import ROUTINE

APPLICATION = "ainode"
APPLICATION_VERSION = "1"
"""A constant: with the default, a hash of the code, every upgrade would strand the work in flight."""

EXECUTOR = "local"
RECOVERY_ATTEMPTS = 1000
"""Set out of the way: our own attempt counters decide when a run has failed."""

POLL_S = 0.2
LIVE = ("PENDING", "ENQUEUED", "DELAYED")
DEAD = ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


@dataclass(frozen=True)
class Put:
    """A job to be run once per key."""

    queue: str
    job: str
    key: str
    args: tuple[Any, ...] = ()
    priority: int = ROUTINE
    """Its place in the queue (`dicom_node.turns`): smaller goes first."""
    delay_s: float = 0.0


Job = Callable[..., Sequence[Put]]


class Putter(Protocol):
    """What every process may do: put, cancel, look."""

    def put(self, item: Put) -> None: ...
    def cancel(self, prefix: str) -> int: ...
    def live(self, prefix: str = "") -> list[str]: ...
    def dead(self) -> list[str]: ...
    def retry(self, key: str) -> None: ...
    def purge(self, before_s: float) -> int: ...


class AlreadyRunning(Exception):
    """Another worker holds this engine database."""


_jobs: dict[str, Job] = {}
_places: dict[str, threading.BoundedSemaphore] = {}
"""Queue -> how many of its jobs may run.  The engine counts a job only once its thread has begun: a look that follows
another at once (a bell, a busy machine) lets through more than it should, and those wait here."""


@DBOS.step(name="ainode_step")
def _step(job: str, args: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "queue": p.queue,
            "job": p.job,
            "key": p.key,
            "args": list(p.args),
            "priority": p.priority,
            "delay_s": p.delay_s,
        }
        for p in _jobs[job](*args)
    ]


@DBOS.workflow(name="ainode_job", max_recovery_attempts=RECOVERY_ATTEMPTS)
def _workflow(job: str, args: list[Any], queue: str = "") -> int:
    with _places.get(queue) or nullcontext():
        follow = _step(job, args)
    for item in follow:
        with (
            SetWorkflowID(item["key"]),
            SetEnqueueOptions(priority=item["priority"], delay_seconds=item["delay_s"] or None),
        ):
            DBOS.enqueue_workflow(item["queue"], _workflow, item["job"], item["args"], item["queue"])
    _bell.ring({item["queue"] for item in follow})
    _bell.ring_later(queue)
    return len(follow)


class _Bell:
    """Ends the pause of a queue's thread when this very process has put a job for it, or has a place free again.

    Four pauses lie on a study's road, and between the photographs of a clinic lies one each.  Only the queue that has
    something to do is woken: a look of one costs the engine's database a few milliseconds of this whole process.

    The engine's queue threads sleep on a stop event between two looks, and have no other way to be woken.  Only their
    wait is replaced, by one that also hears the bell; a ring during a look is heard right after it.  In an engine that
    names its threads otherwise nothing is woken, and polling finds the job as before.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings: Counter[str] = Counter()
        self._heard = threading.local()

    def ring(self, queues: Collection[str]) -> None:
        with self._condition:
            self._rings.update(queues)
            self._condition.notify_all()

    def ring_later(self, queue: str) -> None:
        """Ring a moment later: the job that ends now still counts in its queue until it has returned."""
        later = threading.Timer(_RETURNED_S, self.ring, [(queue,)])
        later.daemon = True
        later.start()

    def hang_on(self, stop: threading.Event) -> None:
        """Let those that wait for `stop` hear the bell."""
        wait_as_before, stop_as_before = stop.wait, stop.set

        def wait(timeout: float | None = None) -> bool:
            name = threading.current_thread().name
            if not name.startswith(_QUEUE_THREAD):
                return wait_as_before(timeout)
            queue = name.removeprefix(_QUEUE_THREAD)
            with self._condition:
                heard = getattr(self._heard, "rings", 0)
                self._condition.wait_for(lambda: stop.is_set() or self._rings[queue] != heard, timeout)
                self._heard.rings = self._rings[queue]
            return stop.is_set()

        def end() -> None:
            stop_as_before()
            with self._condition:
                self._condition.notify_all()

        stop.wait, stop.set = wait, end  # type: ignore[method-assign]


_RETURNED_S = 0.03
"""So long after its last put a job is taken to have returned; where it has not, the next look finds its place free."""
_QUEUE_THREAD = "queue-worker-"
_bell = _Bell()


class Client:
    """Put jobs from a process that does not run them."""

    def __init__(self, url: str) -> None:
        self._client = DBOSClient(system_database_url=url, serializer=DBOSPortableJSONSerializer())

    def put(self, item: Put) -> None:
        options: dict[str, Any] = {
            "workflow_name": "ainode_job",
            "queue_name": item.queue,
            "workflow_id": item.key,
            "app_version": APPLICATION_VERSION,
            "priority": item.priority,
        }
        if item.delay_s > 0:
            options["delay_seconds"] = item.delay_s
        self._client.enqueue(options, item.job, list(item.args), item.queue)  # type: ignore[arg-type]

    def cancel(self, prefix: str) -> int:
        keys = self.live(prefix)
        if keys:
            self._client.cancel_workflows(keys)
        return len(keys)

    def live(self, prefix: str = "") -> list[str]:
        return _keys(self._client.list_workflows, LIVE, prefix)

    def dead(self) -> list[str]:
        return _keys(self._client.list_workflows, DEAD, "")

    def retry(self, key: str) -> None:
        self._client.rewind_workflow(key, start_step=1)

    def purge(self, before_s: float) -> int:
        """Delete finished jobs older than `before_s` seconds; the record keeps what matters."""
        old = [
            w.workflow_id
            for w in self._client.list_workflows(
                status=["SUCCESS", "CANCELLED"], load_input=False, load_output=False, limit=2000
            )
            if w.completed_at is not None and w.completed_at < (time.time() - before_s) * 1000
        ]
        if old:
            self._client.delete_workflows(old)
        return len(old)

    def close(self) -> None:
        self._client.destroy()


def connect(url: str) -> Client:
    """A putter for `listen`, `web` and the command line; the engine's tables must exist (`migrate`)."""
    return Client(url)


def _keys(listing: Callable[..., Any], status: Sequence[str], prefix: str) -> list[str]:
    options: dict[str, Any] = {"status": list(status), "load_input": False, "load_output": False}
    if prefix:
        options["workflow_id_prefix"] = prefix
    return [str(w.workflow_id) for w in listing(**options)]


def migrate(url: str) -> None:
    """Create the engine's tables, once before any process of the node starts."""
    _prepare_sqlite(url)
    from dbos import run_dbos_database_migrations

    run_dbos_database_migrations(system_database_url=url)


def _prepare_sqlite(url: str) -> Path | None:
    if not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=wal")  # persists in the file; DBOS would leave the slower journal on
    finally:
        connection.close()
    return path


class Worker:
    """The one process that runs jobs.

    Parameters
    ----------
    url
        The engine's database.
    jobs
        Name -> function; each returns the jobs that follow.
    queues
        Name -> how many jobs of it run at once.

    Raises
    ------
    AlreadyRunning
        From `start`, when another worker holds the same SQLite file.
    """

    def __init__(self, url: str, jobs: Mapping[str, Job], queues: Mapping[str, int]) -> None:
        self._url = url
        self._queues = dict(queues)
        self._lock: int | None = None
        _jobs.clear()
        _jobs.update(jobs)
        _places.clear()
        _places.update({name: threading.BoundedSemaphore(count) for name, count in queues.items()})

    def start(self) -> None:
        path = _prepare_sqlite(self._url)
        if path is not None:
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                self._lock = None
                raise AlreadyRunning("another worker runs on this data folder: stop it first") from None
        engine = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": self._url,
                "executor_id": EXECUTOR,
                "application_version": APPLICATION_VERSION,
                "serializer": DBOSPortableJSONSerializer(),
                "max_executor_threads": 32,
                "log_level": "CRITICAL",  # the road logs its own faults, without data of patients
            }
        )
        DBOS.launch()
        for stop in engine.background_thread_stop_events:
            _bell.hang_on(stop)
        for name, concurrency in self._queues.items():
            DBOS.register_queue(name, worker_concurrency=concurrency, polling_interval_sec=POLL_S)

    def stop(self, grace_s: int = 20) -> None:
        """Let running jobs finish for up to `grace_s`, then leave; what is left is taken up at the next start."""
        DBOS.destroy(workflow_completion_timeout_sec=grace_s)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass
class MemoryEngine:
    """The in-memory twin for tests: same keys, priorities and follow-up rules, one thread, virtual time."""

    jobs: dict[str, Job] = field(default_factory=dict)
    now_s: float = 0.0
    errors: dict[str, Exception] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._heap: list[tuple[float, int, int, Put]] = []
        self._known: set[str] = set()
        self._count = itertools.count()
        self._items: dict[str, Put] = {}

    def put(self, item: Put) -> None:
        if item.key not in self._known:
            self._known.add(item.key)
            self._items[item.key] = item
            heapq.heappush(self._heap, (self.now_s + item.delay_s, item.priority, next(self._count), item))

    def cancel(self, prefix: str) -> int:
        before = len(self._heap)
        self._heap = [entry for entry in self._heap if not entry[3].key.startswith(prefix)]
        heapq.heapify(self._heap)
        return before - len(self._heap)

    def live(self, prefix: str = "") -> list[str]:
        return [entry[3].key for entry in self._heap if entry[3].key.startswith(prefix)]

    def dead(self) -> list[str]:
        return list(self.errors)

    def retry(self, key: str) -> None:
        self.errors.pop(key, None)
        self._known.discard(key)
        self.put(self._items[key])

    def purge(self, before_s: float) -> int:
        return 0

    def run(self, until_s: float | None = None) -> None:
        """Run every job due up to `until_s` (default: until nothing is left), moving virtual time along."""
        while self._heap and (until_s is None or self._heap[0][0] <= until_s):
            due, _, _, item = heapq.heappop(self._heap)
            self.now_s = max(self.now_s, due)
            try:
                follow = self.jobs[item.job](*item.args)
            except Exception as error:  # the engine's boundary: a job that fails is a dead letter
                self.errors[item.key] = error
                continue
            self.done.append(item.key)
            for next_item in follow:
                self.put(next_item)
        if until_s is not None:
            self.now_s = max(self.now_s, until_s)
