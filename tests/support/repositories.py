"""Audit repositories of the tests: Debian's rsyslog by TLS, and a receiver that breaks off where it is told to."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from dicom_node.demo.site import free_ports
from dicom_node.tls import Identity
from tests.support.listening import until

RSYSLOGD = Path("/usr/sbin/rsyslogd")


class Rsyslog:
    """One rsyslogd of the tests: a free port on loopback, folders of its own, ended by its process id.

    Parameters
    ----------
    permitted
        Name that a client's certificate must have; empty: clients show none.
    """

    def __init__(self, folder: Path, identity: Identity, *, permitted: str = "") -> None:
        self.folder, self._identity, self._permitted = folder, identity, permitted
        self.file = folder / "messages"
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen; what came before stays in the file."""
        if not RSYSLOGD.is_file():
            pytest.fail("rsyslogd is missing: `make setup-test` installs it")
        self.folder.mkdir(parents=True, exist_ok=True)
        mode = f'"x509/name" PermittedPeer=["{self._permitted}"]' if self._permitted else '"anon"'
        config = self.folder / "rsyslog.conf"
        config.write_text(
            f'global(workDirectory="{self.folder}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off"\n'
            f'  DefaultNetstreamDriverCAFile="{self._identity.authority_file}"\n'
            f'  DefaultNetstreamDriverCertFile="{self._identity.certificate_file}"\n'
            f'  DefaultNetstreamDriverKeyFile="{self._identity.private_key_file}")\n'
            'module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1"\n'
            f"  StreamDriver.AuthMode={mode})\n"
            f'input(type="imtcp" address="127.0.0.1" port="{self.port}")\n'
            'template(name="raw" type="string" string="%rawmsg%\\n")\n'
            f'action(type="omfile" file="{self.file}" template="raw")\n'
        )
        command = [str(RSYSLOGD), "-n", "-f", str(config), "-i", str(self.folder / "pid")]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        until(self._listens, 20, "rsyslogd listens")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; by SIGKILL as a machine that loses its power."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def __enter__(self) -> Rsyslog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def lines(self) -> list[str]:
        """The messages as they came."""
        return self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []

    def numbers(self, message_id: str = "DICOM+RFC3881") -> list[int]:
        """`sequenceId` of the messages of a kind, in the order of their coming."""
        found = (re.search(rf' {re.escape(message_id)} \[meta sequenceId="(\d+)"\]', line) for line in self.lines())
        return [int(one[1]) for one in found if one]

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self.folder / "output").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Receiver:
    """Takes frames (octet counting), by TLS or plain, and may break off.

    Parameters
    ----------
    break_after
        Bytes of the first connection after which it is reset; None: never.
    says_goodbye
        Close by close_notify, as RFC 5425 wants it, or just close.
    """

    def __init__(self, identity: Identity | None, *, break_after: int | None = None, says_goodbye: bool = True) -> None:
        self.frames: list[bytes] = []
        self.connections = 0
        self._break_after, self._says_goodbye = break_after, says_goodbye
        self._context = None
        if identity is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(identity.certificate_file, identity.private_key_file)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            try:
                self._take(connection)
            except OSError:
                connection.close()

    def _take(self, connection: socket.socket) -> None:
        limit = self._break_after if self.connections == 1 else None
        stream = connection if self._context is None else self._context.wrap_socket(connection, server_side=True)
        stream.settimeout(20)
        held = b""
        while (limit is None or len(held) < limit) and (some := stream.recv(4096 if limit is None else 512)):
            held += some
        if limit is not None and len(held) >= limit:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._keep(held[:limit])
            stream.close()
            return
        self._keep(held)
        if self._says_goodbye and isinstance(stream, ssl.SSLSocket):
            stream.unwrap()
        stream.close()

    def _keep(self, held: bytes) -> None:
        while held:
            length, _, rest = held.partition(b" ")
            if not length.isdigit() or len(rest) < int(length):
                return
            self.frames.append(rest[: int(length)])
            held = rest[int(length) :]
