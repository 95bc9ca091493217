"""The DIMSE way: C-STORE of the stored bytes, and C-FIND to look (PS3.4 annexes B and C; PS3.7 section 9.1).

TCP_NODELAY is set on every connection: without it each small message waits for the peer's delayed acknowledgement.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.delivery.addresses import resolve
from dicom_node.delivery.checks import Look, Presence, check_identity, check_place
from dicom_node.delivery.dicomweb import Listed
from dicom_node.delivery.outcomes import Outcome, classify_dimse
from dicom_node.delivery.types import CStoreTarget, DimseTls, OutgoingObject, Seen, text_of
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.tls import TlsRefused, client_context
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# a path given to send_c_store is then sent as it lies on the disk, not decoded and encoded again
_config.STORE_SEND_CHUNKED_DATASET = True
# responses to C-FIND name patients; the library would log them (invariant I4)
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_REQUEST_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

_MAX_MATCHES = 100


def store(target: CStoreTarget, outgoing: OutgoingObject) -> tuple[int, Outcome]:
    """Send one object by C-STORE.

    Returns
    -------
    (int, Outcome)
        The status of the response and its class.

    Raises
    ------
    PeerTrouble
        If no association or no response came: whether the object was stored is unknown.
    Refused
        `delivery-incomplete`, if the peer does not accept this SOP Class in the transfer syntax of the object.
    """
    with _association(target, outgoing.sop_class_uid, outgoing.transfer_syntax_uid) as association:
        if not association.accepted_contexts:
            raise Refused(
                RefusalCode.DELIVERY_INCOMPLETE, "the SOP Class in its transfer syntax accepted", "context rejected"
            )
        # the library sends from a path without encoding again; this one leads to memory, so that no disk sees a patient
        with os.fdopen(os.memfd_create("outgoing", os.MFD_CLOEXEC), "wb") as file:
            file.write(outgoing.data)
            file.flush()
            try:
                answer = association.send_c_store(f"/proc/self/fd/{file.fileno()}")
            except (RuntimeError, ValueError, OSError) as error:
                raise PeerTrouble(f"the association ended while sending ({type(error).__name__})") from None
        status = answer.get("Status")
        if status is None:
            raise PeerTrouble("the destination did not answer the C-STORE request")
        return int(status), classify_dimse(int(status))


class FindEyes:
    """Looks by C-FIND, study root: by UIDs only, because DIMSE gives no content back without a third party."""

    def __init__(self, target: CStoreTarget) -> None:
        self._target = target

    def check_patient(self, outgoing: OutgoingObject) -> None:
        query = _query("STUDY", StudyInstanceUID=outgoing.study_uid, PatientID="", IssuerOfPatientID="")
        matches = [match for match in self._find(query) if text_of(match.get("StudyInstanceUID")) == outgoing.study_uid]
        check_identity(
            outgoing, [(text_of(match.get("PatientID")), text_of(match.get("IssuerOfPatientID"))) for match in matches]
        )

    def look(self, outgoing: OutgoingObject) -> Look:
        query = _query(
            "IMAGE",
            StudyInstanceUID=outgoing.study_uid,
            SeriesInstanceUID=outgoing.series_uid,
            SOPInstanceUID=outgoing.sop_instance_uid,
            SOPClassUID="",
        )
        listed = [
            Listed(
                study_uid=text_of(match.get("StudyInstanceUID")),
                series_uid=text_of(match.get("SeriesInstanceUID")),
                sop_class_uid=text_of(match.get("SOPClassUID")),
                patient_id="",
                issuer_of_patient_id="",
            )
            for match in self._find(query)
            if text_of(match.get("SOPInstanceUID")) == outgoing.sop_instance_uid
        ]
        if not listed:
            return Look(Presence.ABSENT)
        check_place(outgoing, listed)
        return Look(Presence.THERE, Seen.LISTED)

    def _find(self, query: Dataset) -> list[Dataset]:
        matches: list[Dataset] = []
        with _association(self._target, StudyRootQueryRetrieveInformationModelFind) as association:
            if not association.accepted_contexts:
                raise Refused(
                    RefusalCode.DELIVERY_INCOMPLETE,
                    "C-FIND (study root), or verify_url, to see what was stored",
                    "context rejected",
                )
            try:
                for status, match in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                    code = status.get("Status")
                    if code is None or (code != 0 and code not in (0xFF00, 0xFF01)):
                        raise PeerTrouble("the destination did not answer a C-FIND request with success")
                    if match is not None and len(matches) < _MAX_MATCHES:
                        matches.append(match)
            except (RuntimeError, ValueError) as error:
                raise PeerTrouble(f"the association ended during C-FIND ({type(error).__name__})") from None
        return matches


@contextmanager
def _association(target: CStoreTarget, *context: str) -> Iterator[Association]:
    tls = target.tls
    address = resolve(
        target.host, target.port, plain_text_ok_because=target.insecure_ok_because, is_tls=tls is not None
    )
    entity = AE(ae_title=target.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = target.timeout_s
    entity.connection_timeout = min(target.timeout_s, 20.0)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.add_requested_context(*context)
    association = entity.associate(
        address,
        target.port,
        ae_title=target.ae_title,
        max_pdu=131072,
        tls_args=None if tls is None else (_context(tls), tls.name or target.host),
        evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
    )
    try:
        if not association.is_established:
            # a peer that accepts the association but none of its contexts is released by the library
            if association.rejected_contexts:
                raise Refused(
                    RefusalCode.DELIVERY_INCOMPLETE, "the SOP Class in its transfer syntax accepted", "context rejected"
                )
            also = "" if tls is None else "; by TLS: its certificate, and whether it believes the node's"
            raise PeerTrouble(f"no association with the destination; check `host`, `port` and both AE titles{also}")
        yield association
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _context(tls: DimseTls) -> ssl.SSLContext:
    try:
        return client_context(tls.authority_file, tls.identity)
    except TlsRefused as refused:
        raise PeerTrouble(str(refused)) from None


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _query(level: str, **keys: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query
