"""Uploads wait here under the digest of their bytes until the request that they belong to is over.

An upload is answered for only after its bytes are durable: written beside, fsync, rename, fsync of the folder, and then
the row of its request (I1).  A file without a row is one that nobody was answered for, and is swept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicom_node.files import sync_folder
from dicom_node.sealing import at_rest


@dataclass(frozen=True)
class Upload:
    """One kept file: what it is called here, and how large it is."""

    sha256: str
    size_bytes: int


class Part:
    """A file that is still arriving; hashed while it is written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f".{secrets.token_hex(12)}.part"
        self._file = open(self._path, "xb", buffering=1 << 20, opener=_private)  # noqa: SIM115  closed by `close`
        self._writer = at_rest.writer()
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._file.write(self._writer.update(data))
        self._digest.update(data)
        self.size_bytes += len(data)

    def close(self) -> tuple[Path, Upload]:
        """Make the bytes durable under the part's own name; where they are, and what they are."""
        self._file.write(self._writer.finish())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._path, Upload(self._digest.hexdigest(), self.size_bytes)

    def discard(self) -> None:
        """Take the part back."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Spool:
    """The folder of uploads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def part(self) -> Part:
        """Begin a file."""
        return Part(self._folder / "arriving")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for what comes out of an archive: gone afterwards, and swept where its process died."""
        folder = self._folder / "arriving" / f".{secrets.token_hex(12)}"
        folder.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, part: Part) -> Upload:
        """Finish a file: it is durable under its digest when this returns."""
        path, upload = part.close()
        target = self.path(upload.sha256)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.replace(path, target)  # the same bytes again take the place of the same bytes, with a fresh age
        os.utime(target)
        sync_folder(target.parent)
        return upload

    def path(self, sha256: str) -> Path:
        """Where an upload lies, for `at_rest` to read; the argument is a digest of ours, no name from outside (I9)."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError("an upload is named by a sha256")
        return self._folder / sha256[:2] / sha256[2:]

    def sweep(self, in_use: Collection[str], older_than_s: float) -> int:
        """Delete uploads that no request needs, and what nobody finished taking in; how many files and folders went.

        Parameters
        ----------
        older_than_s
            Younger files stay: their request may be on its way to the record.
        """
        line = time.time() - older_than_s
        removed = 0
        for path in self._folder.glob("*/*"):
            wanted = f"{path.parent.name}{path.name}" in in_use
            with contextlib.suppress(FileNotFoundError):
                if not wanted and path.stat().st_mtime < line:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    removed += 1
        return removed


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
