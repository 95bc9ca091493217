"""A line between a browser and the node that can be slow, and that can be cut in the middle of a sentence."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Line:
    """Passes bytes on, from `port` to the node and back.

    Attributes
    ----------
    bytes_per_s
        Towards the node; 0: as fast as it goes.
    passed
        Bytes that went towards the node since the line was last mended.
    """

    def __init__(self, node_port: int) -> None:
        self._node_port = node_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.bytes_per_s = 0
        self.passed = 0
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks, and nobody gets a new one."""
        with self._lock:
            self._is_cut = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """The line is there again."""
        with self._lock:
            self._is_cut, self.passed = False, 0

    def close(self) -> None:
        """The test is over."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    browser.close()
                    continue
                node = socket.create_connection(("127.0.0.1", self._node_port))
                self._open |= {browser, node}
            threading.Thread(target=self._pass, args=(browser, node, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(node, browser, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_towards_node: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                target.sendall(data)
                if is_towards_node:
                    self.passed += len(data)
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
        with self._lock:
            self._open -= {source, target}
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def line(node_port: int) -> Iterator[Line]:
    """A line that is there until the test cuts it."""
    made = Line(node_port)
    try:
        yield made
    finally:
        made.close()
