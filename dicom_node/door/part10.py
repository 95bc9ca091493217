"""File Meta Information of the files that the vault writes (PS3.10 7.1): written and read again, byte by byte."""

from __future__ import annotations

import struct

from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREAMBLE = b"\0" * 128 + b"DICM"


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """File Meta Information (PS3.10 7.1), group length included, Explicit VR Little Endian."""
    body = _element(0x0001, b"OB", b"\0\1")
    for number, vr, text in (
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_instance_uid),
        (0x0010, b"UI", transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ):
        value = text.encode("ascii")
        body += _element(number, vr, value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2))
    return _element(0x0000, b"UL", struct.pack("<I", len(body))) + body


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", 0x0002, number) + vr
    if vr == b"OB":
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def read_meta(head: bytes) -> dict[int, str] | None:
    """UIDs of the file meta information this vault wrote: element number -> value; None if it did not write them."""
    if head[:132] != PREAMBLE:
        return None
    position, found = 132, dict[int, str]()
    while position + 8 <= len(head):
        group, number = struct.unpack_from("<HH", head, position)
        if group != 0x0002:
            return found
        vr = head[position + 4 : position + 6]
        if vr == b"OB":
            (length,) = struct.unpack_from("<I", head, position + 8)
            start = position + 12
        else:
            (length,) = struct.unpack_from("<H", head, position + 6)
            start = position + 8
        if vr == b"UI":
            found[number] = head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = start + length
    return None


def data_set_offset(head: bytes) -> int:
    """Where the data set begins in a file this vault wrote: behind the file meta information."""
    (length,) = struct.unpack_from("<I", head, len(PREAMBLE) + 8)
    return len(PREAMBLE) + 12 + int(length)
