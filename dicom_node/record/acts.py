"""What all acts of a person share: the jobs that follow from one, how it fails, and its line in the audit log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from dicom_node.record import audit

Job = tuple[str, str, str, tuple[Any, ...]]
"""``(queue, job, key, args)``."""


class UnknownItem(LookupError):
    """There is no such study, job or held item, or it is not in a state in which this can be done to it."""


def number_of(key: str) -> int:
    """The number behind an item's kind."""
    if not key.isdigit():
        raise UnknownItem(f"{key}: expected a number")
    return int(key)


def write_down(
    connection: Connection, action: str, actor: str, reason: str, item: str, study_uid: str | None, **detail: Any
) -> int:
    """Audit an act; the number of its entry, which makes the keys of its jobs new ones."""
    audit.append(connection, actor, action, study_uid, item=item, reason=reason, **detail)
    return audit.head(connection)[0]
