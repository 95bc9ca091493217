"""Whether the node is ready, check by check (hardening section 9, I23): asked by /readyz.

Only what the node itself must have to take images and to work on them.  A PACS or an EHR that is down does not clear
readiness: the node keeps what it could not deliver.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from typing import Any

import portal
from dicom_node import auditing
from dicom_node.metrics import METRICS
from dicom_node.models import check_models
from dicom_node.record import Database, DatabaseRefused, arrivals, audit, digest, registry, workers
from dicom_node.record.revisions import seconds_since
from dicom_node.refusals import Refused
from dicom_node.routing import RoutesRefused
from dicom_node.routing.book import load_routes
from dicom_node.settings import Settings
from dicom_node.tls import WARN_DAYS, CertificateFacts, read_certificate

AUDITED_AT_ONCE = 20_000
"""Entries of the audit log that one look follows: about a second."""
SILENT_S = 60.0
"""A worker that has said nothing for so long does not live; it says so every ten seconds."""


def certificates_of(settings: Settings) -> dict[str, CertificateFacts]:
    """What is told of the node's certificate and of its authority's.

    Raises
    ------
    TlsRefused
    """
    own = settings.tls
    return {"node": read_certificate(own.certificate_file), "authority": read_certificate(own.authority_file)}


class Readiness:
    """The checks of /readyz (hardening section 9).  A PACS or EHR that is down does not clear readiness."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._checked: tuple[str, portal.CheckResult] | None = None
        self._checking = threading.Lock()
        self._audited = audit.START

    def checks(self) -> dict[str, portal.Check]:
        """By name, in the order in which they are shown."""
        return {
            "database": self.database,
            "vault": self.vault,
            "disk": self.disk,
            "models": self.models,
            "listener": self.listener,
            **({"certificates": self.certificates} if self._settings.uses_tls else {}),
            "worker": self.worker,
            "audit": self.audit,
        }

    def database(self) -> portal.CheckResult:
        """A row can be written, durably."""
        try:
            self._database.check()
        except DatabaseRefused as refused:
            return portal.CheckResult(False, str(refused), "Stop the node and restore the database.")
        return portal.CheckResult(True)

    def vault(self) -> portal.CheckResult:
        """No acknowledged object is without its file."""
        with self._database.read() as connection:
            missing = arrivals.missing_files(connection)
        if missing:
            return portal.CheckResult(
                False, f"{missing} acknowledged objects have no file", "Restore the vault from the backup."
            )
        return portal.CheckResult(True)

    def disk(self) -> portal.CheckResult:
        """Free space is above the admission line."""
        usage = shutil.disk_usage(self._settings.data.folder)
        line = max(self._settings.data.min_free_gb * 1e9, self._settings.data.min_free_share * usage.total)
        if usage.free < line:
            return portal.CheckResult(
                False,
                f"{usage.free / 1e9:.1f} GB free; the admission line is {line / 1e9:.1f} GB",
                "Free space or enlarge the data disk; new images are answered 'out of resources' until then.",
            )
        return portal.CheckResult(True)

    def models(self) -> portal.CheckResult:
        """Every model that a route names is there, and each of its files is the one its manifest names.

        Files are hashed again when one of them, the routes or the aliases have changed; whoever loads a model hashes it
        anyway.
        """
        with self._checking:
            try:
                signature = self._signature()
            except OSError:  # a file went while we looked
                signature = ""
            if not signature or self._checked is None or self._checked[0] != signature:
                self._checked = (signature, self._check_models())
            return self._checked[1]

    def _check_models(self) -> portal.CheckResult:
        try:
            check_models(self._settings, load_routes(self._settings.routes), self._database)
        except RoutesRefused:
            return portal.CheckResult(
                False, "the route file is not understood", "`ai-node routes explain` names the line; correct it."
            )
        except Refused as refused:
            return portal.CheckResult(False, refused.refusal.message, refused.refusal.advice)
        return portal.CheckResult(True)

    def _signature(self) -> str:
        """Changes when what `models` depends on does: places, sizes and times of files, routes, aliases."""
        root = self._settings.engine.models
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
        told: list[Any] = [[str(p), s.st_size, s.st_mtime_ns, s.st_ino] for p in files for s in [p.stat()]]
        with self._database.read() as connection:
            told += [[row["model"], row["alias"], row["choices"]] for row in registry.aliases(connection)]
        told.append(self._settings.routes.read_text(encoding="utf-8", errors="replace"))
        return digest(told)

    def listener(self) -> portal.CheckResult:
        """The C-STORE port accepts connections."""
        door = self._settings.door
        places = [(door.host, door.port)] + ([(door.tls_host, door.tls_port)] if door.tls_port is not None else [])
        for place in places:
            try:
                socket.create_connection(place, timeout=2.0).close()
            except OSError:
                return portal.CheckResult(
                    False, "the DICOM port does not accept connections", "Look at the log of the process `listen`."
                )
        return portal.CheckResult(True)

    def certificates(self) -> portal.CheckResult:
        """The node's certificate and its authority's have not ended; the days that are left are told in any case."""
        left = {name: facts.days_left() for name, facts in certificates_of(self._settings).items()}
        told = "; ".join(f"the {name}'s certificate ends in {days} days" for name, days in left.items())
        ended = [name for name, days in left.items() if days < 0]
        if ended:
            return portal.CheckResult(
                False,
                "; ".join(f"the {name}'s certificate has ended" for name in ended),
                "`ai-node tls renew` makes another.",
            )
        is_near = min(left.values()) < WARN_DAYS
        return portal.CheckResult(True, told, "Renew it soon: `ai-node tls renew`." if is_near else "")

    def audit(self) -> portal.CheckResult:
        """The audit log can be read, and what came since the last look continues its chain.

        A chain that is broken turns no image away; it is told here, and by the age of a metric.  So is what has waited
        for long to leave this machine.
        """
        with self._database.read() as connection:
            reached, broken = audit.follow(connection, self._audited, AUDITED_AT_ONCE)
            head = audit.head(connection)
            late = auditing.concerns(self._settings, connection)
        self._audited = reached
        if broken is not None:
            return portal.CheckResult(True, f"the audit log is broken: {broken}", "See `ai-node audit verify`.")
        if reached == head:
            METRICS.gauge("audit_chain_last_verified_timestamp", time.time())
        if late:
            return portal.CheckResult(True, "; ".join(one.found for one in late), late[0].advice)
        return portal.CheckResult(True)

    def worker(self) -> portal.CheckResult:
        """The worker lives, and what waits for it moves."""
        with self._database.read() as connection:
            seen_at = workers.seen_at(connection)
            waiting_since = workers.oldest_waiting(connection)
            moved_at = workers.last_progress(connection)
        if seen_at is None or seconds_since(seen_at) > SILENT_S:
            since = "never yet" if seen_at is None else f"not for {seconds_since(seen_at):.0f} s"
            return portal.CheckResult(
                False,
                f"the worker has {since} said that it lives",
                "Images are taken and kept, and nothing is done with them: look at the log of the process `work`.",
            )
        limit_s = self._stuck_s()
        if waiting_since is not None and seconds_since(waiting_since) > limit_s:
            moved_s = None if moved_at is None else seconds_since(moved_at)
            if moved_s is None or moved_s > limit_s:
                return portal.CheckResult(
                    False,
                    f"work has waited for {seconds_since(waiting_since) / 60:.0f} min and nothing moves",
                    "`ai-node jobs list` shows what waits; look at the log of the process `work`, then restart it.",
                )
        return portal.CheckResult(True)

    def _stuck_s(self) -> float:
        """Longer than any one step may take."""
        return 2 * (self._settings.engine.timeout_s + self._settings.work.decode_timeout_s)
