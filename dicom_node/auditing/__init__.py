"""The audit log's way out of this machine, so that who rules it cannot make the log say something else unseen (I21).

Two ways, both fed by the log itself, which is their spool: *heads*, short signed statements of how far the log goes and
what its newest digest is, kept in the record, in a folder and at a repository; and *messages*, one for each entry, in
DICOM's audit message format (PS3.15 A.5) by syslog (RFC 5424).  `AuditOut.run` does both.
"""

from dicom_node.auditing.heads import Head, HeadsUnreadable, compare, read_heads
from dicom_node.auditing.out import AuditOut
from dicom_node.auditing.signing import KEY_FILE, AuditKeys, AuditKeysRefused
from dicom_node.auditing.standing import Concern, backlog, concerns

__all__ = [
    "KEY_FILE",
    "AuditKeys",
    "AuditKeysRefused",
    "AuditOut",
    "Concern",
    "Head",
    "HeadsUnreadable",
    "backlog",
    "compare",
    "concerns",
    "read_heads",
]
