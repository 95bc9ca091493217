"""What the archive in front says it holds of a series (Orthanc's REST interface, ``/tools/find``).

Asked in a thread of its own, so that an archive that answers slowly delays no series that needs no answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import httpx
import structlog

from dicom_node import logs
from dicom_node.settings import OrthancSection, read_secret
from dicom_node.tls import CallingSide, Identity

log = structlog.get_logger(__name__)

TIMEOUT_S = 3.0
PAUSE_AFTER_FAILURE_S = 2.0


class ArchiveCounts:
    """Counts of instances by series, each with the moment it was asked for.

    Parameters
    ----------
    settings
        Section ``orthanc``.
    on_answer
        Called with the Series UID when its count has come.
    shown
        Whose certificate the archive is shown over HTTPS when it asks for one.
    """

    def __init__(
        self,
        settings: OrthancSection,
        on_answer: Callable[[str], None] = lambda _: None,
        *,
        shown: Identity | None = None,
    ) -> None:
        self._settings = settings
        self._tls = CallingSide(settings.ca_file, shown)
        self.on_answer = on_answer
        self._asked: queue.Queue[str] = queue.Queue()
        self._pending: set[str] = set()
        self._answers: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def since(self, series_uid: str, moment: float) -> int | None:
        """The count, if it was asked for after `moment` (monotonic); else it is asked for now and None returned."""
        with self._lock:
            answer = self._answers.get(series_uid)
            if answer is not None and answer[1] >= moment:
                return answer[0]
            if series_uid not in self._pending:
                self._pending.add(series_uid)
                self._asked.put(series_uid)
        return None

    def forget(self, series_uid: str) -> None:
        with self._lock:
            self._answers.pop(series_uid, None)

    def run(self, stop: threading.Event) -> None:
        """Answer questions until `stop` is set."""
        with self._client() as client:
            while not stop.is_set():
                try:
                    series_uid = self._asked.get(timeout=0.5)
                except queue.Empty:
                    continue
                moment = time.monotonic()
                self._tls.follow()
                count = self._ask(client, series_uid)
                with self._lock:
                    self._pending.discard(series_uid)
                    if count is not None:
                        self._answers[series_uid] = (count, moment)
                if count is None:
                    stop.wait(PAUSE_AFTER_FAILURE_S)
                self.on_answer(series_uid)

    def _client(self) -> httpx.Client:
        auth = None
        if self._settings.username and self._settings.password_file is not None:
            auth = httpx.BasicAuth(self._settings.username, read_secret(self._settings.password_file))
        return httpx.Client(
            base_url=self._settings.url, auth=auth, timeout=TIMEOUT_S, trust_env=False, verify=self._tls.context
        )

    def _ask(self, client: httpx.Client, series_uid: str) -> int | None:
        question = {"Level": "Series", "Query": {"SeriesInstanceUID": series_uid}, "Expand": True}
        try:
            answer = client.post("/tools/find", json=question)
            answer.raise_for_status()
            found = answer.json()
            return sum(len(entry["Instances"]) for entry in found)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.info("gather.archive-silent", error=logs.named(error))
            return None
