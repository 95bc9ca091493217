"""The decoding child: ``python -I -m dicom_node.volume.child PARENT_PID``.  One for each series.

Protocol, on the two pipes it is given as standard input and output; all integers little endian.

1. parent -> child: length (u4) and JSON ``{"memory_bytes", "cpu_s", "frames": [FrameSpec, ...]}``
2. child -> parent: length (u4) and JSON ``{"ready": true, "seccomp": bool}``, after it has given up its powers
3. for each frame: parent -> child: length (u4) and the encoded bytes;
   child -> parent: one byte, 0 and the decoded values (exactly rows x columns of the frame's type, x 3 for colour), or
   1, length (u4) and a fixed text that says what was wrong; after that the child ends.

The child opens no file: what it decodes comes by the pipe.  It ends when the pipe closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import warnings
from typing import Any, BinaryIO

from dicom_node.lockdown import die_with_parent, forbid_system_calls, limit_resources


def preload() -> None:
    """Load every decoder that is there, for a process that forks such children (`dicom_node.nursery`)."""
    from dicom_node.volume import codecs, colour_codecs  # noqa: F401

    for decoder in codecs.DECODERS:
        with contextlib.suppress(ImportError):  # said by the child that needs it
            codecs.load(decoder)


def main() -> int:
    """Serve one series; returns the exit status."""
    die_with_parent(int(sys.argv[-1]))
    with os.fdopen(0, "rb", closefd=False) as incoming, os.fdopen(1, "wb", closefd=False) as outgoing:
        request = json.loads(_message(incoming))
        limit_resources(request["memory_bytes"], request["cpu_s"])
        return _serve(request, incoming, outgoing)


def _serve(request: dict[str, Any], incoming: BinaryIO, outgoing: BinaryIO) -> int:
    from dicom_node.volume import colour_codecs  # noqa: F401  (imported before the lock)
    from dicom_node.volume.codecs import DecodeFailure, FrameSpec, decode, is_harmless, load

    specs = [FrameSpec(**one) for one in request["frames"]]
    for decoder in sorted({spec.decoder for spec in specs} | {"lcms" for spec in specs if spec.icc_bytes}):
        load(decoder)
    warnings.simplefilter("error")
    said = _capture_messages()
    locked = forbid_system_calls()
    _send(outgoing, json.dumps({"ready": True, "seccomp": locked}).encode())
    for spec in specs:
        encoded = _message(incoming)
        try:
            values = decode(spec, encoded)
            if not is_harmless(spec, _written(said)):
                raise DecodeFailure("a message of the decoder")
        except DecodeFailure as failure:
            return _fail(outgoing, str(failure))
        except (Exception, MemoryError) as error:  # the boundary: whatever a decoder raises is a failure of the frame
            return _fail(outgoing, f"{type(error).__name__} in the decoder")
        outgoing.write(b"\0")
        outgoing.write(values.data.cast("B"))
        outgoing.flush()
    return 0


def _capture_messages() -> int:
    """Point standard error at a pipe of our own, because native decoders print their warnings there."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    os.dup2(writing, 2)
    os.close(writing)
    return reading


def _written(pipe: int) -> bytes:
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return b""


def _fail(outgoing: BinaryIO, text: str) -> int:
    outgoing.write(b"\1")
    _send(outgoing, text.encode("ascii", "replace")[:200])
    return 0


def _send(outgoing: BinaryIO, data: bytes) -> None:
    outgoing.write(struct.pack("<I", len(data)) + data)
    outgoing.flush()


def _message(incoming: BinaryIO) -> bytes:
    """One message; the process ends when the pipe closes before it is whole."""
    head = incoming.read(4)
    if len(head) < 4:
        os._exit(0)
    (length,) = struct.unpack("<I", head)
    data = incoming.read(length)
    if len(data) < length:
        os._exit(0)
    return data


if __name__ == "__main__":
    sys.exit(main())
