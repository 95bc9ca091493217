"""Settings of what people and programs reach over HTTP: listener, predictions, accounts, photographs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dicom_node.destination_settings import Port, Section


class WebSection(Section):
    """HTTP: health, metrics, FHIR, viewer."""

    host: str = "127.0.0.1"
    port: Port = 8080
    tls: bool = False
    """HTTPS, with the certificate of section `tls`."""
    tls_mutual: bool = False
    """Every caller must show a certificate of `tls.authority_file`: for programs, not for browsers."""
    insecure_ok_because: str = ""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which the node may be called (Host header), besides loopback; stops DNS rebinding."""
    base_url: str = Field("", pattern=r"^(https?://[^/?#@\s]+)?$")
    """Address under which others reach the node through a proxy; empty: there is none."""
    proxies: tuple[IPv4Address | IPv6Address, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed; nobody else's are."""
    max_connections: int = Field(128, ge=2)
    """Open at once; above it whoever waits longest for a request of its own gives way."""
    max_connections_per_address: int = Field(64, ge=1)
    """Of one address, of IPv6 one network of 64 bits; this machine and `proxies` have no such limit."""
    patience_s: float = Field(60.0, gt=0)
    """For the header of a request, and for a body or an answer that does not move."""
    viewer_folder: Path | None = None
    """OHIF's static files; None: no viewer is served."""


class ApiAlias(Section):
    """A name in a prediction URL that stands for a model."""

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(@[0-9A-Za-z][0-9A-Za-z.-]{0,62})?$")
    default_role: str = Field("", pattern=r"^([a-z][a-z0-9_]{0,62})?$")
    """The role of a lone file whose role neither the caller nor its name tells."""


def _first_aliases() -> dict[str, ApiAlias]:
    return {
        "nnUNet": ApiAlias(model="brain-tumour", default_role="t1c"),
        "tensorflow": ApiAlias(model="brain-tumour-tf", default_role="t1c"),
    }


class ApiSection(Section):
    """Predictions by HTTP."""

    aliases: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")], ApiAlias] = Field(
        default_factory=_first_aliases
    )
    max_upload_mb: int = Field(2000, ge=1)
    """Of one request, all files together, as sent."""
    max_photo_mb: int = Field(30, ge=1)
    """Of one request for a photograph, as sent: base64 counts by its letters."""
    max_unpacked_mb: int = Field(2000, ge=1)
    """Of one file or archive, after unpacking."""
    max_megavoxels: float = Field(135.0, gt=0)
    """Of one volume: 512 x 512 x 512 by default."""
    max_waiting: int = Field(1000, ge=1)
    """Unfinished requests of all callers; above it new ones are answered 429."""
    max_waiting_per_key: int = Field(200, ge=1)
    requests_per_minute: int = Field(1200, ge=1)
    """Of one key or person, and of one address where callers do not say who they are: every call counts."""
    images_per_minute: int = Field(120, ge=1)
    """Of one key or person: a batch counts as many as it holds; a patient who is looked up by page, too."""
    wait_s: float = Field(900.0, gt=0)
    """How long a call that waits for its result is held; then it is told where the result will be."""
    keep_uploads_h: float = Field(1.0, ge=0)
    """Uploads are deleted this long after the end of their request."""
    keep_results_h: float = Field(168.0, gt=0)
    """Results are deleted this long after the end of their request."""


class PeopleSection(Section):
    """People who sign in."""

    idle_min: float = Field(15.0, gt=0, le=720)
    """A session of the portal that nobody used for so long is over."""
    session_h: float = Field(12.0, gt=0, le=24)
    """Every session of the portal is over after this."""
    password_token_h: float = Field(24.0, gt=0, le=168)
    """How long a one-time token for a password waits."""
    second_factor: Literal["administrators", "all", "offered"] | None = None
    """Who needs a code besides the password; None: administrators where others reach `web`, else whoever wants it."""


class PhotosSection(Section):
    """Photographs that the node wraps."""

    store_as: Literal["vl-photographic", "dermoscopic"] = "vl-photographic"
    """dermoscopic: those that the sender declares as taken through a dermatoscope become Dermoscopic Photography."""
    patients_from: str = ""
    """The FHIR destination that is asked who has an identifier; empty: the only one there is."""
