"""The C-STORE and C-ECHO service class provider (PS3.4 annexes A and B, PS3.8 9.3).

Deny first: the called AE title must be ours and the calling one must be listed, with its address where one is given.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_node import logs
from dicom_node.door import answers, table
from dicom_node.door.gate import Gate
from dicom_node.door.intake import Arrival, Intake
from dicom_node.door.quiet import silence_libraries
from dicom_node.door.vault import Incoming
from dicom_node.door.wire import BoundedSocket, DoorAssociation, Spool
from dicom_node.record import analyses
from dicom_node.record.arrivals import Kept
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import Sender, Settings
from dicom_node.tls import ServerSide
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.words import PHOTOS_AE

log = structlog.get_logger(__name__)

PERMANENT, TRANSIENT = 1, 2
NOT_RECOGNISED_CALLING = (PERMANENT, 1, 3)
NOT_RECOGNISED_CALLED = (PERMANENT, 1, 7)
CONGESTION = (TRANSIENT, 3, 1)
LOCAL_LIMIT = (TRANSIENT, 3, 2)
"""Association rejection: result, source, reason (PS3.8 9.3.4)."""


def _nothing(*_: Any) -> None:
    return None


class Door:
    """The listener.

    Parameters
    ----------
    settings
        Sections ``node``, ``door`` and ``orthanc``.
    intake
        Keeps what is received.
    on_kept
        Called in the association's thread after an object was acknowledged as new or as a further copy.
    on_closed
        Called with the arrival's id when an association that brought something has ended and its row says how.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        *,
        on_kept: Callable[[], None] = _nothing,
        on_closed: Callable[[int], None] = _nothing,
    ) -> None:
        silence_libraries()
        self.settings, self.intake = settings, intake
        self._on_kept, self._on_closed = on_kept, on_closed
        limits = settings.door
        self.gate = Gate(limits.max_associations, limits.max_associations_per_address, limits.acse_timeout_s)
        self.refused: dict[str, int] = {}
        """Refusals and rejections since the start, by code."""
        self._servers: list[_Server] = []
        self._threads: list[threading.Thread] = []
        self._arrivals: dict[int, Arrival] = {}
        self._associations: set[DoorAssociation] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port that is listened on; known after `start` even when the settings say 0."""
        return int(self._servers[0].server_address[1]) if self._servers else self.settings.door.port

    @property
    def tls_port(self) -> int | None:
        """The port on which TLS is spoken, likewise; None where it is not."""
        return int(self._servers[1].server_address[1]) if len(self._servers) > 1 else self.settings.door.tls_port

    def start(self) -> None:
        """Begin to listen: on the plain port and, where there is one, on the port for TLS.

        Raises
        ------
        OSError
            If a port is taken.
        TlsRefused
            If the certificate or its key cannot be used.
        """
        limits = self.settings.door
        entity = AE(ae_title=self.settings.node.ae_title)
        entity.maximum_pdu_size = limits.max_pdu_bytes
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_associations = 100_000  # the gate counts; the library would count silent connections too
        entity.acse_timeout = limits.acse_timeout_s
        entity.dimse_timeout = limits.dimse_timeout_s
        entity.network_timeout = limits.network_timeout_s
        for uid, (name, _) in table.SOP_CLASSES.items():
            if uid_to_service_class(uid) is not StorageServiceClass:
                # a class the library does not know would be negotiated and then aborted
                register_uid(uid, "Ainode" + "".join(c for c in name if c.isalnum()), StorageServiceClass)
            entity.add_supported_context(uid, list(table.TRANSFER_SYNTAXES))
        entity.add_supported_context(table.VERIFICATION, [table.EXPLICIT_LE, table.IMPLICIT_LE])
        handlers = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_STORE, self._on_c_store),
            (evt.EVT_C_ECHO, self._on_c_echo),
        ]
        places: list[tuple[tuple[str, int], ServerSide | None]] = [((limits.host, limits.port), None)]
        if limits.tls_port is not None:
            side = ServerSide(self.settings.tls.identity, is_mutual=limits.tls_mutual)
            places.append(((limits.tls_host, limits.tls_port), side))
        try:
            for place, side_of_place in places:
                server = entity.make_server(
                    place, evt_handlers=handlers, server_class=_Server, request_handler=_Handler
                )
                server.door, server.side = self, side_of_place
                entity._servers.append(server)
                self._servers.append(server)
        except OSError:
            for server in self._servers:
                server.server_close()
            self._servers = []
            raise
        for server in self._servers:
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="door", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        log.info("door.listening", port=self.port, senders=len(limits.senders))
        if self.tls_port is not None:
            log.info("door.listening-by-tls", port=self.tls_port)
        if limits.insecure_ok_because:
            log.warning("door.plain-text", because=limits.insecure_ok_because)

    def stop(self, deadline_s: float = 10.0) -> None:
        """Accept nothing more, let handlers finish what they hold, end every association."""
        servers, self._servers = self._servers, []
        threads, self._threads = self._threads, []
        if not servers:
            return
        for server in servers:
            server.shutdown()
        end = time.monotonic() + deadline_s
        for assoc in self._copy_of_associations():
            assoc.stop(max(0.0, end - time.monotonic()))
        for thread in threads:
            thread.join(timeout=5.0)
        log.info("door.closed")

    def active(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._associations)

    # one association

    def begin(self, assoc: DoorAssociation, message: DIMSEMessage) -> Incoming:
        """A C-STORE request's data set begins to arrive."""
        command = message.command_set
        context = assoc._accepted_cx.get(message.context_id)
        syntax = str(context.transfer_syntax[0]) if context is not None else ""
        return self.intake.vault.receive(
            str(command.get("AffectedSOPClassUID", "")), str(command.get("AffectedSOPInstanceUID", "")), syntax
        )

    def opened(self, assoc: DoorAssociation, address: str) -> None:
        with self._lock:
            self._associations.add(assoc)
        victim = self.gate.connect(assoc, address, time.monotonic())
        if victim is not None:
            self._ask_to_leave(victim)

    def ended(self, assoc: DoorAssociation) -> None:
        with self._lock:
            self._associations.discard(assoc)
            arrival = self._arrivals.pop(id(assoc), None)
        self.gate.leave(assoc)
        if arrival is not None and arrival.id is not None:
            try:
                self.intake.close(arrival, released=bool(assoc.is_released))
                self._on_closed(arrival.id)
            except Exception as error:  # a thread's boundary; the row is closed as lost at the next start
                log.error("door.arrival-not-closed", error=logs.named(error))
            log.info("door.arrival-closed", arrival=arrival.id, kept=arrival.kept, released=bool(assoc.is_released))

    def _on_requested(self, event: Any) -> None:
        assoc = event.assoc
        reason, cause = self._rejection(assoc)
        if reason is None:
            return
        self._count(cause)
        log.info("door.association-rejected", cause=cause)
        assoc.acse.send_reject(*reason)
        assoc.kill()

    def _rejection(self, assoc: DoorAssociation) -> tuple[tuple[int, int, int] | None, str]:
        request = assoc.requestor.primitive
        title, address = str(request.calling_ae_title).strip(), assoc.requestor.address
        sender = self.settings.sender(title)
        if sender is None and title == PHOTOS_AE and _is_this_machine(assoc):
            sender = Sender(ae_title=PHOTOS_AE)
        if str(request.called_ae_title).strip() != self.settings.node.ae_title:
            return NOT_RECOGNISED_CALLED, "called-ae"
        if sender is None or (sender.address is not None and sender.address != address):
            return NOT_RECOGNISED_CALLING, "calling-ae"
        if not self._is_who_it_says(sender, assoc):
            return NOT_RECOGNISED_CALLING, "certificate"
        if self.intake.vault.why_not_ready() is not None and self.intake.vault.missing:
            return CONGESTION, "not-ready"
        welcome, victim = self.gate.associate(assoc, sender.ae_title, time.monotonic())
        if victim is not None:
            self._ask_to_leave(victim)
        if not welcome:
            return LOCAL_LIMIT, "too-many"
        with self._lock:
            pass_on = self.settings.orthanc.pass_originals and not sender.is_archive
            self._arrivals[id(assoc)] = Arrival(sender.ae_title, address, pass_on=pass_on)
        assoc.dul.socket.max_pdu_bytes = self.settings.door.max_pdu_bytes + 64
        return None, ""

    def _is_who_it_says(self, sender: Sender, assoc: DoorAssociation) -> bool:
        """An AE title alone proves nothing: where certificates are asked for, the title is bound to one (S3)."""
        is_asked = assoc.tls is not None and self.settings.door.tls_mutual
        wanted = sender.certificate_name or (sender.ae_title if is_asked else "")
        return not wanted or wanted in assoc.peer_names

    def _ask_to_leave(self, victim: DoorAssociation) -> None:
        self._count("gave-way")
        log.info("door.silent-connection-closed")
        victim.cut()

    def _on_c_echo(self, event: Any) -> int:
        self.gate.speak(event.assoc)
        return answers.SUCCESS

    def _on_c_store(self, event: Any) -> Any:
        """Answer by cause; an exception never reaches the library, which would answer C211 and print it."""
        assoc, request = event.assoc, event.request
        self.gate.speak(assoc)
        try:
            with self._lock:
                arrival = self._arrivals[id(assoc)]
            spool = request.DataSet
            if not isinstance(spool, Spool) or spool.item is None:
                raise Refused(RefusalCode.DICOM_MALFORMED, "a data set", "none")
            if arrival.calling_ae == PHOTOS_AE and not self._is_announced(str(request.AffectedSOPInstanceUID)):
                spool.item.discard()
                raise Refused(RefusalCode.NOT_AUTHORISED, "a photograph of the node's own desk", "another object")
            kept = self.intake.accept(
                spool.item,
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                arrival,
            )
        except Exception as error:  # the boundary of a request
            response = answers.answer(error)
            self._count(response.ErrorComment)
            log.warning("door.store-refused", code=response.ErrorComment, error=logs.named(error))
            return response
        if kept is not Kept.SAME:
            self._on_kept()
        return answers.SUCCESS

    def _count(self, code: str) -> None:
        with self._lock:
            self.refused[code] = self.refused.get(code, 0) + 1

    def _is_announced(self, sop_instance_uid: str) -> bool:
        """Under the node's own title nothing comes but what the node itself has written down (I5)."""
        with self.intake.database.read() as connection:
            return analyses.is_announced(connection, sop_instance_uid)

    def _copy_of_associations(self) -> list[DoorAssociation]:
        with self._lock:
            return list(self._associations)


def _is_this_machine(assoc: DoorAssociation) -> bool:
    """Whether the peer is a process on this very machine: it calls from loopback, or from the address it calls."""
    address = ipaddress.ip_address(assoc.requestor.address)
    own = assoc.dul.socket.socket.getsockname()[0] if assoc.dul.socket and assoc.dul.socket.socket else ""
    return address.is_loopback or str(address) == own


class _Server(ThreadedAssociationServer):
    """The accept loop."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    door: Door
    side: ServerSide | None
    """How TLS is spoken here; None: it is not."""

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = super().get_request()
        except OSError:
            time.sleep(0.05)  # out of descriptors: the connection still waits, so the loop would spin
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("door.connection-failed")  # the library prints a traceback here


class _Handler(RequestHandler):
    """Makes the door's own association for a connection."""

    def _create_association(self) -> DoorAssociation:
        door: Door = self.server.door
        assoc = DoorAssociation(self.ae, door.begin, door.ended)
        assoc._server = self.server
        assoc.name = "AcceptorThread@door"
        assoc.tls = self.server.side.context if self.server.side is not None else None
        connection = BoundedSocket(assoc, client_socket=self.request)
        connection.pdu_timeout_s = assoc.dimse.patience_s = door.settings.door.dimse_timeout_s
        assoc.set_socket(connection)
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = deepcopy(self.server.contexts)
        assoc.requestor.address_info = self.remote
        for event, bound in self.server._handlers.items():
            if event.is_intervention:
                assoc.bind(event, *bound)
            else:
                for handler, args in bound:
                    assoc.bind(event, handler, args)
        door.opened(assoc, str(self.client_address[0]))
        return assoc
