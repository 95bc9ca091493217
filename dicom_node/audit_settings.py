"""Settings of the audit log's way out of this machine: signed heads, and messages to an audit repository."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_node.destination_settings import LOOPBACK, Port, Section


class AuditSection(Section):
    """The audit log: its signed heads, and the repository that is told each entry (DICOM PS3.15 A.5 by syslog)."""

    head_min: float = Field(5.0, ge=0.01)
    """A head is signed so many minutes after the one before, if the log has grown."""
    head_entries: int = Field(1000, ge=1)
    """A head is signed sooner when the log has grown by so many entries."""
    heads_folder: Path | None = None
    """Where signed heads are written too; only a folder of another machine shows that this one was tampered with."""
    late_min: float = Field(60.0, gt=0)
    """What has waited so long to leave is spoken of by `doctor` and `/readyz`."""
    enterprise: str = Field("", max_length=64)
    """AuditEnterpriseSiteID of every message; empty: none."""
    source: str = Field("", max_length=64)
    """AuditSourceID of every message; empty: the node's AE title."""
    syslog_host: str = ""
    """The audit repository; empty: nobody is told."""
    syslog_port: Port = 6514
    syslog_transport: Literal["tls", "tcp", "udp"] = "tls"
    """RFC 5425; plain TCP with octet counting (RFC 6587); RFC 5426."""
    syslog_name: str = ""
    """The name in its certificate, where that is not `syslog_host`."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    client_certificate: bool = False
    """The node shows its certificate of section `tls` to a repository that asks for one."""
    insecure_ok_because: str = ""
    """Written reason for plain text to a repository on another machine."""
    timeout_s: float = Field(20.0, gt=0)
    patient_ids: bool = False
    """Messages name the patient of a study by Patient ID and issuer, as IHE wants it; only by TLS."""

    @model_validator(mode="after")
    def _is_protected(self) -> AuditSection:
        is_plain = bool(self.syslog_host) and self.syslog_transport != "tls"
        if is_plain and self.syslog_host not in LOOPBACK and not self.insecure_ok_because.strip():
            raise ValueError(
                "audit.syslog_host is another machine: set audit.syslog_transport to tls, or write into "
                "audit.insecure_ok_because why plain text is acceptable on that network"
            )
        if is_plain and self.patient_ids:
            raise ValueError("audit.patient_ids goes with audit.syslog_transport: tls")
        if self.syslog_transport != "tls" and (self.ca_file or self.syslog_name or self.client_certificate):
            raise ValueError(
                "audit.ca_file, audit.syslog_name and audit.client_certificate go with audit.syslog_transport: tls"
            )
        return self
