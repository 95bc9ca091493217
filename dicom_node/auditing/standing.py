"""How the audit log's way out of this machine stands: for `doctor`, `/readyz` and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from dicom_node.record import audit_heads
from dicom_node.record.audit_heads import FOLDER, SYSLOG
from dicom_node.settings import Settings


@dataclass(frozen=True)
class Concern:
    """What has waited too long, and what to do."""

    found: str
    advice: str


def backlog(settings: Settings, connection: Connection) -> int:
    """Entries that the repository has not been told yet; 0 where there is none."""
    return audit_heads.waiting(connection, SYSLOG)[0] if settings.audit.syslog_host else 0


def concerns(settings: Settings, connection: Connection, moment: datetime | None = None) -> list[Concern]:
    """What has waited for longer than ``audit.late_min``."""
    moment = moment or datetime.now(UTC)
    found = []
    for way, is_used, what, place in (
        (SYSLOG, bool(settings.audit.syslog_host), "entries of the audit log", "repository"),
        (FOLDER, settings.audit.heads_folder is not None, "heads of the audit log", "folder audit.heads_folder"),
    ):
        count, oldest = audit_heads.waiting(connection, way) if is_used else (0, None)
        minutes = 0.0 if oldest is None else (moment - datetime.fromisoformat(oldest)).total_seconds() / 60
        if minutes > settings.audit.late_min:
            found.append(
                Concern(
                    f"{count} {what} wait to leave this machine, the oldest for {minutes:.0f} min",
                    f"They are kept here. Look whether the {place} can be reached; the log of the process `work` says "
                    "what it answers.",
                )
            )
    return found
