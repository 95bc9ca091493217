"""Signed heads of the audit log: "so many entries, the newest of which has this digest", and what they find out.

A head is one line of JSON, so that it can lie in a file, in a folder, in a mail or in a line of a syslog file:

    {"entries": 1200, "key": "…", "log": "…", "made_at": "…", "sha256": "…", "signature": "…"}

The signature is over the canonical JSON of the other members.  `compare` holds heads against the log: a log that was
cut is shorter than a head says, one that was written anew has another digest at that entry.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection

from dicom_node.auditing.signing import AuditKeys
from dicom_node.record import audit, audit_heads, canonical_json

_HEX = re.compile(r"^[0-9a-f]{64}$")
_SUFFIXES = (".jsonl", ".json", ".log", ".txt", "")
MAX_LINE = 70_000


class HeadsUnreadable(Exception):
    """A file or folder of heads that cannot be read, or holds none of this log; the text says what was expected."""


@dataclass(frozen=True)
class Head:
    """How far the log of one installation goes.

    Attributes
    ----------
    log
        The installation's own random name.
    entries, sha256
        Number of entries, and the digest of the newest.
    key, signature
        Id of the key, and Ed25519 over the rest, base64.
    """

    log: str
    entries: int
    sha256: str
    made_at: str
    key: str = ""
    signature: str = ""

    def signed(self, key_id: str) -> bytes:
        """What is signed: every member but the signature."""
        told = {**asdict(self), "key": key_id}
        del told["signature"]
        return canonical_json(told).encode("ascii")

    def line(self) -> str:
        """As one line, without its end."""
        return canonical_json(asdict(self))


def sign(keys: AuditKeys, log: str, reached: tuple[int, str], made_at: str) -> Head:
    """A head of the log as it stands at an entry."""
    head = Head(log, reached[0], reached[1], made_at)
    known = keys.known()
    if not known:
        keys.sign(b"")  # makes the first key, whose id is part of what is signed
        known = keys.known()
    key_id = known[-1].key_id
    made_by, signature = keys.sign(head.signed(key_id))
    if made_by != key_id:  # rotated in between
        return sign(keys, log, reached, made_at)
    return Head(log, head.entries, head.sha256, head.made_at, key_id, base64.b64encode(signature).decode("ascii"))


def parse(line: str) -> Head | None:
    """The head in a line, whatever stands before it; None where there is none."""
    start = line.find('{"entries"')
    if start < 0 or len(line) > MAX_LINE:
        return None
    try:
        told: Any = json.JSONDecoder().raw_decode(line[start:])[0]
        head = Head(**told)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (head.log, head.made_at, head.key, head.signature)
    is_head = isinstance(head.entries, int) and all(isinstance(text, str) for text in texts)
    return head if is_head and isinstance(head.sha256, str) and _HEX.fullmatch(head.sha256) else None


def read_heads(place: Path) -> list[Head]:
    """Every head in a file, or in the files of a folder.

    Raises
    ------
    HeadsUnreadable
    """
    try:
        files = (
            sorted(p for p in place.iterdir() if p.is_file() and p.suffix in _SUFFIXES) if place.is_dir() else [place]
        )
        return [head for file in files for head in _of_file(file)]
    except OSError as error:
        raise HeadsUnreadable(f"{place}: {error.strerror}") from None


def _of_file(file: Path) -> Iterator[Head]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (head := parse(line)) is not None:
                yield head


def write_head(folder: Path, head: Head) -> None:
    """Add a head to its day's file in a folder; what stands there is never changed.

    Raises
    ------
    OSError
    """
    path = folder / f"audit-heads-{head.log}-{head.made_at[:10]}.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        data = (head.line() + "\n").encode("ascii")
        if os.write(descriptor, data) != len(data):
            raise OSError("the folder for heads took a part of a line")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def of_record(connection: Connection, log: str) -> list[Head]:
    """The heads that the record keeps, the oldest first."""
    return [Head(log, **{key: row[key] for key in _COLUMNS}) for row in audit_heads.after(connection, 0)]


_COLUMNS = ("entries", "sha256", "made_at", "key", "signature")


def compare(connection: Connection, log: str, keys: AuditKeys, heads: Iterable[Head]) -> list[str]:
    """Hold heads of this log against it.

    Returns
    -------
    list of str
        What does not fit, the worst first: a log that is shorter than a head says, an entry that is another one, a
        signature that is wrong or of a key that nobody knows.
    """
    count = audit.head(connection)[0]
    known = {key.key_id: key.public for key in keys.known()}
    cut, other, forged = [], [], []
    for head in heads:
        if head.key not in known:
            forged.append(f"the head made at {head.made_at} is signed by a key that is not in the key file")
        elif head.log != log or not _is_signed(head, known[head.key]):
            forged.append(f"the head made at {head.made_at} has a wrong signature")
        elif head.entries > count:
            cut.append(f"the log has {count} entries; the head made at {head.made_at} says {head.entries}")
        elif (found := audit_heads.digest_at(connection, head.entries)) != head.sha256:
            what = "is gone" if found is None else "was changed"
            other.append(f"entry {head.entries} {what} since the head made at {head.made_at}")
    return [*cut[-1:], *other[:1], *forged[:3]]


def _is_signed(head: Head, public: Ed25519PublicKey) -> bool:
    try:
        public.verify(base64.b64decode(head.signature, validate=True), head.signed(head.key))
    except (InvalidSignature, binascii.Error):
        return False
    return True
