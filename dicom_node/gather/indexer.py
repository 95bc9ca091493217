"""Reads the header of every stored object, outside the C-STORE handler, and compares contents under one UID."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import RowMapping

from dicom_node import logs
from dicom_node.record import Database
from dicom_node.record import indexing as rows
from dicom_node.refusals import Refusal, RefusalCode, Refused
from dicom_node.words import PRODUCT

log = structlog.get_logger(__name__)

BATCH = 32
FORGIVE_S = 30.0
"""How often a file that could not be reached is tried again."""
REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID")

ReadHeader = Callable[[Path], Mapping[str, Any]]
ContentDigest = Callable[[Path], str]


class Files(Protocol):
    """What the indexer may do to the vault's files."""

    data_folder: Path

    def drop(self, path: str) -> None: ...
    def to_quarantine(self, path: str) -> str: ...


class Indexer:
    """Fills in what the door left open.

    Parameters
    ----------
    database, files
        Record and vault.
    read_header, content_digest
        Of the volume room: header of one stored file by keyword, and its content digest (design section 4).
    is_input
        Whether objects of a SOP Class may be an input of a model.
    on_indexed
        Called with the Series UID after the row of an instance is filled in.
    site_of
        The site of a sender, by its AE title; None where the settings name none.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        *,
        read_header: ReadHeader,
        content_digest: ContentDigest,
        is_input: Callable[[str], bool],
        on_indexed: Callable[[str], None],
        site_of: Callable[[str], str | None] = lambda _ae_title: None,
    ) -> None:
        self._database, self._files = database, files
        self._read_header, self._content_digest = read_header, content_digest
        self._is_input = is_input
        self._on_indexed = on_indexed
        self._site_of = site_of
        self._wake = threading.Event()
        self._unreachable: set[int] = set()
        self._forgiven_s = time.monotonic()

    def ring(self) -> None:
        """There is something to index."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Index until `stop` is set."""
        while not stop.is_set():
            self._wake.clear()
            try:
                done = self.index_batch() + self.judge_copies()
            except Exception as error:  # the thread's boundary: everything is still in the records for the next round
                log.error("gather.indexing-failed", error=logs.named(error))
                stop.wait(1.0)
                continue
            if done == 0:
                self._wake.wait(1.0)

    def index_batch(self) -> int:
        """Index the oldest objects that wait; how many there were."""
        if time.monotonic() - self._forgiven_s > FORGIVE_S:
            self._unreachable.clear()
            self._forgiven_s = time.monotonic()
        with self._database.read() as connection:
            waiting = rows.unindexed(connection, BATCH, self._unreachable)
        readings = [(row, reading) for row in waiting if (reading := self._read(row)) is not None]
        if not readings:
            return 0
        touched: list[str] = []
        with self._database.write() as connection:
            for row, reading in readings:
                if isinstance(reading, Refusal):
                    study_uid, series_uid = rows.known_place(connection, row["id"])
                    rows.refuse_instance(
                        connection,
                        row["id"],
                        study_uid,
                        series_uid,
                        reading,
                        is_input=self._is_input(row["sop_class_uid"]),
                    )
                    log.warning("gather.instance-refused", instance=row["id"], code=reading.code.value)
                    touched += [series_uid] if series_uid else []
                    continue
                header, content_sha256 = reading
                own = self._is_own(row, header, rows.is_known_result(connection, row["uid"]))
                rows.index_instance(
                    connection,
                    row["id"],
                    header,
                    content_sha256,
                    own_result=own,
                    is_input=self._is_input(row["sop_class_uid"]),
                    site=self._site_of(row["calling_ae"]),
                )
                if not own:
                    touched.append(str(header["SeriesInstanceUID"]))
        for series_uid in touched:
            self._on_indexed(series_uid)
        return len(readings)

    def judge_copies(self) -> int:
        """Compare further copies with the first by content: duplicates go, conflicts are kept apart and reported."""
        with self._database.read() as connection:
            waiting = rows.unjudged_copies(connection, BATCH)
        for row in waiting:
            content_sha256 = self._digest_or_none(row["path"])
            duplicate = content_sha256 is not None and content_sha256 == row["first_sha256"]
            if duplicate and row["removed_at"]:
                with self._database.write() as connection:
                    rows.take_place(connection, row["id"])
                continue
            path = None if duplicate else self._files.to_quarantine(row["path"])
            with self._database.write() as connection:
                rows.judge_copy(connection, row["id"], duplicate=duplicate, content_sha256=content_sha256, path=path)
            if duplicate:
                self._files.drop(row["path"])
            else:
                log.warning("gather.uid-conflict", copy=row["id"])
            if row["series_uid"]:
                self._on_indexed(row["series_uid"])
        return len(waiting)

    def _read(self, row: RowMapping) -> tuple[Mapping[str, Any], str] | Refusal | None:
        """Header and content digest, or the refusal; None when the file cannot be reached now."""
        path = self._files.data_folder / row["path"]
        try:
            header = self._read_header(path)
            missing = [keyword for keyword in REQUIRED if not header.get(keyword)]
            if missing:
                return Refusal(
                    RefusalCode.UID_INVALID, "Study and Series Instance UID", "without " + ", ".join(missing)
                )
            return header, self._content_digest(path)
        except Refused as refused:
            return refused.refusal
        except OSError as error:
            # the disk's trouble, not the object's: the vault's own look blocks readiness until the file is back
            log.error("gather.file-unreachable", instance=row["id"], error=logs.named(error))
            self._unreachable.add(int(row["id"]))
            return None
        except Exception as error:  # hostile bytes: whatever the reader trips over, the series must not hang
            log.error("gather.reader-failed", instance=row["id"], error=logs.named(error))
            return Refusal(RefusalCode.DICOM_MALFORMED)

    def _digest_or_none(self, path: str) -> str | None:
        try:
            return self._content_digest(self._files.data_folder / path)
        except Refused:
            return None

    def _is_own(self, row: RowMapping, header: Mapping[str, Any], is_known: bool) -> bool:
        """By UID, or by what made it: a node that was restored from a backup must know its results too (I18)."""
        return is_known or header.get("ManufacturerModelName") == PRODUCT
