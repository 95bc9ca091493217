"""The TLS handshake of an association (PS3.15 B.12), in the association's own thread and within a time.

The library shakes hands in its accept loop, where one silent peer stops everybody.
"""

from __future__ import annotations

import ssl

import structlog
from pynetdicom.transport import AssociationSocket

from dicom_node.tls import names_of_peer

log = structlog.get_logger(__name__)


def shake_hands(connection: AssociationSocket, context: ssl.SSLContext, deadline_s: float) -> frozenset[str] | None:
    """Put TLS around a connection that was accepted.

    Returns
    -------
    frozenset of str or None
        Names in the certificate that the peer showed, none if it was not asked; None when there is no TLS with it.
    """
    try:
        secured = context.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
        connection.socket = secured  # from here on whoever cuts the connection cuts this one
        secured.settimeout(deadline_s)  # of the whole handshake
        secured.do_handshake()
    except (ssl.SSLEOFError, ConnectionError):
        return None  # looked whether the port answers, as readiness does, and left
    except (OSError, ValueError) as error:
        # OpenSSL's own word, such as CERTIFICATE_VERIFY_FAILED
        log.info("door.handshake-failed", reason=str(getattr(error, "reason", None) or type(error).__name__))
        return None
    return names_of_peer(secured)
