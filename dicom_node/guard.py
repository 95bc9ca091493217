"""A child that reads what a stranger sent: started with nothing, heard until a deadline, gone afterwards (I8).

The parent's side of `dicom_node.lockdown`, for children that answer once: the file is their standard input, their
answer comes by a pipe.  Nothing of the answer is believed: it is read in pieces that the reader asks for, never by a
length that the child names without a bound.
"""

from __future__ import annotations

import os
import select
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from dicom_node import nursery

_CHUNK = 1 << 20


class Unanswered(Exception):
    """The child ended, hung or said too much; the text is one of a fixed few and holds no input data."""


class Ended(Unanswered):
    """It was gone before it had answered: by its file, or because somebody else ended it; asking again tells which."""


@dataclass(frozen=True)
class Answer:
    """What comes back from the child, until its deadline."""

    process: nursery.Started
    deadline: float

    def message(self, max_bytes: int) -> bytes:
        """One message with its length (u4, little endian) before it.

        Raises
        ------
        Unanswered
            Also for a message longer than `max_bytes`.
        """
        (length,) = struct.unpack("<I", self.read(4))
        if length > max_bytes:
            raise Unanswered("a reader that says too much")
        return self.read(length)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> None:
        """Exactly as many bytes as `view` holds."""
        if self.process.stdout is None:
            raise Unanswered("no pipe from the reader")
        descriptor = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while view:
            left = self.deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise Unanswered("a reader that hangs")
            count = os.readv(descriptor, [view[:_CHUNK]])
            if count == 0:
                raise Ended("a reader that ended")
            view = view[count:]


@contextmanager
def guarded(command: Sequence[str], file: BinaryIO, wall_s: float) -> Iterator[Answer]:
    """Start a child on an opened file: no environment, an empty folder, no descriptor but its own three.

    Parameters
    ----------
    command
        The child; the parent's process id is added as its last argument.  It gives up its powers itself
        (`dicom_node.lockdown`) before it reads a byte.
    wall_s
        Seconds until it must have answered; afterwards it is killed whatever it does.
    """
    with tempfile.TemporaryDirectory(prefix="guarded-") as empty:
        process = nursery.start(command, empty, file)
        try:
            yield Answer(process, time.monotonic() + wall_s)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
