"""One typed tree of settings: `config/node.yaml`, then environment ``AI_NODE__SECTION__KEY``; secrets by ``…_file``.

An unknown key, a value out of range, or a listener on another address than loopback without a written reason refuses
the start (invariant I22).  Messages name the key, never the value of a secret.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dicom_node.audit_settings import AuditSection
from dicom_node.destination_settings import (
    LOOPBACK,
    AETitle,
    CommonPeer,
    CStoreDestination,
    Destination,
    FhirDestination,
    FileDestination,
    FolderDestination,
    FtpDestination,
    FtpsDestination,
    HttpDestination,
    Port,
    Section,
    SftpDestination,
    StowDestination,
    Webhook,
    check_url,
)
from dicom_node.luna_settings import BridgeSection, LunaSection
from dicom_node.retention_settings import RetentionSection
from dicom_node.tls import Identity
from dicom_node.web_settings import ApiSection, PeopleSection, PhotosSection, WebSection
from dicom_node.words import HOOK
from dicom_node.zones import is_zone, offset, offset_of_study

__all__ = [
    "LOOPBACK",
    "CStoreDestination",
    "FhirDestination",
    "FileDestination",
    "FolderDestination",
    "FtpDestination",
    "FtpsDestination",
    "HttpDestination",
    "Settings",
    "SettingsRefused",
    "SftpDestination",
    "StowDestination",
    "Webhook",
    "check_private",
    "load_settings",
    "read_secret",
]


_SITE = r"^[a-z][a-z0-9-]{0,62}$"


class SettingsRefused(Exception):
    """The configuration is refused; the text says which key, what was expected and what to do (exit code 5)."""


class NodeSection(Section):
    """Who this installation is."""

    ae_title: AETitle = "AINODE"
    organisation: str = Field("", max_length=64)
    """Printed on the report and used as FHIR performer."""
    contact: str = Field("", max_length=64)
    """Whom a reader may ask: a telephone number or an e-mail address of the site."""
    timezone_offset: str = Field("+00:00", pattern=r"^[+-]\d{2}:\d{2}$")
    """Used where the images carry no Timezone Offset From UTC (0008,0201); printed with the result."""
    timezone: str = ""
    """Name of the site's zone, such as America/Santiago, where clocks change: goes before `timezone_offset`."""
    language: Literal["en", "es"] = "en"
    research_use_only: bool = True
    site_namespace: uuid.UUID | None = None
    """All result UIDs derive from it.  Made at the first start and kept in the records when not set here."""

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        if value and not is_zone(value):
            raise ValueError("expected a name such as Europe/Madrid that the machine's time zone data (tzdata) know")
        return value

    def offset_of(self, attributes: Mapping[str, Any]) -> str:
        """The offset with which the objects of a study are written: the images' own, else the site's at their time."""
        said = offset(str(attributes.get("TimezoneOffsetFromUTC") or ""))
        if said is not None or not self.timezone:
            return said or self.timezone_offset
        day, time = (str(attributes.get(keyword) or "") for keyword in ("StudyDate", "StudyTime"))
        return offset_of_study(day, time, self.timezone)


class DataSection(Section):
    """Where the node keeps its truth."""

    folder: Path = Path("data")
    min_free_gb: float = Field(5.0, ge=0)
    """Admission stops (A700, 503) when less than this, or less than `min_free_share`, is free."""
    min_free_share: float = Field(0.02, ge=0, le=0.5)
    encrypt: bool = False
    """Vault, artefacts, uploads and caches are enciphered on the disk; the database is not (docs/how-to)."""
    key_file: Path | None = None
    """Master keys of what is enciphered (`ai-node at-rest init`); stays named as long as anything is."""
    records_url: str | None = None
    """SQLAlchemy URL of the records; default SQLite in `folder`."""

    @model_validator(mode="after")
    def _there_is_a_key(self) -> DataSection:
        if self.encrypt and self.key_file is None:
            raise ValueError("data.encrypt needs data.key_file: `ai-node at-rest init FILE` makes one")
        return self


class TlsSection(Section):
    """Who the node is to peers that call it by TLS, and whom it believes; `ai-node tls init` makes the files."""

    certificate_file: Path = Path("tls/node.pem")
    private_key_file: Path = Path("tls/node.key")
    authority_file: Path = Path("tls/authority.pem")
    """Certificates of the authorities whose peers are believed."""

    @property
    def identity(self) -> Identity:
        """The three files, as the ground floor takes them."""
        return Identity(self.certificate_file, self.private_key_file, self.authority_file)


class Sender(Section):
    """A peer that may open an association to the node."""

    ae_title: AETitle
    address: str | None = None
    """Its IP address; None accepts any address the listener can be reached from."""
    priority: Literal["stat", "routine"] = "routine"
    issuer_of_patient_id: str | None = None
    """Default issuer where the images carry none."""
    is_archive: bool = False
    """An Orthanc that forwards from the archive: its count is evidence, and originals are not passed back to it."""
    quiet_s: float | None = Field(None, gt=0)
    cap_s: float | None = Field(None, gt=0)
    site: str | None = Field(None, pattern=_SITE)
    """Key of the site whose studies it brings; None: the only site there is, or none."""
    certificate_name: str = ""
    """Common name or DNS name in its certificate: it may then come by TLS only.  Empty: its AE title, where the node
    asks for certificates."""


class DoorSection(Section):
    """The C-STORE listener."""

    host: str = "127.0.0.1"
    port: Port = 11112
    insecure_ok_because: str = ""
    """Written reason for listening on another address than loopback without TLS; logged at every start."""
    tls_host: str = "127.0.0.1"
    tls_port: Port | None = None
    """Where TLS is spoken, beside `port`, which stays plain; 2762 by convention (PS3.15 B.12).  None: nowhere."""
    tls_mutual: bool = True
    """By TLS only senders that show a certificate of `tls.authority_file`, with the name that goes with their title."""
    senders: tuple[Sender, ...] = ()
    """Deny first: an AE title that is not listed is rejected."""
    max_associations: int = Field(100, ge=1)
    max_associations_per_address: int = Field(25, ge=1)
    acse_timeout_s: float = Field(5.0, gt=0)
    dimse_timeout_s: float = Field(30.0, gt=0)
    network_timeout_s: float = Field(60.0, gt=0)
    max_pdu_bytes: int = Field(131072, ge=4096)
    max_object_mb: float = Field(512, gt=0)


class GatherSection(Section):
    """When is a series, and when is a study, taken as complete?"""

    quiet_s: float = Field(3.0, gt=0)
    cap_s: float = Field(60.0, gt=0)
    study_quiet_s: float = Field(120.0, gt=0)


class OrthancSection(Section):
    """The Orthanc in front of the node."""

    url: str = "http://127.0.0.1:8042"
    dicomweb_root: str = "/dicom-web"
    username: str = ""
    password_file: Path | None = None
    ae_title: AETitle = "ORTHANC"
    dicom_host: str = "127.0.0.1"
    dicom_port: Port = 4242
    dicom_tls: bool = False
    """Originals are passed on by DICOM over TLS."""
    dicom_tls_name: str = ""
    """The name in its certificate, where that is not `dicom_host`."""
    ca_file: Path | None = None
    """Certificates to trust: over HTTPS instead of the system's, over DICOM instead of `tls.authority_file`."""
    client_certificate: bool = False
    """Over HTTPS show the node's certificate of section `tls` where it is asked for, as over DICOM."""
    insecure_ok_because: str = ""
    """Written reason for plain HTTP, or plain DICOM, to another machine."""
    pass_originals: bool = True
    """Images that a modality sent straight to the node are passed on to this Orthanc."""
    count_as_promised: bool = False
    """True when this archive is fed by somebody other than the sender and the node: its counts are then a promise."""
    institutions: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(pattern=_SITE)]] = (
        Field(default_factory=dict)
    )
    """Institution Name (0008,0080) -> key of the site: whose a study of the archive is that the node never received."""

    @model_validator(mode="after")
    def _is_protected(self) -> OrthancSection:
        check_url(self.url, self.insecure_ok_because)
        is_plain = self.pass_originals and not self.dicom_tls and self.dicom_host not in LOOPBACK
        if is_plain and not self.insecure_ok_because.strip():
            raise ValueError(
                "dicom_host is another machine, and originals are passed on: set dicom_tls, or pass_originals: false, "
                "or write into insecure_ok_because why plain DICOM is acceptable on that network"
            )
        return self


_MODEL_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class EngineSection(Section):
    """How models are run."""

    models: Path = Path("models")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "openvino", "torch", "tensorflow"] = "auto"
    """auto: OpenVINO on the CPU, PyTorch on CUDA.  tensorflow: for Keras packages; the others run as with auto."""
    precision: Literal["package", "f32", "bf16", "f16", "int8"] = "package"
    threads: int = Field(0, ge=0)
    """0: as many as there are processors."""
    timeout_s: float = Field(900.0, gt=0)
    memory_limit_mb: int = Field(6000, ge=500)
    warm_memory_mb: int = Field(2500, ge=500)
    """Memory for models that stay loaded; one model is loaded even when it alone needs more."""
    site_overrides: dict[Annotated[str, Field(pattern=_MODEL_NAME)], Path] = Field(default_factory=dict)
    """Of a classifier: the site's own thresholds and calibration, made by ``ai-node calibrate``; by model name."""
    cache_mb: int = Field(1000, ge=0)
    """Disk for answers that models gave before, so that the same arrays are not computed twice; 0 switches it off."""


class WorkSection(Section):
    """The road."""

    cpu_jobs: int = Field(2, ge=1)
    decode_timeout_s: float = Field(120.0, gt=0)
    decode_memory_mb: int = Field(3000, ge=200)
    reconcile_s: float = Field(180.0, gt=0)
    max_deaths: int = Field(3, ge=1)
    """Deaths of a model or decode child after which a run has failed."""
    max_worker_deaths: int = Field(20, ge=1)


class ReportSection(Section):
    """What the FHIR report says about identity and status."""

    issuers: dict[str, str] = Field(default_factory=dict)
    """Issuer of Patient ID -> FHIR identifier system (URI).  No mapping, no match."""
    accession_system: str = ""
    status: Literal["preliminary", "partial"] = "preliminary"
    identifier_system: str = ""
    """URI that this site alone owns, for result identifiers; empty: ``urn:uuid:<site namespace>``."""


class Settings(BaseSettings):
    """The whole tree; see `config/node.yaml` for the commented defaults."""

    model_config = SettingsConfigDict(
        env_prefix="AI_NODE__", env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    node: NodeSection = NodeSection()
    data: DataSection = DataSection()
    tls: TlsSection = TlsSection()
    door: DoorSection = DoorSection()
    gather: GatherSection = GatherSection()
    orthanc: OrthancSection = OrthancSection()
    routes: Path = Path("config/routes.yaml")
    engine: EngineSection = EngineSection()
    work: WorkSection = WorkSection()
    web: WebSection = WebSection()
    api: ApiSection = ApiSection()
    photos: PhotosSection = PhotosSection()
    people: PeopleSection = PeopleSection()
    retention: RetentionSection = RetentionSection()
    luna: LunaSection = LunaSection()
    bridge: BridgeSection = BridgeSection()
    audit: AuditSection = AuditSection()
    destinations: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")], Destination] = Field(
        default_factory=dict
    )
    webhooks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,25}$")], Webhook] = Field(default_factory=dict)
    """Platforms that may be called back when a request is over, by the name that a request says."""
    report: ReportSection = ReportSection()

    @field_validator("destinations")
    @classmethod
    def _after_is_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, destination in value.items():
            if destination.after is not None and (destination.after not in value or destination.after == name):
                raise ValueError(f"destination {name!r}: `after` must name another destination")
        return value

    @model_validator(mode="after")
    def _patients_are_from_a_server(self) -> Settings:
        name = self.photos.patients_from
        if name and not isinstance(self.destinations.get(name), FhirDestination):
            raise ValueError(f"photos.patients_from: {name!r} is no destination of kind fhir")
        return self

    @model_validator(mode="after")
    def _names_of_peers_differ(self) -> Settings:
        taken = sorted(name for name in self.webhooks if f"{HOOK}{name}" in self.destinations)
        if taken:
            raise ValueError(f"destinations.{HOOK}{taken[0]}: this name belongs to the webhook {taken[0]!r}")
        return self

    @model_validator(mode="after")
    def _plain_text_stays_on_loopback(self) -> Settings:
        for key, section, instead in (
            ("door", self.door, "keep it on loopback and set door.tls_host and door.tls_port"),
            ("web", self.web, "set web.tls"),
        ):
            is_plain = not (isinstance(section, WebSection) and section.tls)
            if is_plain and section.host not in LOOPBACK and not section.insecure_ok_because.strip():
                raise ValueError(
                    f"{key}.host is not a loopback address: {instead}, or set {key}.insecure_ok_because to the written "
                    "reason why plain text is acceptable on that network (an isolated VLAN, a TLS proxy in front)"
                )
        if self.web.tls_mutual and not self.web.tls:
            raise ValueError("web.tls_mutual goes with web.tls")
        return self

    @property
    def second_factor(self) -> Literal["administrators", "all", "offered"]:
        """Who needs a second factor.

        What other machines reach is guessed at from other machines: by its address, or by a name that a proxy on this
        machine passes on.
        """
        web = self.web
        is_reached = web.host not in LOOPBACK or any(name not in LOOPBACK for name in web.allowed_hosts)
        return self.people.second_factor or ("administrators" if is_reached else "offered")

    @property
    def uses_tls(self) -> bool:
        """Whether the files of section `tls` are needed."""
        called = [self.orthanc, self.audit, *self.destinations.values(), *self.webhooks.values()]
        keys = ("tls", "client_certificate", "verify_client_certificate", "dicom_tls")
        # of what the node calls only DIMSE archives have a key `tls`
        calls = any(getattr(one, key, False) for one in called for key in keys)
        return self.web.tls or self.door.tls_port is not None or calls

    def shown(self, peer: Section) -> Identity | None:
        """Whose certificate a peer is shown over HTTPS when it asks for one; None: nobody's."""
        return self.tls.identity if getattr(peer, "client_certificate", False) else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @property
    def vault_folder(self) -> Path:
        return self.data.folder / "vault"

    @property
    def records_url(self) -> str:
        return self.data.records_url or f"sqlite:///{(self.data.folder / 'records.sqlite').absolute()}"

    @property
    def engine_url(self) -> str:
        """Where the workflow engine keeps its own tables."""
        return f"sqlite:///{(self.data.folder / 'engine.sqlite').absolute()}"

    def peer(self, name: str) -> CommonPeer | None:
        """What the node calls by this name: a destination, or with ``hook-`` before its name a webhook."""
        known: CommonPeer | None = self.destinations.get(name)
        return known or (self.webhooks.get(name.removeprefix(HOOK)) if name.startswith(HOOK) else None)

    def sender(self, ae_title: str) -> Sender | None:
        """The configured sender with this AE title, if any."""
        return next((s for s in self.door.senders if s.ae_title == ae_title), None)


def load_settings(path: Path | None = None) -> Settings:
    """Read the YAML file (default: `AI_NODE_CONFIG`, else `config/node.yaml` if it is there) and the environment.

    Relative paths in the file are relative to the working folder of the process.

    Raises
    ------
    SettingsRefused
        With one line per key that is unknown or out of range.
    """
    chosen = path or (Path(os.environ["AI_NODE_CONFIG"]) if "AI_NODE_CONFIG" in os.environ else None)
    if chosen is None and Path("config/node.yaml").is_file():
        chosen = Path("config/node.yaml")
    values: Any = {}
    if chosen is not None:
        try:
            values = yaml.safe_load(chosen.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SettingsRefused(f"configuration file {chosen}: {error.strerror}. Give --config FILE.") from None
        except UnicodeDecodeError:
            raise SettingsRefused(f"configuration file {chosen}: expected text in UTF-8, found other bytes.") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark is not None else ""
            raise SettingsRefused(f"configuration file {chosen} is not YAML{where}.") from None
        if not isinstance(values, dict):
            raise SettingsRefused(f"configuration file {chosen}: expected sections, found a {type(values).__name__}.")
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SettingsRefused("configuration refused:\n  " + "\n  ".join(lines)) from None
    except SettingsError as error:  # a variable of a whole section or list that is no JSON; its text names the section
        raise SettingsRefused(f"configuration refused: environment AI_NODE__…: {error}; expected JSON.") from None


def check_private(path: Path) -> None:
    """Refuse a secret file that others may read.

    Raises
    ------
    SettingsRefused
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SettingsRefused(f"secret file {path}: mode {mode:04o} lets others read it; expected 0600 or 0400.")


def read_secret(path: Path) -> str:
    """Read a secret from a file that only its owner may read (0400 or 0600).

    Raises
    ------
    SettingsRefused
        If the file is absent, empty, or readable by group or others.
    """
    try:
        check_private(path)
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsRefused(f"secret file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsRefused(f"secret file {path}: expected text in UTF-8, found other bytes.") from None
    if not secret:
        raise SettingsRefused(f"secret file {path} is empty.")
    return secret
