"""From received bytes to an acknowledged row: compare, make durable, commit, answer (I1, I10).

`Intake.accept` runs in the thread of an association.  File writes and their fsync run side by side in those threads;
the folder fsync and the database commit are shared: whichever thread comes first does them for all that wait, and
none returns before the commit that holds its row.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.door import scan, table
from dicom_node.door.part10 import read_meta
from dicom_node.door.vault import Incoming, Placed, Recovery, Vault
from dicom_node.failpoints import reach
from dicom_node.record import Database
from dicom_node.record import arrivals as rows
from dicom_node.refusals import RefusalCode, Refused

log = structlog.get_logger(__name__)

RECOVERED_AE = "RECOVERED"
"""Calling AE of the arrival under which files without a row are adopted at start."""

_HEAD_FOR_ADOPTION_BYTES = 1 << 20


@dataclass
class Arrival:
    """One association as the door sees it; its row is made together with its first object."""

    calling_ae: str
    peer: str
    pass_on: bool = False
    id: int | None = None
    kept: int = 0


@dataclass
class _Pending:
    """One placed file that waits for its row."""

    row: rows.Received
    arrival: Arrival
    folder: Path
    outcome: rows.Kept | None = None
    error: Exception | None = None


@dataclass
class Intake:
    """Keeps received objects.

    Parameters
    ----------
    vault, database
        Where bytes and rows go.
    """

    vault: Vault
    database: Database
    _waiting: list[_Pending] = field(default_factory=list)
    _list_lock: threading.Lock = field(default_factory=threading.Lock)
    _commit_lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, item: Incoming, sop_class: str, sop_instance: str, syntax: str, arrival: Arrival) -> rows.Kept:
        """Keep one object, or say why not.  Returns only after the row is committed.

        Parameters
        ----------
        item
            The received bytes.
        sop_class, sop_instance
            Of the command set.
        syntax
            Transfer syntax of the presentation context.

        Raises
        ------
        Refused
            With a code of hardening section 3.  Nothing of the object stays.
        OSError, SQLAlchemyError
            From disk or database; not acknowledged.
        """
        try:
            identity = self._check(item, sop_class, sop_instance, syntax)
            if self._holds(sop_instance, item.sha256, arrival, is_input=table.is_input(sop_class)):
                arrival.kept += 1
                return rows.Kept.SAME
            placed = self.vault.place(item)
        finally:
            if not item.is_settled:
                item.discard()
        row = rows.Received(
            uid=sop_instance,
            sop_class_uid=sop_class,
            transfer_syntax_uid=syntax,
            study_uid=identity.study_uid,
            series_uid=identity.series_uid,
            path=placed.path,
            size_bytes=placed.size_bytes,
            bytes_sha256=placed.sha256,
            calling_ae=arrival.calling_ae,
            pass_on=arrival.pass_on and table.is_input(sop_class),
        )
        return self._commit(_Pending(row, arrival, placed.folder))

    def close(self, arrival: Arrival, *, released: bool) -> None:
        """Record the end of an association that brought something."""
        if arrival.id is None:
            return
        with self.database.write() as connection:
            rows.close_arrival(connection, arrival.id, released=released, kept=arrival.kept)

    def recover(self) -> Recovery:
        """Bring vault and rows together at start; writes how many rows have no file."""
        self.vault.prepare()
        with self.database.write() as connection:
            rows.close_lost_arrivals(connection)
        with self.database.read() as connection:
            promised = dict(rows.stored_paths(connection))
        arrival = Arrival(RECOVERED_AE, "local")
        recovery = self.vault.recover(promised, lambda *file: self._adopt(arrival, *file))
        self.close(arrival, released=False)
        with self.database.write() as connection:
            rows.set_missing_files(connection, len(recovery.missing))
        return recovery

    def look_again(self) -> None:
        """Look whether files that rows promise are back."""
        if self.vault.missing:
            count = self.vault.look_again()
            with self.database.write() as connection:
                rows.set_missing_files(connection, count)

    def _check(self, item: Incoming, sop_class: str, sop_instance: str, syntax: str) -> scan.Identity:
        if item.failure is not None:
            raise item.failure
        trouble = self.vault.why_not_ready()
        if trouble is not None:
            raise trouble
        if not table.is_kept(sop_class):
            raise Refused(RefusalCode.SOP_CLASS_UNSUPPORTED)
        if syntax not in table.TRANSFER_SYNTAXES:
            raise Refused(RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED)
        if not scan.is_uid(sop_instance):
            raise Refused(RefusalCode.UID_INVALID, "digits and dots, at most 64", "something else")
        identity = scan.identify(item.head, item.size_bytes, explicit=table.is_explicit(syntax))
        if (identity.sop_class_uid, identity.sop_instance_uid) != (sop_class, sop_instance):
            raise Refused(RefusalCode.UID_MISMATCH, "the data set's own UIDs in the command set", "others")
        return identity

    def _holds(self, uid: str, sha256: str, arrival: Arrival, *, is_input: bool) -> bool:
        with self.database.read() as connection:
            calling_ae = rows.holds(connection, uid, sha256)
        if calling_ae == RECOVERED_AE:  # adopted at start without knowing whose it was: now its sender says so again
            with self.database.write() as connection:
                rows.claim_recovered(connection, uid, arrival.calling_ae, pass_on=arrival.pass_on and is_input)
        return calling_ae is not None

    def _commit(self, pending: _Pending) -> rows.Kept:
        with self._list_lock:
            self._waiting.append(pending)
        with self._commit_lock:
            if pending.outcome is None and pending.error is None:
                with self._list_lock:
                    batch, self._waiting = self._waiting, []
                self._commit_batch(batch)
        if pending.error is not None:
            raise pending.error
        if pending.outcome is None:
            raise RuntimeError("a batch ended without an outcome")
        return pending.outcome

    def _commit_batch(self, batch: list[_Pending]) -> None:
        try:
            self.vault.sync_folders({p.folder for p in batch})
            reach("K4")
            with self.database.write() as connection:
                outcomes, opened = [], dict[int, int]()
                for p in batch:
                    arrival_id = p.arrival.id or opened.get(id(p.arrival))
                    if arrival_id is None:
                        arrival_id = rows.open_arrival(connection, p.arrival.calling_ae, p.arrival.peer)
                        opened[id(p.arrival)] = arrival_id
                    outcomes.append(rows.add_instance(connection, p.row, arrival_id))
                    if outcomes[-1] is rows.Kept.AGAIN and not self.vault.has(p.row.path):
                        raise FileNotFoundError("a deletion took the file before its row: its sender tries again")
        except (OSError, SQLAlchemyError) as error:
            for p in batch:
                p.error = error
            return
        reach("K5")
        for p, outcome in zip(batch, outcomes, strict=True):
            p.arrival.id = p.arrival.id or opened[id(p.arrival)]
            p.arrival.kept += 1
            p.outcome = outcome

    def _adopt(self, arrival: Arrival, path: str, sha256: str, size_bytes: int) -> bool:
        """Give a file without a row its row; False when its bytes are of a dropped duplicate, or were deleted."""
        head = next(iter(self.vault.storage.read(self.vault.data_folder / path, _HEAD_FOR_ADOPTION_BYTES)), b"")
        meta = read_meta(head) or {}
        row = rows.Received(
            uid=meta.get(3, ""),
            sop_class_uid=meta.get(2, ""),
            transfer_syntax_uid=meta.get(0x10, ""),
            study_uid=None,
            series_uid=None,
            path=path,
            size_bytes=size_bytes,
            bytes_sha256=sha256,
            calling_ae=RECOVERED_AE,
        )
        if not scan.is_uid(row.uid):
            log.error("vault.unknown-file")
            return True
        with self.database.read() as connection:
            if rows.removed_at(connection, row.uid):
                return False  # a deletion that was not finished, or an older copy of the vault
        placed = Placed(path, (self.vault.data_folder / path).parent, size_bytes, sha256)
        return self._commit(_Pending(row, arrival, placed.folder)) is not rows.Kept.SAME
