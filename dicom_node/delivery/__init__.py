"""Delivery: an object or a file goes to a destination, and then we look whether it is there.

For whom: the road, which hands over one stored object or file and one destination and gets a `Confirmation`, or an
exception that says whether to try again (`PeerTrouble`) or to hold (`Refused`).

Implements STOW-RS (PS3.18 section 10.5) with one instance per request, QIDO-RS and WADO-RS (sections 10.6, 10.4) for
verification; C-STORE as SCU (PS3.4 annex B) verified by C-FIND (annex C) or by DICOMweb of the same archive.  Files go
to a folder, a web server (RFC 9110; WebDAV, RFC 4918), FTP (RFC 959, 3659), FTP over TLS (RFC 4217) or SFTP.  `call`
tells a platform that something is over (Standard Webhooks).

Guarantees: the bytes sent are the bytes stored; nothing is sent to a study that the destination keeps under another
patient; nothing is sent again before it was looked for; nothing is overwritten; no answer counts as proof.
Does not guarantee: that an archive without DICOMweb keeps the content unchanged (C-FIND shows UIDs only; the
confirmation then says `listed`); that a web server that shows nothing has the file (`told`); that an archive keeps what
it showed.
"""

from dicom_node.delivery.outcomes import Outcome, backoff, classify, classify_dimse, retry_after
from dicom_node.delivery.sending import reach, send
from dicom_node.delivery.types import (
    Confirmation,
    CStoreTarget,
    DimseTls,
    FileTarget,
    FolderTarget,
    FtpTarget,
    HttpTarget,
    OutgoingFile,
    OutgoingObject,
    Seen,
    SftpTarget,
    StowTarget,
    Target,
)
from dicom_node.delivery.webhook import OutgoingCall, WebhookTarget, call

__all__ = [
    "CStoreTarget",
    "Confirmation",
    "DimseTls",
    "FileTarget",
    "FolderTarget",
    "FtpTarget",
    "HttpTarget",
    "Outcome",
    "OutgoingCall",
    "OutgoingFile",
    "OutgoingObject",
    "Seen",
    "SftpTarget",
    "StowTarget",
    "Target",
    "WebhookTarget",
    "backoff",
    "call",
    "classify",
    "classify_dimse",
    "reach",
    "retry_after",
    "send",
]
