"""TLS as the node speaks it: contexts of both sides, and servers that follow their files (PS3.15 B.12, BCP 195, S3).

TLS 1.2 with forward secrecy and authenticated ciphers, or 1.3; nothing older is negotiated.  A server looks at its
files when somebody connects, so a renewed certificate counts from the next handshake on, without a restart and without
a signal; files that do not fit together are not taken, and the ones in force stay.

Ground floor: knows no settings.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often at most a server looks whether its files have changed."""
WARN_DAYS = 21
"""From so many days before its end on a certificate is spoken of."""

# RFC 9325 section 4.2 for TLS 1.2; the suites of 1.3 are all fit
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsRefused(ValueError):
    """A certificate or key that cannot be used; the text names the file, what was expected and what to do."""


@dataclass(frozen=True)
class Identity:
    """Who the node is to a peer that asks, and whom it believes.

    Attributes
    ----------
    certificate_file
        PEM: the node's certificate, then those between it and its authority.
    private_key_file
        PEM without a passphrase, mode 0600 or 0400.
    authority_file
        PEM: certificates of the authorities whose peers are believed.
    """

    certificate_file: Path
    private_key_file: Path
    authority_file: Path


@dataclass(frozen=True)
class CertificateFacts:
    """What is told of a certificate."""

    common_name: str
    names: tuple[str, ...]
    """DNS names and IP addresses it is valid for."""
    begins_at: datetime
    ends_at: datetime
    fingerprint: str
    """SHA-256 of the certificate, in pairs of hexadecimal digits."""

    def days_left(self, moment: datetime | None = None) -> int:
        """Whole days until it ends; negative when it has ended."""
        return (self.ends_at - (moment or datetime.now(UTC))).days


def read_certificate(path: Path) -> CertificateFacts:
    """The first certificate of a PEM file.

    Raises
    ------
    TlsRefused
        If the file is absent or holds none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise TlsRefused(f"{path}: {error.strerror}. `ai-node tls init` makes certificates.") from None
    except ValueError:
        raise TlsRefused(f"{path}: expected a certificate in PEM form, found something else.") from None
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternative.get_values_for_type(x509.DNSName),
            *(str(address) for address in alternative.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    return CertificateFacts(
        common_name=str(common[0].value) if common else "",
        names=tuple(names),
        begins_at=certificate.not_valid_before_utc,
        ends_at=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
    )


def first_certificate(path: Path) -> bytes:
    """The first certificate of a PEM file, alone, in PEM form again: nothing else that the file may hold.

    Raises
    ------
    TlsRefused
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.PEM)
    except (OSError, ValueError):
        raise TlsRefused(f"{path}: expected a certificate in PEM form.") from None


def check(identity: Identity) -> None:
    """Look whether the files can be used together.

    Raises
    ------
    TlsRefused
        Naming the file; never with what stands in it.
    """
    read_certificate(identity.certificate_file)
    _check_mode(identity.private_key_file)
    _server_context(identity, is_mutual=True)


def client_context(authority_file: Path | None, identity: Identity | None = None) -> ssl.SSLContext:
    """The calling side: the peer's certificate and name are checked, always.

    Parameters
    ----------
    authority_file
        Whom to believe; None: the authorities of the system.
    identity
        Whose certificate is shown to a peer that asks for one; None: none is.
    """
    try:
        context = ssl.create_default_context(cafile=authority_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if identity is not None:
            context.load_cert_chain(identity.certificate_file, identity.private_key_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsRefused(
            f"TLS files for calling others cannot be used ({_said(error)}); expected certificates in PEM form and, "
            "where the node shows one, its own private key"
        ) from None
    return context


class CallingSide:
    """The calling side of a client that lives long: the certificate it shows follows its files.

    Parameters
    ----------
    authority_file, identity
        As of `client_context`.
    """

    def __init__(self, authority_file: Path | None, identity: Identity | None) -> None:
        self._identity = identity
        self._seen = None if identity is None else _signature(identity)
        self.context = client_context(authority_file, identity)

    def follow(self) -> None:
        """Before a call: take a renewed certificate, for the connections that are made from now on."""
        if self._identity is None or (found := _signature(self._identity)) == self._seen:
            return
        try:
            self.context.load_cert_chain(self._identity.certificate_file, self._identity.private_key_file)
        except (OSError, ssl.SSLError):
            log.warning("tls.files-not-taken")
            return
        self._seen = found
        log.info("tls.files-taken")


class ServerSide:
    """The answering side, with a context that follows its files.

    Parameters
    ----------
    identity
        The files.
    is_mutual
        Every client must show a certificate of one of the authorities.

    Raises
    ------
    TlsRefused
        If the files cannot be used now.
    """

    def __init__(self, identity: Identity, *, is_mutual: bool) -> None:
        self.identity, self.is_mutual = identity, is_mutual
        check(identity)
        self._lock = threading.Lock()
        self._seen = _signature(identity)
        self._looked_at = time.monotonic()
        self._current = _server_context(identity, is_mutual=is_mutual)
        self.context = _server_context(identity, is_mutual=is_mutual)
        """For listening: every handshake on it goes on with the files as they are then.

        OpenSSL asks this question for each Client Hello, whether it names a server or not, so what is meant for
        several names on one address serves as well for several certificates in time.
        """
        self.context.sni_callback = self._go_on

    def _go_on(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_S:
                self._looked_at = time.monotonic()
                self._follow()
            connection.context = self._current

    def _follow(self) -> None:
        found = _signature(self.identity)
        if found == self._seen:
            return
        try:
            check(self.identity)
            self._current = _server_context(self.identity, is_mutual=self.is_mutual)
        except TlsRefused:
            log.warning("tls.files-not-taken")  # between two renames, or wrong: the next look tells
            return
        self._seen = found
        log.info("tls.files-taken")


def names_of_peer(connection: ssl.SSLSocket) -> frozenset[str]:
    """Common name and DNS names of the certificate that a peer showed and that was verified; none: empty."""
    shown = connection.getpeercert() or {}
    # typed loosely by the library: a tuple of sets of pairs, and a tuple of pairs
    subject: Iterable[Iterable[tuple[str, str]]] = shown.get("subject", ())  # type: ignore[assignment]
    alternative: Iterable[tuple[str, str]] = shown.get("subjectAltName", ())  # type: ignore[assignment]
    common = {value for part in subject for key, value in part if key == "commonName"}
    return frozenset(common | {value for kind, value in alternative if kind == "DNS"})


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _signature(identity: Identity) -> tuple[tuple[int, int, int], ...]:
    """Changes when one of the files was replaced or written."""
    seen = []
    for path in (identity.certificate_file, identity.private_key_file, identity.authority_file):
        try:
            status = path.stat()
        except OSError:
            seen.append((0, 0, 0))
            continue
        seen.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def _server_context(identity: Identity, *, is_mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(identity.certificate_file, identity.private_key_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsRefused(
            f"{identity.certificate_file} and {identity.private_key_file}: expected a certificate in PEM form and its "
            f"own private key without a passphrase ({_said(error)})"
        ) from None
    if is_mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        # a resumed session would not show its certificate again
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        try:
            context.load_verify_locations(identity.authority_file)
        except (OSError, ssl.SSLError) as error:
            raise TlsRefused(
                f"{identity.authority_file}: expected the certificates of the authorities whose peers are believed "
                f"({_said(error)})"
            ) from None
    return context


def _check_mode(path: Path) -> None:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError as error:
        raise TlsRefused(f"{path}: {error.strerror}. `ai-node tls init` makes certificates.") from None
    if mode & 0o077:
        raise TlsRefused(f"{path}: mode {mode:04o} lets others read a private key; expected 0600 or 0400.")


def _said(error: OSError) -> str:
    """OpenSSL's own word for it, never the text, which may quote a file."""
    return str(getattr(error, "reason", None) or error.strerror or type(error).__name__)
