"""Content digest: is this the same object, whatever bytes carried it?  (Design section 4.)

sha256 over the data set written again by one canonical writer.  The writer streams, so it marks where sequences and
items begin and end instead of stating their lengths (which carries the same information); of a value it states the
length.  Left out, because writers differ in them and they say nothing about the object: file meta information, group
lengths, Data Set Trailing Padding, the padding of text values, VRs (implicit VR does not have them), the Basic Offset
Table.  Binary values are little endian.  Pixel bytes are as received: a transcoded object is another content.

Limit: under implicit VR a private sequence of defined length cannot be known as one; such an object has another digest
when it comes under explicit VR.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from dicom_node.volume.limits import Limits
from dicom_node.volume.part10 import Meta, Source, read_meta
from dicom_node.volume.walk import TRAILING_PADDING, Event, Walker

_SWAP_BYTES = {
    b"US": 2, b"SS": 2, b"OW": 2, b"AT": 2,
    b"UL": 4, b"SL": 4, b"FL": 4, b"OF": 4, b"OL": 4,
    b"FD": 8, b"OD": 8, b"OV": 8, b"SV": 8, b"UV": 8,
}  # fmt: skip
_TEXT_VRS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_CHUNK_BYTES = 1 << 20
_MARKS = {
    Event.SEQUENCE_BEGIN: b"(",
    Event.SEQUENCE_END: b")",
    Event.ITEM_BEGIN: b"[",
    Event.ITEM_END: b"]",
    Event.FRAGMENTS_BEGIN: b"{",
    Event.FRAGMENTS_END: b"}",
}


def content_digest(path: Path | str, *, limits: Limits = Limits()) -> str:
    """The content digest of one stored DICOM file, in hexadecimal.

    Memory stays bounded whatever the size of the pixel data.

    Raises
    ------
    Refused
        As `dicom_node.volume.header.read_header`, but for the UIDs, which are not judged here.
    """
    with Source(path, limits) as source:
        meta = read_meta(source)
        writer = _Writer(source, meta)
        for event, tag, vr, offset, length, _ in Walker(source, meta, limits).steps():
            if event is Event.LEAF:
                if tag & 0xFFFF and tag != TRAILING_PADDING:
                    writer.value(tag, vr, offset, length)
            elif event is Event.FRAGMENT:
                writer.fragment(offset, length)
            else:
                writer.mark(event, tag)
    return writer.hexdigest()


class _Writer:
    """The canonical writer: feeds a hash instead of a file."""

    def __init__(self, source: Source, meta: Meta) -> None:
        self._source = source
        self._is_big_endian = meta.is_big_endian
        self._hash = hashlib.sha256(b"dicom-ai-node content digest 1\0")
        self._fragments_seen = 0

    def mark(self, event: Event, tag: int) -> None:
        if event is Event.FRAGMENTS_BEGIN:
            self._fragments_seen = 0
        if event in (Event.SEQUENCE_BEGIN, Event.FRAGMENTS_BEGIN):
            self._hash.update(_MARKS[event] + struct.pack("<I", tag))
        else:
            self._hash.update(_MARKS[event])

    def value(self, tag: int, vr: bytes, offset: int, length: int) -> None:
        if length <= _CHUNK_BYTES:
            value = self._source.read(offset, length)
            if _is_text(tag):
                value = value.rstrip(b" \0")
            elif self._is_big_endian:
                value = _swapped(value, _SWAP_BYTES.get(vr, 1))
            self._hash.update(struct.pack("<cIQ", b"=", tag, len(value)) + value)
            return
        width = _SWAP_BYTES.get(vr, 1) if self._is_big_endian else 1
        self._hash.update(struct.pack("<cIQ", b"=", tag, length))
        for piece in self._source.chunks(offset, length, _CHUNK_BYTES):
            self._hash.update(_swapped(piece, width))

    def fragment(self, offset: int, length: int) -> None:
        self._fragments_seen += 1
        if self._fragments_seen == 1:
            return  # the Basic Offset Table: a convenience that archives add and drop
        self._hash.update(struct.pack("<cQ", b"-", length))
        for piece in self._source.chunks(offset, length, _CHUNK_BYTES):
            self._hash.update(piece)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _swapped(value: bytes, width: int) -> bytes:
    if width == 1 or len(value) % width:
        return value
    swapped = bytearray(len(value))
    for position in range(width):
        swapped[position::width] = value[width - 1 - position :: width]
    return bytes(swapped)


_text_tags: frozenset[int] = frozenset()


def _is_text(tag: int) -> bool:
    """Whether the dictionary (PS3.6) gives this tag a text VR, whose padding is no content."""
    global _text_tags  # filled once: the dictionary costs import time
    if not _text_tags:
        from pydicom._dicom_dict import DicomDictionary

        _text_tags = frozenset(number for number, entry in DicomDictionary.items() if entry[0] in _TEXT_VRS)
    return tag in _text_tags
