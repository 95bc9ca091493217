"""doctor: check everything the node needs and say what to do; config: the settings in force."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
import typer

from dicom_node.cli.common import JSON_OPTION, Exit, emit, out, settings, stop
from dicom_node.cli.destinations import Verdict, check_destinations
from dicom_node.cli.operate import NO_RECORDS, OTHER_VERSION
from dicom_node.cli.ports import places
from dicom_node.cli.troubles import told
from dicom_node.settings import LOOPBACK, Settings, SettingsRefused, read_secret
from dicom_node.tls import TlsRefused, client_context

config_app = typer.Typer(no_args_is_help=True, help="The settings in force.")

CLOCK_TOLERANCE_S = 5.0


@config_app.command("show")
def config_show(as_json: bool = JSON_OPTION) -> None:
    """Print the whole tree in force: file, environment and defaults together. Secrets show as file names only.

    Example: ai-node --config config/node.yaml config show
    """
    import yaml

    tree = settings().model_dump(mode="json")
    if as_json:
        emit(tree)
    else:
        out.print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), markup=False)


def doctor(as_json: bool = JSON_OPTION) -> None:
    """Check Orthanc, FHIR, disk, models, routes, ports, clock; say what to do. Exit code 1 when something is bad.

    Example: ai-node doctor
    """
    chosen = settings()
    verdicts = [verdict for check in CHECKS for verdict in _safely(check, chosen)]
    if as_json:
        emit([asdict(v) for v in verdicts])
    else:
        marks = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "bad": "[red]bad[/red]    "}
        for verdict in verdicts:
            out.print(marks[verdict.level], f"{verdict.check}: ", end="")
            out.print(verdict.found, markup=False, soft_wrap=True)
            if verdict.advice:
                out.print(f"          {verdict.advice}", markup=False, soft_wrap=True)
    if any(v.level == "bad" for v in verdicts):
        stop(Exit.FAULT, "something needs attention")


def _safely(check: Callable[[Settings], Iterator[Verdict]], chosen: Settings) -> list[Verdict]:
    try:
        return list(check(chosen))
    except SettingsRefused as refused:
        return [Verdict(check.__name__.strip("_"), "bad", str(refused))]
    except Exception as fault:  # one check that cannot be made does not take the others with it
        found = told(fault)[1] or f"the check could not be made ({type(fault).__name__})"
        return [
            Verdict(check.__name__.strip("_"), "bad", found, "Look at what it asks: permissions, the answer's form.")
        ]


def _disk(chosen: Settings) -> Iterator[Verdict]:
    folder = chosen.data.folder
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    usage = shutil.disk_usage(existing)
    line = max(chosen.data.min_free_gb * 1e9, chosen.data.min_free_share * usage.total)
    found = f"{usage.free / 1e9:.1f} GB free where the data folder is; images are admitted above {line / 1e9:.1f} GB"
    if usage.free < line:
        yield Verdict("disk", "bad", found, "Free space or enlarge the disk.")
    elif usage.free < 3 * line:
        yield Verdict("disk", "warning", found, "Plan for more space: the line is near.")
    else:
        yield Verdict("disk", "ok", found)
    if not os.access(existing, os.W_OK):
        yield Verdict("disk", "bad", "the data folder cannot be written", "Give it to the user who runs the node.")


def _records(chosen: Settings) -> Iterator[Verdict]:
    from dicom_node import auditing
    from dicom_node.cli.audit import audit_problems
    from dicom_node.record import Database, Schema, arrivals, audit

    database = Database(chosen.records_url)
    try:
        found = database.schema()
        if found is Schema.NONE:
            yield Verdict("records", "warning", "not set up yet", f"{NO_RECORDS}.")
            return
        if found is not Schema.OURS:
            words, _, advice = OTHER_VERSION[found].partition(": ")
            yield Verdict("records", "bad" if found is Schema.NEWER else "warning", words, f"{advice}.")
            return
        database.check()
        with database.read() as connection:
            missing = arrivals.missing_files(connection)
            broken = audit.verify(connection)
            problems = audit_problems(chosen, database, connection)
            late = auditing.concerns(chosen, connection)
        level = "bad" if missing else "ok"
        advice = "Restore the vault from the backup." if missing else ""
        yield Verdict("records", level, f"written and read back; {missing} objects without their file", advice)
        if broken is not None:
            yield Verdict("audit", "bad", broken, "Somebody changed the audit log: compare with a backup.")
        for problem in problems:
            yield Verdict("audit", "bad", problem, "See `ai-node audit verify`, and the heads kept elsewhere.")
        for one in late:
            yield Verdict("audit", "warning", one.found, one.advice)
    finally:
        database.close()


def _retention(chosen: Settings) -> Iterator[Verdict]:
    from dicom_node.record import Database, removals
    from dicom_node.retention import Kind

    database = Database(chosen.records_url)
    try:
        if not database.is_migrated():
            return
        with database.read() as connection:
            begun, held = len(removals.unfinished(connection)), len(removals.holds(connection))
    finally:
        database.close()
    days = {kind.value: chosen.retention.days(kind) for kind in Kind}
    told = ", ".join(f"{name} {kept:g} days" for name, kept in days.items() if kept is not None)
    yield Verdict("retention", "ok", f"{told or 'everything is kept for ever'}; {held} legal holds")
    if begun:
        yield Verdict("retention", "warning", f"{begun} deletions are begun and not ended",
                      "The worker's next round ends them; or `ai-node retention run`.")  # fmt: skip


def _models(chosen: Settings) -> Iterator[Verdict]:
    from ai_engine.packages import find_package, load_package
    from dicom_node.refusals import Refused
    from dicom_node.routing import RoutesRefused
    from dicom_node.routing.book import load_routes

    try:
        routes = load_routes(chosen.routes)
    except RoutesRefused as refused:
        yield Verdict("routes", "bad", str(refused), "Mend the route file.")
        return
    for route in routes.routes:
        state = "" if route.enabled else " (switched off)"
        yield Verdict("routes", "ok", f"{route.name}: model {route.model}, publishes {route.publish.value}{state}")
        unknown = [name for name in route.destinations if name not in chosen.destinations]
        if unknown:
            yield Verdict("routes", "bad", f"{route.name} names unknown destinations: {', '.join(unknown)}",
                          "Add them to node.yaml or take them out of the route.")  # fmt: skip
        if not route.enabled:
            continue
        try:
            for reference, pinned in _in_force(chosen, route.model).items():
                folder = find_package(chosen.engine.models, reference)
                package = load_package(folder, pinned_sha256=pinned, weights=False)
                yield Verdict("model", "ok", f"{package.reference}: every file is the one its manifest names")
        except Refused as refused_model:
            told = refused_model.refusal
            yield Verdict("model", "bad", f"{route.model}: {told.message} found: {told.found}", told.advice)


def _in_force(chosen: Settings, reference: str) -> dict[str, str | None]:
    """The exact versions behind a route's model; before there are records, what the name alone stands for."""
    from dicom_node.record import Database
    from dicom_node.registry import in_force

    database = Database(chosen.records_url)
    try:
        if not database.is_migrated():
            return {reference: None}
        with database.read() as connection:
            return in_force(connection, reference)
    finally:
        database.close()


def _backends(_chosen: Settings) -> Iterator[Verdict]:
    """What can compute here; an optional extra that is missing is no defect, but it is said by name."""
    import importlib.util

    import torch

    from ai_engine.backends.tensorflow import is_installed

    device = "CUDA" if torch.cuda.is_available() else "no CUDA device"
    yield Verdict("engine", "ok", f"OpenVINO and PyTorch are installed; {device}")
    if is_installed():
        yield Verdict("tensorflow", "ok", "installed: Keras packages can also run through TensorFlow")
    elif _chosen.engine.backend == "tensorflow":
        yield Verdict("tensorflow", "bad", "engine.backend is tensorflow, which is not installed",
                      "Install the extra [tensorflow], or set engine.backend to auto.")  # fmt: skip
    else:
        yield Verdict("tensorflow", "ok", "not installed (extra [tensorflow]): Keras packages run through OpenVINO")
    if importlib.util.find_spec("nncf") is None:
        yield Verdict("nncf", "ok", "not installed (extra [train]): needed only to make 8-bit variants of packages")


def _decoders(_chosen: Settings) -> Iterator[Verdict]:
    from dicom_node.volume import check_decoders

    missing = check_decoders()
    if missing:
        yield Verdict("decoders", "bad", f"missing: {', '.join(missing)}", "Run `make setup` again.")
    else:
        yield Verdict("decoders", "ok", "every accepted transfer syntax can be decoded")


def _orthanc(chosen: Settings) -> Iterator[Verdict]:
    orthanc = chosen.orthanc
    secret = read_secret(orthanc.password_file) if orthanc.password_file else ""
    auth = (orthanc.username, secret) if orthanc.username else None
    trust = client_context(orthanc.ca_file, chosen.shown(orthanc))
    try:
        with httpx.Client(base_url=orthanc.url, auth=auth, timeout=5.0, trust_env=False, verify=trust) as client:
            pages = ("/system", "/plugins", "/modalities?expand", "/tools/now")
            answer, plugins, changed, clock = (client.get(page) for page in pages)
    except httpx.HTTPError as error:
        yield Verdict("orthanc", "bad", f"no answer at orthanc.url ({type(error).__name__})", "Is Orthanc running?")
        return
    if answer.status_code == 401:
        yield Verdict("orthanc", "bad", "it wants a user and password", "Set orthanc.username and password_file.")
        return
    said = answer.json()
    yield Verdict("orthanc", "ok", f"Orthanc {said.get('Version')} answers")
    if "dicom-web" not in plugins.json():
        yield Verdict("orthanc", "bad", "the DICOMweb plugin is not loaded", "apt-get install orthanc-dicomweb")
    if auth is None:
        yield Verdict("orthanc", "warning", "it answers without a password", "Set AuthenticationEnabled (orthanc/).")
    ours = [m for m in changed.json().values() if _names_us(m, chosen)]
    if not ours:
        yield Verdict("orthanc", "warning", f"it knows no modality {chosen.node.ae_title} at port {chosen.door.port}",
                      "Without it nothing is forwarded: see docs/how-to/point-orthanc-at-the-node.md.")  # fmt: skip
    yield _clock(clock.text)


def _names_us(modality: Any, chosen: Settings) -> bool:
    return (
        isinstance(modality, dict)
        and modality.get("AET") == chosen.node.ae_title
        and int(modality.get("Port", 0)) == chosen.door.port
    )


def _clock(told: str) -> Verdict:
    try:
        there = datetime.strptime(told.strip(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)  # as Orthanc writes it
    except ValueError:
        return Verdict("clock", "warning", "Orthanc tells no time to compare with", "Keep the clock by NTP.")
    apart = abs(there.timestamp() - time.time())
    if apart > CLOCK_TOLERANCE_S:
        return Verdict("clock", "bad", f"{apart:.0f} s away from Orthanc's clock", "Keep both clocks by NTP.")
    return Verdict("clock", "ok", "agrees with Orthanc's clock")


def _ports(chosen: Settings) -> Iterator[Verdict]:
    for place in places(chosen):
        if place.host not in LOOPBACK and not place.is_tls:
            found = f"listens on {place.host}, without TLS of its own"
            yield Verdict(place.label, "warning", found, "Keep that network isolated.")
        if place.is_free():
            yield Verdict(place.label, "ok", f"port {place.port} is free: the node is not running")
        else:
            yield Verdict(place.label, "ok", f"port {place.port} is taken: by the running node, if it runs")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 4 * chosen.door.max_associations + 200
    if soft < need:
        yield Verdict("files", "warning", f"{soft} open files allowed; full load needs {need}", "ulimit -n 4096")
    if not chosen.door.senders:
        yield Verdict("door", "warning", "no sender is listed: every association is rejected", "Add door.senders.")


def _at_rest(chosen: Settings) -> Iterator[Verdict]:
    from dicom_node.sealing import reseal
    from dicom_node.sealing.master_keys import Keys

    keys = None if chosen.data.key_file is None else Keys(chosen.data.key_file)
    lost = sorted(reseal.missing(chosen.data.folder, keys))
    if lost:
        yield Verdict("at rest", "bad", f"stored files need keys that are not here: {', '.join(lost)}",
                      "Bring data.key_file back from its copy.")  # fmt: skip
    elif chosen.data.encrypt and keys is not None:
        yield Verdict(
            "at rest", "ok", f"stored files are sealed by {keys.ids[0]}; the database is for its volume to keep"
        )
    else:
        yield Verdict("at rest", "ok", "stored files are not sealed: the disk's own encryption, or data.encrypt")


def _certificates(chosen: Settings) -> Iterator[Verdict]:
    from dicom_node.cli.readiness import certificates_of
    from dicom_node.tls import WARN_DAYS, TlsRefused, check

    if not chosen.uses_tls:
        return
    try:
        check(chosen.tls.identity)
        for name, facts in certificates_of(chosen).items():
            days = facts.days_left()
            level = "bad" if days < 0 else "warning" if days < WARN_DAYS else "ok"
            advice = (
                "" if level == "ok" else "`ai-node tls renew`; a new authority must be trusted anew by every device."
            )
            yield Verdict("certificates", level, f"{name}: {facts.common_name}, ends in {days} days", advice)
    except TlsRefused as refused:
        yield Verdict("certificates", "bad", str(refused), "See docs/how-to/encrypt-the-network.md.")


def _viewer(chosen: Settings) -> Iterator[Verdict]:
    folder = chosen.web.viewer_folder
    if folder is not None and not (folder / "index.html").is_file():
        yield Verdict("viewer", "bad", "web.viewer_folder holds no index.html", "Run `tools/setup viewer`.")


def _broker(chosen: Settings) -> Iterator[Verdict]:
    from portal.luna.broker import Broker, BrokerAway

    if not chosen.bridge.host:
        return
    try:
        Broker(chosen.bridge).reach()
    except BrokerAway as away:
        yield Verdict("broker", "bad", f"the message broker cannot be reached ({away})", "Look at section bridge.")
    else:
        yield Verdict("broker", "ok", "the message broker is there and takes the account")


def _repository(chosen: Settings) -> Iterator[Verdict]:
    from dicom_node.auditing.out import repository
    from dicom_node.auditing.syslog import SyslogTrouble, send

    place = repository(chosen)
    if place is None:
        yield Verdict("audit repository", "ok", "none: the audit log stays on this machine (audit.syslog_host)")
        return
    try:
        send([], place)
    except (SyslogTrouble, TlsRefused) as trouble:
        yield Verdict("audit repository", "bad", str(trouble), "Entries wait in the log until it is back.")
    else:
        found = "sent to by UDP: nobody knows what arrives" if place.transport == "udp" else "is reached"
        yield Verdict("audit repository", "ok", found)


CHECKS: tuple[Callable[[Settings], Iterator[Verdict]], ...] = (
    _disk,
    _records,
    _retention,
    _models,
    _backends,
    _decoders,
    _orthanc,
    check_destinations,
    _broker,
    _repository,
    _ports,
    _certificates,
    _at_rest,
    _viewer,
)
