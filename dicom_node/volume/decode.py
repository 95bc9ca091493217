"""The parent's side of the decoding child: one child for each series, bounded in time, trusted in nothing.

Invariant I8.  The child gets encoded bytes by a pipe and gives back, for each frame, exactly as many bytes as the
checked header claims, or a fixed text.  Nothing is unpickled, nothing is allocated by what the child says.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node import nursery
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.volume.codecs import FrameSpec
from dicom_node.volume.colour import COLOUR_DECODERS, ColourFormat
from dicom_node.volume.frames import frame_count
from dicom_node.volume.header import PixelLocation, read_object
from dicom_node.volume.limits import Limits
from dicom_node.volume.pixels import DECODERS, PixelFormat, pixel_format

CHILD_ATTEMPTS = 3
"""A child that a signal ended may have been innocent (memory pressure): the series is decoded again, this often."""

CHILD_COMMAND = (sys.executable, "-I", "-m", "dicom_node.volume.child")
"""Isolated from environment variables and the working folder; the parent's process id is added."""

_MAX_REPLY_BYTES = 4096
_MAX_OVERHEAD_BYTES = 64 * 1024
"""Of a codestream's headers, beside twice the decoded frame."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EncodedFrame:
    """One frame to decode: its checked format and where its bytes are."""

    format: PixelFormat | ColourFormat
    location: PixelLocation
    frame_index: int = 0
    """0-based within the object."""
    frame_count: int = 1
    has_profile: bool = False
    """Whether the colours of a picture go through the ICC profile that stands at `location`."""

    @property
    def spec(self) -> FrameSpec:
        form = self.format
        return FrameSpec(
            form.decoder,
            form.transfer_syntax_uid,
            form.rows,
            form.columns,
            form.bits_allocated,
            form.bits_stored,
            form.is_signed,
            self.location.is_big_endian,
            samples=form.samples,
            photometric=form.photometric,
            is_planar=form.is_planar,
            icc_bytes=self.location.icc_profile[1] if self.has_profile else 0,
        )


def check_decoders() -> list[str]:
    """Names of decoders whose libraries are missing or do not load; empty when every listed syntax can be read.

    The libraries are loaded in a child, as they will be: never in this process.
    """
    decoders = sorted({*DECODERS.values(), *COLOUR_DECODERS.values(), "lcms"})
    if _loads(decoders):
        return []
    return [decoder for decoder in decoders if not _loads([decoder])]


def _loads(decoders: Sequence[str]) -> bool:
    with Child(Limits()) as child:
        try:
            child.start([FrameSpec(decoder, "", 1, 1, 8, 8, False, False) for decoder in decoders])
        except (ChildEnded, Refused):
            return False
    return True


def decode_in_child(files: Sequence[Path | str], *, limits: Limits = Limits()) -> list[Array]:
    """Decode every frame of some files in one guarded child.

    Returns
    -------
    list of (R, C) arrays
        Stored values, in file order and in stored frame order within a file.

    Raises
    ------
    Refused
        As `read_header`, `pixel_format` and `decode_frames`.
    """
    frames: list[EncodedFrame] = []
    for path in files:
        stored = read_object(path, limits=limits)
        form = pixel_format(stored.header, limits)
        if stored.pixels is None:
            raise Refused(RefusalCode.PIXEL_DATA_MISSING, "pixel data", "none")
        count = frame_count(stored.header)
        frames.extend(EncodedFrame(form, stored.pixels, index, count) for index in range(count))
    arrays: list[Array] = [np.empty(0)] * len(frames)
    decode_frames(frames, arrays.__setitem__, limits=limits)
    return arrays


def decode_frames(
    frames: Sequence[EncodedFrame],
    sink: Callable[[int, Array], None],
    *,
    limits: Limits = Limits(),
    command: Sequence[str] = CHILD_COMMAND,
    waiting: Child | None = None,
) -> None:
    """Decode frames in one guarded child and hand each to `sink` with its place in `frames`.

    `sink` may see a place twice: a series whose child a signal ended is decoded again from its start.  `command` is the
    program of the child, which tests replace by a hostile one.  `waiting` is a child that was started ahead and has not
    been told anything yet; whoever started it ends it.

    Raises
    ------
    Refused
        pixel-decode-failed: a frame is damaged, of another size or type than its header says, made the decoder warn,
        crash (three times), hang, or take too much memory.
    """
    for attempt in range(1, CHILD_ATTEMPTS + 1):
        try:
            with contextlib.ExitStack() as ends:
                child = waiting or ends.enter_context(Child(limits, command))
                waiting = None
                child.start([frame.spec for frame in frames])
                for index, frame in enumerate(frames):
                    sink(index, child.decode(frame))
            return
        except ChildEnded as ended:
            if attempt == CHILD_ATTEMPTS:
                raise Refused(RefusalCode.PIXEL_DECODE_FAILED, "a decoder that ends well", str(ended)) from ended


class ChildEnded(Exception):
    """The child was gone before it answered."""


class Child:
    """A decoding child process, as a context manager: whatever happens, it is gone afterwards."""

    def __init__(self, limits: Limits, command: Sequence[str] = CHILD_COMMAND) -> None:
        self._limits = limits
        self._command = command
        self._deadline = time.monotonic() + limits.child_wall_s
        self.pid = 0
        self.is_filtered = False
        """Whether the child could install its system call filter."""

    def __enter__(self) -> Child:
        self._folder = tempfile.TemporaryDirectory(prefix="decode-")
        self._process = nursery.start(self._command, self._folder.name)
        self.pid = self._process.pid
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        # nothing is left for it to do: an interpreter that tidies up would only be waited for
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def start(self, frames: Sequence[FrameSpec]) -> None:
        """Tell the child what will come, and wait until it has given up its powers; its time begins now."""
        self._deadline = time.monotonic() + self._limits.child_wall_s
        request = {
            "memory_bytes": self._limits.child_memory_bytes,
            "cpu_s": self._limits.child_cpu_s,
            "frames": [asdict(frame) for frame in frames],
        }
        self._send([json.dumps(request).encode()])
        answer = json.loads(self._reply())
        self.is_filtered = bool(answer.get("seccomp"))

    def decode(self, frame: EncodedFrame) -> Array:
        """One frame's stored values, (R, C); a picture's colours, (R, C, 3)."""
        self._send(list(encoded_bytes(frame)))
        status = bytearray(1)
        self._receive(memoryview(status))
        if status[0]:
            raise Refused(RefusalCode.PIXEL_DECODE_FAILED, "a frame as its header says", self._reply().decode("ascii"))
        values = np.empty(frame.format.shape, dtype=frame.format.dtype)
        self._receive(values.data.cast("B"))
        return values

    def _send(self, pieces: Sequence[bytes]) -> None:
        if self._process.stdin is None:
            raise ChildEnded("no pipe to the decoder")
        descriptor = self._process.stdin.fileno()
        for piece in (struct.pack("<I", sum(map(len, pieces))), *pieces):
            view = memoryview(piece)
            while view:
                self._wait(descriptor, select.POLLOUT)
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self._ended() from None

    def _reply(self) -> bytes:
        head = bytearray(4)
        self._receive(memoryview(head))
        (length,) = struct.unpack("<I", head)
        if length > _MAX_REPLY_BYTES:
            raise ChildEnded("an answer of the decoder that is too long")
        body = bytearray(length)
        self._receive(memoryview(body))
        return bytes(body)

    def _receive(self, view: memoryview) -> None:
        if self._process.stdout is None:
            raise ChildEnded("no pipe from the decoder")
        descriptor = self._process.stdout.fileno()
        while view:
            self._wait(descriptor, select.POLLIN)
            try:
                count = os.readv(descriptor, [view])
            except BlockingIOError:
                continue
            if count == 0:
                raise self._ended()
            view = view[count:]

    def _wait(self, descriptor: int, event: int) -> None:
        """Wait until the pipe is ready; past the deadline the child is killed and the series refused."""
        poll = select.poll()
        poll.register(descriptor, event)
        left = self._deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            self._process.kill()
            raise Refused(
                RefusalCode.PIXEL_DECODE_FAILED,
                f"decoding within {self._limits.child_wall_s:g} s",
                "a decoder that hangs",
            )

    def _ended(self) -> ChildEnded:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return ChildEnded("a decoder that closed its pipe")
        if status == -signal.SIGXCPU:
            raise Refused(
                RefusalCode.PIXEL_DECODE_FAILED,
                f"decoding within {self._limits.child_cpu_s} s of processor time",
                "a decoder that needs more",
            )
        if status < 0:
            return ChildEnded(f"a decoder ended by {signal.Signals(-status).name}")
        return ChildEnded(f"a decoder that left with status {status}")


def encoded_bytes(frame: EncodedFrame) -> Iterator[bytes]:
    """The stored bytes of one frame, in pieces.

    Raises
    ------
    Refused
        pixel-decode-failed, when the fragments of an object cannot be told apart into frames (PS3.5 A.4).
    """
    location = frame.location
    with at_rest.Reader(location.path) as file:
        if frame.has_profile:
            offset, length = location.icc_profile
            yield file.pread(length, offset)
        if not location.is_encapsulated:
            size = frame.format.frame_bytes
            yield file.pread(size, location.offset + frame.frame_index * size)
            return
        fragments = _fragments_of(frame, file)
        size = sum(length for _, length in fragments)
        if size > 2 * frame.format.frame_bytes + _MAX_OVERHEAD_BYTES:
            raise Refused(
                RefusalCode.PIXEL_DECODE_FAILED, "an encoded frame smaller than a decoded one", f"{size} bytes"
            )
        for offset, length in fragments:
            yield file.pread(length, offset)


def _fragments_of(frame: EncodedFrame, file: at_rest.Reader) -> Sequence[tuple[int, int]]:
    fragments = frame.location.fragments
    if frame.frame_count == 1:
        return fragments
    if len(fragments) == frame.frame_count:
        return fragments[frame.frame_index : frame.frame_index + 1]
    table_offset, table_length = frame.location.offset_table
    starts = np.frombuffer(file.pread(table_length, table_offset), dtype="<u4").astype(np.int64)
    if len(starts) != frame.frame_count:
        raise Refused(
            RefusalCode.PIXEL_DECODE_FAILED,
            "one fragment for each frame, or an offset table",
            f"{len(fragments)} fragments for {frame.frame_count} frames",
        )
    # Offsets count from the first fragment's item header, which is 8 bytes before its value.
    places = {offset - fragments[0][0]: index for index, (offset, _) in enumerate(fragments)}
    begins = [places.get(int(start), -1) for start in starts]
    if -1 in begins or begins != sorted(set(begins)) or begins[0] != 0:
        raise Refused(RefusalCode.PIXEL_DECODE_FAILED, "offsets of fragments, ascending", "other offsets")
    ends = [*begins[1:], len(fragments)]
    return fragments[begins[frame.frame_index] : ends[frame.frame_index]]
