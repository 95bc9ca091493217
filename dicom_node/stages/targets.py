"""What a configured destination is to the room that delivers, and by which rule its circuit opens."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from dicom_node import delivery
from dicom_node.record.circuits import Rule
from dicom_node.refusals import PeerTrouble
from dicom_node.settings import (
    CStoreDestination,
    FhirDestination,
    FileDestination,
    FolderDestination,
    FtpDestination,
    FtpsDestination,
    HttpDestination,
    Settings,
    StowDestination,
    read_secret,
)
from dicom_node.tls import TlsRefused, client_context


def target(settings: Settings, name: str) -> delivery.Target:
    """The room's own target for a configured destination; secrets are read when they are needed."""
    chosen = settings.destinations[name]
    if isinstance(chosen, StowDestination):
        return delivery.StowTarget(
            url=chosen.url,
            username=chosen.username,
            secret=_secret(chosen.password_file),
            insecure_ok_because=chosen.insecure_ok_because,
            timeout_s=chosen.timeout_s,
            ca_file=chosen.ca_file,
            identity=settings.shown(chosen),
        )
    if isinstance(chosen, CStoreDestination):
        return delivery.CStoreTarget(
            host=chosen.host,
            port=chosen.port,
            ae_title=chosen.ae_title,
            calling_ae_title=settings.node.ae_title,
            insecure_ok_because=chosen.insecure_ok_because,
            timeout_s=chosen.timeout_s,
            tls=_tls(settings, chosen),
            verify=_verification(settings, chosen),
        )
    if isinstance(chosen, FileDestination):
        return file_target(settings, chosen)
    raise TypeError(f"destination {name!r} takes no objects")


def file_target(settings: Settings, chosen: FileDestination) -> delivery.FileTarget:
    """The room's own target for a destination that takes files."""
    if isinstance(chosen, FolderDestination):
        return delivery.FolderTarget(chosen.path)
    if isinstance(chosen, HttpDestination):
        return delivery.HttpTarget(
            url=chosen.url,
            method=chosen.method,
            webdav=chosen.webdav,
            reads_back=chosen.check == "read-back",
            username=chosen.username,
            secret=_secret(chosen.token_file or chosen.password_file),
            is_bearer=chosen.token_file is not None,
            insecure_ok_because=chosen.insecure_ok_because,
            timeout_s=chosen.timeout_s,
            ca_file=chosen.ca_file,
            identity=settings.shown(chosen),
        )
    if isinstance(chosen, (FtpDestination, FtpsDestination)):
        return delivery.FtpTarget(
            host=chosen.host,
            port=chosen.port,
            username=chosen.username,
            secret=_secret(chosen.password_file),
            folder=chosen.folder,
            is_tls=isinstance(chosen, FtpsDestination),
            insecure_ok_because=chosen.insecure_ok_because if isinstance(chosen, FtpDestination) else "",
            timeout_s=chosen.timeout_s,
            ca_file=chosen.ca_file if isinstance(chosen, FtpsDestination) else None,
        )
    return delivery.SftpTarget(
        host=chosen.host,
        port=chosen.port,
        username=chosen.username,
        host_keys=chosen.host_keys,
        secret=_secret(chosen.password_file),
        private_key=_secret(chosen.key_file),
        passphrase=_secret(chosen.key_passphrase_file),
        folder=chosen.folder,
        timeout_s=chosen.timeout_s,
    )


def context_for(settings: Settings, chosen: FhirDestination) -> ssl.SSLContext:
    """How a FHIR server is called by TLS.

    Raises
    ------
    PeerTrouble
        If the files cannot be used now.
    """
    try:
        return client_context(chosen.ca_file, settings.shown(chosen))
    except TlsRefused as refused:
        raise PeerTrouble(str(refused)) from None


def webhook_target(settings: Settings, name: str) -> delivery.WebhookTarget:
    """The room's own target for a configured webhook."""
    chosen = settings.webhooks[name]
    return delivery.WebhookTarget(
        url=chosen.url,
        key=lambda: read_secret(chosen.secret_file),
        insecure_ok_because=chosen.insecure_ok_because,
        timeout_s=chosen.timeout_s,
        ca_file=chosen.ca_file,
        identity=settings.shown(chosen),
    )


def _tls(settings: Settings, chosen: CStoreDestination) -> delivery.DimseTls | None:
    if not chosen.tls:
        return None
    own = settings.tls
    return delivery.DimseTls(chosen.ca_file or own.authority_file, own.identity, chosen.tls_name)


def _verification(settings: Settings, chosen: CStoreDestination) -> delivery.StowTarget | None:
    """The DICOMweb services by which a DIMSE archive is looked into, where it has some."""
    if chosen.verify_url is None:
        return None
    return delivery.StowTarget(
        url=chosen.verify_url,
        username=chosen.verify_username,
        secret=_secret(chosen.verify_password_file),
        insecure_ok_because=chosen.insecure_ok_because,
        timeout_s=chosen.timeout_s,
        ca_file=chosen.verify_ca_file,
        identity=settings.tls.identity if chosen.verify_client_certificate else None,
    )


def circuit_rule(settings: Settings, name: str) -> Rule | None:
    """By which rule the circuit of a peer opens; None where there is no wire: the node's own endpoint."""
    chosen = settings.peer(name)
    if chosen is None:
        return None
    return Rule(chosen.circuit_failures, chosen.circuit_pause_s, chosen.retry_cap_s, 2 * chosen.timeout_s + 60.0)


def _secret(path: Path | None) -> Callable[[], str] | None:
    return None if path is None else lambda: read_secret(path)
