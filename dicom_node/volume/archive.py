"""Take the files out of a zip archive that somebody sent (hardening 4.8).

Names in the archive are never used: every entry gets a name of ours.  Sizes in the directory lie, so bytes are counted
while they are read.  Links, devices, encryption, nested archives and unsafe names refuse the whole archive.  A gzipped
NIfTI file is no nested archive: it is one image, and its reader counts what it unpacks to.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import SealBroken
from dicom_node.volume.nifti_header import starts_as_nifti

MAX_ENTRIES = 5_000
MAX_ENTRY_BYTES = 600_000_000
MAX_TOTAL_BYTES = 4_000_000_000
MAX_RATIO = 200
"""Of all files together to the archive: parts that share their bytes are small one by one."""
MAX_DIRECTORY_BYTES = 4_000_000
"""Of the list of entries, which is read in whole before anything of it can be counted."""
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The other methods give out all that a piece unpacks to at once: gigabytes of one megabyte, before it is counted."""
_PIECE = 1 << 20
_NESTED = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"BZh")
_SKIPPED = frozenset({"dicomdir", "thumbs.db", ".ds_store"})
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, IndexError,
)  # fmt: skip
"""What the library says of an archive that was damaged, by chance or by intent; none of it is a disk's own trouble."""


class _Archive(io.BufferedReader):
    """An archive as the library reads it: places and lengths in it are whatever its author wrote."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise Refused(RefusalCode.ARCHIVE_TOO_MANY_ENTRIES, f"at most {MAX_ENTRIES} files", "a longer list")
        return super().read(size)

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_SET and target < 0:
            raise zipfile.BadZipFile("a place before the beginning")
        return super().seek(target, whence)


class Unpacked(NamedTuple):
    """One file of an archive: where it is now, and what it was called there, of which only the ending is looked at."""

    path: Path
    told_name: str


def unpack(archive: Path, folder: Path, *, max_total_bytes: int = MAX_TOTAL_BYTES) -> list[Unpacked]:
    """Write the plain files of an archive into an empty folder under names of ours.

    Raises
    ------
    Refused
        archive-damaged, archive-encrypted, archive-unsafe-path, archive-unsafe-entry, archive-nested, archive-bomb,
        archive-too-many-entries, input-empty.
    """
    try:
        with _Archive(at_rest.Reader(archive)) as file, zipfile.ZipFile(file) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            _check_listing(entries)
            written: list[Unpacked] = []
            bytes_left = min(max_total_bytes, MAX_RATIO * archive.stat().st_size)
            for number, entry in enumerate(entries):
                if _is_skipped(entry.filename):
                    continue
                target = folder / f"{number:05d}"
                bytes_left -= _write(opened, entry, target, min(bytes_left, MAX_ENTRY_BYTES))
                written.append(Unpacked(target, entry.filename))
    except SealBroken:
        raise
    except _UNREADABLE as error:
        raise Refused(RefusalCode.ARCHIVE_DAMAGED, "a readable zip archive", type(error).__name__) from error
    if not written:
        raise Refused(RefusalCode.INPUT_EMPTY, "files in the archive", "none")
    return written


def _check_listing(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise Refused(RefusalCode.ARCHIVE_TOO_MANY_ENTRIES, f"at most {MAX_ENTRIES} files", str(len(entries)))
    names = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        if (
            "\\" in name
            or "\0" in name
            or path.is_absolute()
            or ".." in path.parts
            or (len(name) > 1 and name[1] == ":")
        ):
            raise Refused(RefusalCode.ARCHIVE_UNSAFE_PATH, "relative names inside the archive", "another name")
        if name in names:
            raise Refused(RefusalCode.ARCHIVE_DAMAGED, "each name once", "a name twice")
        names.add(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise Refused(RefusalCode.ARCHIVE_UNSAFE_ENTRY, "plain files", "a link or device")
        if entry.compress_type not in _METHODS:
            raise Refused(RefusalCode.ARCHIVE_UNSAFE_ENTRY, "files that are stored or deflated", "another method")
        if entry.flag_bits & 0x1:
            raise Refused(RefusalCode.ARCHIVE_ENCRYPTED, "entries without a password", "an encrypted entry")


def _is_skipped(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.lower() in _SKIPPED


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit: int) -> int:
    count = 0
    writer = at_rest.writer()
    with opened.open(entry) as source, open(target, "xb") as file:
        while piece := source.read(_PIECE):
            if count == 0 and piece.startswith(_NESTED) and not starts_as_nifti(piece):
                raise Refused(RefusalCode.ARCHIVE_NESTED, "plain files", "an archive in the archive")
            count += len(piece)
            if count > limit:
                raise Refused(RefusalCode.ARCHIVE_BOMB, f"at most {limit} bytes", "more")
            file.write(writer.update(piece))
        file.write(writer.finish())
    return count
