"""The `listen` process: door, indexer, gatherer and the passing of originals, under one roof and one stop.

It launches no workflow engine: it keeps records and puts jobs through the two functions it is given.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from dicom_node.door import Disk, Door, Intake, Passer, Vault, is_input, silence_libraries
from dicom_node.gather import ArchiveCounts, Gatherer, Indexer
from dicom_node.gather.gatherer import SeriesGeometry
from dicom_node.gather.indexer import ContentDigest, ReadHeader
from dicom_node.record import Database
from dicom_node.settings import Settings

log = structlog.get_logger(__name__)

GIGABYTE = 1e9
MEGABYTE = 1024 * 1024
CHECK_S = 5.0
"""How often missing files are looked for again."""


class AlreadyListening(Exception):
    """Another process holds this vault."""


def run_listen(
    settings: Settings,
    database: Database,
    put_read: Callable[[int], None],
    put_quiet: Callable[[str, int], None],
    *,
    read_header: ReadHeader,
    content_digest: ContentDigest,
    series_geometry: SeriesGeometry,
    stop: threading.Event,
    on_ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Listen until `stop` is set; then finish what is in hand and return.

    Parameters
    ----------
    settings, database
        The database is migrated.
    put_read
        Tells the road of a closed revision, by its id.  Called at least once per revision, perhaps again after a crash:
        its job's key must make the second call change nothing.
    put_quiet
        Tells the road that a study is quiet: Study UID and the number of the declaration, likewise.
    read_header, content_digest, series_geometry
        Of the volume room.
    on_ready
        Called with the port once associations are accepted.

    Raises
    ------
    AlreadyListening
        If another process listens for this data folder.
    OSError
        If the port is taken or the data folder cannot be written.
    """
    silence_libraries()
    vault = Vault(
        settings.data.folder,
        Disk(),
        min_free_bytes=settings.data.min_free_gb * GIGABYTE,
        min_free_share=settings.data.min_free_share,
        max_object_bytes=int(settings.door.max_object_mb * MEGABYTE),
    )
    with _only_one(vault.root):
        intake = Intake(vault, database)
        intake.recover()
        counts = ArchiveCounts(settings.orthanc, shown=settings.shown(settings.orthanc))
        gatherer = Gatherer(settings, database, series_geometry, put_read, put_quiet, counts)
        counts.on_answer = gatherer.look_at
        indexer = Indexer(
            database,
            vault,
            read_header=read_header,
            content_digest=content_digest,
            is_input=is_input,
            on_indexed=gatherer.note,
            site_of=lambda ae_title: sender.site if (sender := settings.sender(ae_title)) else None,
        )
        passer = Passer(settings, database, vault)
        door = Door(settings, intake, on_kept=indexer.ring, on_closed=gatherer.association_ended)
        gatherer.rebuild()
        threads = [
            threading.Thread(target=target, args=(stop,), name=name, daemon=True)
            for name, target in (
                ("indexer", indexer.run),
                ("gatherer", gatherer.run),
                ("archive-counts", counts.run),
                ("originals", passer.run),
            )
        ]
        for thread in threads:
            thread.start()
        door.start()
        on_ready(door.port)
        try:
            while not stop.wait(CHECK_S):
                intake.look_again()
                passer.ring()
        finally:
            stop.set()
            door.stop()
            for thread in threads:
                thread.join(timeout=10.0)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the vault: a second listener would sweep the first one's half-received files."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyListening("another process listens for this data folder; stop it first") from None
        yield
    finally:
        os.close(handle)
