"""The node's processes: listen, work, web, bridge, and serve, which supervises them."""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Sequence

import typer

from dicom_node.cli.common import Exit, chosen_config, settings, stop
from dicom_node.cli.ports import Place, places
from dicom_node.record import Database, DatabaseRefused
from dicom_node.settings import Settings

LEAVING_S = 10.0
"""So long a start waits for a node before it that is ending."""


def serve() -> None:
    """Run the whole node until SIGTERM: listener, worker and web, each in its own process, started again if it ends.

    Example: ai-node --config config/node.yaml serve
    """
    from dicom_node import logs
    from dicom_node.serve import PROCESSES, Supervisor, is_running, migrate

    chosen = settings()
    logs.set_up("serve")
    _check_before_start(chosen)
    if not _comes(lambda: not is_running(chosen)):
        stop(
            Exit.CONFIGURATION,
            f"another node runs on the data folder {chosen.data.folder.absolute()}: stop it first, or give this one a "
            "data.folder of its own",
        )
    _check_ports(places(chosen))
    try:
        migrate(chosen)
    except DatabaseRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    database = Database(chosen.records_url)
    try:
        _check_models(chosen, database)
    finally:
        database.close()
    processes = (*PROCESSES, "bridge") if chosen.bridge.host else PROCESSES
    raise typer.Exit(Supervisor(chosen_config(), processes).run())


def listen() -> None:
    """Run the C-STORE listener: it receives, stores and acknowledges, and decides when a series is complete.

    Example: ai-node listen
    """
    from dicom_node import durable
    from dicom_node.listen import AlreadyListening, run_listen
    from dicom_node.stages.places import quiet_put, read_put
    from dicom_node.volume.digest import content_digest
    from dicom_node.volume.geometry import series_geometry
    from dicom_node.volume.header import read_header

    chosen, database = _start("listen")
    _check_ports(places(chosen)[:-1])
    engine = durable.connect(chosen.engine_url)

    def put_read(revision_id: int) -> None:
        with database.write() as connection:
            item = read_put(chosen, connection, revision_id)
        engine.put(item)

    def put_quiet(study_uid: str, number: int) -> None:
        with database.write() as connection:
            item = quiet_put(chosen, connection, study_uid, number)
        engine.put(item)

    def body(ended: threading.Event) -> None:
        run_listen(
            chosen,
            database,
            put_read,
            put_quiet,
            read_header=read_header,
            content_digest=content_digest,
            series_geometry=series_geometry,
            stop=ended,
        )

    try:
        _until_told(body)
    except AlreadyListening as listening:
        stop(Exit.CONFIGURATION, str(listening))


def work() -> None:
    """Run the worker: volumes, models, results, deliveries.  One per data folder.

    Example: ai-node work
    """
    from dicom_node.durable import AlreadyRunning
    from dicom_node.models import WarmModels
    from dicom_node.stages.context import Tools
    from dicom_node.work import run_work

    chosen, database = _start("work")
    _check_before_start(chosen)
    _check_models(chosen, database)
    tools = Tools(
        settings=chosen,
        database=database,
        models=WarmModels(chosen),
        site_namespace=str(chosen.node.site_namespace or database.site_fact("site_namespace")),
        node_instance=database.site_fact("node_instance"),
        version=importlib.metadata.version("dicom-ai-node"),
    )
    try:
        _until_told(lambda ended: run_work(chosen, tools, ended))
    except AlreadyRunning as running:
        stop(Exit.CONFIGURATION, str(running))


def web() -> None:
    """Run the HTTP server: health, metrics, FHIR, viewer.

    Example: ai-node web
    """
    from dicom_node.cli.web import run_web
    from dicom_node.settings import SettingsRefused

    chosen, database = _start("web")
    _check_ports(places(chosen)[-1:])
    try:
        _until_told(lambda ended: run_web(chosen, database, ended))
    except SettingsRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))


def bridge() -> None:
    """Run the bridge to an AMQP broker: photographs come as messages, and their results go as messages.

    Example: ai-node bridge
    """
    from dicom_node.cli.bridge import run_bridge
    from dicom_node.settings import SettingsRefused

    chosen, database = _start("bridge")
    if not chosen.bridge.host:
        stop(Exit.CONFIGURATION, "bridge.host is empty: name the broker in node.yaml (docs/reference/luna.md)")
    try:
        _until_told(lambda ended: run_bridge(chosen, database, ended))
    except SettingsRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))


def health() -> None:
    """Ask the running node on this machine whether its processes turn; exit code 4 when it does not answer.

    Example: ai-node health
    """
    import httpx

    chosen = settings()
    host = "127.0.0.1" if chosen.web.host in ("0.0.0.0", "::") else chosen.web.host
    try:
        # whether it lives is asked on this machine, so whose certificate it shows does not matter
        scheme = "https" if chosen.web.tls else "http"
        answer = httpx.get(f"{scheme}://{host}:{chosen.web.port}/livez", timeout=5.0, trust_env=False, verify=False)
    except httpx.HTTPError as error:
        stop(
            Exit.UNREACHABLE,
            f"no answer from the node at {host}:{chosen.web.port} ({type(error).__name__}): does it run with these "
            "settings (`ai-node serve`)? Its log says why it ended",
        )
    if answer.status_code != httpx.codes.OK:
        stop(Exit.UNREACHABLE, "the node answers, and says that it does not live: see its log")


def _check_ports(wanted: Sequence[Place]) -> None:
    """Nobody else listens where this process is to listen: told once, instead of dying there again and again."""
    for place in wanted:
        if not _comes(place.is_free):
            stop(
                Exit.CONFIGURATION,
                f"{place.key}: port {place.port} of {place.host} cannot be taken: is the node running already "
                "(`ai-node health`)? `ss -ltnp` names the program that has it; else give another one in the settings",
            )


def _comes(is_so: Callable[[], bool]) -> bool:
    """Whether it is so now, or soon: the children of a node that was killed take a moment to end."""
    deadline = time.monotonic() + LEAVING_S
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _start(name: str) -> tuple[Settings, Database]:
    from dicom_node import logs
    from dicom_node.cli.at_rest import check_keys

    chosen = settings()
    logs.set_up(name)
    check_keys(chosen)
    database = Database(chosen.records_url)
    try:
        if not database.is_migrated():
            from dicom_node.serve import migrate

            migrate(chosen)
        database.check()
    except DatabaseRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    return chosen, database


def _check_before_start(chosen: Settings) -> None:
    """What must be right before anything listens: certificates, destinations and the route file (I22)."""
    from dicom_node.cli.at_rest import check_keys
    from dicom_node.cli.destinations import check_files
    from dicom_node.routing import RoutesRefused
    from dicom_node.routing.book import load_routes
    from dicom_node.settings import FhirDestination, SettingsRefused
    from dicom_node.stages.destinations import OWN_ENDPOINT
    from dicom_node.tls import TlsRefused
    from dicom_node.tls import check as check_identity
    from fhir_bridge.transport import check_address

    check_keys(chosen)

    if chosen.uses_tls:
        try:
            check_identity(chosen.tls.identity)
        except TlsRefused as unusable:
            stop(Exit.CONFIGURATION, f"tls: {unusable}")
    try:
        check_files(chosen)
    except SettingsRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    for name, destination in chosen.destinations.items():
        if isinstance(destination, FhirDestination):
            try:
                check_address(destination.url, destination.insecure_ok_because)
            except ValueError as unsafe:
                stop(Exit.CONFIGURATION, f"destinations.{name}.url: {unsafe}")
    try:
        routes = load_routes(chosen.routes)
    except RoutesRefused as refused:
        stop(Exit.CONFIGURATION, str(refused))
    for route in routes.routes:
        unknown = [name for name in route.destinations if name not in chosen.destinations]
        if route.enabled and unknown:
            stop(Exit.CONFIGURATION, f"route {route.name}: no destination {', '.join(unknown)} in the configuration")
    if OWN_ENDPOINT in chosen.destinations:
        stop(Exit.CONFIGURATION, f"destinations.{OWN_ENDPOINT}: the node's own endpoint has this name; choose another")


def _check_models(chosen: Settings, database: Database) -> None:
    """The models that the routes name, in the versions that the aliases stand for (I25)."""
    from dicom_node.models import check_models
    from dicom_node.refusals import Refused
    from dicom_node.routing.book import load_routes

    try:
        check_models(chosen, load_routes(chosen.routes), database)
    except Refused as refused:
        told = refused.refusal
        stop(Exit.CONFIGURATION, f"{told.message} expected {told.expected}, found {told.found}. {told.advice}")


def _until_told(body: Callable[[threading.Event], None]) -> None:
    from dicom_node.work import until_told

    raise typer.Exit(until_told(body))
