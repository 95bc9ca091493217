"""A TCP proxy on loopback that spoils a connection: cuts it after n bytes, resets it, or trickles."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass


@dataclass
class FaultyWire:
    """Forwards to `target_port`; the fault is for the k-th connection only, so that a later look is undisturbed.

    Attributes
    ----------
    cut_up, cut_down
        After so many bytes towards the server, or from it, the connection ends; None: never.
    is_reset
        End with RST instead of FIN.
    trickle_s
        Pause after every byte from the server.
    connection
        Number of the connection that is spoilt, from 1.
    """

    target_port: int
    cut_up: int | None = None
    cut_down: int | None = None
    is_reset: bool = False
    trickle_s: float = 0.0
    connection: int = 1
    seen: int = 0

    def __enter__(self) -> FaultyWire:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.seen += 1
            is_spoilt = self.seen == self.connection
            server = socket.create_connection(("127.0.0.1", self.target_port))
            for source, sink, limit, pause in (
                (client, server, self.cut_up if is_spoilt else None, 0.0),
                (server, client, self.cut_down if is_spoilt else None, self.trickle_s if is_spoilt else 0.0),
            ):
                threading.Thread(target=self._pump, args=(source, sink, limit, pause), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None, pause_s: float) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while True:
                want = 1 if pause_s else 65536
                if limit is not None:
                    want = min(want, limit - passed)
                if want == 0:
                    break
                data = source.recv(want)
                if not data:
                    break
                sink.sendall(data)
                passed += len(data)
                if pause_s:
                    time.sleep(pause_s)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                if self.is_reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    one.shutdown(socket.SHUT_RDWR)
            one.close()
