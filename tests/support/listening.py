"""The real `listen` in a thread or in a process of its own, with the real readers of headers, digests and geometry."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import RowMapping, Table, select

from dicom_node.listen import run_listen
from dicom_node.record import Database
from dicom_node.record.tables import arrivals, copies, events, instances, revisions, series, studies
from dicom_node.settings import Settings, load_settings
from dicom_node.volume.geometry import series_geometry
from dicom_node.volume.header import content_digest, read_header

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES: Mapping[str, Table] = {t.name: t for t in (arrivals, copies, events, instances, revisions, series, studies)}


def settings_for(folder: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings of a test node; sections are merged over short waits and two known senders."""
    values: dict[str, dict[str, Any]] = {
        "data": {"folder": folder / "data", "min_free_gb": 0, "min_free_share": 0},
        "door": {
            "port": 0,
            "senders": [{"ae_title": "ORTHANC", "is_archive": True}, {"ae_title": "MODALITY"}],
        },
        "gather": {"quiet_s": 0.3, "cap_s": 1.0, "study_quiet_s": 2.0},
        "orthanc": {"url": "http://127.0.0.1:9", "pass_originals": False},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes}
    return Settings(**values)


def migrated(settings: Settings) -> Database:
    """A database with today's tables: migrated once for all tests of this process, then copied."""
    target = settings.data.folder / "records.sqlite"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(_template(), target)
    return Database(settings.records_url)


@cache
def _template() -> Path:
    path = Path(tempfile.mkdtemp(prefix="ainode-records-")) / "records.sqlite"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    database = Database(f"sqlite:///{path}")
    database.migrate()
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


@dataclass
class Records:
    """What a test asks the record."""

    database: Database

    def rows(self, name: str, **where: Any) -> list[RowMapping]:
        table = TABLES[name]
        query = select(table).where(*(table.c[k] == v for k, v in where.items())).order_by(*table.primary_key)
        with self.database.read() as connection:
            return list(connection.execute(query).mappings())

    def count(self, name: str, **where: Any) -> int:
        return len(self.rows(name, **where))


@dataclass
class Listening(Records):
    """A `listen` that runs in a thread of the test."""

    settings: Settings
    port: int = 0
    reads: list[int] = field(default_factory=list)
    quiets: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def listening(
    settings: Settings,
    put_read: Callable[[int], None] | None = None,
    put_quiet: Callable[[str, int], None] | None = None,
) -> Iterator[Listening]:
    """Run `listen` in a thread; ends, with everything it started, at the end of the block."""
    database = migrated(settings)
    node = Listening(database, settings)
    stop, ready, failure = threading.Event(), threading.Event(), list[BaseException]()

    def announce(port: int) -> None:
        node.port = port
        ready.set()

    def run() -> None:
        try:
            run_listen(
                settings,
                database,
                put_read or node.reads.append,
                put_quiet or (lambda uid, number: node.quiets.append((uid, number))),
                read_header=read_header,
                content_digest=content_digest,
                series_geometry=series_geometry,
                stop=stop,
                on_ready=announce,
            )
        except BaseException as error:
            failure.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=run, name="listen")
    thread.start()
    try:
        assert ready.wait(60), "listen did not become ready"
        assert not failure, failure
        yield node
    finally:
        stop.set()
        thread.join(30)
        database.close()
        assert not thread.is_alive()


def until(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what or condition}")


# a process of its own, for kill -9


@dataclass
class ListenProcess:
    """A `listen` in a child process that writes what it tells the road into a file."""

    folder: Path
    config: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def log(self) -> str:
        return (self.folder / "listen.log").read_text(encoding="utf-8", errors="replace")

    def told(self) -> list[dict[str, Any]]:
        """Every call of put_read and put_quiet, in order, over all lives of the process."""
        path = self.folder / "told.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def end(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


def start_process(folder: Path, settings: Settings, failpoint: str | None = None) -> ListenProcess:
    """Start `listen` on `folder`; armed to die at `failpoint` if one is named."""
    config = folder / "node.yaml"
    config.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_defaults=True))), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    if failpoint is not None:
        environment |= {"AI_NODE_FAILPOINT": failpoint, "AI_NODE_TEST_BUILD": "failpoints-may-kill"}
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    with (folder / "listen.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.listening", str(config)],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
        )
    child = ListenProcess(folder, config, process, 0)
    try:
        until(lambda: port_file.exists() or process.poll() is not None, 120, "listen process ready")
    except BaseException:
        child.kill()
        raise
    if port_file.exists():
        child.port = int(port_file.read_text())
    return child


def main(config: Path) -> None:
    """Entry of the child process."""
    settings = load_settings(config)
    folder = config.parent
    database = Database(settings.records_url)
    database.migrate()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def tell(**what: Any) -> None:
        with (folder / "told.jsonl").open("a") as file:
            file.write(json.dumps(what) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def announce(port: int) -> None:
        (folder / "port.new").write_text(str(port))
        (folder / "port.new").rename(folder / "port")

    run_listen(
        settings,
        database,
        lambda revision: tell(read=revision),
        lambda uid, number: tell(quiet=number),
        read_header=read_header,
        content_digest=content_digest,
        series_geometry=series_geometry,
        stop=stop,
        on_ready=announce,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
