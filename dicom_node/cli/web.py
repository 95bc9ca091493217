"""The `web` process: the portal over this installation's records, archive and models."""

from __future__ import annotations

import shutil
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request

import portal
from dicom_node.metrics import METRICS, OTHER
from dicom_node.record import Database, DatabaseRefused, arrivals, audit, keys, reports, runs, views
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import LOOPBACK, Settings, read_secret
from fhir_bridge.server import Access
from fhir_bridge.store import Query, StoredResource, tokens_of


class RecordReports:
    """The published reports of the record, as the FHIR endpoint reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.write() as connection:
            reports.index_missing(connection, tokens_of)

    def read(self, kind: str, resource_id: str) -> StoredResource | None:
        """The current version of one resource."""
        with self._database.read() as connection:
            row = reports.latest(connection, kind, resource_id)
        return None if row is None else _stored(row)

    def select(self, query: Query) -> list[StoredResource]:
        """One page of a search."""
        after = None if query.after is None else (_written(query.after[0]), query.after[1])
        with self._database.read() as connection:
            return [_stored(row) for row in reports.page(connection, _wanted(query), query.limit, after)]

    def count(self, query: Query) -> int:
        """How many resources a search finds in all."""
        with self._database.read() as connection:
            return reports.count(connection, _wanted(query))


def _wanted(query: Query) -> reports.Wanted:
    return reports.Wanted(
        query.kind,
        [(clause.parameter, clause.values) for clause in query.clauses],
        None if query.updated_from is None else _written(query.updated_from),
        None if query.updated_before is None else _written(query.updated_before),
    )


def _written(moment: datetime) -> str:
    """A time as the record writes it, so that the order of texts is the order of times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _stored(row: Mapping[str, Any]) -> StoredResource:
    return StoredResource(row["resource"], int(row["version"]), datetime.fromisoformat(row["updated_at"]))


class Readiness:
    """The checks of /readyz (hardening section 9).  A PACS or EHR that is down does not clear readiness."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def checks(self) -> dict[str, portal.Check]:
        """By name, in the order in which they are shown."""
        return {
            "database": self.database,
            "vault": self.vault,
            "disk": self.disk,
            "models": self.models,
            "listener": self.listener,
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
        """Every model that a route names is there, and each of its files is the one its manifest names."""
        from dicom_node.models import check_models
        from dicom_node.routing.book import load_routes

        try:
            check_models(self._settings, load_routes(self._settings.routes))
        except Refused as refused:
            return portal.CheckResult(False, refused.refusal.message, refused.refusal.advice)
        return portal.CheckResult(True)

    def listener(self) -> portal.CheckResult:
        """The C-STORE port accepts connections."""
        door = self._settings.door
        try:
            socket.create_connection((door.host, door.port), timeout=2.0).close()
        except OSError:
            return portal.CheckResult(
                False, "the DICOM port does not accept connections", "Look at the log of the process `listen`."
            )
        return portal.CheckResult(True)

    def audit(self) -> portal.CheckResult:
        """The audit log can be read, and its head is there."""
        with self._database.read() as connection:
            audit.head(connection)
        return portal.CheckResult(True)


def make_app(settings: Settings, database: Database) -> Any:
    """The portal's application for this installation."""
    import importlib.metadata

    version = importlib.metadata.version("dicom-ai-node")
    services = portal.PortalServices(
        verify_key=lambda token: keys.verify(database, token),
        ready=Readiness(settings, database).checks(),
        reports=RecordReports(database),
        refresh_metrics=lambda: _refresh(settings, database),
        on_access=lambda request, access: _on_access(database, request, access),
        viewer=_viewer(settings),
        settings=portal.PortalSettings(version=version, allowed_hosts=LOOPBACK | frozenset(settings.web.allowed_hosts)),
    )
    return portal.create_app(services)


def run_web(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    import uvicorn

    from portal.serving import configure

    listen = portal.Listen(
        host=settings.web.host, port=settings.web.port, insecure_ok_because=settings.web.insecure_ok_because
    )
    server = uvicorn.Server(configure(make_app(settings, database), listen))
    thread = threading.Thread(target=server.run, name="http", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.wait(0.5):
        pass
    server.should_exit = True
    thread.join(15.0)
    if not stop.is_set():
        raise SystemExit(1)


def ticket_office(settings: Settings) -> portal.TicketOffice:
    """Where one-time links into the viewer are made and redeemed."""
    return portal.TicketOffice(Path(settings.data.folder) / "tickets")


def _viewer(settings: Settings) -> portal.ViewerSettings | None:
    if settings.web.viewer_folder is None:
        return None
    orthanc = settings.orthanc
    return portal.ViewerSettings(
        folder=settings.web.viewer_folder,
        dicomweb_url=orthanc.url.rstrip("/") + orthanc.dicomweb_root,
        office=ticket_office(settings),
        username=orthanc.username,
        password=read_secret(orthanc.password_file) if orthanc.password_file else "",
    )


def _refresh(settings: Settings, database: Database) -> None:
    with database.read() as connection:
        states = runs.counts(connection)
        codes = [str((row["reason"] or {}).get("code")) for row in views.held(connection)]
    # the destination that shows nothing is always there, as 0 too, so that an alert has something to look at
    held = Counter({RefusalCode.DELIVERY_INCOMPLETE.value: 0})
    held.update(code if code in set(RefusalCode) else OTHER for code in codes)
    METRICS.clear("jobs")
    for state, number in states.items():
        METRICS.gauge("jobs", number, state=state)
    METRICS.clear("held_jobs")
    for reason, number in held.items():
        METRICS.gauge("held_jobs", number, reason=reason)
    METRICS.gauge("disk_free_bytes", shutil.disk_usage(settings.data.folder).free, area="data")


def _on_access(database: Database, request: Request, access: Access) -> None:
    with database.write() as connection:
        actor = str(getattr(request.state, "actor", "unknown"))
        audit.append(
            connection, actor, f"{access.action}-{access.kind}", access.study_uid or None, ids=list(access.ids)
        )
