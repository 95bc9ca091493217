"""Frames: what classic slices and the frames of enhanced images have in common.

A classic image (PS3.3 A.4, A.3) is one frame; an enhanced one (PS3.3 A.36, A.38) has one frame per item of its
Per-frame Functional Groups Sequence, in any order.  Everything after this module thinks in frames.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.refusals import RefusalCode, Refused

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR_COLOR = "1.2.840.10008.5.1.4.1.1.4.3"
CLASSIC_CLASSES = frozenset({MR_IMAGE, CT_IMAGE})
ENHANCED_CLASSES = frozenset({ENHANCED_MR, ENHANCED_CT})
SUPPORTED_CLASSES = CLASSIC_CLASSES | ENHANCED_CLASSES


@dataclass(frozen=True, eq=False)
class Frame:
    """One two-dimensional image of a series."""

    file_index: int
    """Into the headers as the caller gave them."""
    frame_number: int | None
    """1-based within an enhanced image; None for a classic one."""
    attributes: Mapping[str, Any]
    """By keyword; what the frame's own functional groups say goes before what the object says."""

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """The attribute as exactly `count` numbers; None when absent.

        Raises
        ------
        Refused
            geometry-invalid, when it has another number of values.
        """
        value = self.attributes.get(keyword)
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        if len(values) != count:
            raise Refused(RefusalCode.GEOMETRY_INVALID, f"{keyword} with {count} values", f"{len(values)} values")
        return tuple(float(one) for one in values)


def frames_of(headers: Sequence[Mapping[str, Any]]) -> list[Frame]:
    """All frames of a series' headers, in the order given.

    Raises
    ------
    Refused
        sop-class-unsupported, pixel-format-unsupported (enhanced colour), dicom-malformed (Number of Frames and
        functional groups disagree), input-empty.
    """
    if not headers:
        raise Refused(RefusalCode.INPUT_EMPTY, "at least one image", "none")
    frames: list[Frame] = []
    for index, header in enumerate(headers):
        check_class(header)
        if header["SOPClassUID"] in CLASSIC_CLASSES:
            if frame_count(header) != 1:
                raise Refused(RefusalCode.DICOM_MALFORMED, "one frame in a single-frame class", "several")
            frames.append(Frame(index, None, header))
        else:
            frames.extend(_enhanced_frames(index, header))
    return frames


def check_class(header: Mapping[str, Any]) -> None:
    """Refuse what is no slice image by its class or its Image Type (PS3.3 C.8.3.1.1.1, Siemens mosaic)."""
    sop_class = header.get("SOPClassUID")
    if sop_class == ENHANCED_MR_COLOR:
        raise Refused(RefusalCode.PIXEL_FORMAT_UNSUPPORTED, "grey-scale images", "Enhanced MR Color Image Storage")
    if sop_class not in SUPPORTED_CLASSES:
        raise Refused(
            RefusalCode.SOP_CLASS_UNSUPPORTED, "MR, CT, Enhanced MR or Enhanced CT Image Storage", "another SOP class"
        )
    if "MOSAIC" in header.get("ImageType", ()):
        raise Refused(RefusalCode.SOP_CLASS_UNSUPPORTED, "one slice in each image", "ImageType MOSAIC")


def frame_count(header: Mapping[str, Any]) -> int:
    """Number of Frames; 1 where it is not said, 0 where it is no possible number."""
    count = header.get("NumberOfFrames", 1)
    return count if isinstance(count, int) and count > 0 and "NumberOfFrames" not in unreadable(header) else 0


def unreadable(header: Mapping[str, Any]) -> Collection[str]:
    """Keywords whose bytes are not a value of their VR."""
    names: Collection[str] = header.get("UnreadableAttributes", ())
    return names


def _enhanced_frames(index: int, header: Mapping[str, Any]) -> list[Frame]:
    groups = header.get("Frames", [])
    if not groups or frame_count(header) != len(groups):
        raise Refused(
            RefusalCode.DICOM_MALFORMED,
            "one item of the Per-frame Functional Groups Sequence for each frame",
            f"{len(groups)} items, {frame_count(header)} frames",
        )
    shared = {keyword: value for keyword, value in header.items() if keyword != "Frames"}
    return [Frame(index, number, ChainMap(group, shared)) for number, group in enumerate(groups, start=1)]
