"""What a file is, by its first bytes and never by its name.

Three kinds are read: JPEG (ISO/IEC 10918-1), PNG (ISO/IEC 15948) and WebP (RFC 9649).  Everything else is refused by
the name it goes by, because "unknown" helps nobody who has sent a HEIC.
"""

from __future__ import annotations

from enum import StrEnum

from dicom_node.refusals import RefusalCode, Refused


class PhotoKind(StrEnum):
    """The kinds of files that are read; the value is the name by which the decoder knows them."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"


MEDIA_TYPES = {"image/jpeg": PhotoKind.JPEG, "image/jpg": PhotoKind.JPEG, "image/png": PhotoKind.PNG}
MEDIA_TYPES["image/webp"] = PhotoKind.WEBP

_PROGRAMS = (b"MZ", b"\x7fELF", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"#!")
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"%!", "PostScript"),
    (b"PK\x03\x04", "a zip archive"),
    (b"Rar!", "an archive"),
    (b"7z\xbc\xaf", "an archive"),
    (b"\x1f\x8b", "an archive"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC"}
_BRANDS |= {b"msf1": "HEIC", b"heif": "HEIC", b"heim": "HEIC"}
_PREAMBLE_BYTES = 128
_SECOND_FILES = (*_PROGRAMS, b"PK\x03\x04", b"Rar!\x1a", b"7z\xbc\xaf\x27")
"""What begins right behind a picture and is no part of it."""
_SECOND_TEXTS = (b"%pdf-", b"<?php", b"<script", b"<html")
"""What its readers find wherever it stands; in lower case."""
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 66_000
"""A zip archive is read from its end."""
_PDF_HEAD_BYTES = 1024
"""Readers of PDF accept its mark anywhere in so many first bytes."""
_TAIL_BYTES = 1 << 20


def kind_of(data: bytes, claimed: str = "") -> PhotoKind:
    """The kind of a file.

    Parameters
    ----------
    claimed
        Media type that the sender names; empty where it names none.

    Raises
    ------
    Refused
        input-empty; not-an-image; image-type-unsupported, with the name of what it is; image-type-mismatch, when the
        sender named another type than the file has.
    """
    if not data:
        raise Refused(RefusalCode.INPUT_EMPTY, "a photograph", "no bytes")
    kind = _read_kind(data)
    if claimed and MEDIA_TYPES.get(claimed.split(";")[0].strip().lower()) is not kind:
        raise Refused(RefusalCode.IMAGE_TYPE_MISMATCH, "the type that was named", kind.value)
    return kind


def _read_kind(data: bytes) -> PhotoKind:
    if data.startswith(b"\xff\xd8\xff"):
        return PhotoKind.JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PhotoKind.PNG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return PhotoKind.WEBP
    expected = "JPEG, PNG or WebP"
    if data.startswith(_PROGRAMS):
        raise Refused(RefusalCode.NOT_AN_IMAGE, expected, "the first bytes of a program")
    if data[4:8] == b"ftyp":
        raise Refused(RefusalCode.IMAGE_TYPE_UNSUPPORTED, expected, _BRANDS.get(data[8:12], "a video or HEIC"))
    if data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM":
        raise Refused(RefusalCode.IMAGE_TYPE_UNSUPPORTED, expected, "a DICOM object, which is sent as it is")
    for magic, name in _OTHERS:
        if data.startswith(magic):
            raise Refused(RefusalCode.IMAGE_TYPE_UNSUPPORTED, expected, name)
    if _is_svg(data):
        raise Refused(RefusalCode.IMAGE_TYPE_UNSUPPORTED, expected, "SVG")
    raise Refused(RefusalCode.NOT_AN_IMAGE, expected, "something else")


def _is_svg(data: bytes) -> bool:
    start = data[:4096].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()
    return start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in start


def check_tail(data: bytes, end: int) -> int:
    """How many bytes stand behind the picture, which ends at `end`; they are cut.

    Raises
    ------
    Refused
        image-trailing-data, when they, or the head for readers of PDF, are a file of another kind: such a file is made
        to be taken for two things.
    """
    tail = data[end:]
    texts = tail[:_TAIL_BYTES].lower() + tail[-_TAIL_BYTES:].lower()
    is_two = (
        tail.lstrip(b"\0").startswith(_SECOND_FILES)
        or _ZIP_END in tail[-_ZIP_END_BYTES:]
        or any(mark in texts for mark in _SECOND_TEXTS)
        or b"%PDF-" in data[:_PDF_HEAD_BYTES]
    )
    if is_two:
        raise Refused(RefusalCode.IMAGE_TRAILING_DATA, "one picture and nothing else", "a file of another kind with it")
    return len(tail)
