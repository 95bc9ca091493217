"""The loop that signs heads of the audit log and brings heads and entries out of this machine.

Where it has come is in the record, so a restart goes on where it was; what waits, waits in the log itself, in order.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy import Connection

from dicom_node.audit_codes import is_refused
from dicom_node.auditing import heads as room
from dicom_node.auditing.heads import Head
from dicom_node.auditing.message import Source, StudyFacts, audit_message
from dicom_node.auditing.signing import KEY_FILE, AuditKeys, AuditKeysRefused
from dicom_node.auditing.syslog import (
    AUDIT_MESSAGE,
    HEAD_MESSAGE,
    NOTICE,
    WARNING,
    Line,
    Repository,
    SyslogTrouble,
    send,
    written,
)
from dicom_node.record import Database, audit, audit_heads, studies
from dicom_node.record.audit_heads import FOLDER, SYSLOG, SYSLOG_HEADS
from dicom_node.settings import Settings
from dicom_node.tls import TlsRefused, client_context

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""How often the log is looked at."""
PORTION = 100
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Between tries of a repository, or a folder, that does not take anything."""


class AuditOut:
    """Signs and sends for one installation; one process does, the one that runs the road.

    Parameters
    ----------
    clock
        The present time, aware.
    """

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings, self._database, self._clock = settings, database, clock
        self._keys = AuditKeys(settings.data.folder / KEY_FILE)
        self._log = database.site_fact("node_instance")
        self._source = Source(
            name=settings.audit.source or settings.node.ae_title,
            application=settings.node.ae_title,
            host=socket.gethostname() or "-",
            log=self._log,
            enterprise=settings.audit.enterprise,
        )
        self._repository = repository(settings)
        self._pause: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; what cannot leave now is tried again."""
        while not stop.wait(LOOK_S):
            try:
                self.turn()
            except Exception:  # the loop's boundary: one turn that fails must not be the last
                log.exception("audit.out-failed")

    def turn(self) -> None:
        """Sign a head if one is due, then bring out what waits, by every way that is not in a pause."""
        self._sign_if_due()
        folder = self._settings.audit.heads_folder
        if folder is not None:
            self._by_way(FOLDER, lambda: self._write_heads(folder))
        if self._repository is not None:
            self._by_way(SYSLOG, self._send_all)

    def _sign_if_due(self) -> None:
        chosen = self._settings.audit
        with self._database.read() as connection:
            newest = audit_heads.newest(connection)
            count = audit.head(connection)[0]
        known = audit.START if newest is None else (int(newest["entries"]), str(newest["sha256"]))
        if count <= known[0]:
            return
        age_s = None if newest is None else (self._clock() - datetime.fromisoformat(newest["made_at"])).total_seconds()
        if age_s is None or not 0 <= age_s < 60 * chosen.head_min or count - known[0] >= chosen.head_entries:
            self.sign(known)

    def sign(self, known: tuple[int, str]) -> Head | None:
        """Sign the log as it stands; None, and nothing signed, where it does not continue what was signed before."""
        with self._database.read() as connection:
            reached, broken = audit.follow(connection, known)
        if broken is not None:
            log.error("audit.head-not-signed", reason=broken)
            return None
        try:
            head = room.sign(self._keys, self._log, reached, self._clock().isoformat(timespec="microseconds"))
        except AuditKeysRefused as refused:
            log.error("audit.head-not-signed", reason=str(refused))
            return None
        with self._database.write() as connection:
            audit_heads.add(
                connection, entries=head.entries, sha256=head.sha256, made_at=head.made_at, key=head.key,
                signature=head.signature,
            )  # fmt: skip
        return head

    def _by_way(self, way: str, bring: Callable[[], None]) -> None:
        if time.monotonic() < self._due.get(way, 0.0):
            return
        try:
            bring()
        except (OSError, SyslogTrouble, TlsRefused) as error:
            pause = min(LONGEST_PAUSE_S, self._pause.get(way, FIRST_PAUSE_S / 2) * 2)
            self._pause[way], self._due[way] = pause, time.monotonic() + pause
            said = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("audit.not-sent", kind=way, reason=said, pause_s=pause)
        else:
            if self._pause.pop(way, None) is not None:
                log.info("audit.sent-again", kind=way)

    def _write_heads(self, folder: Path) -> None:
        for head_id, head in self._heads_after(FOLDER):
            room.write_head(folder, head)
            self._mark(FOLDER, head_id)

    def _heads_after(self, way: str) -> list[tuple[int, Head]]:
        with self._database.read() as connection:
            rows = audit_heads.after(connection, audit_heads.sent(connection, way), PORTION)
        names = ("entries", "sha256", "made_at", "key", "signature")
        return [(int(row["id"]), Head(self._log, **{name: row[name] for name in names})) for row in rows]

    def _send_all(self) -> None:
        while self._send_portion():
            pass

    def _send_portion(self) -> bool:
        """Entries first, then heads; whether there may be more."""
        with self._database.read() as connection:
            rows = audit_heads.entries_after(connection, audit_heads.sent(connection, SYSLOG), PORTION)
            lines = [self._line(connection, dict(row)) for row in rows]
        way, upto = SYSLOG, rows[-1]["id"] if rows else 0
        if not lines:
            found = self._heads_after(SYSLOG_HEADS)
            lines = [Line(number, head.made_at, HEAD_MESSAGE, head.line().encode()) for number, head in found]
            way, upto = SYSLOG_HEADS, found[-1][0] if found else 0
        if not lines or self._repository is None:
            return False
        send([written(line, self._source.host) for line in lines], self._repository)
        self._mark(way, int(upto))
        return True

    def _line(self, connection: Connection, entry: dict[str, object]) -> Line:
        facts = None
        if entry["study_uid"]:
            with_patient = self._settings.audit.patient_ids
            told = studies.told_in_audit(connection, str(entry["study_uid"]), with_patient=with_patient)
            facts = StudyFacts(*told)
        severity = WARNING if is_refused(str(entry["action"])) else NOTICE
        text = audit_message(entry, self._source, facts)
        return Line(int(str(entry["id"])), str(entry["at"]), AUDIT_MESSAGE, text, severity)

    def _mark(self, way: str, upto: int) -> None:
        with self._database.write() as connection:
            audit_heads.mark_sent(connection, way, upto)


def repository(settings: Settings) -> Repository | None:
    """The configured repository, if there is one."""
    chosen = settings.audit
    if not chosen.syslog_host:
        return None
    identity = settings.tls.identity if chosen.client_certificate else None
    return Repository(
        host=chosen.syslog_host,
        port=chosen.syslog_port,
        transport=chosen.syslog_transport,
        timeout_s=chosen.timeout_s,
        name=chosen.syslog_name,
        context=(lambda: client_context(chosen.ca_file, identity)) if chosen.syslog_transport == "tls" else None,
    )
