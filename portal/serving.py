"""Run the application: the one place where the HTTP server's own habits are set.

No access log (URLs hold UIDs, I4), no trust in proxy headers (S26), bounded connections and time-outs (I7), no server
banner, TLS or a written reason on every address that is not loopback (S1).
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI


@dataclass(frozen=True)
class Listen:
    """Where and how to listen."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    private_key: Path | None = None
    insecure_ok_because: str = ""
    max_connections: int = 128


class ListenRefused(ValueError):
    """Plain text on an address that others can reach, without a written reason."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def configure(app: FastAPI, listen: Listen) -> uvicorn.Config:
    """The server's configuration.

    Raises
    ------
    ListenRefused
    """
    if not _is_loopback(listen.host) and listen.certificate is None and not listen.insecure_ok_because:
        raise ListenRefused(
            "web.host is not a loopback address: give a certificate, or write into web.insecure_ok_because why plain "
            "text is acceptable on that network"
        )
    return uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.private_key,
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        limit_concurrency=listen.max_connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=65_536,
        http="h11",
        ws="none",
    )


def serve(app: FastAPI, listen: Listen | None = None) -> None:
    """Serve until the process is told to stop (SIGTERM or SIGINT)."""
    uvicorn.Server(configure(app, listen or Listen())).run()
