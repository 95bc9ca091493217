"""Where results go: one section of settings per kind of destination (`destinations.<name>` in `config/node.yaml`).

Archives take DICOM objects and are asked for them afterwards: `stow`, `cstore`.  File destinations take files, chosen
by `objects` and named by `names`: `folder`, `http`, `ftp`, `ftps`, `sftp`.  `fhir` takes the report.  Beside them
stand the webhooks (`webhooks.<name>`): platforms that are told when a request of theirs is over.
"""

from __future__ import annotations

import base64
import binascii
import re
import string
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def check_url(url: str, insecure_ok_because: str, key: str = "url") -> None:
    """Refuse a URL to which nothing may be sent: plain HTTP to another machine without a written reason, or no URL.

    Raises
    ------
    ValueError
        Naming the key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username is not None:
        raise ValueError(f"{key}: expected https://host/path, without user name and query")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not insecure_ok_because.strip():
        raise ValueError(f"{key}: https, or insecure_ok_because with the written reason for plain HTTP beyond loopback")


AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9_ .-]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Base of every section: an unknown key refuses the start, and nothing changes after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CommonPeer(Section):
    """What every system has that the node calls: how long it is waited for, and tried again."""

    retry_first_s: float = Field(5.0, gt=0)
    retry_cap_s: float = Field(1800.0, gt=0)
    retry_span_h: float = Field(72.0, gt=0)
    timeout_s: float = Field(60.0, gt=0)
    circuit_failures: int = Field(5, ge=1)
    """After so many failures of the destination in a row nothing but one probe at a time is tried."""
    circuit_pause_s: float = Field(30.0, gt=0)
    """Until the first probe; doubled after each that fails, up to `retry_cap_s`."""


class CommonDestination(CommonPeer):
    """What every kind of destination has."""

    after: str | None = None
    """Send only when this destination has confirmed."""
    reject_superseded: bool = True
    """Send a key object that rejects the superseded result set (113001)."""


class StowDestination(CommonDestination):
    """A DICOMweb archive: STOW-RS, then QIDO-RS and WADO-RS to see that it is there."""

    kind: Literal["stow"]
    url: str
    """Root of its DICOMweb services, e.g. http://127.0.0.1:8042/dicom-web"""
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    client_certificate: bool = False
    """Show the node's certificate of section `tls` to a server that asks for one."""
    insecure_ok_because: str = ""

    @model_validator(mode="after")
    def _is_protected(self) -> StowDestination:
        check_url(self.url, self.insecure_ok_because)
        return self


class CStoreDestination(CommonDestination):
    """A DIMSE archive: C-STORE, then C-FIND or, where it has one, QIDO-RS to see that it is there."""

    kind: Literal["cstore"]
    host: str
    port: Port
    ae_title: AETitle
    tls: bool = False
    """DICOM over TLS (PS3.15 B.12); the node shows its certificate of section `tls` to a peer that asks for one."""
    tls_name: str = ""
    """The name in its certificate, where that is not `host`."""
    ca_file: Path | None = None
    """Certificates to trust instead of `tls.authority_file`."""
    insecure_ok_because: str = ""
    verify_url: str | None = None
    """Root of DICOMweb services of the same archive, for verification by content; else C-FIND by UID."""
    verify_username: str = ""
    verify_password_file: Path | None = None
    verify_ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    verify_client_certificate: bool = False
    """Show the node's certificate of section `tls` at `verify_url` too."""

    @model_validator(mode="after")
    def _certificates_are_for_tls(self) -> CStoreDestination:
        if not self.tls and (self.tls_name or self.ca_file):
            raise ValueError("tls_name and ca_file go with tls: true")
        return self

    @model_validator(mode="after")
    def _credentials_are_for_an_address(self) -> CStoreDestination:
        if self.verify_url is not None:
            check_url(self.verify_url, self.insecure_ok_because, "verify_url")
        elif any(getattr(self, key) for key in type(self).model_fields if key.startswith("verify_")):
            raise ValueError("what begins with verify_ goes with verify_url")
        return self


FileKind = Literal["seg", "pdf", "sc", "sr", "ko", "mask", "report", "overlay", "result"]
"""What a file destination may be sent, in sending order: DICOM objects; mask.nii.gz, the page as PDF, the overlay as
PNG, result.json, which comes last: where it is, everything that it belongs to is."""

NAME_FIELDS = ("study", "run", "model", "object", "hash")
"""What `names` may hold, all of it opaque: the node's own number of the study, of the run; the model's name; the kind
of the object; a digest that only this object of this run has."""

_NAME_WORDS = re.compile(r"[A-Za-z0-9_./-]*")


class CommonFileDestination(CommonDestination):
    """What every kind of destination has that takes files."""

    objects: tuple[FileKind, ...] = ("seg", "pdf", "sc", "sr", "ko")
    """Which of the results, in whatever order; `ko` only where `reject_superseded`."""
    names: str = "{run}-{object}"
    """Name of a file without its ending, with {study} {run} {model} {object} {hash}; a / makes folders."""

    @field_validator("names")
    @classmethod
    def _names_are_opaque_and_different(cls, value: str) -> str:
        try:
            parts = list(string.Formatter().parse(value))
        except ValueError:
            raise ValueError("expected a template such as {study}/{run}-{object}") from None
        fields = [field for _, field, _, _ in parts if field is not None]
        unknown = sorted(set(fields) - set(NAME_FIELDS))
        if unknown or any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError(f"only {{{'} {'.join(NAME_FIELDS)}}} may stand in a name; found {', '.join(unknown)}")
        words = "".join(text for text, _, _, _ in parts)
        if not _NAME_WORDS.fullmatch(words) or len(value) > 100:
            raise ValueError("besides fields only letters, digits, _ . - and /, at most 100 characters")
        if any(not part or part.startswith(".") for part in value.split("/")):
            raise ValueError("no empty part, no part that begins with a dot, no / at either end")
        if "hash" not in fields and not {"run", "object"} <= set(fields):
            raise ValueError("two files must never have one name: use {run} and {object}, or {hash}")
        return value

    @field_validator("objects")
    @classmethod
    def _objects_are_named_once(cls, value: tuple[FileKind, ...]) -> tuple[FileKind, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("expected at least one kind of object, each once")
        return value


class FolderDestination(CommonFileDestination):
    """A folder, for tests and for archives that watch one."""

    kind: Literal["folder"]
    path: Path


class HttpDestination(CommonFileDestination):
    """A web server that takes files by PUT or POST, or a WebDAV folder."""

    kind: Literal["http"]
    url: str
    """A file goes to this URL plus / plus its name (POST: to this URL)."""
    method: Literal["PUT", "POST"] = "PUT"
    webdav: bool = False
    """Write under another name and MOVE, so that nothing half is ever visible; makes folders."""
    check: Literal["read-back", "answer"] = "read-back"
    """`answer`: for servers that give nothing back; the confirmation then says that they only said so."""
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    client_certificate: bool = False
    """Show the node's certificate of section `tls` to a server that asks for one."""
    insecure_ok_because: str = ""

    @model_validator(mode="after")
    def _one_way_in(self) -> HttpDestination:
        check_url(self.url, self.insecure_ok_because)
        if self.token_file is not None and (self.username or self.password_file is not None):
            raise ValueError("either token_file or username and password_file")
        if self.webdav and (self.method != "PUT" or self.check != "read-back"):
            raise ValueError("webdav goes with method PUT and check read-back")
        return self


class CommonServerDestination(CommonFileDestination):
    """What FTP, FTPS and SFTP have alike."""

    host: str
    username: str
    password_file: Path | None = None
    folder: str = Field("", pattern=r"^[^\x00-\x1f]*$")
    """Where the files go; empty: where the server puts this user. It must exist."""


class FtpDestination(CommonServerDestination):
    """An FTP server, in clear: password and results can be read by everybody on the way."""

    kind: Literal["ftp"]
    port: Port = 21
    insecure_ok_because: str = Field(min_length=1)
    """Written reason why clear text is acceptable there, wherever the server stands."""


class FtpsDestination(CommonServerDestination):
    """An FTP server over TLS (RFC 4217, explicit): control and data, never falling back to clear text."""

    kind: Literal["ftps"]
    port: Port = 21
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""


class SftpDestination(CommonServerDestination):
    """An SSH server with SFTP, known by its host keys."""

    kind: Literal["sftp"]
    port: Port = 22
    key_file: Path | None = None
    """Private key; with or instead of the password."""
    key_passphrase_file: Path | None = None
    host_keys: tuple[Annotated[str, Field(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+( .*)?$")], ...] = Field(
        min_length=1
    )
    """Public keys of the server, as in `known_hosts` without the host; no other is accepted, and none is learnt."""

    @field_validator("host_keys")
    @classmethod
    def _host_keys_are_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            kind, text = line.split(" ")[:2]
            try:
                key = base64.b64decode(text, validate=True)
            except binascii.Error:
                key = b""
            if key[4 : 4 + int.from_bytes(key[:4], "big")] != kind.encode():
                raise ValueError("expected public keys as `type base64`, as in known_hosts without the host name")
        return value

    @model_validator(mode="after")
    def _some_way_in(self) -> SftpDestination:
        if self.password_file is None and self.key_file is None:
            raise ValueError("password_file or key_file is needed")
        return self


class FhirDestination(CommonDestination):
    """A FHIR R4 server."""

    kind: Literal["fhir"]
    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    client_certificate: bool = False
    """Show the node's certificate of section `tls` to a server that asks for one."""
    insecure_ok_because: str = ""

    @model_validator(mode="after")
    def _is_protected(self) -> FhirDestination:
        check_url(self.url, self.insecure_ok_because)
        return self


class Webhook(CommonPeer):
    """A platform that is called when a request is over; the call is signed (docs/reference/webhooks.md)."""

    url: str
    """Where a JSON body is posted."""
    secret_file: Path
    """Holds the secret of the signature: ``whsec_`` and base64 of at least 24 bytes, or at least 24 characters."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    client_certificate: bool = False
    """Show the node's certificate of section `tls` to a server that asks for one."""
    insecure_ok_because: str = ""

    @model_validator(mode="after")
    def _is_protected(self) -> Webhook:
        check_url(self.url, self.insecure_ok_because)
        if urlsplit(self.url).fragment:
            raise ValueError("url: expected https://host/path, without fragment")
        return self


FileDestination = FolderDestination | HttpDestination | FtpDestination | FtpsDestination | SftpDestination

Destination = Annotated[
    StowDestination | CStoreDestination | FileDestination | FhirDestination, Field(discriminator="kind")
]
