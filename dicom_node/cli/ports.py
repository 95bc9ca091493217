"""Where the node listens, and whether somebody listens there already."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from dicom_node.settings import Settings


@dataclass(frozen=True)
class Place:
    """An address of the settings."""

    label: str
    key: str
    """Of the settings, where the port stands."""
    host: str
    port: int
    is_tls: bool

    def is_free(self) -> bool:
        """Whether nobody listens there; also False where the address is none of this machine."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError:
                return False
        return True


def places(chosen: Settings) -> list[Place]:
    """Every address that the node's processes take, those of `listen` first."""
    door, web = chosen.door, chosen.web
    found = [Place("door", "door.port", door.host, door.port, False)]
    if door.tls_port is not None:
        found.append(Place("door by TLS", "door.tls_port", door.tls_host, door.tls_port, True))
    return [*found, Place("web", "web.port", web.host, web.port, web.tls)]
