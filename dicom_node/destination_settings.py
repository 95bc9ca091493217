"""Where results go: one section of settings per kind of destination (`destinations.<name>` in `config/node.yaml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Z0-9_ .-]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Base of every section: an unknown key refuses the start, and nothing changes after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CommonDestination(Section):
    """What every kind of destination has."""

    after: str | None = None
    """Send only when this destination has confirmed."""
    reject_superseded: bool = True
    """Send a key object that rejects the superseded result set (113001)."""
    retry_first_s: float = Field(5.0, gt=0)
    retry_cap_s: float = Field(1800.0, gt=0)
    retry_span_h: float = Field(72.0, gt=0)
    timeout_s: float = Field(60.0, gt=0)


class StowDestination(CommonDestination):
    """A DICOMweb archive: STOW-RS, then QIDO-RS and WADO-RS to see that it is there."""

    kind: Literal["stow"]
    url: str
    """Root of its DICOMweb services, e.g. http://127.0.0.1:8042/dicom-web"""
    username: str = ""
    password_file: Path | None = None
    insecure_ok_because: str = ""


class CStoreDestination(CommonDestination):
    """A DIMSE archive: C-STORE, then C-FIND or, where it has one, QIDO-RS to see that it is there."""

    kind: Literal["cstore"]
    host: str
    port: Port
    ae_title: AETitle
    insecure_ok_because: str = ""
    verify_url: str | None = None
    """Root of DICOMweb services of the same archive, for verification by content; else C-FIND by UID."""


class FolderDestination(CommonDestination):
    """A folder, for tests and for archives that watch one."""

    kind: Literal["folder"]
    path: Path


class FhirDestination(CommonDestination):
    """A FHIR R4 server."""

    kind: Literal["fhir"]
    url: str
    token_file: Path | None = None
    insecure_ok_because: str = ""


Destination = Annotated[
    StowDestination | CStoreDestination | FolderDestination | FhirDestination, Field(discriminator="kind")
]
