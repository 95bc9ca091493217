"""Run the application: the one place where the HTTP server's own habits are set.

No access log (URLs hold UIDs, I4), no trust in headers of proxies that nobody named (S26), bounded connections and
time-outs (I7), no server banner, TLS or a written reason on every address that is not loopback (S1).
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from dicom_node.tls import ServerSide
from portal.patience import Crowd, patient


@dataclass(frozen=True)
class Listen:
    """Where and how to listen."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls: ServerSide | None = None
    """HTTPS, by files that may be renewed while it serves; None: plain HTTP."""
    insecure_ok_because: str = ""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose word is taken for who calls through them."""
    max_connections: int = 128
    max_connections_per_address: int = 64
    patience_s: float = 60.0


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
    if not _is_loopback(listen.host) and listen.tls is None and not listen.insecure_ok_because:
        raise ListenRefused(
            "web.host is not a loopback address: set web.tls, or write into web.insecure_ok_because why plain "
            "text is acceptable on that network"
        )
    crowd = Crowd(listen.max_connections, listen.max_connections_per_address, listen.proxies)
    return uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        proxy_headers=bool(listen.proxies),
        forwarded_allow_ips=list(listen.proxies),
        server_header=False,
        date_header=True,
        limit_concurrency=listen.max_connections + 1,  # of the crowd everybody is served
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=65_536,
        loop="asyncio",  # uvloop reads before it is told not to: a Client Hello would come as a request
        http=patient(crowd, listen.patience_s, listen.tls),
        ws="none",
    )


def serve(app: FastAPI, listen: Listen | None = None) -> None:
    """Serve until the process is told to stop (SIGTERM or SIGINT)."""
    uvicorn.Server(configure(app, listen or Listen())).run()
