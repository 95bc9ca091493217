"""Who holds a connection to the portal, and how long without moving (I7): silence and trickles take nobody's place.

uvicorn ends a connection that is idle between two requests.  It waits for ever for the first one, for a header or a
body that comes a byte at a time, and for somebody who does not read her answer; a TLS handshake has a minute and is
counted nowhere.  Here every connection counts from the moment it is accepted, and whoever's turn it is has to move:

- a request's header, with the handshake before it, is whole within `patience_s` of the connection or the last answer;
- a body comes, and an answer is fetched, at no less than `SLOWEST` bytes a second; what came faster buys time for a
  line that breaks off, up to `patience_s`.  However long the whole takes: eight megabytes over a bad line are welcome;
- while the node itself is at work, or has nothing new to tell, nobody has to move.

Where places run out, in all or for one address, the connection gives way that waits longest for a request of its own.
Only when every one of them has a request under way is the newcomer answered 503.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import struct
import termios
from collections.abc import Iterable
from typing import Any, Protocol, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from dicom_node.desks.backoff import network_of
from dicom_node.metrics import METRICS
from dicom_node.tls import ServerSide

SLOWEST = 500.0
"""Bytes a second.  The worst line of a telephone that still is one brings several times as much."""
LOOKS = 8
"""How often within `patience_s` a connection is looked at."""


class Guest(Protocol):
    """A connection, as `Crowd` sees it."""

    @property
    def waits_since(self) -> float | None:
        """When it began to wait for its peer's next request; None while a request is under way."""

    def give_way(self) -> None:
        """End it."""


class Crowd:
    """Counts connections.

    Parameters
    ----------
    most, most_per_address
        Of IPv6 a network of 64 bits is one address.
    proxies
        Addresses behind which many stand: no limit of their own, and neither has this machine.
    """

    def __init__(self, most: int, most_per_address: int, proxies: Iterable[str] = ()) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._proxies = frozenset(map(network_of, proxies))
        self._guests: dict[Guest, str] = {}

    def enter(self, guest: Guest, address: str) -> bool:
        """Somebody has come: whether there is a place, if need be because another one gave way."""
        network = network_of(address)
        self._guests[guest] = network
        here = [one for one, its in self._guests.items() if its == network] if self._is_counted(address) else []
        crowd = here if len(here) > self._most_per_address else list(self._guests)
        if crowd is not here and len(crowd) <= self._most:
            return True
        waiting = [(one.waits_since, i) for i, one in enumerate(crowd) if one is not guest]
        silent = [(since, i) for since, i in waiting if since is not None]
        if not silent:
            return False
        victim = crowd[min(silent)[1]]
        self.leave(victim)
        victim.give_way()
        return True

    def leave(self, guest: Guest) -> None:
        """Somebody has gone; saying so twice does no harm."""
        self._guests.pop(guest, None)

    def __len__(self) -> int:
        return len(self._guests)

    def _is_counted(self, address: str) -> bool:
        try:
            is_here = ipaddress.ip_address(address).is_loopback
        except ValueError:
            return False
        return not is_here and network_of(address) not in self._proxies


class PatientProtocol(H11Protocol):
    """uvicorn's own protocol, with a place in the crowd and an end to its patience; speaks TLS by itself.

    By itself, because otherwise the loop shakes hands before anybody here knows that there is a connection.
    """

    crowd: Crowd
    patience_s: float
    tls: ServerSide | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._line: asyncio.Transport | None = None
        """The connection below TLS: what is still to be sent lies there."""
        self._early = bytearray()
        """What came with the end of the handshake, before it was told of."""
        self._waits_since: float | None = None
        self._until = 0.0
        self._unsent = 0
        self._is_begun = self._is_gone = False
        self._look_again: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None

    # -- as the crowd sees it

    @property
    def waits_since(self) -> float | None:
        # an answer that is still being fetched is no silence
        return None if self._is_answering() or self._left() else self._waits_since

    def give_way(self) -> None:
        self._cut("capacity")

    # -- a connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._line = cast(asyncio.Transport, transport)
        self._wait_for_request()
        self._look_again = self.loop.call_later(self.patience_s / LOOKS, self._look)
        client = get_remote_addr(self._line)
        if not self.crowd.enter(self, client[0] if client else ""):
            self.limit_concurrency = 0  # its request, whatever it is, is answered 503
        if self.tls is None:
            self._begin(self._line)
        else:
            self._line.pause_reading()
            self._handshake = self.loop.create_task(self._shake_hands(self._line, self.tls))

    async def _shake_hands(self, line: asyncio.Transport, tls: ServerSide) -> None:
        try:
            secured = await self.loop.start_tls(line, self, tls.context, server_side=True)
        except OSError:  # of TLS too
            secured = None
        if secured is None or line.is_closing():
            line.abort()
            self.connection_lost(None)  # nobody says so of a connection that was lost during its handshake
            return
        self._begin(secured)
        if self._early:
            super().data_received(bytes(self._early))
            self._early.clear()

    def _begin(self, transport: asyncio.Transport) -> None:
        self._is_begun = True
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone = True
        if self._look_again is not None:
            self._look_again.cancel()
        self.crowd.leave(self)
        if self._is_begun:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_begun:
            self._early += data
            return
        if self._is_answering():
            self._earn(len(data))
            super().data_received(data)
            return
        super().data_received(data)
        if self._is_answering():  # the header is whole
            self._until = self.loop.time() + self.patience_s

    def pause_writing(self) -> None:
        self._until, self._unsent = self.loop.time() + self.patience_s, self._left()
        super().pause_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering():  # else the next request had come already
            self._wait_for_request()

    def timeout_keep_alive_handler(self) -> None:
        """Between two requests; whoever is still fetching the last answer is not idle."""
        if self._left() and not self._is_gone:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    # -- patience

    def _wait_for_request(self) -> None:
        self._waits_since = self.loop.time()
        self._until, self._unsent = self._waits_since + self.patience_s, self._left()

    def _look(self) -> None:
        moment, before, self._unsent = self.loop.time(), self._unsent, self._left()
        if self._is_our_turn():
            self._until = moment + self.patience_s
        else:
            self._earn(abs(before - self._unsent))  # more to fetch than before: some was fetched, and more written
        if moment >= self._until:
            self._cut("timeout")
        else:
            self._look_again = self.loop.call_later(self.patience_s / LOOKS, self._look)

    def _earn(self, count: int) -> None:
        self._until = min(self.loop.time() + self.patience_s, self._until + count / SLOWEST)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_our_turn(self) -> bool:
        """A request is here and the node is at work on it, or has its hands full."""
        if not self._is_answering() or self.flow.write_paused:
            return False
        return not self.cycle.more_body or self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _left(self) -> int:
        """Bytes that the peer has still to fetch: in this process, and in the kernel, which takes megabytes at once."""
        if self._line is None:
            return 0
        try:
            queued = fcntl.ioctl(self._line.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):  # closed
            return 0
        return int(struct.unpack("i", queued)[0]) + self._line.get_write_buffer_size()

    def _cut(self, cause: str) -> None:
        METRICS.count("http_connections_cut_total", cause=cause)
        if self._line is not None:
            self._line.abort()


def patient(crowd_of: Crowd, patience: float, side: ServerSide | None) -> type[PatientProtocol]:
    """The protocol of one server: uvicorn makes one for each connection."""

    class Here(PatientProtocol):
        crowd, patience_s, tls = crowd_of, patience, side

    return Here
