"""A folder as destination: complete or absent, never half a file, and read back."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from dicom_node.delivery.compare import Likeness, compare
from dicom_node.delivery.types import Confirmation, FolderTarget, OutgoingObject, Seen
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused


def place(target: FolderTarget, outgoing: OutgoingObject) -> Path:
    """Where the object lies: a name made from a hash of its UID, because a UID is an identifier and names travel."""
    return target.path / f"{hashlib.sha256(outgoing.sop_instance_uid.encode()).hexdigest()[:32]}.dcm"


def send_to_folder(outgoing: OutgoingObject, target: FolderTarget) -> Confirmation:
    """Write beside, sync, rename, sync the folder, read back.

    Raises
    ------
    PeerTrouble
        If the folder cannot be written now.
    Refused
        `delivery-conflict`, if other content lies there under the same UID.
    """
    path = place(target, outgoing)
    try:
        was_there = path.exists()
        if not was_there:
            _write(path, outgoing.data)
        result = compare(outgoing, path.read_bytes())
    except OSError as error:
        raise PeerTrouble(f"the destination folder cannot be used ({type(error).__name__}, {error.errno})") from None
    if result.likeness is not Likeness.EQUAL:
        raise Refused(RefusalCode.DELIVERY_CONFLICT, "the content that was sent", result.likeness.value)
    return Confirmation(outgoing.sop_instance_uid, outgoing.sha256, Seen.CONTENT, was_there, "")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
