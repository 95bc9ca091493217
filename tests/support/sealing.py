"""Sealing switched on for a test, and off again after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.files import write_durably
from dicom_node.sealing import at_rest
from dicom_node.sealing.master_keys import Keys, new_key


def add_key(path: Path) -> str:
    """Put a new key before those of a key file, which is made if absent; its id."""
    line = new_key()
    write_durably(path, f"{line}\n".encode() + (path.read_bytes() if path.exists() else b""))
    return line.split()[0]


@contextmanager
def sealing(key_file: Path, *, seals: bool = True) -> Iterator[Keys]:
    """Files that are written in the block are sealed; the key file is made if absent."""
    if not key_file.exists():
        add_key(key_file)
    keys = at_rest.use(key_file, seals=seals)
    assert keys is not None
    try:
        yield keys
    finally:
        at_rest.use(None, seals=False)
