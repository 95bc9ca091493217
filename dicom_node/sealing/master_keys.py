"""Master keys of what is encrypted at rest (S5): a key file, and the head of a sealed file, which holds its data key.

A key file has one key a line, ``id key``, both hexadecimal; the first seals, all open.  It is read again when it
changes, so a new key counts without a restart.

    head: magic (8) · id of the master key (4) · nonce (12) · data key, wrapped by AES-256-GCM (48)
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"AINODES1"
_ID_BYTES, _NONCE_BYTES, KEY_BYTES, TAG_BYTES = 4, 12, 32, 16
HEAD_BYTES = len(MAGIC) + _ID_BYTES + _NONCE_BYTES + KEY_BYTES + TAG_BYTES


class AtRestRefused(ValueError):
    """A key file that cannot be used; the text names the file and what was expected, never a key."""


class SealBroken(OSError, ValueError):
    """A sealed file that cannot be opened: its key is not in the key file, or its bytes were changed."""


@dataclass(frozen=True)
class _Ring:
    """The keys of a key file at one moment."""

    active: bytes
    keys: Mapping[bytes, AESGCM]
    seen: tuple[int, int, int]


class Keys:
    """The master keys of a site, by id.

    Raises
    ------
    AtRestRefused
        If the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._ring = _read_ring(path)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys that open, the one that seals first."""
        ring = self._now()
        return tuple(key.hex() for key in (ring.active, *(one for one in ring.keys if one != ring.active)))

    def wrap(self, data_key: bytes) -> bytes:
        """The head of a file with this data key, under the key that seals."""
        ring = self._now()
        nonce = os.urandom(_NONCE_BYTES)
        return MAGIC + ring.active + nonce + ring.keys[ring.active].encrypt(nonce, data_key, MAGIC + ring.active)

    def unwrap(self, head: bytes) -> bytes:
        """The data key of a file.

        Raises
        ------
        SealBroken
        """
        key_id = id_of(head)
        key = self._now().keys.get(key_id)
        if key is None:
            raise SealBroken(f"a sealed file needs the key {key_id.hex()}, which the key file does not hold")
        start = len(MAGIC) + _ID_BYTES
        try:
            return key.decrypt(head[start : start + _NONCE_BYTES], head[start + _NONCE_BYTES :], head[:start])
        except InvalidTag:
            raise SealBroken("the head of a sealed file was changed, or another key has its id") from None

    def _now(self) -> _Ring:
        """The keys as the file has them; those that are known stay when it cannot be used."""
        try:
            if _signature(self._path) != self._ring.seen:
                with self._lock:
                    self._ring = _read_ring(self._path)
        except (OSError, AtRestRefused):
            return self._ring
        return self._ring


def new_key() -> str:
    """A line for a key file."""
    return f"{secrets.token_hex(_ID_BYTES)} {secrets.token_hex(KEY_BYTES)}"


def id_of(head: bytes) -> bytes:
    """Which key sealed the file with this head; empty for a file that is not sealed."""
    return head[len(MAGIC) : len(MAGIC) + _ID_BYTES] if head.startswith(MAGIC) and len(head) >= HEAD_BYTES else b""


def rewrapped(head: bytes, keys: Keys) -> bytes:
    """The same data key under the key that seals now: the chunks stay as they are."""
    return keys.wrap(keys.unwrap(head))


def _signature(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_ring(path: Path) -> _Ring:
    try:
        seen, mode = _signature(path), stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            raise AtRestRefused(f"{path}: mode {mode:04o} lets others read the keys; expected 0600 or 0400.")
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "other characters than ASCII"
        raise AtRestRefused(
            f"{path}: {found}. Bring the key file back from its copy: what it sealed cannot be read without it. Only "
            "where nothing is sealed yet, `ai-node at-rest init` makes one."
        ) from None
    keys: dict[bytes, AESGCM] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key_id, key = (bytes.fromhex(word) for word in words)
            if len(key_id) != _ID_BYTES or len(key) != KEY_BYTES or key_id in keys:
                raise ValueError
        except ValueError:
            raise AtRestRefused(
                f"{path}, line {number}: expected an id of 8 and a key of 64 hexadecimal digits, each id once."
            ) from None
        keys[key_id] = AESGCM(key)
    if not keys:
        raise AtRestRefused(f"{path}: holds no key. `ai-node at-rest rotate` adds one.")
    return _Ring(next(iter(keys)), keys, seen)
