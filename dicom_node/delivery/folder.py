"""A folder as destination: complete or absent, never half a file, nothing overwritten, and read back."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from dicom_node.delivery.placing import IsFull, confirmation, conflict
from dicom_node.delivery.types import Confirmation, FolderTarget, OutgoingFile
from dicom_node.refusals import PeerTrouble


def send_to_folder(outgoing: OutgoingFile, target: FolderTarget) -> Confirmation:
    """Write beside, sync, give it its name, sync the folder, read back.

    Raises
    ------
    PeerTrouble
        If the folder cannot be written now.
    Refused
        `delivery-conflict`, if other content lies there under the same name.
    """
    path = target.path / outgoing.name
    try:
        was_there = path.exists()
        if not was_there:
            _write(path, outgoing.data)
        found = path.read_bytes()
    except OSError as error:
        words = f"the destination folder cannot be used ({type(error).__name__}, {error.errno})"
        raise (IsFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else PeerTrouble)(words) from None
    if found != outgoing.data:
        raise conflict()
    return confirmation(outgoing, was_already_there=was_there)


def look_at_folder(target: FolderTarget) -> str:
    """Whether it can be written, in words; `PeerTrouble` if not."""
    if not target.path.is_dir() or not os.access(target.path, os.W_OK | os.X_OK):
        raise PeerTrouble("there is no such folder that the node may write")
    return "folder can be written"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _name(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _name(part: Path, path: Path) -> None:
    """Give the file its name, never over another; where the file system knows no links, by renaming."""
    try:
        os.link(part, path)
    except FileExistsError:
        return  # somebody was first: the caller compares
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        with contextlib.suppress(FileExistsError):
            part.rename(path)
