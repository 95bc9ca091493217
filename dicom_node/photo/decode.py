"""The parent's side: what a file is and how large, by its bytes alone; then decoded where it can harm nothing (I8)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicom_node.guard import Answer, Ended, Unanswered, guarded
from dicom_node.photo.exif import UPRIGHT
from dicom_node.photo.jpeg import read_jpeg
from dicom_node.photo.kinds import PhotoKind, check_tail, kind_of
from dicom_node.photo.limits import PhotoLimits
from dicom_node.photo.png import read_png
from dicom_node.photo.webp import read_webp
from dicom_node.refusals import RefusalCode, Refused

COMMAND = (sys.executable, "-I", "-m", "dicom_node.photo.child")

JPEG_METHOD, WEBP_METHOD = "ISO_10918_1", "WEBP"
"""Lossy Image Compression Method (0028,2114).  The defined terms of PS3.3 C.7.6.1.1.5.1 have none for WebP."""
_MAX_HEAD_BYTES = 16384


@dataclass(frozen=True)
class Decoded:
    """A photograph as it goes into an object.

    Attributes
    ----------
    payload
        The JPEG stream as it came where `is_untouched`; else (rows, columns, 3) sRGB, pixel by pixel.
    photometric
        Photometric Interpretation (0028,0004).
    profile, color_space
        ICC profile and the term for it, of an untouched picture that has one.
    lossy_method, lossy_ratio
        How the picture was compressed with loss before it came; empty and 0 where nothing says that it was.
    notes
        What was done to it beyond copying, in words.
    """

    kind: PhotoKind
    rows: int
    columns: int
    payload: bytes
    is_untouched: bool
    photometric: str
    profile: bytes = b""
    color_space: str = ""
    lossy_method: str = ""
    lossy_ratio: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Looked:
    """What a file's own structure says before anything is decoded."""

    kind: PhotoKind
    rows: int
    columns: int
    stream: bytes
    """For the decoder."""
    orientation: int = UPRIGHT
    kept: bytes = b""
    """A JPEG stream that may stay as it is."""
    photometric: str = "RGB"
    profile: bytes = b""
    lossy_method: str = ""
    lossy_bytes: int = 0
    notes: tuple[str, ...] = ()


def decode_photo(
    data: bytes,
    *,
    claimed: str = "",
    limits: PhotoLimits = PhotoLimits(),
    command: Sequence[str] = COMMAND,
) -> Decoded:
    """Judge and decode a photograph.

    Parameters
    ----------
    claimed
        Media type that the sender names; empty where it names none.
    command
        The program of the child, which tests replace by a hostile one.

    Raises
    ------
    Refused
        Every code of photographs: `docs/reference/photos.md`.
    """
    if len(data) > limits.max_bytes:
        raise Refused(RefusalCode.IMAGE_TOO_LARGE, f"at most {limits.max_bytes} bytes", f"{len(data)} bytes")
    kind = kind_of(data, claimed)
    seen = {PhotoKind.JPEG: _look_jpeg, PhotoKind.PNG: _look_png, PhotoKind.WEBP: _look_webp}[kind](data, limits)
    request = {
        "kind": seen.kind.value,
        "rows": seen.rows,
        "columns": seen.columns,
        "orientation": seen.orientation,
        "stays": bool(seen.kept),
        "profile_bytes": len(seen.profile),
        "memory_bytes": limits.child_memory_bytes,
        "cpu_s": limits.child_cpu_s,
    }
    program = [*command, json.dumps(request)]
    try:
        try:
            return _asked(program, seen, limits)
        except Ended:  # perhaps no fault of the picture: the memory was short, or the nursery went
            return _asked(program, seen, limits)
    except Unanswered as unanswered:
        raise Refused(RefusalCode.IMAGE_DECODE_FAILED, "a picture that can be decoded", str(unanswered)) from None


def _asked(program: Sequence[str], seen: _Looked, limits: PhotoLimits) -> Decoded:
    with (
        os.fdopen(os.memfd_create("photo", os.MFD_CLOEXEC), "w+b") as file,
        guarded(program, _filled(file, seen), limits.child_wall_s) as answer,
    ):
        return _decoded(seen, answer)


def _filled(file: Any, seen: _Looked) -> Any:
    file.write(seen.profile)
    file.write(seen.stream)
    file.flush()
    file.seek(0)
    return file


def _decoded(seen: _Looked, answer: Answer) -> Decoded:
    head: dict[str, Any] = json.loads(answer.message(_MAX_HEAD_BYTES))
    if "refusal" in head:
        code, expected, found = (str(one) for one in head["refusal"])
        raise Refused(RefusalCode(code), expected, found)
    ratio = round(seen.rows * seen.columns * 3 / seen.lossy_bytes, 2) if seen.lossy_bytes else 0.0
    if seen.kept:
        facts = head["profile"]
        notes = seen.notes
        if seen.profile and facts is None:
            notes += ("a colour profile that does not fit was left aside",)
        return Decoded(
            seen.kind, seen.rows, seen.columns, seen.kept, True, seen.photometric,
            seen.profile if facts else b"", str(facts["color_space"]) if facts else "",
            seen.lossy_method, ratio, notes,
        )  # fmt: skip
    rows, columns = int(head["rows"]), int(head["columns"])
    if {rows, columns} != {seen.rows, seen.columns}:
        raise Unanswered("a reader that claims an impossible image")
    pixels = np.empty((rows, columns, 3), dtype=np.uint8)
    answer.fill(pixels.data.cast("B"))
    notes = (*seen.notes, *(str(note) for note in head["notes"]))
    return Decoded(
        seen.kind, rows, columns, pixels.tobytes(), False, "RGB",
        lossy_method=seen.lossy_method, lossy_ratio=ratio, notes=notes,
    )  # fmt: skip


def _look_jpeg(data: bytes, limits: PhotoLimits) -> _Looked:
    found = read_jpeg(data, limits)
    _check_size(found.rows, found.columns, limits)
    notes = _cut_notes(check_tail(data, found.end))
    profile = found.profile
    if len(profile) > limits.max_profile_bytes:
        profile, notes = b"", (*notes, "a colour profile that is too long was left aside")
    stays = found.orientation == UPRIGHT and found.photometric
    stream = found.stream(data)
    return _Looked(
        PhotoKind.JPEG,
        found.rows,
        found.columns,
        found.for_decoder(data),
        found.orientation,
        kept=stream if stays else b"",
        photometric=found.photometric,
        profile=profile,
        lossy_method=JPEG_METHOD,
        lossy_bytes=len(stream),
        notes=notes,
    )


def _look_png(data: bytes, limits: PhotoLimits) -> _Looked:
    found = read_png(data, limits)
    _check_size(found.rows, found.columns, limits)
    notes = _cut_notes(check_tail(data, found.end))
    if found.bit_depth == 16:
        notes += ("16 bits for each sample reduced to the upper 8",)
    return _Looked(PhotoKind.PNG, found.rows, found.columns, found.stream, found.orientation, notes=notes)


def _look_webp(data: bytes, limits: PhotoLimits) -> _Looked:
    found = read_webp(data, limits)
    _check_size(found.rows, found.columns, limits)
    return _Looked(
        PhotoKind.WEBP,
        found.rows,
        found.columns,
        data[: found.end],
        found.orientation,
        lossy_method=WEBP_METHOD if found.is_lossy else "",
        lossy_bytes=found.picture_bytes if found.is_lossy else 0,
        notes=_cut_notes(check_tail(data, found.end)),
    )


def _check_size(rows: int, columns: int, limits: PhotoLimits) -> None:
    size = f"{columns} x {rows}"
    if max(rows, columns) > limits.max_side or rows * columns > limits.max_pixels:
        raise Refused(
            RefusalCode.IMAGE_TOO_LARGE,
            f"sides of at most {limits.max_side} and {limits.max_pixels} pixels in all",
            size,
        )
    if min(rows, columns) < limits.min_side:
        raise Refused(RefusalCode.IMAGE_TOO_SMALL, f"sides of at least {limits.min_side} pixels", size)


def _cut_notes(count: int) -> tuple[str, ...]:
    return (f"{count} bytes behind the picture cut off",) if count else ()
