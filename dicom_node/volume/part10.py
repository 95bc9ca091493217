"""A stored file as bytes: a bounded window on it, its preamble and its file meta information (PS3.10 section 7.1).

Every length is compared with the bytes that are there before anything is read.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.volume.limits import Limits

PREAMBLE_BYTES = 128
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})
ENCAPSULATED_PREFIXES = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")

LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_PROGRAM_MAGIC = (b"MZ", b"\x7fELF", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe")
_PROGRAM_TEXT = (b"#!", b"%PDF", b"PK\x03\x04")
_WINDOW_BYTES = 256 * 1024
_UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


class Source:
    """A file open for reading through a window; never asks for more than the file has."""

    def __init__(self, path: Path | str, limits: Limits) -> None:
        self._file = at_rest.Reader(path, os.O_NONBLOCK)
        self.size = self._file.size
        self._buffer = b""
        self._base = 0
        if not stat.S_ISREG(self._file.status.st_mode):
            self._file.close()
            raise Refused(RefusalCode.NOT_DICOM, "a plain file", "a folder, pipe or device")
        if self.size > limits.max_file_bytes:
            self._file.close()
            raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_file_bytes} bytes", f"{self.size} bytes")

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def window(self, offset: int, length: int) -> tuple[bytes, int]:
        """A buffer that holds ``[offset, offset + length)``, and where `offset` is in it.

        Raises
        ------
        Refused
            dicom-truncated, when the file ends before.
        """
        start = offset - self._base
        if start >= 0 and start + length <= len(self._buffer):
            return self._buffer, start
        if offset + length > self.size:
            raise truncated(length, self.size - offset)
        wanted = min(max(length, _WINDOW_BYTES), self.size - offset)
        self._buffer = self._file.pread(wanted, offset)
        self._base = offset
        if len(self._buffer) < length:
            raise truncated(length, len(self._buffer))
        return self._buffer, 0

    def read(self, offset: int, length: int) -> bytes:
        """The bytes ``[offset, offset + length)``."""
        buffer, start = self.window(offset, length)
        return buffer[start : start + length]

    def chunks(self, offset: int, length: int, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """A long value in pieces; the window is left alone."""
        end = offset + length
        while offset < end:
            piece = self._file.pread(min(chunk_bytes, end - offset), offset)
            if not piece:
                raise truncated(end - offset, 0)
            yield piece
            offset += len(piece)


@dataclass(frozen=True)
class Meta:
    """What the file meta information says, and where the data set begins."""

    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    data_set_offset: int

    @property
    def is_implicit(self) -> bool:
        return self.transfer_syntax_uid == IMPLICIT_LITTLE

    @property
    def is_big_endian(self) -> bool:
        return self.transfer_syntax_uid == EXPLICIT_BIG

    @property
    def is_encapsulated(self) -> bool:
        return self.transfer_syntax_uid not in NATIVE_SYNTAXES


def clean_uid(value: str) -> str:
    """A UID without its padding, for comparison; nothing else is normalised."""
    return value.rstrip("\0 ")


def check_uid(value: str, keyword: str) -> str:
    """The UID without padding, if PS3.5 section 9.1 allows it.

    Components with leading zeros occur in the field and identify as well as others: accepted, unchanged.

    Raises
    ------
    Refused
        uid-invalid; the value itself is not repeated, because it may be anything.
    """
    uid = clean_uid(value)
    if not uid:
        raise Refused(RefusalCode.UID_INVALID, f"{keyword} with a value", "none")
    if len(uid) > 64:
        raise Refused(RefusalCode.UID_INVALID, f"{keyword} of at most 64 characters", f"{len(uid)} characters")
    if not _UID_PATTERN.match(uid):
        raise Refused(RefusalCode.UID_INVALID, f"{keyword} of digits and dots", "other characters or empty components")
    return uid


def read_meta(source: Source) -> Meta:
    """Read preamble and file meta information (PS3.10 7.1).

    Raises
    ------
    Refused
        not-dicom, preamble-executable, dicom-truncated, dicom-malformed, transfer-syntax-unsupported, uid-invalid.
    """
    _check_preamble(source)
    values = {0x00020002: "", 0x00020003: "", 0x00020010: ""}
    offset = PREAMBLE_BYTES + 4
    elements = 0
    while offset + 8 <= source.size:
        buffer, start = source.window(offset, 8)
        group, number = struct.unpack_from("<HH", buffer, start)
        if group != 2:
            break
        vr, length, value_at = _explicit_header(source, offset, "<")
        if value_at + length > source.size:
            raise truncated(length, source.size - value_at)
        elements += 1
        if vr not in LONG_VRS | SHORT_VRS or elements > 200 or length > 1 << 20:
            raise malformed("file meta information as in PS3.10 7.1", "an element that cannot be there")
        tag = group << 16 | number
        if tag in values:
            values[tag] = source.read(value_at, length).decode("ascii", "backslashreplace")
        offset = value_at + length
    syntax = clean_uid(values[0x00020010])
    if not syntax:
        raise malformed("a Transfer Syntax UID in the file meta information", "none")
    return Meta(
        transfer_syntax_uid=_known_syntax(check_uid(syntax, "TransferSyntaxUID")),
        sop_class_uid=clean_uid(values[0x00020002]),
        sop_instance_uid=clean_uid(values[0x00020003]),
        data_set_offset=offset,
    )


def _check_preamble(source: Source) -> None:
    if source.size < PREAMBLE_BYTES + 4:
        raise Refused(RefusalCode.NOT_DICOM, "a preamble of 128 bytes and DICM", f"{source.size} bytes in all")
    head = source.read(0, PREAMBLE_BYTES + 4)
    if head[PREAMBLE_BYTES:] != b"DICM":
        raise Refused(RefusalCode.NOT_DICOM, "DICM after 128 bytes", "something else")
    if head.startswith(_PROGRAM_MAGIC + _PROGRAM_TEXT):
        raise Refused(RefusalCode.PREAMBLE_EXECUTABLE, "a preamble of zeros or TIFF", "the first bytes of a program")


def _known_syntax(uid: str) -> str:
    if uid in NATIVE_SYNTAXES or (uid.startswith(ENCAPSULATED_PREFIXES) and uid != DEFLATED):
        return uid
    raise Refused(
        RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED,
        "a native or encapsulated syntax of PS3.5",
        "deflated, private or unknown",
    )


def _explicit_header(source: Source, offset: int, order: str) -> tuple[bytes, int, int]:
    """VR, length and offset of the value of the explicit VR element at `offset`."""
    buffer, start = source.window(offset, 8)
    vr = buffer[start + 4 : start + 6]
    if vr in LONG_VRS:
        buffer, start = source.window(offset, 12)
        return vr, struct.unpack_from(order + "I", buffer, start + 8)[0], offset + 12
    return vr, struct.unpack_from(order + "H", buffer, start + 6)[0], offset + 8


def truncated(expected: int, found: int) -> Refused:
    """The refusal of a file that ends too early."""
    return Refused(RefusalCode.DICOM_TRUNCATED, f"{expected} more bytes", f"{max(found, 0)} bytes before the end")


def malformed(expected: str, found: str) -> Refused:
    """The refusal of a file that breaks a rule of encoding."""
    return Refused(RefusalCode.DICOM_MALFORMED, expected, found)
