"""DIMSE peers that do what well-behaved software does not."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ASSOCIATE_RQ

from tests.support.slices import MR


def associate(
    port: int,
    *,
    calling: str = "ORTHANC",
    called: str = "AINODE",
    sop_class: str = MR,
    syntax: str = ExplicitVRLittleEndian,
    max_pdu: int = 16382,
) -> Association:
    """An association with one presentation context and Verification; the caller ends it."""
    entity = AE(ae_title=calling)
    entity.maximum_pdu_size = max_pdu
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.add_requested_context("1.2.840.10008.1.1")
    entity.add_requested_context(sop_class, syntax)
    return entity.associate("127.0.0.1", port, ae_title=called)


@contextmanager
def association(port: int, **options: Any) -> Iterator[Association]:
    """An established association that is released at the end."""
    assoc = associate(port, **options)
    assert assoc.is_established
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def encode(ds: Dataset, *, implicit: bool = False) -> bytes:
    """The data set alone, little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def store_raw(assoc: Association, data: bytes, sop_class: str, sop_instance: str) -> tuple[int, str]:
    """C-STORE whatever bytes under whatever UIDs; status and error comment."""
    context = next(c for c in assoc.accepted_contexts if c.abstract_syntax != "1.2.840.10008.1.1")
    request = C_STORE()
    request.MessageID = 7
    request._affected_sop_class_uid = UID(sop_class) if sop_class else None
    request._affected_sop_instance_uid = UID(sop_instance) if sop_instance else None
    request.Priority = 2
    request.DataSet = BytesIO(data)
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused and assoc.is_alive():
        time.sleep(0.001)
    try:
        assoc.dimse.send_msg(request, context.context_id)
        _, response = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    if response is None:
        return -1, ""
    return int(response.Status), str(response.ErrorComment or "")


def associate_request(calling: str = "ORTHANC", called: str = "AINODE") -> bytes:
    """The bytes of an A-ASSOCIATE-RQ, to be sent whole, in drops, or not at all."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(MR, ExplicitVRLittleEndian)
    captured: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                head = _exactly(connection, 6)
                captured.append(head + _exactly(connection, struct.unpack(">BBL", head)[2]))

        thread = threading.Thread(target=take)
        thread.start()
        entity.acse_timeout = 5
        entity.associate("127.0.0.1", server.getsockname()[1], ae_title=called)
        thread.join(10)
    A_ASSOCIATE_RQ().decode(captured[0])
    return captured[0]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed early")
        data += piece
    return data
