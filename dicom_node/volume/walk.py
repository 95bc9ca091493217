"""Walk over the elements of a DICOM data set without believing any of its lengths.

PS3.5 section 7 (data set encoding), section 7.5 (nesting) and annex A.4 (encapsulated pixel data).  Pure Python over a
sliding window of the file: no recursion, no allocation by a claimed length; counts, depth and time are bounded.  Every
declared length is compared with the bytes that are there, so a file that is cut anywhere is found here.

The walk is shared by the header reader and the content digest; neither asks a DICOM library to parse hostile bytes.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import IntEnum

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.limits import Limits
from dicom_node.volume.part10 import LONG_VRS, SHORT_VRS, Meta, Source, malformed, truncated

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
TRAILING_PADDING = 0xFFFCFFFC
PIXEL_DATA = 0x7FE00010
PER_FRAME_GROUPS = 0x52009230

BULK_TAGS = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009, 0x00420011, 0x54001010, 0x7FE00001, 0x7FE00002})
"""Values that may be large in good files and are never read as header."""

_MAX_ZERO_TAIL_BYTES = 64 * 1024


class Event(IntEnum):
    """What the walk met."""

    LEAF = 0
    SEQUENCE_BEGIN = 1
    SEQUENCE_END = 2
    ITEM_BEGIN = 3
    ITEM_END = 4
    FRAGMENTS_BEGIN = 5
    FRAGMENT = 6
    FRAGMENTS_END = 7


Step = tuple[Event, int, bytes, int, int, int]
"""(event, tag, VR, offset of the value, length of the value, depth).  VR is empty under implicit VR."""


@dataclass
class _Level:
    """One open container of the walk."""

    is_items: bool
    """A sequence (holds items) rather than a data set (holds elements)."""
    tag: int
    end: int
    """Offset of its end, or -1 when a delimiter ends it."""
    is_implicit: bool
    order: str
    last_tag: int = -1


class Walker:
    """One walk over the data set of a file; see `Walker.steps`."""

    def __init__(self, source: Source, meta: Meta, limits: Limits) -> None:
        self._source = source
        self._meta = meta
        self._limits = limits
        self._deadline = time.monotonic() + limits.scan_s
        self._elements = 0
        self._items = 0
        self._frame_elements = 0
        self._frame_items = 0
        self._header_bytes = 0
        self._in_frames = False
        self._levels = [_Level(False, 0, source.size, meta.is_implicit, ">" if meta.is_big_endian else "<")]

    def steps(self) -> Iterator[Step]:
        """Yield every element, item and fragment in the order of the file.

        Raises
        ------
        Refused
            dicom-truncated, dicom-malformed, nesting-too-deep, too-large.
        """
        offset = self._meta.data_set_offset
        levels = self._levels
        while levels:
            level = levels[-1]
            if offset == level.end or (len(levels) == 1 and self._is_zero_tail(offset)):
                levels.pop()
                if levels:
                    yield self._closed(level, offset)
                continue
            if level.end >= 0 and offset + 8 > level.end:
                if len(levels) == 1:
                    raise truncated(8, level.end - offset)
                raise malformed("items and elements inside their sequence", "one that goes past its end")
            if level.is_items:
                offset, step = self._item(level, offset)
                yield step
            elif level.tag == ITEM and level.end < 0 and self._is_item_end(level, offset):
                levels.pop()
                offset += 8
                yield self._closed(level, offset)
            else:
                offset, step = self._element(level, offset)
                yield step
                if step[0] is Event.FRAGMENTS_BEGIN:
                    offset = yield from self._fragments(level, offset, step[1])

    # -- data sets -----------------------------------------------------------------------------------------------

    def _element(self, level: _Level, offset: int) -> tuple[int, Step]:
        tag, vr, length, value_at = self._header(level, offset)
        self._check_order(level, tag)
        self._count(value_at - offset, element=True)
        depth = len(self._levels) - 1
        if length == UNDEFINED:
            if tag == PIXEL_DATA and vr in (b"OB", b"OW") and not level.is_implicit:
                return value_at, (Event.FRAGMENTS_BEGIN, tag, vr, value_at, 0, depth)
            if vr not in (b"SQ", b"UN", b""):
                raise malformed("an explicit length", "an undefined length outside a sequence")
            return value_at, self._open_sequence(level, tag, vr, value_at, -1)
        bound = level.end if level.end >= 0 else self._bound()
        if value_at + length > bound:
            if bound == self._source.size:
                raise truncated(length, bound - value_at)
            raise malformed("a value inside its item", "a value that goes past its end")
        if vr == b"SQ" or (vr == b"" and _is_sequence_tag(tag)):
            return value_at, self._open_sequence(level, tag, vr, value_at, value_at + length)
        if tag not in BULK_TAGS:
            self._count(length)
        return value_at + length, (Event.LEAF, tag, vr, value_at, length, depth)

    def _header(self, level: _Level, offset: int) -> tuple[int, bytes, int, int]:
        buffer, start = self._source.window(offset, 8)
        if level.is_implicit:
            group, number, length = struct.unpack_from(level.order + "HHI", buffer, start)
            return group << 16 | number, b"", length, offset + 8
        group, number = struct.unpack_from(level.order + "HH", buffer, start)
        vr = buffer[start + 4 : start + 6]
        if vr in SHORT_VRS:
            length = struct.unpack_from(level.order + "H", buffer, start + 6)[0]
            return group << 16 | number, vr, length, offset + 8
        if vr not in LONG_VRS:
            raise malformed("a value representation of PS3.5 6.2", "another one")
        buffer, start = self._source.window(offset, 12)
        return group << 16 | number, vr, struct.unpack_from(level.order + "I", buffer, start + 8)[0], offset + 12

    def _check_order(self, level: _Level, tag: int) -> None:
        """Two readers must see one object: no repeated element, and ascending tags in the main data set."""
        group = tag >> 16
        if group in (0x0000, 0x0002, 0xFFFE) or (group % 2 and group < 0x0009):
            raise malformed("elements of a data set", "an element that cannot be in one")
        if tag == level.last_tag or (tag < level.last_tag and len(self._levels) == 1):
            raise malformed("each element once, in ascending order (PS3.5 7.1)", "a repeated or misplaced element")
        level.last_tag = tag

    def _is_item_end(self, level: _Level, offset: int) -> bool:
        buffer, start = self._source.window(offset, 8)
        group, number, length = struct.unpack_from(level.order + "HHI", buffer, start)
        if group << 16 | number != ITEM_DELIMITER:
            return False
        if length:
            raise malformed("an item delimiter of length 0", "another length")
        return True

    def _is_zero_tail(self, offset: int) -> bool:
        """Whether nothing but zero bytes follow; a few are seen in the field and say nothing."""
        left = self._source.size - offset
        if left > _MAX_ZERO_TAIL_BYTES:
            return False
        buffer, start = self._source.window(offset, min(4, left))
        if any(buffer[start : start + min(4, left)]):
            return False
        return not any(self._source.read(offset, left))

    def _bound(self) -> int:
        for level in reversed(self._levels):
            if level.end >= 0:
                return level.end
        return self._source.size

    # -- sequences -----------------------------------------------------------------------------------------------

    def _open_sequence(self, level: _Level, tag: int, vr: bytes, value_at: int, end: int) -> Step:
        depth = len(self._levels) - 1
        if sum(one.is_items for one in self._levels) >= self._limits.max_depth:
            raise Refused(RefusalCode.NESTING_TOO_DEEP, f"at most {self._limits.max_depth} levels", "more")
        # An undefined length under VR UN is implicit VR little endian whatever the file is (PS3.5 6.2.2 note 2).
        implicit = level.is_implicit or vr == b"UN"
        order = "<" if vr == b"UN" else level.order
        if depth == 0:
            self._in_frames = tag == PER_FRAME_GROUPS
        self._levels.append(_Level(True, tag, end, implicit, order))
        return (Event.SEQUENCE_BEGIN, tag, vr, value_at, 0, depth)

    def _item(self, level: _Level, offset: int) -> tuple[int, Step]:
        buffer, start = self._source.window(offset, 8)
        group, number, length = struct.unpack_from(level.order + "HHI", buffer, start)
        tag = group << 16 | number
        offset += 8
        if tag == SEQUENCE_DELIMITER and level.end < 0 and not length:
            self._levels.pop()
            return offset, self._closed(level, offset)
        if tag != ITEM:
            raise malformed("an item or the end of the sequence", "something else")
        self._count(8, item=True)
        end = -1
        if length != UNDEFINED:
            end = offset + length
            bound = self._bound()
            if end > bound:
                if bound == self._source.size:
                    raise truncated(length, bound - offset)
                raise malformed("an item inside its sequence", "an item that goes past its end")
        self._levels.append(_Level(False, ITEM, end, level.is_implicit, level.order))
        return offset, (Event.ITEM_BEGIN, ITEM, b"", offset, 0, len(self._levels) - 1)

    def _closed(self, level: _Level, offset: int) -> Step:
        event = Event.SEQUENCE_END if level.is_items else Event.ITEM_END
        return (event, level.tag, b"", offset, 0, len(self._levels))

    # -- encapsulated pixel data ---------------------------------------------------------------------------------

    def _fragments(self, level: _Level, offset: int, tag: int) -> Generator[Step, None, int]:
        """The items of encapsulated pixel data (PS3.5 A.4), the Basic Offset Table first; returns where they end."""
        depth = len(self._levels)
        bound = self._bound()
        while True:
            buffer, start = self._source.window(offset, 8)
            group, number, length = struct.unpack_from(level.order + "HHI", buffer, start)
            offset += 8
            found = group << 16 | number
            if found == SEQUENCE_DELIMITER and not length:
                yield (Event.FRAGMENTS_END, tag, b"", offset, 0, depth)
                return offset
            if found != ITEM or length == UNDEFINED:
                raise malformed("a fragment or the end of the pixel data", "something else")
            if offset + length > bound:
                raise truncated(length, bound - offset)
            self._count(8, item=True)
            yield (Event.FRAGMENT, tag, b"", offset, length, depth)
            offset += length

    # -- budgets -------------------------------------------------------------------------------------------------

    def _count(self, header_bytes: int, *, element: bool = False, item: bool = False) -> None:
        self._header_bytes += header_bytes
        if self._in_frames and len(self._levels) > 1:
            self._frame_elements += element
            self._frame_items += item
        else:
            self._elements += element
            self._items += item
        limits = self._limits
        if (
            self._header_bytes > limits.max_header_bytes
            or self._elements > limits.max_elements
            or self._items > limits.max_items
            or self._frame_elements > limits.max_frame_elements
            or self._frame_items > limits.max_frame_elements
        ):
            raise Refused(
                RefusalCode.TOO_LARGE,
                f"a header of at most {limits.max_header_bytes} bytes, {limits.max_elements} elements and "
                f"{limits.max_items} items",
                "more",
            )
        if not (self._elements + self._items + self._frame_elements) & 0x3FF and time.monotonic() > self._deadline:
            raise Refused(RefusalCode.TOO_LARGE, f"a header read in {limits.scan_s:g} s", "longer")


_sequence_tags: frozenset[int] = frozenset()


def _is_sequence_tag(tag: int) -> bool:
    """Whether the dictionary (PS3.6) gives this tag VR SQ; private tags are never known."""
    global _sequence_tags  # filled once, on the first implicit VR object: the dictionary costs import time
    if not _sequence_tags:
        from pydicom._dicom_dict import DicomDictionary

        _sequence_tags = frozenset(number for number, entry in DicomDictionary.items() if entry[0] == "SQ")
    return tag in _sequence_tags
