"""Logs: JSON, one line each, UTC, fixed event names, fields from an allow-list (invariant I4).

A UID, an accession number or a description is patient data: events carry opaque ids instead.  A field that is not in
the list is dropped and counted, never printed; what has the form of a UID is blotted out wherever it stands.  The
loggers of the libraries (pynetdicom and pydicom print whole data sets, HTTP clients print URLs with queries) are cut
off above the level at which they speak of data, and what they still say is their name and the level alone.

An exception's text may quote an element, so it is printed nowhere: not by `log.exception`, not by a library's logger,
not by the interpreter for an exception that nobody caught.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

FIELDS = frozenset(
    {
        "event", "level", "timestamp", "process", "pid", "code", "count", "seconds", "attempt", "stage", "run",
        "case", "revision", "study_id", "series_id", "arrival", "destination", "object", "kind", "outcome", "reason",
        "refusal", "status", "route", "model", "version", "port", "host", "peer", "sender", "size_bytes", "pause_s",
        "grade", "queue", "job", "error", "limit", "free_bytes", "check", "method", "key_id", "worker", "slices",
        "deaths", "instances", "wait_s", "tries", "dropped_fields", "cause", "files", "rows", "where", "section",
        "adopted", "because", "copy", "correlation", "final", "instance", "kept", "parts_removed", "passed", "pending",
        "quarantined", "released", "senders", "state", "trial",
    }
)  # fmt: skip
"""What may be printed: numbers, fixed words, row ids of the record, words of the configuration."""

_UID = re.compile(r"\b[0-2](?:\.\d+){4,}\b|\b2\.25\.\d{6,}\b")
"""Five components or more, or a UUID-derived UID (PS3.5 B.2): no version and no IPv4 address looks like it."""

_QUIET = {
    "pynetdicom": logging.CRITICAL,
    "pydicom": logging.CRITICAL,
    "highdicom": logging.CRITICAL,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.CRITICAL,
    "dbos": logging.CRITICAL,
    "sqlalchemy.engine": logging.CRITICAL,
    "alembic": logging.WARNING,
    "matplotlib": logging.WARNING,
    "PIL": logging.WARNING,
    "fontTools": logging.CRITICAL,
}


def allow_listed(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop every field that is not on the list."""
    unknown = [key for key in event if key not in FIELDS]
    for key in unknown:
        del event[key]
    if unknown:
        event["dropped_fields"] = len(unknown)
    return event


def blot_uids(_logger: object, _method: str, line: Any) -> str:
    """The second line of defence, on the finished line: a UID inside an allowed field."""
    return _UID.sub("(uid)", line)


class _NameOnly(logging.Formatter):
    """A record of a library: its level and logger.  Message and traceback may quote data, so neither is printed."""

    def format(self, record: logging.LogRecord) -> str:
        failure = record.exc_info[0] if record.exc_info else None
        return f"{record.levelname} {record.name}" + (f" {failure.__name__}" if failure else "")


class _StandardError:
    """Standard error as it is when something is written: a logger that is kept outlives a stream that was replaced."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up(process: str, *, level: int = logging.INFO) -> None:
    """Configure logging of one process; everything goes to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_process(process),
            _name_the_error,
            allow_listed,
            structlog.processors.JSONRenderer(sort_keys=True),
            blot_uids,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_NameOnly())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def named(failure: BaseException) -> str:
    """What a fault is called: its class and, of a database's, SQLite's code for it.  Never its text."""
    cause = getattr(failure, "orig", None) or failure
    code = getattr(cause, "sqlite_errorname", None)
    return f"{type(failure).__name__} {code}" if code else type(failure).__name__


def _uncaught(_kind: type[BaseException], failure: BaseException, _trace: TracebackType | None) -> None:
    if not isinstance(failure, KeyboardInterrupt):
        structlog.get_logger().critical("process.fault", exc_info=failure)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        structlog.get_logger().critical("thread.fault", exc_info=args.exc_value)


def _unraisable(args: Any) -> None:
    structlog.get_logger().error("process.fault-ignored", exc_info=args.exc_value)


def _add_process(process: str) -> structlog.typing.Processor:
    def add(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    return add


def _name_the_error(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep an exception's type and where it was raised; its text may hold element values."""
    failure = event.pop("exc_info", None)
    if failure is True:
        failure = sys.exc_info()[1]
    if isinstance(failure, BaseException):
        event["error"] = named(failure)
        trace = failure.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            code = trace.tb_frame.f_code
            event["where"] = f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
    return event
