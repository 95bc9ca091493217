"""What delivery is given and what it gives back: the object, the destination, the confirmation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Literal

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.tls import Identity


@dataclass(frozen=True)
class OutgoingObject:
    """One DICOM Part 10 object whose bytes are fixed for ever (invariant I2).

    `sop_instance_uid`, `study_uid` and `series_uid` say where it must be seen afterwards; `patient_id` and
    `issuer_of_patient_id` are those written in it, without padding.  `dataset_offset` is the index in `data` at which
    the data set begins, after preamble and file meta information (PS3.10 section 7.1).
    """

    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    transfer_syntax_uid: str
    dataset_offset: int
    sha256: str
    data: bytes = field(repr=False)

    @property
    def dataset(self) -> bytes:
        """The encoded data set without preamble and file meta information."""
        return self.data[self.dataset_offset :]

    def as_file(self) -> OutgoingFile:
        """The object as a file, named by a hash of its UID, because a UID is an identifier and names travel."""
        name = f"{hashlib.sha256(self.sop_instance_uid.encode()).hexdigest()[:32]}.dcm"
        return OutgoingFile(name, self.sha256, self.data)

    @classmethod
    def read(cls, data: bytes, sha256: str | None = None) -> OutgoingObject:
        """Take stored bytes as they are and read from their header where they belong.

        Parameters
        ----------
        data
            A whole DICOM Part 10 file.
        sha256
            The digest under which the bytes were stored.

        Raises
        ------
        ValueError
            If the bytes are not those the digest was made from: the store is damaged, nothing may be sent.
        Refused
            `not-dicom`, if the bytes are no Part 10 file with the UIDs that a destination needs.
        """
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and sha256 != found:
            raise ValueError("stored object does not match its digest; expected the bytes that were built")
        try:
            stream = BytesIO(data)
            header = dcmread(stream, specific_tags=_HEADER, stop_before_pixels=True)
            values = {name: str(header[keyword].value) for name, keyword in _REQUIRED.items()}
            syntax = str(header.file_meta.TransferSyntaxUID)
        except (InvalidDicomError, KeyError, AttributeError, EOFError) as error:
            raise Refused(
                RefusalCode.NOT_DICOM, "a DICOM Part 10 object with its UIDs", type(error).__name__
            ) from error
        return cls(
            sop_class_uid=values["sop_class_uid"],
            sop_instance_uid=values["sop_instance_uid"],
            study_uid=values["study_uid"],
            series_uid=values["series_uid"],
            patient_id=text_of(header.get("PatientID")),
            issuer_of_patient_id=text_of(header.get("IssuerOfPatientID")),
            transfer_syntax_uid=syntax,
            dataset_offset=dataset_offset(data),
            sha256=found,
            data=data,
        )


_REQUIRED = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
}
_HEADER = [*_REQUIRED.values(), "PatientID", "IssuerOfPatientID", "SpecificCharacterSet"]


def text_of(value: object) -> str:
    """A string value without the padding that does not count (PS3.5 section 6.2, LO); empty for None."""
    return "" if value is None else str(value).strip(" \0")


def dataset_offset(data: bytes) -> int:
    """Index at which the data set begins in a Part 10 file, from the File Meta Information Group Length.

    Raises
    ------
    Refused
        `not-dicom`, if the prefix or the group length (0002,0000) is not there.
    """
    if data[128:132] != b"DICM" or data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Refused(RefusalCode.NOT_DICOM, "DICM prefix and (0002,0000)", "something else")
    return 144 + int.from_bytes(data[140:144], "little")


@dataclass(frozen=True)
class StowTarget:
    """A DICOMweb archive (PS3.18): STOW-RS, then QIDO-RS and WADO-RS to see that it is there."""

    url: str
    """Root of its DICOMweb services; https, or http to loopback, or http with `insecure_ok_because`."""
    username: str = ""
    secret: Callable[[], str] | None = field(default=None, repr=False)
    """Reads the password when it is needed; called a second time when the archive answers 401."""
    insecure_ok_because: str = ""
    timeout_s: float = 60.0
    """For each wait on the network; a whole answer may take `total_timeout_s`."""
    total_timeout_s: float = 600.0
    settle_s: tuple[float, ...] = (0.25, 1.0, 2.5)
    """Pauses before looking again when the archive has said *stored* but does not show the object yet."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    identity: Identity | None = None
    """Whose certificate is shown to a server that asks for one."""


@dataclass(frozen=True)
class DimseTls:
    """How a DIMSE archive is called by TLS (PS3.15 B.12)."""

    authority_file: Path
    """Whom to believe."""
    identity: Identity
    """What is shown to a peer that asks who calls."""
    name: str = ""
    """The name in the peer's certificate, where that is not its host."""


@dataclass(frozen=True)
class CStoreTarget:
    """A DIMSE archive (PS3.4 annex B): C-STORE, then C-FIND, or QIDO-RS and WADO-RS of the same archive."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "AINODE"
    insecure_ok_because: str = ""
    timeout_s: float = 60.0
    tls: DimseTls | None = None
    """None: plain, to loopback or with `insecure_ok_because`."""
    verify: StowTarget | None = None
    """The DICOMweb services of the same archive: verification by content.  None: C-FIND, by UID only."""
    settle_s: tuple[float, ...] = (0.25, 1.0, 2.5)


@dataclass(frozen=True)
class OutgoingFile:
    """One file whose bytes are fixed for ever, and the name under which a file destination keeps it.

    `name` is relative, its parts separated by ``/``, ASCII, and opaque (invariant I4): file names travel, and end in
    logs and listings.
    """

    name: str
    sha256: str
    data: bytes = field(repr=False)

    @classmethod
    def named(cls, name: str, data: bytes, sha256: str | None = None) -> OutgoingFile:
        """Take stored bytes as they are.

        Raises
        ------
        ValueError
            If the bytes are not those the digest was made from, or the name could leave its folder.
        """
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and sha256 != found:
            raise ValueError("stored file does not match its digest; expected the bytes that were built")
        if not _NAME.fullmatch(name) or ".." in name or len(name) > 200:
            raise ValueError("a file name of letters, digits, _ . - and /, no part beginning with a dot")
        return cls(name, found, data)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders above the file, outermost first."""
        parts = self.name.split("/")[:-1]
        return tuple("/".join(parts[: i + 1]) for i in range(len(parts)))

    @property
    def part(self) -> str:
        """Name beside it while it is not whole, derived from name and bytes: only the same file goes on in it."""
        folder, slash, _ = self.name.rpartition("/")
        return f"{folder}{slash}.{hashlib.sha256(f'{self.name} {self.sha256}'.encode()).hexdigest()[:24]}.part"


_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True)
class FolderTarget:
    """A folder, that an archive, or a test, watches."""

    path: Path


@dataclass(frozen=True)
class HttpTarget:
    """A web server that takes files (RFC 9110 PUT or POST), or a WebDAV folder (RFC 4918)."""

    url: str
    """A file is PUT to this URL plus ``/`` plus its name; POST goes to this URL itself."""
    method: Literal["PUT", "POST"] = "PUT"
    webdav: bool = False
    """Write under another name, read back, then MOVE without overwriting."""
    reads_back: bool = True
    """False: the server gives nothing back, and its word is all there is."""
    username: str = ""
    secret: Callable[[], str] | None = field(default=None, repr=False)
    """Reads the password, or the bearer token, when it is needed; a second time when the server answers 401."""
    is_bearer: bool = False
    insecure_ok_because: str = ""
    timeout_s: float = 60.0
    total_timeout_s: float = 600.0
    ca_file: Path | None = None
    identity: Identity | None = None
    """Whose certificate is shown to a server that asks for one."""


@dataclass(frozen=True)
class FtpTarget:
    """An FTP server (RFC 959, REST and SIZE of RFC 3659), over TLS (RFC 4217) unless there is a reason not to."""

    host: str
    port: int
    username: str
    secret: Callable[[], str] | None = field(default=None, repr=False)
    folder: str = ""
    is_tls: bool = True
    insecure_ok_because: str = ""
    """Written reason; needed where `is_tls` is False, wherever the server stands."""
    timeout_s: float = 60.0
    total_timeout_s: float = 600.0
    ca_file: Path | None = None


@dataclass(frozen=True)
class SftpTarget:
    """An SSH server with SFTP (version 3), known by its pinned host keys."""

    host: str
    port: int
    username: str
    host_keys: tuple[str, ...]
    """Public keys as ``type base64``; any other key ends the connection before anything is said."""
    secret: Callable[[], str] | None = field(default=None, repr=False)
    private_key: Callable[[], str] | None = field(default=None, repr=False)
    passphrase: Callable[[], str] | None = field(default=None, repr=False)
    folder: str = ""
    timeout_s: float = 60.0
    total_timeout_s: float = 600.0


FileTarget = FolderTarget | HttpTarget | FtpTarget | SftpTarget
Target = StowTarget | CStoreTarget | FileTarget


class Seen(StrEnum):
    """How a delivery was confirmed, strongest first."""

    CONTENT = "content"
    """Retrieved, and equal to what was sent."""
    LISTED = "listed"
    """Found by its UIDs in the right study and series; the archive offers no way to read it back."""
    TOLD = "told"
    """Not seen: the destination said that it has it, and shows nothing.  Only where the configuration lets it."""


@dataclass(frozen=True)
class Confirmation:
    """The destination was seen to have the object."""

    sop_instance_uid: str = field(repr=False)
    """Empty for a file that is no DICOM object."""
    sha256: str
    seen: Seen
    was_already_there: bool
    """True when nothing had to be sent: an earlier attempt had arrived although its answer was lost."""
    answer: str
    """What the destination said to the request, e.g. ``HTTP 200`` or ``0000``; empty when nothing was sent."""
    coerced: tuple[str, ...] = ()
    """Keywords of the patient and study attributes that the archive keeps with other values."""
