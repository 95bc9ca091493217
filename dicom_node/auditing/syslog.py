"""Syslog: a message's form (RFC 5424) and its ways: TLS (RFC 5425), TCP with octet counting (RFC 6587), UDP (RFC 5426).

Syslog has no answer to a message.  Over a connection the next best is used: messages go in portions, each in a
connection of its own that is closed in good order, and a portion has arrived when the receiver has closed too: by
close_notify, or with every octet of ours acknowledged and no reset, which is how a kernel says that its program has
read all there was.  Otherwise nobody knows, and the portion is sent again: a message may come twice, none is left out,
and `sequenceId`, the entry's number, tells the copies apart.  By UDP nobody ever knows.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FACILITY, NOTICE, WARNING = 10, 5, 4
"""Security messages; normal but significant; somebody was turned away."""
AUDIT_MESSAGE = "DICOM+RFC3881"
"""MSGID of DICOM's audit messages (PS3.15 A.6)."""
HEAD_MESSAGE = "AINODE-AUDIT-HEAD"
_BOM = b"\xef\xbb\xbf"
_MAX_SEQUENCE = 2**31 - 1


class SyslogTrouble(Exception):
    """The repository was not reached, or did not take all of a portion; in fixed words."""


@dataclass(frozen=True)
class Line:
    """One message; `number` counts within its kind."""

    number: int
    moment: str
    message_id: str
    text: bytes = field(repr=False)
    severity: int = NOTICE


@dataclass(frozen=True)
class Repository:
    """Where messages go.

    Attributes
    ----------
    transport
        ``tls``, ``tcp`` or ``udp``.
    context
        Makes the TLS context, for each connection anew, so that a renewed certificate counts.
    name
        The name in its certificate.
    """

    host: str
    port: int
    transport: str
    timeout_s: float
    name: str = ""
    context: Callable[[], ssl.SSLContext] | None = field(default=None, repr=False)


def written(line: Line, host: str, application: str = "ainode") -> bytes:
    """A message as RFC 5424 wants it; the text is UTF-8 and said to be."""
    sequence = (line.number - 1) % _MAX_SEQUENCE + 1
    moment = line.moment.replace("+00:00", "Z")
    head = f"<{FACILITY * 8 + line.severity}>1 {moment} {host} {application} {os.getpid()} {line.message_id} "
    return head.encode("ascii") + f'[meta sequenceId="{sequence}"] '.encode("ascii") + _BOM + line.text


def send(lines: Sequence[bytes], repository: Repository) -> None:
    """Send a portion, in order.

    Raises
    ------
    SyslogTrouble
        If it is not known that all of them arrived.
    """
    try:
        if repository.transport == "udp":
            _send_datagrams(lines, repository)
            return
        framed = b"".join(b"%d %s" % (len(line), line) for line in lines)
        with socket.create_connection((repository.host, repository.port), repository.timeout_s) as plain:
            if repository.context is None:
                plain.sendall(framed)
                plain.shutdown(socket.SHUT_WR)
                _wait_for_end(plain, repository.timeout_s)
            else:
                _send_by_tls(plain, framed, repository, repository.context())
    except ssl.SSLError as error:
        found = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        raise SyslogTrouble(f"no TLS with the audit repository: {found}") from None
    except OSError as error:
        raise SyslogTrouble(f"the audit repository is not reached ({error.strerror or type(error).__name__})") from None


def _send_datagrams(lines: Sequence[bytes], repository: Repository) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(repository.host, repository.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as plain:
        plain.connect(address)
        for line in lines:
            plain.send(line)


def _send_by_tls(plain: socket.socket, framed: bytes, repository: Repository, context: ssl.SSLContext) -> None:
    secured = context.wrap_socket(plain, server_hostname=repository.name or repository.host)
    try:
        secured.sendall(framed)
        try:
            secured.unwrap().close()  # ours is sent, theirs has come
        except ssl.SSLEOFError:
            _check_taken(secured, repository.timeout_s)
        except OSError as error:
            if isinstance(error, ssl.SSLError) or error.errno:
                raise
            _check_taken(secured, repository.timeout_s)  # OpenSSL's word for the same: an end without close_notify
    finally:
        secured.close()


def _wait_for_end(plain: socket.socket, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while plain.recv(4096):
        if time.monotonic() > deadline:
            raise TimeoutError
    _check_taken(plain, timeout_s)


def _check_taken(connection: socket.socket, timeout_s: float) -> None:
    """The other side has closed: see that it had taken all of ours.

    How much is unacknowledged only Linux tells (SIOCOUTQ, which is TIOCOUTQ on a socket); the node runs nowhere else.
    It wakes nobody when that changes, so it is asked again until it is nothing or the time is over.

    Raises
    ------
    OSError
        If the connection was reset, or something was never acknowledged.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        (left,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))
        if left == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
