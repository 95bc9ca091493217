"""pynetdicom's upper layer with bounds and without waits (PS3.8 9.2, 9.3; hardening 2.1 and 4.4).

What is changed, and why (measured with pynetdicom 3.0.4):

- a PDU header may claim 4 GB and the library would read it all: `BoundedSocket.recv` refuses a PDU longer than was
  announced, and gives a started PDU a deadline, so that a peer that trickles bytes cannot hold a thread for ever; a
  message that comes in ever so many small PDUs must not be slower than `SLOWEST`;
- a data set grows in memory without a limit: `SpoolingDimse` gives every message an `Incoming` of the vault, which
  counts, hashes and spills to disk;
- requests may be sent without waiting for answers: more than a few unanswered ones end the association;
- both threads of an association sleep a millisecond at a time between looking: `DoorAssociation` wakes on the message;
- a TLS handshake is the association's own affair (`handshake`).
"""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket

from dicom_node import logs
from dicom_node.door.handshake import shake_hands
from dicom_node.door.vault import Incoming
from dicom_node.failpoints import reach

log = structlog.get_logger(__name__)

MAX_ASSOCIATE_PDU_BYTES = 256 * 1024
"""An A-ASSOCIATE-RQ with 128 presentation contexts of 20 syntaxes each stays below."""
MAX_UNANSWERED = 4
MAX_COMMAND_BYTES = 64 * 1024
P_DATA_TF = 0x04
SLOWEST = 500.0
"""Bytes a second of a message that was begun."""
_LOOK_UP_MS = 250
"""How often a sleeping thread looks at its timers."""


class PDUTooLong(OSError):
    """A PDU claims more bytes than this peer was told it may send."""


class Spool(BytesIO):
    """What pynetdicom takes for the data set of a message: hands every fragment to the vault and keeps nothing."""

    def __init__(self, begin: Callable[[], Incoming]) -> None:
        super().__init__()
        self._begin = begin
        self.item: Incoming | None = None

    def write(self, data: Any) -> int:
        if self.item is None:
            self.item = self._begin()
        self.item.write(data)
        return len(data)

    def discard(self) -> None:
        if self.item is not None and not self.item.is_settled:
            self.item.discard()


class BoundedSocket(AssociationSocket):
    """Reads one PDU at a time, of bounded length, in bounded time."""

    max_pdu_bytes: int = MAX_ASSOCIATE_PDU_BYTES
    pdu_timeout_s: float = 30.0
    last_read: float = 0.0
    """Monotonic time of the last byte."""

    def recv(self, nr_bytes: int) -> bytearray:
        """`nr_bytes` from the peer; fewer when it closed the connection.

        Raises
        ------
        OSError
            If more is asked for than a PDU may hold, or the bytes do not come in time.
        """
        if nr_bytes > self.max_pdu_bytes:
            raise PDUTooLong(f"a PDU of {nr_bytes} bytes; at most {self.max_pdu_bytes} were announced")
        if self.socket is None:
            raise OSError("the connection is closed")
        data = bytearray(nr_bytes)
        view, read, deadline = memoryview(data), 0, time.monotonic() + self.pdu_timeout_s
        while read < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("a PDU was begun and not finished in time")
            self.socket.settimeout(left)
            count = self.socket.recv_into(view[read:])
            if count == 0:
                break
            read += count
        self.last_read = time.monotonic()
        del view
        return data[:read] if read < nr_bytes else data

    def send(self, bytestream: bytes) -> None:
        if self.socket is not None:
            self.socket.settimeout(self.pdu_timeout_s)
        super().send(bytestream)
        if bytestream[0] == P_DATA_TF:
            reach("K6")


class SpoolingDimse(DIMSEServiceProvider):
    """Receives the data sets of C-STORE requests into the vault as they stream."""

    begin: Callable[[DIMSEMessage], Incoming]
    message: DIMSEMessage | None
    patience_s: float = 30.0
    _until: float = 0.0
    """When the message that was begun has come too slowly: what came faster buys time, up to `patience_s`."""

    @property
    def is_late(self) -> bool:
        """Whether a message was begun and hardly goes on."""
        return self.message is not None and time.monotonic() > self._until

    def receive_primitive(self, primitive: Any) -> None:
        """As the library's, with bounds; a message that cannot be decoded aborts the association (PS3.8 Evt19)."""
        message = self.message
        if message is None:
            self.message = message = DIMSEMessage()
            message.data_set = Spool(lambda: self.begin(message))
            self._until = time.monotonic() + self.patience_s
        size = sum(len(data) for _, data in primitive.presentation_data_value_list)
        self._until = min(time.monotonic() + self.patience_s, self._until + size / SLOWEST)
        try:
            super().receive_primitive(primitive)
            is_flood = self.msg_queue.qsize() > MAX_UNANSWERED or (
                self.message is not None and self.message.encoded_command_set.tell() > MAX_COMMAND_BYTES
            )
        except Exception as error:  # the boundary of foreign bytes: the text may hold values, so only the type is told
            log.warning("door.message-undecodable", error=logs.named(error))
            is_flood = True
        if is_flood:
            self.dul.event_queue.put("Evt19")

    def discard(self) -> None:
        """Forget every message that nobody will answer."""
        spools = [self.message.data_set] if self.message is not None else []
        while True:
            try:
                _, message = self.msg_queue.get_nowait()
            except queue.Empty:
                break
            spools.append(getattr(message, "DataSet", None))
        for spool in spools:
            if isinstance(spool, Spool):
                spool.discard()


class MonotonicTimer(Timer):
    """The library's timers read the wall clock: a clock set forward would end every association (I13)."""

    _started: float | None = None
    _stopped: float | None = None

    @property
    def remaining(self) -> float:
        timeout: float | None = self.timeout
        if timeout is None:
            return 1.0
        if self._started is None:
            return timeout
        end = time.monotonic() if self._stopped is None else self._stopped
        return timeout - (end - self._started)

    @property
    def expired(self) -> bool:
        return self._started is not None and self.remaining < 0

    def start(self) -> None:
        self._started, self._stopped = time.monotonic(), None

    def stop(self) -> None:
        self._stopped = time.monotonic()


class _WakingQueue(queue.Queue[Any]):
    """A queue that rings when something is put."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._ring()


class WaitingDul(DULServiceProvider):
    """The upper layer's reactor, asleep until the peer or the node has something to say."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self.daemon = True
        self._run_loop_delay = 0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._bell_lock = threading.Lock()
        self.to_provider_queue = _WakingQueue(self.ring)
        self.to_user_queue = _WakingQueue(assoc.wake.set)
        self._idle_timer, self.artim_timer = MonotonicTimer(60), MonotonicTimer(30)

    def ring(self) -> None:
        with self._bell_lock:  # a closed descriptor's number may be another file's by now
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def kill_dul(self) -> None:
        super().kill_dul()
        self.ring()

    def stop_dul(self) -> bool:
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        self.join(timeout=5.0)
        return True

    def _is_transport_event(self) -> bool:
        connection = self.socket.socket if self.socket is not None else None
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return bool(super()._is_transport_event())  # deciphered already: the descriptor has nothing more to say
        if self.event_queue.empty() and self.state_machine.current_state != "Sta13" and connection is not None:
            try:
                poll = select.poll()
                poll.register(connection, select.POLLIN)
                poll.register(self._bell, select.POLLIN)
                poll.poll(_LOOK_UP_MS)
                os.eventfd_read(self._bell)
            except BlockingIOError:
                pass  # the bell did not ring
            except (OSError, ValueError):  # closed meanwhile: the library's own look finds that out
                time.sleep(0.001)
        elif connection is not None and self.event_queue.empty():
            time.sleep(0.001)
        return bool(super()._is_transport_event())

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception as error:  # the thread's boundary: the text may hold values
            log.warning("door.reactor-failed", error=logs.named(error))
        finally:
            self.unhang_bell()
            self.assoc.wake.set()

    def unhang_bell(self) -> None:
        """Give the bell's descriptor back; the reactor does it at its end, and whoever never starts it."""
        with self._bell_lock:
            if self._bell >= 0:
                os.close(self._bell)
            self._bell = -1


class DoorAssociation(Association):
    """An association that the door accepted: wakes on messages, cleans up after itself.

    Parameters
    ----------
    ae
        The application entity.
    begin
        Starts an `Incoming` for a message whose command set is complete.
    on_end
        Called once when the association is over, however it ended.
    """

    is_established: bool
    is_aborted: bool
    is_released: bool
    tls: ssl.SSLContext | None = None
    """Set before the start: the peer has to begin with a TLS handshake."""
    peer_names: frozenset[str] = frozenset()
    """Names in the certificate that the peer showed."""

    def __init__(
        self,
        ae: Any,
        begin: Callable[[DoorAssociation, DIMSEMessage], Incoming],
        on_end: Callable[[DoorAssociation], None],
    ) -> None:
        self.wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        super().__init__(ae, MODE_ACCEPTOR)
        self._on_end = on_end
        self.dul = WaitingDul(self)
        self.dimse = SpoolingDimse(self)
        self.dimse.begin = lambda message: begin(self, message)
        self.dimse.msg_queue = _WakingQueue(self.wake.set)
        # their setters reach into the reactor, which was replaced after they ran
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def run_reactor(self) -> None:
        try:
            if self._may_go_on():
                super().run_reactor()
            else:
                self.dul.unhang_bell()
        except Exception as error:  # the thread's boundary: the text may hold values
            log.warning("door.association-failed", error=logs.named(error))
        finally:
            try:
                self._hang_up()
            finally:
                self._on_end(self)

    def _may_go_on(self) -> bool:
        """The TLS handshake, where there has to be one."""
        connection = self.dul.socket
        if self.tls is None or connection is None or connection.socket is None:
            return True
        names = shake_hands(connection, self.tls, self.acse_timeout)
        self.peer_names = names or frozenset()
        return names is not None

    def cut(self) -> None:
        """Close the connection without a word; its threads find out at once."""
        connection = self.dul.socket.socket if self.dul.socket is not None else None
        if connection is not None:
            try:
                # of TLS too: its own shutdown would let the reading thread take what is enciphered for clear text
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:  # the peer was faster
                return

    def stop(self, deadline_s: float) -> None:
        """Let the request in hand be answered, then abort."""
        self._kill = True  # no further request is taken up
        self._idle.wait(deadline_s)
        if self.is_established:
            self.abort()
        else:
            self.cut()

    def _hang_up(self) -> None:
        self.dul.kill_dul()
        connection = self.dul.socket
        if connection is not None and connection.socket is not None:
            connection.close()
        if self.dul.is_alive():
            self.dul.join(timeout=5.0)
        self.dimse.discard()

    def _run_reactor(self) -> None:
        """As the library's acceptor loop, without its sleep: one look per ring of the bell."""
        self._is_paused = False
        while not self._kill:
            self.wake.wait(_LOOK_UP_MS / 1000)
            self.wake.clear()
            while True:
                context_id, message = self.dimse.get_msg(block=False)
                if message is None or self._kill:
                    break
                self._idle.clear()
                try:
                    self._serve(message, context_id)
                finally:
                    self._idle.set()
            if self._has_ended():
                return

    def _serve(self, message: Any, context_id: int) -> None:
        spool = getattr(message, "DataSet", None)
        try:
            if message.is_valid_request:
                self._serve_request(message, context_id)
            else:  # a UID or a message ID is absent: the library would leave the sender without an answer for ever
                log.warning("door.request-incomplete")
                self.abort()
        finally:
            if isinstance(spool, Spool):
                spool.discard()

    def _has_ended(self) -> bool:
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            evt.trigger(self, evt.EVT_RELEASED, {})
        elif self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted, self.is_established = True, False
            evt.trigger(self, evt.EVT_ABORTED, {})
        elif self.dul.is_alive():
            if not (self.dul.idle_timer_expired() or self.dimse.is_late):
                return False
            log.info("door.idle-association-aborted")
            self.abort()
        self.kill()
        return True
