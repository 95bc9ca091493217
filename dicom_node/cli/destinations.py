"""What `doctor` says of destinations: each is gone to, nothing is sent; and which of them the node leaves alone."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from dicom_node.delivery.webhook import key_bytes
from dicom_node.refusals import PeerTrouble, Refused
from dicom_node.settings import (
    CStoreDestination,
    FhirDestination,
    FileDestination,
    Settings,
    SettingsRefused,
    StowDestination,
    Webhook,
    read_secret,
)
from dicom_node.tls import TlsRefused, client_context

WAIT_S = 5.0
"""For each answer: somebody sits and waits."""


@dataclass(frozen=True)
class Verdict:
    """One check: whether it holds, what was found, and what to do."""

    check: str
    level: str
    """ok, warning or bad."""
    found: str
    advice: str = ""


def check_files(chosen: Settings) -> None:
    """Every secret and every certificate that a destination or webhook names can be read, and by nobody else (I22).

    Raises
    ------
    SettingsRefused
        With the key and what is wrong; never with what stands in the file.
    """
    named = [(f"destinations.{name}", destination) for name, destination in chosen.destinations.items()]
    for where, destination in [*named, *((f"webhooks.{name}", hook) for name, hook in chosen.webhooks.items())]:
        for key in (key for key in type(destination).model_fields if key.endswith("_file")):
            path = getattr(destination, key)
            if path is None:
                continue
            try:
                if key.endswith("ca_file"):
                    ssl.create_default_context(cafile=str(path))
                elif isinstance(destination, Webhook):
                    key_bytes(read_secret(path))
                else:
                    read_secret(path)
            except SettingsRefused as refused:
                raise SettingsRefused(f"{where}.{key}: {refused}") from None
            except Refused as refused:
                raise SettingsRefused(f"{where}.{key}: expected {refused.refusal.expected}") from None
            except (OSError, ssl.SSLError) as error:
                raise SettingsRefused(
                    f"{where}.{key}: expected a file of certificates, found {type(error).__name__}"
                ) from None


def check_destinations(chosen: Settings) -> Iterator[Verdict]:
    """Every configured destination: whether it answers, lets us in, and is tried at all."""
    if not chosen.destinations:
        yield Verdict("destinations", "warning", "none configured", "Results stay in the node until there is one.")
    for name, destination in chosen.destinations.items():
        label = f"destination {name}"
        if isinstance(destination, FileDestination):
            yield _files(chosen, label, destination)
        elif isinstance(destination, StowDestination):
            trust = client_context(destination.ca_file, chosen.shown(destination))
            yield _looked_into(label, destination.url, destination.username, destination.password_file, trust)
        elif isinstance(destination, FhirDestination):
            token = read_secret(destination.token_file) if destination.token_file else None
            trust = client_context(destination.ca_file, chosen.shown(destination))
            yield _asked(label, f"{destination.url.rstrip('/')}/metadata", None, token, trust)
        elif isinstance(destination, CStoreDestination):
            yield _reached(chosen, label, destination)
            if destination.verify_url is not None:
                yield _looked_into(
                    f"{label}, verify_url",
                    destination.verify_url,
                    destination.verify_username,
                    destination.verify_password_file,
                    client_context(
                        destination.verify_ca_file,
                        chosen.tls.identity if destination.verify_client_certificate else None,
                    ),
                )
    yield from _left_alone(chosen)


def _files(chosen: Settings, label: str, destination: FileDestination) -> Verdict:
    from dicom_node import delivery
    from dicom_node.stages.targets import file_target

    target = file_target(chosen, destination)
    if not isinstance(target, delivery.FolderTarget):
        target = replace(target, timeout_s=min(WAIT_S, target.timeout_s))
    try:
        found = delivery.reach(target)
    except PeerTrouble as trouble:
        return Verdict(label, "bad", str(trouble), "Results wait until it is mended.")
    except Refused as refused:
        told = refused.refusal
        return Verdict(label, "bad", f"expected {told.expected}; found {told.found}", "Mend it in node.yaml.")
    return Verdict(label, "ok", found)


def _looked_into(label: str, url: str, username: str, password_file: Path | None, trust: ssl.SSLContext) -> Verdict:
    """Whether DICOMweb services answer a query."""
    auth = (username, read_secret(password_file) if password_file else "") if username else None
    return _asked(label, f"{url.rstrip('/')}/studies?limit=1", auth, None, trust)


def _asked(label: str, url: str, auth: tuple[str, str] | None, token: str | None, trust: ssl.SSLContext) -> Verdict:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        status = httpx.get(url, auth=auth, headers=headers, timeout=WAIT_S, trust_env=False, verify=trust).status_code
    except httpx.HTTPError as error:
        return Verdict(label, "bad", f"no answer ({type(error).__name__})", "Results wait until it is back.")
    if status in (200, 204):
        return Verdict(label, "ok", f"answers {status}")
    return Verdict(label, "bad", f"answers {status}", "Check its URL and credentials in node.yaml.")


def _reached(chosen: Settings, label: str, destination: CStoreDestination) -> Verdict:
    try:
        with socket.create_connection((destination.host, destination.port), timeout=WAIT_S) as connection:
            if not destination.tls:
                return Verdict(label, "ok", "port answers")
            own = chosen.tls
            context = client_context(destination.ca_file or own.authority_file, own.identity)
            with context.wrap_socket(connection, server_hostname=destination.tls_name or destination.host) as secured:
                return Verdict(label, "ok", f"answers by {secured.version()}, and its certificate is believed")
    except TlsRefused as refused:
        return Verdict(label, "bad", str(refused), "`ai-node tls status` looks at the node's own.")
    except ssl.SSLError as error:
        # the library's words about a certificate: expired, of an unknown authority, for another name
        found = getattr(error, "verify_message", "") or error.reason or "no TLS there"
        return Verdict(
            label, "bad", f"no TLS with it: {found}", "Results wait. See its certificate, tls_name, ca_file."
        )
    except OSError as error:
        return Verdict(label, "bad", f"port not reached ({error.strerror or type(error).__name__})", "Is it running?")


def _left_alone(chosen: Settings) -> Iterator[Verdict]:
    """Destinations whose circuit is open, or that a person has paused, by the record of this installation."""
    from dicom_node.record import Database, circuits, pauses

    database = Database(chosen.records_url)
    try:
        if not database.is_migrated():
            return
        with database.read() as connection:
            rows, paused = circuits.rows(connection), pauses.rows(connection)
    finally:
        database.close()
    for row in paused:
        found = f"paused since {row['since'][:19]} UTC by {row['actor']}"
        yield Verdict(f"destination {row['destination']}", "warning", found, "`ai-node destinations resume` ends it.")
    for row in rows:
        found = f"left alone since {row['opened_at'][:19]} UTC after {row['failures']} failures ({row['reason']})"
        advice = (
            f"The next probe goes at {row['probe_at'][:19]} UTC; `ai-node jobs retry` of one of its deliveries: now."
        )
        yield Verdict(f"destination {row['destination']}", "warning", found, advice)
