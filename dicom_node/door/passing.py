"""Passing originals on: what a modality sent straight to the node goes to the archive as well (PS3.4 B.2.2, as SCU).

The record says what is still to be passed, so that a kill at any moment loses nothing; the archive may then get an
object twice, which it knows by its UID.  What came from an archive is never passed on, and results never are: there is
no loop.  A photograph without a confirmed identity is private to the node: it is passed on to nobody.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import structlog
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import RowMapping

from dicom_node import logs
from dicom_node.door.part10 import data_set_offset
from dicom_node.door.vault import Vault
from dicom_node.record import Database, analyses
from dicom_node.record import arrivals as rows
from dicom_node.settings import Settings
from dicom_node.tls import client_context
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = structlog.get_logger(__name__)

BATCH = 200
FIRST_RETRY_S, MAX_RETRY_S = 2.0, 60.0
MAX_REFUSALS = 5
"""An archive that refuses one object this often with a permanent status has refused it."""
_CONTEXTS = 128


class Passer:
    """Sends pending originals to the archive of the settings, again and again until it says that it holds them."""

    def __init__(self, settings: Settings, database: Database, vault: Vault) -> None:
        self._settings, self._database, self._vault = settings, database, vault
        self._wake = threading.Event()

    def ring(self) -> None:
        """There may be something to pass."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Pass originals on until `stop` is set."""
        pause_s = FIRST_RETRY_S
        while not stop.is_set():
            self._wake.clear()
            try:
                sent, failed = self.pass_pending(stop.is_set)
            except Exception as error:  # the thread's boundary: the next round tries again from the records
                log.error("door.passing-failed", error=logs.named(error))
                sent, failed = 0, 1
            if failed:
                stop.wait(pause_s)
                pause_s = min(MAX_RETRY_S, 2 * pause_s)
            else:
                pause_s = FIRST_RETRY_S
                if sent == 0:
                    self._wake.wait(2.0)

    def pass_pending(self, is_stopped: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """One association with what is pending; how many objects were passed, and how many were not."""
        pending = self._to_pass()
        if not pending:
            return 0, 0
        association = self._associate(pending)
        if association is None:
            return 0, len(pending)
        passed: list[int] = []
        try:
            for row in pending:
                if is_stopped() or not association.is_established:
                    break
                status = self._send(association, row)
                if status is None:
                    break
                if status == 0x0000 or status & 0xF000 == 0xB000:
                    passed.append(int(row["id"]))
                else:
                    self._not_passed(row, status)
        finally:
            if association.is_established:
                association.release()
            if passed:
                with self._database.write() as connection:
                    rows.mark_passed(connection, passed)
        log.info("door.originals-passed", passed=len(passed), pending=len(pending) - len(passed))
        return len(passed), len(pending) - len(passed)

    def _to_pass(self) -> list[RowMapping]:
        """What is pending, without photographs that stay in the node: those are marked, once, and never asked about.

        A study without an index entry is not pending yet, so whether it is private is known by now.
        """
        with self._database.read() as connection:
            pending = rows.pending_originals(connection, BATCH)
            studies = {str(row["study_uid"]) for row in pending}
            here = {study_uid for study_uid in studies if analyses.stays_here(connection, study_uid)}
        private = [int(row["id"]) for row in pending if row["study_uid"] in here]
        if private:
            with self._database.write() as connection:
                rows.mark_private(connection, private)
        return [row for row in pending if row["study_uid"] not in here]

    def _associate(self, pending: Sequence[RowMapping]) -> Any | None:
        archive = self._settings.orthanc
        entity = AE(ae_title=self._settings.node.ae_title)
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = 10, 60, 60
        entity.connection_timeout = 5
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        for pair in sorted({(r["sop_class_uid"], r["transfer_syntax_uid"]) for r in pending})[:_CONTEXTS]:
            entity.add_requested_context(pair[0], pair[1])
        association = entity.associate(
            archive.dicom_host,
            archive.dicom_port,
            ae_title=archive.ae_title,
            tls_args=self._tls(),
            evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
        )
        if not association.is_established:
            log.warning("door.archive-unreachable")
            return None
        return association

    def _tls(self) -> tuple[ssl.SSLContext, str] | None:
        """How the archive is called by TLS, if it is; files are read each time, so a renewed certificate counts."""
        archive, own = self._settings.orthanc, self._settings.tls
        if not archive.dicom_tls:
            return None
        context = client_context(archive.ca_file or own.authority_file, own.identity)
        return context, archive.dicom_tls_name or archive.dicom_host

    def _send(self, association: Any, row: RowMapping) -> int | None:
        """The stored data set as it came; the status, or None when no answer came."""
        context = next(
            (
                c
                for c in association.accepted_contexts
                if c.abstract_syntax == row["sop_class_uid"] and c.transfer_syntax[0] == row["transfer_syntax_uid"]
            ),
            None,
        )
        if context is None:
            return 0x0122
        data = b"".join(self._vault.storage.read(self._vault.data_folder / row["path"]))
        request = C_STORE()
        request.MessageID = 1
        request.AffectedSOPClassUID = UID(row["sop_class_uid"])
        request.AffectedSOPInstanceUID = UID(row["uid"])
        request.Priority = 0x0002
        request.DataSet = BytesIO(data[data_set_offset(data) :])
        association._reactor_checkpoint.clear()
        while not association._is_paused and association.is_alive():  # else the reactor might take the answer
            time.sleep(0.0005)
        try:
            association.dimse.send_msg(request, context.context_id)
            _, response = association.dimse.get_msg(block=True)
        finally:
            association._reactor_checkpoint.set()
        status = getattr(response, "Status", None)
        return None if status is None else int(status)

    def _not_passed(self, row: RowMapping, status: int) -> None:
        is_permanent = status >> 8 != 0xA7
        is_final = is_permanent and int(row["pass_attempts"]) + 1 >= MAX_REFUSALS
        log.warning("door.original-refused", instance=int(row["id"]), status=f"{status:04X}", final=is_final)
        with self._database.write() as connection:
            rows.mark_not_passed(connection, int(row["id"]), is_final=is_final)


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
