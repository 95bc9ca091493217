"""Archives whose author lies: refused by name, before what they claim or hold is in memory (hardening 4.8)."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.refusals import Refused
from dicom_node.volume.archive import MAX_DIRECTORY_BYTES, unpack

pytestmark = pytest.mark.unit

_END = struct.Struct("<4s4H2LH")
"""End of central directory (APPNOTE 4.3.16): size of the directory and its place are the sixth and seventh."""


def _zip(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytearray:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.dcm", data)
    return bytearray(made.getvalue())


def _told(data: bytes | bytearray, tmp_path: Path) -> str:
    """The code of the refusal; empty for an archive that was taken."""
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    try:
        unpack(archive, folder)
    except Refused as refused:
        return refused.refusal.code.value
    return ""


def _with_end(data: bytearray, change: Callable[[list[int]], None]) -> bytearray:
    """The same archive with other numbers in its last record."""
    place = data.rfind(b"PK\x05\x06")
    head, *numbers = _END.unpack_from(data, place)
    change(numbers)
    _END.pack_into(data, place, head, *numbers)
    return data


def test_a_plain_archive_is_taken(tmp_path: Path) -> None:
    assert _told(_zip(a=b"x" * 1000, b=b"y"), tmp_path) == ""
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["00000", "00001"]


def test_what_unpacks_to_far_more_than_it_is_is_a_bomb_whole_or_in_parts(tmp_path: Path) -> None:
    """By its ratio, however far below every other bound it stays."""
    assert _told(_zip(a=bytes(20_000_000)), tmp_path) == "archive-bomb"
    assert _told(_zip(**{f"n{n}": bytes(2_000_000) for n in range(10)}), tmp_path) == "archive-bomb"
    assert _told(_zip(a=bytes(20_000_000), b=random.Random(1).randbytes(200_000)), tmp_path) == ""


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_a_method_whose_pieces_unpack_without_a_bound_is_not_read(tmp_path: Path, method: int) -> None:
    assert _told(_zip(method, a=bytes(20_000_000)), tmp_path) == "archive-unsafe-entry"
    assert not list((tmp_path / "out").iterdir())


def test_a_list_of_entries_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    def long(numbers: list[int]) -> None:
        numbers[4] = 0xFFFFFFF0

    assert _told(_with_end(_zip(a=b"x"), long), tmp_path) in ("archive-too-many-entries", "archive-damaged")
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(3 * MAX_DIRECTORY_BYTES // (46 + 250)):
            archive.writestr(f"{number:0250d}", b"")
    data = many.getvalue()
    tracemalloc.start()
    try:
        assert _told(data, tmp_path) == "archive-too-many-entries"
        assert tracemalloc.get_traced_memory()[1] < MAX_DIRECTORY_BYTES
    finally:
        tracemalloc.stop()


def test_places_before_the_beginning_and_entries_without_a_name_are_damage(tmp_path: Path) -> None:
    def early(numbers: list[int]) -> None:
        numbers[5] += 1_000_000

    assert _told(_with_end(_zip(a=b"x"), early), tmp_path) == "archive-damaged"
    nameless = _zip(a=b"x")
    nameless[nameless.rfind(b"PK\x01\x02") + 28] = 0  # length of the name
    assert _told(nameless, tmp_path) in ("archive-damaged", "input-empty")


def test_whatever_is_changed_in_an_archive_it_is_taken_or_refused_by_name(tmp_path: Path) -> None:
    chance = random.Random(9)
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    originals = [bytes(_zip(method, a=chance.randbytes(300), b=b"x" * 2000)) for method in methods]
    codes = set()
    for _ in range(1500):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 2, 4))):
            place = chance.randrange(len(data) - 4)
            data[place : place + chance.choice((1, 4))] = chance.choice(
                (b"\xff\xff\xff\xff", bytes(4), chance.randbytes(1))
            )
        codes.add(_told(data, tmp_path))
    assert {"", "archive-damaged", "archive-unsafe-entry"} <= codes
