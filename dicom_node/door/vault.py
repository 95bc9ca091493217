"""The vault: received bytes, kept exactly as they came (I1, I10).

A received data set becomes a DICOM Part 10 file (PS3.10 section 7: 128 zero bytes, ``DICM``, file meta information)
whose data set is byte for byte what the sender sent, sealed on the disk where the site wants it (`at_rest`).  Order of
every acceptance: bytes to a ``.part`` file on the same file system -> fsync of the file -> rename to a name made from
the received bytes' sha256 -> fsync of the folder -> (row).  No name ever holds anything a sender chose (I9).

After a failed fsync the kernel may have dropped the pages and will report success next time: the vault then accepts
nothing more until the process is started again (hardening 2.2).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicom_node.door.part10 import PREAMBLE, file_meta
from dicom_node.door.storage import Storage
from dicom_node.failpoints import reach
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import SealBroken

BUFFER_BYTES = 1 << 20
"""Objects up to this size stay in memory until they are complete: one write instead of many."""

_NAME = re.compile(r"([0-9a-f]{64})\.dcm")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Placed:
    """A file under its final name; durable once its folder is synchronised."""

    path: str
    """Relative to the data folder."""
    folder: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Recovery:
    """What the start found."""

    parts_removed: int
    adopted: int
    quarantined: int
    missing: tuple[str, ...]
    """Paths that rows promise and the vault does not hold."""


class Incoming:
    """One object being received: counted and hashed while it streams, in memory first, then in a ``.part`` file."""

    def __init__(self, vault: Vault, meta: bytes, max_bytes: int) -> None:
        self._vault, self._max_bytes = vault, max_bytes
        self._hash = hashlib.sha256(meta)
        self._buffer = bytearray(meta)
        self._meta_bytes = len(meta)
        self._writer = at_rest.writer()
        self._head: bytes | None = None
        self._handle: int | None = None
        self._part: Path | None = None
        self.size_bytes = 0
        self.failure: Exception | None = None
        self.is_settled = False

    @property
    def head(self) -> memoryview:
        """The first bytes of the data set, at least as far as `BUFFER_BYTES` or its end."""
        return memoryview(self._head if self._head is not None else self._buffer)[self._meta_bytes :]

    @property
    def sha256(self) -> str:
        """Of the whole file as it stands or will stand in the vault."""
        return self._hash.hexdigest()

    @property
    def file_bytes(self) -> int:
        return self._meta_bytes + self.size_bytes

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set.  Never raises: `failure` says what went wrong, the rest is dropped."""
        self.size_bytes += len(data)
        reach("K1")
        if self.failure is not None:
            return
        if self.size_bytes > self._max_bytes:
            self.failure = Refused(RefusalCode.TOO_LARGE, f"at most {self._max_bytes} bytes", "more")
            self.discard()
            return
        self._hash.update(data)
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            try:
                self._spill()
            except OSError as error:
                self.failure = error
                self.discard()

    def _spill(self) -> tuple[int, Path]:
        if self._handle is None or self._part is None:
            part = self._vault.incoming / f"{secrets.token_hex(16)}.part"
            self._handle, self._part = self._vault.storage.create(part), part
        self._store(self._handle, self._writer.update(self._buffer))
        if self._head is None:
            self._head = bytes(self._buffer)
        self._buffer = bytearray()
        return self._handle, self._part

    def _store(self, handle: int, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._vault.storage.write(handle, data)

    def finish(self) -> Path:
        """All bytes in the ``.part`` file and on the medium; its path."""
        handle, part = self._spill()
        self._store(handle, self._writer.finish())
        reach("K2")
        self._vault.sync(handle)
        self._handle = None
        self._vault.storage.close(handle)
        reach("K3")
        return part

    def discard(self) -> None:
        """Forget the object; nothing of it stays on the disk."""
        self.is_settled = True
        handle, part = self._handle, self._part
        self._handle = self._part = None
        self._buffer = bytearray()
        try:
            if handle is not None:
                self._vault.storage.close(handle)
            if part is not None:
                self._vault.storage.unlink(part)
        except OSError:
            log.warning("vault.part-left-behind")  # swept at the next start

    def settled(self) -> None:
        """The ``.part`` file has its final name."""
        self.is_settled = True
        self._part = None
        self._buffer = bytearray()


class Vault:
    """The folder of received objects.

    Parameters
    ----------
    data_folder
        The node's data folder; paths in the record are relative to it.
    storage
        The port to the disk.
    min_free_bytes, min_free_share
        Admission stops below the larger of the two.
    max_object_bytes
        Largest accepted data set.
    """

    def __init__(
        self,
        data_folder: Path,
        storage: Storage,
        *,
        min_free_bytes: float = 0.0,
        min_free_share: float = 0.0,
        max_object_bytes: int = 512 * 1024 * 1024,
    ) -> None:
        self.data_folder = data_folder
        self.storage = storage
        self.root = data_folder / "vault"
        self.incoming = self.root / "incoming"
        self.objects = self.root / "objects"
        self.quarantine = self.root / "quarantine"
        self.max_object_bytes = max_object_bytes
        self.missing: tuple[str, ...] = ()
        self._min_free = (min_free_bytes, min_free_share)
        self._has_failed = False

    def prepare(self) -> None:
        """Make the folders, durably, so that accepting an object never has to make one."""
        folders = [self.incoming, self.quarantine, *(self.objects / f"{n:02x}" for n in range(256))]
        for folder in folders:
            self.storage.make_folder(folder)
        for folder in (self.objects, self.root, self.data_folder):
            self.storage.sync_folder(folder)

    def why_not_ready(self) -> Refused | None:
        """The reason for which nothing is admitted now, or None."""
        if self._has_failed:
            return Refused(RefusalCode.NOT_READY, "a disk that keeps what it is given", "a failed fsync")
        if self.missing:
            return Refused(RefusalCode.NOT_READY, "a file for every row", f"{len(self.missing)} files missing")
        try:
            free, total = self.storage.free_bytes(self.root)
        except OSError:
            return Refused(RefusalCode.NOT_READY, "a vault", "no answer from its file system")
        if free < max(self._min_free[0], self._min_free[1] * total):
            return Refused(RefusalCode.STORAGE_FULL)
        return None

    def receive(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Incoming:
        """Begin to receive an object whose command set and presentation context say this about it."""
        meta = PREAMBLE + file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return Incoming(self, meta, self.max_object_bytes)

    def place(self, item: Incoming) -> Placed:
        """Make the bytes durable and give them their final name; `sync_folders` must follow before any row.

        Raises
        ------
        OSError
            From the disk; nothing of the object stays.
        """
        try:
            part = item.finish()
            digest = item.sha256
            folder = self.objects / digest[:2]
            final = folder / f"{digest}.dcm"
            self.storage.rename(part, final)
        except OSError:
            item.discard()
            raise
        item.settled()
        return Placed(str(final.relative_to(self.data_folder)), folder, item.file_bytes, digest)

    def sync(self, handle: int) -> None:
        """fsync of a file; a failure is final for this process."""
        try:
            self.storage.sync(handle)
        except OSError:
            self._fail()
            raise

    def sync_folders(self, folders: set[Path]) -> None:
        """fsync of the folders; a failure is final for this process."""
        try:
            for folder in sorted(folders):
                self.storage.sync_folder(folder)
        except OSError:
            self._fail()
            raise

    def has(self, path: str) -> bool:
        return self.storage.is_file(self.data_folder / path)

    def drop(self, path: str) -> None:
        """Remove a file whose row says that it is a duplicate."""
        self.storage.unlink(self.data_folder / path)

    def to_quarantine(self, path: str) -> str:
        """Move a file beside the originals, durably; its new path."""
        old = self.data_folder / path
        new = self.quarantine / old.name
        if self.storage.is_file(old):
            self.storage.rename(old, new)
            self.sync_folders({self.quarantine, old.parent})
        return str(new.relative_to(self.data_folder))

    def recover(self, promised: Mapping[str, str], adopt: Callable[[str, str, int], bool]) -> Recovery:
        """Bring files and rows together after a crash, before anything is received.

        ``.part`` files go.  A file without a row was never acknowledged, or the record was restored from an older
        backup; if its bytes are what its name says it is adopted, else it goes to the quarantine.  Rows without a file
        are the one disagreement that must never be: they are returned, and block readiness.

        Parameters
        ----------
        promised
            Path -> sha256 of every file a row promises.
        adopt
            Called with (path, sha256, size in bytes) of each file without a row; False when the file is not wanted
            (the duplicate of an object we hold).
        """
        parts = [name for name in self.storage.names(self.incoming) if name.endswith(".part")]
        for name in parts:
            self.storage.unlink(self.incoming / name)
        present: set[str] = set()
        adopted = quarantined = 0
        for shard in self.storage.names(self.objects):
            for name in self.storage.names(self.objects / shard):
                path = str((self.objects / shard / name).relative_to(self.data_folder))
                present.add(path)
                if path in promised:
                    continue
                digest, size_bytes = self._digest(path)
                match = _NAME.fullmatch(name)
                if match is not None and match.group(1) == digest:
                    # the rename may not have reached the medium before the crash
                    self.sync_folders({self.objects / shard})
                    if adopt(path, digest, size_bytes):
                        adopted += 1
                    else:
                        self.drop(path)
                else:
                    self.to_quarantine(path)
                    quarantined += 1
        self.missing = tuple(p for p in promised if p not in present and not self.has(p))
        recovery = Recovery(len(parts), adopted, quarantined, self.missing)
        log.info("vault.recovered", parts_removed=len(parts), adopted=adopted, quarantined=quarantined)
        if self.missing:
            log.error("vault.files-missing", count=len(self.missing))
        return recovery

    def look_again(self) -> int:
        """Look whether missing files are back (an operator restored them); how many are still missing."""
        self.missing = tuple(p for p in self.missing if not self.has(p))
        return len(self.missing)

    def _digest(self, path: str) -> tuple[str, int]:
        """Of what a file holds; an empty digest where its seal is torn: no name says that."""
        digest, size_bytes = hashlib.sha256(), 0
        try:
            for piece in self.storage.read(self.data_folder / path):
                digest.update(piece)
                size_bytes += len(piece)
        except SealBroken:
            return "", size_bytes
        return digest.hexdigest(), size_bytes

    def _fail(self) -> None:
        self._has_failed = True
        log.error("vault.fsync-failed")
