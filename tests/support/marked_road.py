"""One node, as a process of its own, over studies full of marked words: what it prints is what operators would see.

`python -m tests.support.marked_road FOLDER` reads ``FOLDER/<name>/`` (DICOM files of one series each) and
``FOLDER/models``; the data folder is ``FOLDER/node/data``.  It goes the whole road, then along every path on which an
exception's text could reach an operator, and prints the metrics last.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from pydicom import dcmread

from dicom_node import logs
from dicom_node.cli.web import _refresh
from dicom_node.metrics import METRICS
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages import write as write_stage
from tests.support.node import Node

log = structlog.get_logger()


def main(folder: Path) -> None:
    """Run everything."""
    logs.set_up("work")
    node = Node(folder / "node", folder / "models")
    try:
        bring(node, folder / "whole")
        say("whole", node)
        secret = str(dcmread(next((folder / "whole").iterdir()), stop_before_pixels=True))

        def faulty(*_: Any, **__: Any) -> Any:
            raise ValueError(secret)

        def unlike(*_: Any, **__: Any) -> Any:
            raise Refused(RefusalCode.RESULT_CHECK_FAILED, secret, secret)

        with_stage("build", faulty, lambda: bring(node, folder / "fault"))
        say("fault", node)
        with_stage("check", unlike, lambda: bring(node, folder / "unlike"))
        say("unlike", node)
        bring(node, folder / "refused")
        say("refused", node)
        beside_the_road(secret)
        _refresh(node.settings, node.database)
        sys.stdout.write(METRICS.render().decode())
        sys.stdout.flush()
    finally:
        node.close()
    raise RuntimeError(secret)  # nobody catches it: the interpreter's last word


def bring(node: Node, series: Path) -> None:
    """A series arrives, closes, and its study becomes quiet."""
    files = sorted(series.iterdir())
    header = dcmread(files[0], stop_before_pixels=True)
    node.receive(files)
    node.close_series(str(header.SeriesInstanceUID))
    node.engine.run()
    node.quiet(str(header.StudyInstanceUID))
    node.engine.run()


def with_stage(name: str, other: Callable[..., Any], body: Callable[[], None]) -> None:
    """Run `body` while the write stage has another function."""
    before = getattr(write_stage, name)
    setattr(write_stage, name, other)
    try:
        body()
    finally:
        setattr(write_stage, name, before)


def beside_the_road(secret: str) -> None:
    """The ways in which text gets out that nobody wrote a log line for."""

    def fault() -> None:
        raise LookupError(secret)

    thread = threading.Thread(target=fault)
    thread.start()
    thread.join()
    for name in ("uvicorn.error", "asyncio", "pynetdicom.acse", "pydicom", "httpx", "sqlalchemy.engine.Engine", "dbos"):
        try:
            fault()
        except LookupError:
            logging.getLogger(name).exception("while handling %s", secret)
    warnings.warn(secret, stacklevel=1)
    log.info("study.marked", patient=secret, reason="uid 1.2.840.113619.2.55.3.604688119 in an allowed field")


def say(what: str, node: Node) -> None:
    """What became of the newest run, for the test to see that the path was taken."""
    from dicom_node.record.tables import cases, runs

    states = [row["state"] for row in node.rows(runs)], [row["state"] for row in node.rows(cases)]
    sys.stdout.write(f"path {what}: {states[0][-1]} {states[1][-1]} {len(node.engine.errors)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
