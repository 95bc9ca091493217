"""Bring what is stored to what the settings say: sealed by the key that seals now, or not sealed.

Needed after the option was switched on or off, and after a rotation, so that an old key can go.  It may run while the
node runs: a file is written anew beside the tree and then *exchanged* with the stored one (renameat2), which fails
where that one was deleted meanwhile, so nothing that was deleted comes back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dicom_node import files
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import HEAD_BYTES, Keys, SealBroken, id_of, rewrapped

FOLDERS = ("vault", "artefacts", "cache", "spool", "photos", "predictions", "analyses")
"""Of the data folder: where patients' data lie in files.  The database is not among them."""
KEY_FILES = ("luna-keys.json", "tickets/ticket.key", "second-factor.key", "audit-keys")
"""Of the data folder: what signs tokens and viewer links, and what opens second factors."""
PLAIN = ""
"""Stands for no key."""
_MARKER = "at-rest-keys"
_BESIDE = "reseal"
_PIECE = 1 << 20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


def stored(folder: Path) -> Iterator[Path]:
    """Every stored file of a data folder; what is still being written is left alone."""
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name != ".lock" and not path.name.endswith(".part"):
                yield path
    yield from (path for path in (folder / name for name in KEY_FILES) if path.is_file())


def census(folder: Path) -> Counter[str]:
    """How many files each key sealed, by its id; `PLAIN` for none."""
    found: Counter[str] = Counter()
    for path in stored(folder):
        try:
            found[_head(path)[0]] += 1
        except FileNotFoundError:  # it went while we looked
            continue
    return found


# which keys the stored files need: known without looking at each


def needed(folder: Path) -> frozenset[str]:
    """Ids of the keys that have sealed files here, as they were noted."""
    try:
        return frozenset((folder / _MARKER).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()


def note(folder: Path, ids: frozenset[str]) -> None:
    """Note, durably, which keys seal files here; before the first of them is sealed."""
    if ids != needed(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_durably(folder / _MARKER, ("\n".join(sorted(ids)) + "\n").encode())


def missing(folder: Path, keys: Keys | None) -> frozenset[str]:
    """Ids of keys that stored files need and that are not here."""
    return needed(folder) - frozenset(keys.ids if keys is not None else ())


# bringing


def apply(folder: Path, keys: Keys, *, on_file: Callable[[], None] = lambda: None) -> Counter[str]:
    """Bring every stored file to what this process is told (`at_rest.use`).

    Returns
    -------
    Counter
        ``changed``, ``kept`` (was as it should be) and ``gone`` (was deleted meanwhile).

    Raises
    ------
    SealBroken
        For a file that cannot be opened; those before it are done, and a second run goes on.
    OSError
    """
    beside = folder / _BESIDE
    beside.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in beside.iterdir():  # of a run that was killed
        left.unlink()
    wanted = keys.ids[0] if at_rest.is_sealing() else PLAIN
    if wanted:
        note(folder, needed(folder) | {wanted})
    done: Counter[str] = Counter()
    for path in stored(folder):
        done[_bring(path, beside, keys, wanted)] += 1
        on_file()
    note(folder, frozenset(one for one in census(folder) if one))
    return done


def _bring(path: Path, beside: Path, keys: Keys, wanted: str) -> str:
    part = beside / secrets.token_hex(8)
    try:
        found, head = _head(path)
        if found == wanted:
            return "kept"
        status = path.stat()
        with open(part, "xb", opener=_private) as target:
            if found and wanted:
                _rewrap(path, head, keys, target)
            else:
                _copy(path, target)
            target.flush()
            os.utime(target.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))  # caches go by their age
            os.fsync(target.fileno())
        _exchange(part, path)
        if part.stat().st_ino != status.st_ino:  # another took its place meanwhile, as a rotated key does: it stays
            _exchange(part, path)
            return _bring(path, beside, keys, wanted)
        files.sync_folder(path.parent)
    except FileNotFoundError:
        return "gone"
    finally:
        part.unlink(missing_ok=True)
    return "changed"


def _head(path: Path) -> tuple[str, bytes]:
    """The key that sealed a file, and its head."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    return id_of(head).hex(), head


def _rewrap(path: Path, head: bytes, keys: Keys, target: BinaryIO) -> None:
    """The same chunks under a new head: nothing is deciphered."""
    target.write(rewrapped(head, keys))
    with open(path, "rb") as file:
        file.seek(HEAD_BYTES)
        while piece := file.read(_PIECE):
            target.write(piece)


def _copy(path: Path, target: BinaryIO) -> None:
    """What the file says, sealed or not as this process is told."""
    writer = at_rest.writer()
    with at_rest.Reader(path) as file:
        if id_of(_head(path)[1]) and not file.is_sealed:
            raise SealBroken("a sealed file cannot be opened without its key")
        for start in range(0, file.size, _PIECE):
            target.write(writer.update(file.pread(_PIECE, start)))
    target.write(writer.finish())


def _exchange(one: Path, other: Path) -> None:
    """Let two files change places at once (renameat2, RENAME_EXCHANGE); FileNotFoundError where one is not there."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        if number == errno.EINVAL:
            raise OSError(number, "the file system cannot exchange two files (RENAME_EXCHANGE)", str(other))
        raise OSError(number, os.strerror(number), str(other))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
