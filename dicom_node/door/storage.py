"""The one small port through which the vault touches the disk.

Every call that matters for durability goes through `Storage`, so that tests can record the calls and build every state
a crash could leave (hardening 2.4), or let the n-th call fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from dicom_node.sealing import at_rest


class Storage(Protocol):
    """What the vault needs of a file system.  Every method may raise OSError."""

    def create(self, path: Path) -> int:
        """A new file, open for writing; fails if it exists."""
        ...

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> None:
        """All of `data`, or an error."""
        ...

    def sync(self, handle: int) -> None:
        """The file's bytes and length are on the medium."""
        ...

    def close(self, handle: int) -> None: ...

    def rename(self, old: Path, new: Path) -> None:
        """Within one file system; replaces."""
        ...

    def sync_folder(self, path: Path) -> None:
        """The folder's entries are on the medium."""
        ...

    def unlink(self, path: Path) -> None: ...

    def make_folder(self, path: Path) -> None:
        """With its parents, only the owner may enter; nothing happens if it is there."""
        ...

    def names(self, path: Path) -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder."""
        ...

    def read(self, path: Path, size_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The file's bytes in pieces, deciphered where it is sealed."""
        ...

    def is_file(self, path: Path) -> bool: ...

    def free_bytes(self, path: Path) -> tuple[int, int]:
        """Free and total bytes of the file system that holds `path`."""
        ...


class Disk:
    """The real one (POSIX)."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def sync_folder(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def names(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def read(self, path: Path, size_bytes: int = 1 << 20) -> Iterator[bytes]:
        with at_rest.opened(path) as file:
            while piece := file.read(size_bytes):
                yield piece

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def free_bytes(self, path: Path) -> tuple[int, int]:
        usage = shutil.disk_usage(path)
        return usage.free, usage.total
