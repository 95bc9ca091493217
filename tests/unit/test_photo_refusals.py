"""What is refused of a photograph, by which name, and before anything large is decoded."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dicom_node.photo import PhotoKind, kind_of
from dicom_node.photo.decode import decode_photo
from dicom_node.photo.exif import orientation_of
from dicom_node.refusals import RefusalCode, Refused
from tests.support.photos import exif, saved, scene, segment, with_segments

pytestmark = pytest.mark.unit

C = RefusalCode


def refusal(data: bytes, **options) -> RefusalCode:
    with pytest.raises(Refused) as caught:
        decode_photo(data, **options)
    return caught.value.refusal.code


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims, and holds, side x side pixels."""
    line = zlib.compressobj(9)
    body = b"".join(line.compress(b"\0" * (1 + side * 3)) for _ in range(8)) + line.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", body
    ) + chunk(b"IEND", b"")  # fmt: skip


OTHERS = {
    "an ELF program": (b"\x7fELF\x02\x01\x01" + b"\0" * 500, C.NOT_AN_IMAGE),
    "a Windows program": (b"MZ\x90\0" + b"\0" * 500, C.NOT_AN_IMAGE),
    "a Mach-O program": (b"\xcf\xfa\xed\xfe" + b"\0" * 500, C.NOT_AN_IMAGE),
    "a script": (b"#!/bin/sh\nrm -rf /\n", C.NOT_AN_IMAGE),
    "text": (b"hello " * 100, C.NOT_AN_IMAGE),
    "zeros": (bytes(1000), C.NOT_AN_IMAGE),
    "nothing": (b"", C.INPUT_EMPTY),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', C.IMAGE_TYPE_UNSUPPORTED),
    "SVG in UTF-16": ("\ufeff<svg></svg>".encode("utf-16-le"), C.IMAGE_TYPE_UNSUPPORTED),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "MP4": (b"\0\0\0\x1cftypisom\0\0\0\0" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "PDF": (b"%PDF-1.7\n" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", C.IMAGE_TYPE_UNSUPPORTED),
    "zip": (b"PK\x03\x04" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "DICOM": (bytes(128) + b"DICM" + bytes(200), C.IMAGE_TYPE_UNSUPPORTED),
    "GIF": (saved(scene(), "GIF"), C.IMAGE_TYPE_UNSUPPORTED),
    "BMP": (saved(scene(), "BMP"), C.IMAGE_TYPE_UNSUPPORTED),
    "TIFF": (saved(scene(), "TIFF"), C.IMAGE_TYPE_UNSUPPORTED),
    "JPEG 2000": (saved(scene(), "JPEG2000"), C.IMAGE_TYPE_UNSUPPORTED),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused_by_what_they_are(name):
    data, code = OTHERS[name]
    assert refusal(data) is code


def test_the_name_of_what_it_is_stands_in_the_refusal():
    for name, word in (("HEIC", "HEIC"), ("SVG", "SVG"), ("PDF", "PDF"), ("an ELF program", "program")):
        with pytest.raises(Refused) as caught:
            kind_of(OTHERS[name][0])
        assert word in caught.value.refusal.found and caught.value.refusal.advice


def test_a_type_that_is_not_the_one_named():
    assert refusal(saved(scene()), claimed="image/png") is C.IMAGE_TYPE_MISMATCH
    assert refusal(saved(scene()), claimed="text/html") is C.IMAGE_TYPE_MISMATCH
    assert kind_of(saved(scene()), "image/jpeg; charset=binary") is PhotoKind.JPEG
    assert kind_of(saved(scene()), "IMAGE/JPG") is PhotoKind.JPEG


def test_twenty_thousand_by_twenty_thousand_is_refused_by_its_header_alone():
    data = bomb(20_000)
    assert len(data) < 10_000
    started = time.monotonic()
    assert refusal(data) is C.IMAGE_TOO_LARGE
    assert time.monotonic() - started < 1.0, "no child was started for it"
    assert refusal(bomb(8_000)) is C.IMAGE_TOO_LARGE, "64 megapixels with allowed sides"
    wide = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 10_001, 300, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    )
    assert refusal(wide) is C.IMAGE_TOO_LARGE
    assert refusal(saved(scene(199, 400))) is C.IMAGE_TOO_SMALL
    assert refusal(saved(scene(400, 199), "PNG")) is C.IMAGE_TOO_SMALL


def test_a_jpeg_that_claims_more_than_the_limit():
    data = bytearray(saved(scene()))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 20_000, 20_000)
    assert refusal(bytes(data)) is C.IMAGE_TOO_LARGE


def test_more_than_one_picture():
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    assert refusal(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])) is C.IMAGE_ANIMATED
    assert refusal(saved(frames[0], "PNG", save_all=True, append_images=frames[1:])) is C.IMAGE_ANIMATED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_file_that_is_cut_off_anywhere(kind, share):
    data = saved(scene(), kind)
    assert refusal(data[: int(len(data) * share)]) in (C.IMAGE_TRUNCATED, C.NOT_AN_IMAGE)


def test_damage_inside():
    png = bytearray(saved(scene(), "PNG"))
    png[len(png) // 2] ^= 0xFF
    assert refusal(bytes(png)) in (C.IMAGE_DECODE_FAILED, C.IMAGE_TRUNCATED)
    jpeg = saved(scene())
    table = jpeg.index(b"\xff\xc4")
    assert refusal(jpeg[:table] + b"\x12\x34" + jpeg[table:]) is C.IMAGE_DECODE_FAILED
    assert refusal(with_segments(jpeg, b"\xff\xd8")) is C.IMAGE_DECODE_FAILED
    twice = jpeg.index(b"\xff\xc0")
    frame = jpeg[twice : twice + 2 + int.from_bytes(jpeg[twice + 2 : twice + 4], "big")]
    assert refusal(jpeg[:twice] + frame + jpeg[twice:]) is C.IMAGE_DECODE_FAILED
    assert refusal(b"\xff\xd8\xff\xd9") is C.IMAGE_DECODE_FAILED
    assert refusal(with_segments(jpeg, *[segment(0xFE, b"x")] * 20_001)) is C.IMAGE_DECODE_FAILED


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("run.class", b"\xca\xfe\xba\xbe")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "tail",
    [
        archive(),
        b"MZ\x90\0",
        b"\0\0\x7fELF\x02",
        b"%PDF-1.4 hello",
        b"<?php system(1); ?>",
        b"<SCRIPT>alert(1)</SCRIPT>",
    ],
    ids=["zip", "MZ", "ELF", "PDF", "PHP", "HTML"],
)
def test_a_file_made_to_be_taken_for_two(kind, tail):
    assert refusal(saved(scene(), kind) + tail) is C.IMAGE_TRAILING_DATA


def test_a_picture_that_readers_of_pdf_take_for_a_pdf():
    data = with_segments(saved(scene()), segment(0xFE, b"%PDF-1.4\n1 0 obj"))
    assert refusal(data) is C.IMAGE_TRAILING_DATA


def test_what_cameras_hang_on_behind_is_cut():
    gain_map = saved(scene(), quality=50)
    video = b"\0\0\0\x18ftypmp42" + bytes(100)
    for tail in (gain_map, video, bytes(64)):
        found = decode_photo(saved(scene()) + tail)
        assert found.is_untouched and found.notes == (f"{len(tail)} bytes behind the picture cut off",)
        assert tail not in found.payload or tail == bytes(64)


def test_exif_that_says_nothing_readable_turns_nothing():
    assert [orientation_of(exif(n)) for n in range(1, 9)] == list(range(1, 9))
    for block in (b"", b"MM", exif(0), exif(9), b"MM\0*\xff\xff\xff\xff", exif(6)[:20], b"II*\0\x08\0\0\0\xff\xff"):
        assert orientation_of(block) == 1
    data = with_segments(saved(scene()), segment(0xE1, b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff"))
    assert decode_photo(data).is_untouched


def test_too_many_bytes():
    from dicom_node.photo import PhotoLimits

    assert refusal(saved(scene()), limits=PhotoLimits(max_bytes=1000)) is C.IMAGE_TOO_LARGE


def test_a_decoder_that_runs_out_of_memory_says_so():
    from dicom_node.photo import PhotoLimits

    noise = np.random.default_rng(1).integers(0, 255, (4000, 5000, 3), dtype=np.uint8)
    tight = PhotoLimits(child_memory_bytes=340 << 20)
    assert refusal(saved(noise, "PNG", compress_level=1), limits=tight) in (C.IMAGE_TOO_LARGE, C.IMAGE_DECODE_FAILED)
