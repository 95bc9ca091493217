"""The `web` process: the portal over this installation's records, archive and models."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.requests import Request

import portal
from dicom_node import auditing, durable
from dicom_node.audit_desk import AuditDesk
from dicom_node.cli.readiness import Readiness, certificates_of
from dicom_node.desks.administration import Administration
from dicom_node.desks.analyses import Analyses
from dicom_node.desks.codes import Codes
from dicom_node.desks.operation import Operation
from dicom_node.desks.people import People
from dicom_node.desks.predictions import Predictions
from dicom_node.desks.reviews import Reviews
from dicom_node.desks.studies import StudyDesk
from dicom_node.durable import Put
from dicom_node.metrics import METRICS, OTHER
from dicom_node.permissions import Person
from dicom_node.record import (
    Database,
    access,
    audit,
    circuits,
    deliveries,
    keys,
    predictions,
    reports,
    runs,
    transfers,
    views,
)
from dicom_node.refusals import RefusalCode
from dicom_node.settings import LOOPBACK, Settings, read_secret
from dicom_node.stages.destinations import OWN_ENDPOINT
from dicom_node.tls import ServerSide, first_certificate
from dicom_node.words import HOOK
from dicom_node.zones import clock
from fhir_bridge.server import Access
from fhir_bridge.store import Query, StoredResource, tokens_of
from portal.luna import KEY_FILE, KeyFile, LunaDesk, Tokens
from portal.pages.trust import Trust


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
    updated_at, is_deleted = datetime.fromisoformat(row["updated_at"]), row["removed_at"] is not None
    return StoredResource(row["resource"], int(row["version"]), updated_at, is_deleted)


def make_app(settings: Settings, database: Database, put: Callable[[Put], None] | None = None) -> Any:
    """The portal's application for this installation.

    Parameters
    ----------
    put
        Hands a job to the road; default: over the workflow engine's own tables, opened with the first job.
    """
    import importlib.metadata

    version = importlib.metadata.version("dicom-ai-node")
    put = put or Road(settings).put
    predictions_desk = Predictions(settings, database, put)
    studies_desk = StudyDesk(settings, database, predictions_desk)
    codes = Codes(database, settings.data.folder, settings.second_factor, settings.node.organisation)
    people, analyses = People(settings.people, database, codes), Analyses(settings, database, put)
    luna = LunaDesk(people, _tokens(settings, database), analyses, database)
    services = portal.PortalServices(
        verify_key=lambda token: keys.verify(database, token),
        ready=Readiness(settings, database).checks(),
        reports=RecordReports(database),
        refresh_metrics=lambda: _refresh(settings, database),
        on_access=lambda request, access: _on_access(database, request, access),
        viewer=_viewer(settings, Sight(database, studies_desk)),
        predictions=predictions_desk,
        studies=studies_desk,
        administration=Administration(settings, database, people),
        operation=Operation(settings, database, put),
        analyses=analyses,
        reviews=Reviews(database, analyses),
        luna=luna,
        people=people,
        audit=AuditDesk(database, settings.report.issuers),
        verify_token=luna.person_of,
        trust=(lambda: _trust(settings)) if settings.uses_tls else None,
        settings=portal.PortalSettings(
            version=version,
            allowed_hosts=LOOPBACK | frozenset(settings.web.allowed_hosts),
            base_url=settings.web.base_url,
            max_upload_bytes=settings.api.max_upload_mb * 1_000_000,
            max_photo_bytes=settings.api.max_photo_mb * 1_000_000,
            language=settings.node.language,
            organisation=settings.node.organisation,
            zone=clock(settings.node.timezone, settings.node.timezone_offset),
        ),
    )
    return portal.create_app(services)


def _tokens(settings: Settings, database: Database) -> Tokens:
    issuer = f"urn:uuid:{settings.node.site_namespace or database.site_fact('site_namespace')}"
    keys = KeyFile(settings.data.folder / KEY_FILE)
    return Tokens(keys, issuer, timedelta(hours=settings.luna.token_hours))


class Road:
    """The road as `web` reaches it."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.engine_url
        self._client: durable.Client | None = None
        self._lock = threading.Lock()

    def put(self, item: Put) -> None:
        """Hand over a job."""
        with self._lock:
            if self._client is None:
                self._client = durable.connect(self._url)
        self._client.put(item)


def run_web(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    import uvicorn

    from portal.serving import configure

    web = settings.web
    tls = ServerSide(settings.tls.identity, is_mutual=web.tls_mutual) if web.tls else None
    listen = portal.Listen(
        web.host, web.port, tls, web.insecure_ok_because, tuple(map(str, web.proxies)),
        web.max_connections, web.max_connections_per_address, web.patience_s,
    )  # fmt: skip
    server = uvicorn.Server(configure(make_app(settings, database), listen))
    thread = threading.Thread(target=server.run, name="http", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.wait(0.5):
        pass
    server.should_exit = True
    thread.join(15.0)
    if not stop.is_set():
        raise SystemExit(1)


def _trust(settings: Settings) -> Trust:
    facts = certificates_of(settings)
    return Trust(facts["authority"], facts["node"], first_certificate(settings.tls.authority_file))


def ticket_office(settings: Settings) -> portal.TicketOffice:
    """Where one-time links into the viewer are made and redeemed."""
    return portal.TicketOffice(Path(settings.data.folder) / "tickets")


class Sight:
    """Which studies of the archive a person may look at, by the record."""

    def __init__(self, database: Database, studies: StudyDesk) -> None:
        self._database = database
        self._studies = studies

    def may_see(self, person: Person, study_uid: str) -> bool:
        """Whether there is such a study for this person."""
        with self._database.read() as connection:
            return access.sees_study(connection, person, study_uid)

    def study(self, person: Person, public_id: str) -> str | None:
        """UID of the study with this opaque id, if she may see it."""
        with self._database.read() as connection:
            return access.study_seen(connection, person, public_id)

    def of_request(self, person: Person, public_id: str) -> str | None:
        """UID of the archive's study that a request of hers was about."""
        return self._studies.of_archive(person, public_id)


def _viewer(settings: Settings, sight: Sight) -> portal.ViewerSettings | None:
    if settings.web.viewer_folder is None:
        return None
    orthanc = settings.orthanc
    return portal.ViewerSettings(
        folder=settings.web.viewer_folder,
        dicomweb_url=orthanc.url.rstrip("/") + orthanc.dicomweb_root,
        office=ticket_office(settings),
        sight=sight,
        username=orthanc.username,
        password=read_secret(orthanc.password_file) if orthanc.password_file else "",
        authority_file=orthanc.ca_file,
        identity=settings.shown(orthanc),
    )


_CIRCUIT = {circuits.CLOSED: 0.0, circuits.HALF_OPEN: 0.5, circuits.OPEN: 1.0}


def _refresh(settings: Settings, database: Database) -> None:
    with database.read() as connection:
        states = Counter(runs.counts(connection))
        states.update(predictions.counts(connection))
        states.update(transfers.counts(connection))
        codes = [str((row["reason"] or {}).get("code")) for row in views.held(connection)]
        METRICS.gauge("audit_spool_entries", auditing.backlog(settings, connection))
        away, oldest = circuits.states(connection), deliveries.oldest_open(connection)
    # the destination that shows nothing is always there, as 0 too, so that an alert has something to look at
    held = Counter({RefusalCode.DELIVERY_INCOMPLETE.value: 0})
    held.update(code if code in set(RefusalCode) else OTHER for code in codes)
    METRICS.clear("jobs")
    for state, number in states.items():
        METRICS.gauge("jobs", number, state=state)
    METRICS.clear("held_jobs")
    for reason, number in held.items():
        METRICS.gauge("held_jobs", number, reason=reason)
    METRICS.allow("target", [*settings.destinations, *(f"{HOOK}{name}" for name in settings.webhooks), OWN_ENDPOINT])
    moment = datetime.now(UTC)
    for name in (*settings.destinations, *(f"{HOOK}{name}" for name in settings.webhooks), OWN_ENDPOINT):
        METRICS.gauge("destination_circuit", _CIRCUIT[away.get(name, circuits.CLOSED)], target=name)
        since = datetime.fromisoformat(oldest[name]) if name in oldest else moment
        METRICS.gauge("delivery_oldest_age_seconds", max(0.0, (moment - since).total_seconds()), target=name)
    if settings.uses_tls:
        METRICS.allow("name", ("node", "authority"))
        for name, facts in certificates_of(settings).items():
            METRICS.gauge("cert_expiry_timestamp", facts.ends_at.timestamp(), name=name)
    METRICS.gauge("disk_free_bytes", shutil.disk_usage(settings.data.folder).free, area="data")


def _on_access(database: Database, request: Request, access: Access) -> None:
    with database.write() as connection:
        actor = str(getattr(request.state, "actor", "unknown"))
        audit.append(
            connection, actor, f"{access.action}-{access.kind}", access.study_uid or None, ids=list(access.ids)
        )
