"""Stored files, encrypted at rest by option (S6): the one place where bytes become unreadable on the disk, and back.

Every file has a data key of its own, wrapped by a master key (`master_keys`), and is

    head · chunks

where a chunk is 64 KiB of the file, the last one less, enciphered by AES-256-GCM, each with its tag (16).  A chunk's
nonce is its number and whether it is the last, so that none can be changed, moved, dropped or cut off unseen (the
construction is STREAM: Hoang, Reyhanitabar, Rogaway, Vizár 2015).  Chunks, because a slice of a large object is read
without deciphering all of it.

What was stored before the option was switched on stays readable as it is; ``ai-node at-rest apply`` brings old files to
what the settings say.

One process has one set of keys (`use`), like its logs and metrics: files are written and read in many rooms, and a
room that had to be handed the keys could be forgotten.  Ground floor: knows no settings.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_node.sealing.master_keys import HEAD_BYTES, KEY_BYTES, MAGIC, TAG_BYTES, AtRestRefused, Keys, SealBroken

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class _InForce:
    keys: Keys | None = None
    seals: bool = False


_in_force = _InForce()


def use(key_file: Path | None, *, seals: bool) -> Keys | None:
    """Say which keys this process has, and whether it seals what it stores.

    Raises
    ------
    AtRestRefused
    """
    global _in_force
    keys = None if key_file is None else Keys(key_file)
    if seals and keys is None:
        raise AtRestRefused("sealing needs a key file")
    _in_force = _InForce(keys, seals)
    return keys


def is_sealing() -> bool:
    """Whether what is stored now is sealed."""
    return _in_force.seals


# writing


class Writer(Protocol):
    """Turns the bytes of a file, as they come, into those that are stored."""

    def update(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """What can be stored so far."""
        ...

    def finish(self) -> bytes:
        """The rest; nothing may follow."""
        ...


class _AsItIs:
    def update(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        return data

    def finish(self) -> bytes:
        return b""


class Sealer:
    """Seals one file."""

    def __init__(self, keys: Keys) -> None:
        data_key = AESGCM.generate_key(8 * KEY_BYTES)
        self._cipher = AESGCM(data_key)
        self._ready = bytearray(keys.wrap(data_key))
        self._rest = bytearray()
        self._number = 0

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Whole chunks; one stays back, because it may be the last."""
        self._rest += data
        whole = max(0, (len(self._rest) - 1) // CHUNK_BYTES)
        with memoryview(self._rest) as view:
            for start in range(0, whole * CHUNK_BYTES, CHUNK_BYTES):
                self._ready += self._sealed(view[start : start + CHUNK_BYTES], is_last=False)
        del self._rest[: whole * CHUNK_BYTES]
        made, self._ready = bytes(self._ready), bytearray()
        return made

    def finish(self) -> bytes:
        """The last chunk, empty for an empty file."""
        made = bytes(self._ready) + self._sealed(self._rest, is_last=True)
        self._ready, self._rest = bytearray(), bytearray()
        return made

    def _sealed(self, data: bytearray | memoryview, *, is_last: bool) -> bytes:
        nonce = _nonce(self._number, is_last=is_last)
        self._number += 1
        return self._cipher.encrypt(nonce, bytes(data), None)


def writer() -> Writer:
    """For a new file: seals it, or leaves it as it is."""
    return Sealer(_keys()) if _in_force.seals else _AsItIs()


def seal(data: bytes) -> bytes:
    """A whole file as it is stored."""
    made = writer()
    return bytes(made.update(data)) + made.finish()


# reading


class Reader(io.RawIOBase):
    """A stored file open for reading, its bytes as they were before they were sealed.

    Not for two threads at once.  Attributes: `size` in bytes.

    Raises
    ------
    SealBroken
        From every method that reads, when the file was changed or its key is not here.
    """

    def __init__(self, path: Path | str, flags: int = 0) -> None:
        super().__init__()
        self.name = str(path)  # libraries ask a file for it
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            self.status = os.fstat(self._fd)
            self._cipher = self._open()
        except BaseException:
            self.close()  # once: it is asked again when this object goes, and the number may be another file's by then
            raise
        self._at = 0
        self._chunk = (-1, b"")

    def _open(self) -> AESGCM | None:
        self.size = self.status.st_size
        # without keys there is nothing to open: a stranger's file that begins with the magic is a file like others
        if _in_force.keys is None or not stat.S_ISREG(self.status.st_mode):
            return None
        head = os.pread(self._fd, HEAD_BYTES, 0)
        if not head.startswith(MAGIC):
            return None
        body = self.size - HEAD_BYTES
        self._count = -(-body // (CHUNK_BYTES + TAG_BYTES))
        self.size = body - self._count * TAG_BYTES
        last = body - (self._count - 1) * (CHUNK_BYTES + TAG_BYTES)
        if last < TAG_BYTES or (last == TAG_BYTES and self._count > 1):  # only an empty file has an empty chunk
            raise SealBroken("a sealed file was cut off")
        return AESGCM(_in_force.keys.unwrap(head))

    @property
    def is_sealed(self) -> bool:
        return self._cipher is not None

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes from a place; fewer at the end."""
        if self._cipher is None:
            return os.pread(self._fd, length, offset)
        length = max(0, min(length, self.size - offset))
        pieces = []
        while length > 0:
            number, start = divmod(offset, CHUNK_BYTES)
            piece = self._opened(number)[start : start + length]
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        if not pieces and self.size == 0:
            self._opened(0)  # that it is empty is part of what is sealed
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _opened(self, number: int) -> bytes:
        if self._chunk[0] == number:
            return self._chunk[1]
        assert self._cipher is not None
        stored = os.pread(self._fd, CHUNK_BYTES + TAG_BYTES, HEAD_BYTES + number * (CHUNK_BYTES + TAG_BYTES))
        try:
            opened = self._cipher.decrypt(_nonce(number, is_last=number == self._count - 1), stored, None)
        except InvalidTag:
            raise SealBroken("the bytes of a sealed file were changed") from None
        self._chunk = (number, opened)
        return opened

    # what a file is

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a place before the beginning")  # as files of the system say it
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.pread(len(view), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self.pread(max(0, self.size - self._at), self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


def opened(path: Path | str) -> io.BufferedReader:
    """A stored file, for those that take a file: it can be read and sought in, and has no descriptor of its own."""
    return io.BufferedReader(Reader(path), CHUNK_BYTES)


def read(path: Path | str) -> bytes:
    """All bytes of a stored file.

    Raises
    ------
    OSError, SealBroken
    """
    with Reader(path) as file:
        return file.pread(file.size, 0)


def size(path: Path | str) -> int:
    """Size of a stored file before it was sealed, in bytes."""
    with Reader(path) as file:
        return file.size


def is_sealed(path: Path | str) -> bool:
    """Whether a stored file is sealed."""
    with Reader(path) as file:
        return file.is_sealed


def descriptor(path: Path | str) -> BinaryIO:
    """A stored file with a descriptor, for children and memory maps: itself, or the bytes of a sealed one in memory.

    That is an anonymous file of the kernel (memfd): it has no name, and it is gone with its last user.
    """
    with Reader(path) as file:
        if not file.is_sealed:
            return open(path, "rb")
        made = os.fdopen(os.memfd_create("opened", os.MFD_CLOEXEC), "w+b")
        try:
            for start in range(0, file.size, CHUNK_BYTES):
                made.write(file.pread(CHUNK_BYTES, start))
            made.flush()
            made.seek(0)
        except BaseException:
            made.close()
            raise
        return made


def shred(path: Path | str) -> bool:
    """Overwrite the data key of a sealed file, durably, before it is deleted; False for a file that is not sealed.

    Without it nothing of the file can be deciphered again, wherever the medium keeps its blocks.  (Flash and copying
    file systems write elsewhere than they read, and may keep the old head: their own encryption is for that.)
    """
    with open(path, "r+b") as file:
        if not file.read(len(MAGIC)).startswith(MAGIC):
            return False
        file.seek(0)
        file.write(bytes(HEAD_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return True


def _keys() -> Keys:
    if _in_force.keys is None:
        raise AtRestRefused("this process has no keys")
    return _in_force.keys


def _nonce(number: int, *, is_last: bool) -> bytes:
    return struct.pack(">QI", number, int(is_last))
