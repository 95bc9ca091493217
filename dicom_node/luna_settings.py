"""Settings of what older clients of LUNA use: tokens by HTTP (`luna`), and messages of a broker (`bridge`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from dicom_node.destination_settings import LOOPBACK, Port, Section


class LunaSection(Section):
    """The LUNA API."""

    token_hours: float = Field(8.0, gt=0, le=24)
    """How long a token is good; its clients cannot refresh it, the server can end it."""
    client_confirms: bool = False
    """Where no FHIR server can be asked, a client that names a patient has had a person confirm who that is."""


class BridgeSection(Section):
    """Analyses by messages of an AMQP broker (RabbitMQ)."""

    host: str = ""
    """Of the broker; empty: there is no bridge."""
    port: Port = 5672
    virtual_host: str = "/"
    username: str = ""
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    insecure_ok_because: str = ""
    """Written reason for plain text to a broker on another machine."""
    prefetch: int = Field(4, ge=1, le=100)
    """Messages in work at once; each may hold a photograph."""

    @model_validator(mode="after")
    def _is_whole(self) -> BridgeSection:
        if not self.host:
            return self
        if not self.username or self.password_file is None:
            raise ValueError("bridge.host: name the account too, by bridge.username and bridge.password_file")
        if self.host not in LOOPBACK and not self.tls and not self.insecure_ok_because.strip():
            raise ValueError(
                "bridge.host is another machine: set bridge.tls, or write into bridge.insecure_ok_because why plain "
                "text is acceptable on that network"
            )
        return self
