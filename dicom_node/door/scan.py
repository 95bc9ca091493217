"""Read who an object is from its first bytes, without decoding it (PS3.5 7.1, 7.5).

The C-STORE handler must compare the command set with the data set before it says success, and must not hand hostile
bytes to a general parser.  This walk knows tags, value representations and lengths only.  It never reads a value other
than the two UIDs, never recurses, and never reads outside the bytes it is given.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from dicom_node.refusals import RefusalCode, Refused

SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
STUDY = 0x0020000D
SERIES = 0x0020000E
_WANTED = frozenset((SOP_CLASS, SOP_INSTANCE, STUDY, SERIES))
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
ITEM_END, SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD

MAX_DEPTH = 32
MAX_ELEMENTS = 70_000
"""20 000 elements and 50 000 items (hardening 4.3); what lies deeper is the guarded reader's to judge."""

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS")
) | frozenset((b"ST", b"TM", b"UI", b"UL", b"US"))
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Identity:
    """What the data set says about itself."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str | None = None
    """None when it does not stand in the scanned head, or is no UID."""
    series_uid: str | None = None


def is_uid(value: str) -> bool:
    """Whether a UID has only digits and dots and at most 64 of them (leading zeros occur in the field: PS3.5 9.1)."""
    return _UID.fullmatch(value) is not None


def identify(head: bytes | bytearray | memoryview, size_bytes: int, *, explicit: bool) -> Identity:
    """Find SOP Class UID and SOP Instance UID and check declared lengths against the bytes that are there.

    Parameters
    ----------
    head
        The first bytes of the data set; elements that begin beyond them are not looked at.
    size_bytes
        Length of the whole data set.
    explicit
        Whether the presentation context's transfer syntax is an explicit VR one.

    Raises
    ------
    Refused
        DICOM_MALFORMED (not a data set of that transfer syntax), DICOM_TRUNCATED (a length runs past the end),
        NESTING_TOO_DEEP, UID_INVALID (a UID is absent or not a UID).
    """
    found: dict[int, str] = {}
    try:
        _walk(head, size_bytes, explicit, found)
    except Refused as refused:
        # oddities behind the two UIDs are a matter of meaning: kept, and judged by the guarded reader
        if refused.refusal.code is not RefusalCode.DICOM_MALFORMED or not found.keys() >= {SOP_CLASS, SOP_INSTANCE}:
            raise
    for tag in (SOP_CLASS, SOP_INSTANCE):
        if not is_uid(found.get(tag, "")):
            raise Refused(RefusalCode.UID_INVALID, "SOP Class and SOP Instance UID near the start", "none or no UID")
    study, series = (found.get(tag, "") for tag in (STUDY, SERIES))
    return Identity(
        found[SOP_CLASS], found[SOP_INSTANCE], study if is_uid(study) else None, series if is_uid(series) else None
    )


def _walk(head: bytes | bytearray | memoryview, size_bytes: int, explicit: bool, found: dict[int, str]) -> None:
    """Go over the elements of `head`, filling `found` from the top level."""
    position = 0
    open_levels: list[bool] = []  # of every open item and sequence of undefined length: are its elements explicit VR?
    for _ in range(MAX_ELEMENTS):
        if position + 8 > len(head):
            return
        is_explicit = open_levels[-1] if open_levels else explicit
        tag, vr, length, start = _element(head, position, is_explicit)
        if tag in (ITEM_END, SEQUENCE_END):
            if not open_levels:
                raise Refused(RefusalCode.DICOM_MALFORMED, "an element", "a stray delimiter")
            open_levels.pop()
            position = start
        elif length == UNDEFINED:
            if tag == PIXEL_DATA and not open_levels:
                return  # encapsulated frames: the last element that matters, checked by the guarded decoder
            # content of an UN element of undefined length is implicit VR (PS3.5 6.2.2 note 2)
            open_levels.append(is_explicit and vr != b"UN")
            if len(open_levels) > 2 * MAX_DEPTH:  # a sequence and its item are one level
                raise Refused(RefusalCode.NESTING_TOO_DEEP, f"at most {MAX_DEPTH} levels", "more")
            position = start
        else:
            if start + length > size_bytes:
                raise Refused(
                    RefusalCode.DICOM_TRUNCATED, f"{length} bytes of a value", f"{max(0, size_bytes - start)}"
                )
            if not open_levels and tag in _WANTED:
                found.setdefault(tag, bytes(head[start : start + length]).rstrip(b"\0 ").decode("ascii", "replace"))
            position = start + length


def _element(head: bytes | bytearray | memoryview, position: int, is_explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, value representation (empty where there is none), value length, and where the value starts."""
    group, element = struct.unpack_from("<HH", head, position)
    tag = group << 16 | element
    if group == 0xFFFE or not is_explicit:
        (length,) = struct.unpack_from("<I", head, position + 4)
        return tag, b"", length, position + 8
    vr = bytes(head[position + 4 : position + 6])
    if vr in _SHORT:
        (length,) = struct.unpack_from("<H", head, position + 6)
        return tag, vr, length, position + 8
    if vr not in _LONG:
        raise Refused(RefusalCode.DICOM_MALFORMED, "a value representation of PS3.5 6.2", "other bytes")
    if position + 12 > len(head):
        return tag, vr, 0, len(head)
    (length,) = struct.unpack_from("<I", head, position + 8)
    return tag, vr, length, position + 12
