"""Keep bytes so that they survive a power cut: write beside, fsync, rename, fsync the folder.

Used for artefacts and caches, which are sealed where the site wants it (`at_rest`).  (The door has its own port for the
same sequence, because its every call is a point at which a test may cut the power.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from dicom_node.sealing import at_rest


def keep(folder: Path, data: bytes) -> tuple[str, str]:
    """Keep bytes under their own digest.

    Returns
    -------
    sha256, path
        The digest, and the path relative to `folder`.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    relative = f"{sha256[:2]}/{sha256[2:]}"
    target = folder / relative
    if not target.exists():
        write_sealed(target, data)
    return sha256, relative


def write_sealed(target: Path, data: bytes) -> None:
    """Write a file of the data folder completely or not at all, enciphered where the site wants it."""
    write_durably(target, at_rest.seal(data))


def write_cache(target: Path, data: bytes) -> None:
    """Write a file that may be lost, whose reader knows a torn one by its digest: as `write_sealed`, without fsync."""
    _write(target, at_rest.seal(data), is_durable=False)


def write_durably(target: Path, data: bytes) -> None:
    """Write a file completely or not at all, as it is."""
    _write(target, data, is_durable=True)


def _write(target: Path, data: bytes, *, is_durable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        os.replace(part, target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if is_durable:
        sync_folder(target.parent)


def destroy(path: Path) -> int | None:
    """Delete a stored file; its size in bytes as it lay there, None where there was none.

    A sealed file's own data key is overwritten first: what may be left of it on the medium is unreadable with every
    master key.  The folder is still to be synced.
    """
    try:
        size_bytes = path.lstat().st_size
        at_rest.shred(path)
        path.unlink()
    except FileNotFoundError:
        return None
    return size_bytes


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_once(target: Path, make: Callable[[], bytes]) -> None:
    """Write a stored file that is not there yet, completely or not at all; of two processes the first one's stays."""
    if target.exists():
        return
    beside = target.with_name(f".{secrets.token_hex(8)}.new")
    write_sealed(beside, make())
    try:
        os.link(beside, target)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    sync_folder(target.parent)


def load(folder: Path, relative: str, sha256: str) -> bytes:
    """Read kept bytes and compare them with their digest.

    Raises
    ------
    OSError
        If the file is absent.
    ValueError
        If its bytes are not those that were kept.
    """
    data = at_rest.read(folder / relative)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("a kept file has other bytes than those that were kept: the disk or somebody changed it")
    return data


def trim(folder: Path, limit_bytes: int) -> int:
    """Remove the longest unused files of a cache until the rest fits (I7); how many were removed.

    Whoever reads one just now keeps it.  The time of the last change counts: a reader may touch what it has used.
    """
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    removed = 0
    for _, size, path in sorted(found):
        if total <= limit_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    return removed
