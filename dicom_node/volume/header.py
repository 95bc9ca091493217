"""The header of one stored DICOM file, without its pixel data: bounded, strict, fast.

PS3.10 section 7 (file format), PS3.5 sections 6 and 7 (values and data sets), PS3.3 C.7.6.16 (functional groups of
enhanced images, flattened under the keywords of classic ones).

Guarantees: ends within `Limits.scan_s` and a bounded number of bytes whatever the file holds; every declared length in
the file, pixel data included, lies inside the file; every UID is one; nothing but the closed list of
`dicom_node.volume.attributes` comes out.  It does not decode pixel data and does not judge meaning: geometry and pixel
attributes are judged in `dicom_node.volume.geometry` and `dicom_node.volume.pixels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.attributes import (
    CODE_ELEMENTS,
    CONTRAST_SEQUENCES,
    ICC_PROFILE,
    MACROS,
    PER_FRAME_GROUPS,
    SHARED_GROUPS,
    TOP_LEVEL,
    UIDS,
    Attribute,
)
from dicom_node.volume.coded import CodedItems
from dicom_node.volume.digest import content_digest
from dicom_node.volume.limits import Limits
from dicom_node.volume.part10 import Meta, Source, check_uid, clean_uid, read_meta
from dicom_node.volume.values import Unreadable, escaped, read_value
from dicom_node.volume.walk import PIXEL_DATA, Event, Step, Walker

__all__ = ["PixelLocation", "StoredObject", "content_digest", "read_header", "read_object"]

_MAX_VALUE_BYTES = 64 * 1024


@dataclass(frozen=True)
class PixelLocation:
    """Where a file keeps its pixel data."""

    path: Path
    is_encapsulated: bool
    is_big_endian: bool
    offset: int = 0
    length: int = 0
    """Of native pixel data, in bytes."""
    offset_table: tuple[int, int] = (0, 0)
    """Offset and length of the Basic Offset Table's value."""
    fragments: tuple[tuple[int, int], ...] = ()
    """(offset, length) of every fragment, without the Basic Offset Table."""
    icc_profile: tuple[int, int] = (0, 0)
    """(offset, length) of the ICC Profile (0028,2000); length 0 without one."""


@dataclass(frozen=True)
class StoredObject:
    """A stored file's header and, when it is an image, where its pixel data is."""

    header: Mapping[str, Any]
    pixels: PixelLocation | None


def read_header(path: Path | str, *, limits: Limits = Limits()) -> dict[str, Any]:
    """Read the kept attributes of one stored DICOM file.

    Parameters
    ----------
    path
        A DICOM Part 10 file.

    Returns
    -------
    dict
        JSON values by DICOM keyword; attributes without a value are left out.  Own entries: ``PixelDataLength`` (bytes
        as stored; 0 without pixel data), ``HasContrastBolusSequence``, ``Frames`` (enhanced images only: one dict per
        frame, in stored order, with what its functional groups say), ``UnreadableAttributes`` (keywords whose bytes
        are not a value of their VR; text among them stands in the header with its bytes escaped),
        ``AnatomicRegionCode``, ``AnatomicRegionScheme``, ``AnatomicRegionMeaning`` (first item of the Anatomic Region
        Sequence) and ``DeclaredPicture`` (photographs: ``dermoscopic`` or ``plain``, where the object says it).

    Raises
    ------
    Refused
        not-dicom, preamble-executable, dicom-truncated, dicom-malformed, nesting-too-deep, uid-invalid, uid-mismatch,
        transfer-syntax-unsupported, too-large.
    """
    return dict(read_object(path, limits=limits).header)


def read_object(path: Path | str, *, limits: Limits = Limits()) -> StoredObject:
    """As `read_header`, with the place of the pixel data."""
    with Source(path, limits) as source:
        meta = read_meta(source)
        reading = _Reading(source, meta)
        for step in Walker(source, meta, limits).steps():
            reading.take(step)
    header = reading.finish()
    return StoredObject(header, reading.location(Path(path)))


@dataclass
class _Reading:
    """Collects values while the walk goes by; charset-dependent text is decoded at the end."""

    source: Source
    meta: Meta
    _raw: dict[int, bytes] = field(default_factory=dict)
    _path: list[int] = field(default_factory=list)
    _shared: dict[str, Any] = field(default_factory=dict)
    _frames: list[dict[str, Any]] = field(default_factory=list)
    _unreadable: set[str] = field(default_factory=set)
    _has_contrast: bool = False
    _pixel: tuple[int, int] | None = None
    _fragments: list[tuple[int, int]] = field(default_factory=list)
    _is_encapsulated: bool = False
    _icc_profile: tuple[int, int] = (0, 0)
    _coded: CodedItems = field(default_factory=CodedItems)

    def take(self, step: Step) -> None:
        event, tag, _vr, offset, length, depth = step
        if event is Event.LEAF:
            if depth == 0:
                self._take_top(tag, offset, length)
            elif len(self._path) == 2 and self._path[0] in (SHARED_GROUPS, PER_FRAME_GROUPS):
                self._take_macro(self._path[1], tag, offset, length)
            elif tag in CODE_ELEMENTS and 0 < length <= _MAX_VALUE_BYTES and self._coded.wants(self._path):
                self._coded.take(self._path, tag, self.source.read(offset, length))
        elif event is Event.SEQUENCE_BEGIN:
            self._path.append(tag)
        elif event is Event.SEQUENCE_END:
            self._path.pop()
        elif event is Event.ITEM_BEGIN:
            if self._path == [PER_FRAME_GROUPS]:
                self._frames.append({})
            elif len(self._path) == 1 and self._path[0] in CONTRAST_SEQUENCES:
                self._has_contrast = True
            else:
                self._coded.begin_item(self._path)
        elif not self._path:
            self._take_fragment(event, offset, length)

    def _take_top(self, tag: int, offset: int, length: int) -> None:
        if tag == PIXEL_DATA:
            self._pixel = (offset, length)
        elif tag == ICC_PROFILE:
            self._icc_profile = (offset, length)
        elif tag in TOP_LEVEL and length:
            if length > _MAX_VALUE_BYTES:
                self._unreadable.add(TOP_LEVEL[tag].keyword)
            else:
                self._raw[tag] = self.source.read(offset, length)

    def _take_macro(self, macro: int, tag: int, offset: int, length: int) -> None:
        attribute = MACROS.get(macro, {}).get(tag)
        if attribute is None or not length:
            return
        target = self._frames[-1] if self._path[0] == PER_FRAME_GROUPS else self._shared
        raw = self.source.read(offset, length) if length <= _MAX_VALUE_BYTES else b"\xff"
        self._put(target, attribute, raw, [])

    def _take_fragment(self, event: Event, offset: int, length: int) -> None:
        if event is Event.FRAGMENTS_BEGIN:
            self._is_encapsulated = True
        elif event is Event.FRAGMENT:
            self._fragments.append((offset, length))

    def _put(self, target: dict[str, Any], attribute: Attribute, raw: bytes, charsets: list[str]) -> None:
        vr = attribute.vr
        if vr == "XS":
            vr = "SS" if self._raw.get(0x00280103, b"\0").strip(b"\0") else "US"
        try:
            value = read_value(raw, vr, ">" if self.meta.is_big_endian else "<", charsets)
        except Unreadable:
            self._unreadable.add(attribute.keyword)
            if vr in ("LO", "SH", "PN"):
                target[attribute.keyword] = escaped(raw)
            return
        if value is not None:
            target[attribute.keyword] = [value] if attribute.is_list and not isinstance(value, list) else value

    def finish(self) -> dict[str, Any]:
        """The header, checked: UIDs are UIDs and agree with the file meta information."""
        values: dict[str, Any] = {}
        charset = self._raw.get(0x00080005)
        if charset is not None:
            self._put(values, TOP_LEVEL[0x00080005], charset, [])
        charsets = [str(one) for one in values.get("SpecificCharacterSet", [])]
        for tag, raw in self._raw.items():
            attribute = TOP_LEVEL[tag]
            if attribute.vr == "UI":
                values[attribute.keyword] = raw.decode("ascii", "backslashreplace")
            elif tag != 0x00080005:
                self._put(values, attribute, raw, charsets)
        self._check_uids(values)
        values["TransferSyntaxUID"] = self.meta.transfer_syntax_uid
        values.update(self._shared)
        if self._frames:
            values["Frames"] = self._frames
        agents = [values, *self._frames]
        values["HasContrastBolusSequence"] = self._has_contrast or any(
            one.get("ContrastBolusAgentAdministered") == "YES" for one in agents
        )
        values["PixelDataLength"] = self._pixel_length()
        self._coded.put(values, lambda target, attribute, raw: self._put(target, attribute, raw, charsets))
        if self._unreadable:
            values["UnreadableAttributes"] = sorted(self._unreadable)
        return values

    def _check_uids(self, values: dict[str, Any]) -> None:
        for keyword in UIDS:
            if keyword != "FrameOfReferenceUID" or clean_uid(values.get(keyword, "")):
                values[keyword] = check_uid(values.get(keyword, ""), keyword)
        values.pop("FrameOfReferenceUID", None) if not clean_uid(values.get("FrameOfReferenceUID", "")) else None
        for keyword, declared in (
            ("SOPClassUID", self.meta.sop_class_uid),
            ("SOPInstanceUID", self.meta.sop_instance_uid),
        ):
            if declared and declared != values[keyword]:
                raise Refused(
                    RefusalCode.UID_MISMATCH, f"the {keyword} of the file meta information", "another in the data set"
                )

    def _pixel_length(self) -> int:
        if self._is_encapsulated:
            return sum(length for _, length in self._fragments[1:])
        return self._pixel[1] if self._pixel else 0

    def location(self, path: Path) -> PixelLocation | None:
        big_endian = self.meta.is_big_endian
        if self._is_encapsulated:
            table = self._fragments[0] if self._fragments else (0, 0)
            fragments = tuple(self._fragments[1:])
            return PixelLocation(
                path, True, big_endian, offset_table=table, fragments=fragments, icc_profile=self._icc_profile
            )
        if self._pixel is None:
            return None
        offset, length = self._pixel
        return PixelLocation(path, False, big_endian, offset=offset, length=length, icc_profile=self._icc_profile)
