"""From the stored files of one series to one exact volume.

Headers are scanned and judged first (identity, one stack, geometry, pixel formats), so that nothing is decoded of a
series that will be refused.  Then one guarded child, which has started meanwhile and knows nothing yet, decodes every
slice, and each is brought to modality values with its own rescale.  Nothing is guessed, filled in or interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.decode import Child, EncodedFrame, decode_frames
from dicom_node.volume.digest import content_digest
from dicom_node.volume.frames import CT_IMAGE, ENHANCED_CT, frame_count
from dicom_node.volume.geometry import SeriesGeometry, StackedFrame, series_geometry
from dicom_node.volume.header import StoredObject, read_object
from dicom_node.volume.identity import check_identity
from dicom_node.volume.limits import Limits
from dicom_node.volume.pixels import (
    BLANK_AIR_HU,
    PixelFormat,
    Rescale,
    modality_values,
    padding_range,
    pixel_format,
    rescale,
)
from dicom_node.words import SliceSource, Volume

Array = npt.NDArray[Any]


def build_volume(files: Sequence[Path | str], *, limits: Limits = Limits()) -> Volume:
    """Build the exact volume of one series.

    Parameters
    ----------
    files
        The stored files of the series, in any order: MR, CT, Enhanced MR or Enhanced CT images (PS3.3 A.4, A.3, A.36,
        A.38).

    Returns
    -------
    Volume
        (S, R, C) float32 modality values; slices ascend along ``row cosines x column cosines``.

    Raises
    ------
    Refused
        Any code of the tables in ``docs/reference/volume.md``.
    """
    if len(files) > limits.max_files:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_files} files", str(len(files)))
    with Child(limits) as waiting:  # an interpreter takes as long to start as the headers take to be judged
        return _build(files, limits, waiting)


def _build(files: Sequence[Path | str], limits: Limits, waiting: Child) -> Volume:
    objects = [read_object(path, limits=limits) for path in files]
    notes: list[str] = []
    objects = _without_copies(objects, files, limits, notes)
    headers = [one.header for one in objects]
    if sum(frame_count(header) for header in headers) > limits.max_frames:
        raise Refused(RefusalCode.TOO_LARGE, f"at most {limits.max_frames} frames", "more")
    if headers:
        check_identity(headers)
    geometry = series_geometry(headers, min_slices=limits.min_slices)
    if isinstance(geometry, Refused):
        raise geometry
    stack = _Stack(objects, geometry, limits)
    stack.decode(waiting)
    notes.extend(geometry.notes)
    notes.extend(stack.notes)
    return stack.volume(tuple(notes))


def _without_copies(
    objects: Sequence[StoredObject], files: Sequence[Path | str], limits: Limits, notes: list[str]
) -> list[StoredObject]:
    """Each SOP instance once; two contents under one UID are refused (invariant I10)."""
    first: dict[str, int] = {}
    copies = 0
    for index, one in enumerate(objects):
        uid = one.header["SOPInstanceUID"]
        if first.setdefault(uid, index) == index:
            continue
        if content_digest(files[first[uid]], limits=limits) != content_digest(files[index], limits=limits):
            raise Refused(RefusalCode.UID_CONFLICT, "one content for each SOP Instance UID", "two")
        copies += 1
    if copies:
        notes.append(f"{copies} file(s) that repeat another left out")
    return [objects[index] for index in first.values()]


class _Stack:
    """The slices of one series on their way from encoded bytes to modality values."""

    def __init__(self, objects: Sequence[StoredObject], geometry: SeriesGeometry, limits: Limits) -> None:
        self._objects = objects
        self._geometry = geometry
        self._limits = limits
        frames = [*geometry.slices, *(frame for _, frame in geometry.duplicates)]
        self._attributes = [self._frame_attributes(frame) for frame in frames]
        self._formats = self._checked_formats(frames)
        self._scales = [rescale(one) for one in self._attributes]
        self._paddings = [padding_range(one) for one in self._attributes]
        self._encoded = [self._encoded_frame(frame, form) for frame, form in zip(frames, self._formats, strict=True)]
        self._check_total()
        self._array: npt.NDArray[np.float32] = np.empty(geometry.shape, dtype=np.float32)
        self._valid: npt.NDArray[np.bool_] | None = None
        if any(padding is not None for padding in self._paddings):
            self._valid = np.ones(geometry.shape, dtype=np.bool_)
        self._unequal: set[int] = set()
        self.notes: list[str] = []

    # -- judging before decoding ---------------------------------------------------------------------------------

    def _frame_attributes(self, frame: StackedFrame) -> Mapping[str, Any]:
        header = self._objects[frame.header_index].header
        if frame.frame_number is None:
            return header
        own = header["Frames"][frame.frame_number - 1]
        return {**{key: value for key, value in header.items() if key != "Frames"}, **own}

    def _checked_formats(self, frames: Sequence[StackedFrame]) -> list[PixelFormat]:
        by_header: dict[int, PixelFormat] = {}
        for frame in frames:
            if frame.header_index not in by_header:
                by_header[frame.header_index] = pixel_format(self._objects[frame.header_index].header, self._limits)
        formats = [by_header[frame.header_index] for frame in frames]
        if len({form.is_inverted for form in formats}) > 1:
            raise Refused(RefusalCode.SERIES_MIXED, "one Photometric Interpretation", "MONOCHROME1 and MONOCHROME2")
        if formats[0].is_inverted and self._attributes[0]["SOPClassUID"] in (CT_IMAGE, ENHANCED_CT):
            raise Refused(RefusalCode.PHOTOMETRIC_UNSUPPORTED, "MONOCHROME2 for CT", "MONOCHROME1")
        return formats

    def _encoded_frame(self, frame: StackedFrame, form: PixelFormat) -> EncodedFrame:
        stored = self._objects[frame.header_index]
        if stored.pixels is None:
            raise Refused(RefusalCode.PIXEL_DATA_MISSING, "pixel data", "none")
        index = 0 if frame.frame_number is None else frame.frame_number - 1
        return EncodedFrame(form, stored.pixels, index, frame_count(stored.header))

    def _check_total(self) -> None:
        total = sum(form.rows * form.columns * 4 for form in self._formats)
        if total > self._limits.max_decoded_bytes:
            raise Refused(
                RefusalCode.TOO_LARGE, f"a volume of at most {self._limits.max_decoded_bytes} bytes", f"{total} bytes"
            )

    # -- decoding ------------------------------------------------------------------------------------------------

    def decode(self, waiting: Child) -> None:
        """Decode every slice; further images at one place must be equal to the one that is kept."""
        decode_frames(self._encoded, self._take, limits=self._limits, waiting=waiting)
        if self._unequal:
            raise Refused(
                RefusalCode.SLICES_DUPLICATED,
                "one image at each position",
                f"different images at {len(self._unequal)} position(s)",
            )
        self._check_not_blank()
        self._note()

    def _take(self, index: int, stored: Array) -> None:
        scale: Rescale = self._scales[index]
        values, valid = modality_values(stored, self._formats[index], scale, self._paddings[index])
        count = self._geometry.count
        if index >= count:
            place = self._geometry.duplicates[index - count][0]
            if not np.array_equal(values, self._array[place]):
                self._unequal.add(place)
            return
        if not np.isfinite(values).all():
            raise Refused(RefusalCode.RESCALE_INVALID, "finite values after rescale", "others")
        self._array[index] = values
        if self._valid is not None and valid is not None:
            self._valid[index] = valid

    def _check_not_blank(self) -> None:
        values = self._array if self._valid is None else self._array[self._valid]
        if values.size == 0 or values.min() == values.max():
            raise Refused(RefusalCode.IMAGE_BLANK, "images that show something", "one value everywhere")
        if self._attributes[0].get("Modality") == "CT" and values.max() <= BLANK_AIR_HU:
            raise Refused(RefusalCode.IMAGE_BLANK, "tissue", "air only")

    def _note(self) -> None:
        if self._geometry.duplicates:
            self.notes.append(f"{len(self._geometry.duplicates)} image(s) that repeat another left out")
        if any(one.get("LossyImageCompression") == "01" for one in self._attributes):
            self.notes.append("the source images were compressed with loss")
        if self._formats[0].is_inverted:
            self.notes.append("MONOCHROME1 inverted")

    # -- the result ----------------------------------------------------------------------------------------------

    def volume(self, notes: tuple[str, ...]) -> Volume:
        first = self._attributes[0]
        return Volume(
            array=self._array,
            valid=self._valid,
            affine=self._geometry.affine,
            slices=tuple(self._source(frame) for frame in self._geometry.slices),
            study_uid=first["StudyInstanceUID"],
            series_uid=first["SeriesInstanceUID"],
            frame_of_reference_uid=self._geometry.frame_of_reference_uid,
            modality=str(first.get("Modality", "")),
            attributes=dict(first),
            notes=notes,
        )

    def _source(self, frame: StackedFrame) -> SliceSource:
        stored = self._objects[frame.header_index]
        path = "" if stored.pixels is None else str(stored.pixels.path)
        return SliceSource(stored.header["SOPClassUID"], stored.header["SOPInstanceUID"], path, frame.frame_number)
