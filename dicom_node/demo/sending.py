"""Sending files that are already there: C-STORE as SCU (PS3.4 annex B), bytes as they lie on the disk.

For `ai-node send FOLDER`.  The demonstration itself uses DCMTK's storescu, so that its road begins with a sender that
is not ours.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, _config, evt

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# a path given to send_c_store is then sent as it lies on the disk
_config.STORE_SEND_CHUNKED_DATASET = True
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd numbers 1 to 255 (PS3.8 section 9.3.2.2)."""


@dataclass(frozen=True)
class DicomFile:
    """A file that can be sent, and what it needs of an association."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass
class SendReport:
    """What became of the files."""

    stored: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """C-STORE status or reason -> number of files."""
    skipped: int = 0
    """Files in the folder that are no DICOM Part 10 objects."""

    def fail(self, reason: str) -> None:
        self.failed[reason] = self.failed.get(reason, 0) + 1


@dataclass(frozen=True)
class Peer:
    """A storage SCP: ``AE@host:port``."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AE@host:port``.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        title, at, place = text.partition("@")
        host, colon, port = place.rpartition(":")
        if not (title and at and host and colon and port.isascii() and port.isdigit()):
            raise ValueError("expected AE@host:port, for example ORTHANC@127.0.0.1:4242")
        if len(title) > 16 or not 0 < int(port) < 65536:
            raise ValueError("an AE title has at most 16 characters, a port is 1 to 65535")
        return cls(title, host.strip("[]"), int(port))


def find_files(folder: Path) -> tuple[list[DicomFile], int]:
    """Every DICOM Part 10 file under a folder in the order of paths, and how many other files lie there.

    A DICOMDIR is an index, not an object to send; it counts as another file.
    """
    found: list[DicomFile] = []
    others = 0
    for path in _walk(folder):
        try:
            meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
            sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
        except (InvalidDicomError, AttributeError, EOFError, OSError, ValueError, NotImplementedError):
            others += 1
            continue
        if sop_class == "1.2.840.10008.1.3.10":
            others += 1
        else:
            found.append(DicomFile(path, sop_class, syntax))
    return found, others


def _walk(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for base, names, files in os.walk(folder):
        names.sort()
        yield from (Path(base) / name for name in sorted(files))


def send_files(
    files: Sequence[DicomFile],
    peer: Peer,
    *,
    calling_ae_title: str = "AINODE-SEND",
    timeout_s: float = 60.0,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> SendReport:
    """Send files over as few associations as their kinds allow.

    Raises
    ------
    PeerTrouble
        If no association can be opened.
    Refused
        `input-empty`, if there is nothing to send.
    """
    if not files:
        raise Refused(RefusalCode.INPUT_EMPTY, "a folder with DICOM files", "none")
    report = SendReport()
    kinds = sorted({(file.sop_class_uid, file.transfer_syntax_uid) for file in files})
    for start in range(0, len(kinds), MAX_CONTEXTS):
        chosen = set(kinds[start : start + MAX_CONTEXTS])
        part = [file for file in files if (file.sop_class_uid, file.transfer_syntax_uid) in chosen]
        _send_part(part, sorted(chosen), peer, calling_ae_title, timeout_s, report, on_progress)
    return report


def _send_part(
    files: Sequence[DicomFile],
    kinds: Sequence[tuple[str, str]],
    peer: Peer,
    calling_ae_title: str,
    timeout_s: float,
    report: SendReport,
    on_progress: Callable[[int], None],
) -> None:
    entity = AE(ae_title=calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    entity.connection_timeout = min(timeout_s, 20.0)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    for kind in kinds:
        entity.add_requested_context(*kind)
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.ae_title, max_pdu=131072, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)]
    )
    if not association.is_established:
        association.abort()
        raise PeerTrouble(
            "no association with the receiver: check AE title, host and port, and that the receiver lists "
            f"{calling_ae_title} among its senders"
        )
    try:
        accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        for file in files:
            if (file.sop_class_uid, file.transfer_syntax_uid) not in accepted:
                report.fail("kind not accepted by the receiver")
            elif not association.is_established:
                report.fail("association ended")
            else:
                _count(association.send_c_store(os.fspath(file.path)).get("Status"), report)
            on_progress(1)
    finally:
        if association.is_established:
            association.release()


def _count(status: int | None, report: SendReport) -> None:
    if status is None:
        report.fail("no answer")
    elif status in (0x0000, 0xB000, 0xB006, 0xB007):
        report.stored += 1
    else:
        report.fail(f"status {status:04X}H")


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def storescu(folder: Path, peer: Peer, *, calling_ae_title: str, timeout_s: float = 120.0) -> None:
    """Send a folder with DCMTK's storescu.

    Raises
    ------
    PeerTrouble
        If it does not end well within the time.
    """
    command = ["storescu", "+sd", "+r", "-aet", calling_ae_title, "-aec", peer.ae_title, peer.host, str(peer.port)]
    try:
        done = subprocess.run(
            [*command, str(folder)],
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerTrouble(f"storescu did not run to its end ({type(error).__name__})") from None
    if done.returncode != 0:
        raise PeerTrouble(f"storescu ended with {done.returncode}: the receiver did not take every image")
