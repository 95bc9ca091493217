"""Who the node says it is in the associations that it requests (PS3.7 D.3.3.2): itself, not the library it uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from test_delivery_stow import make_object

import dicom_node
from dicom_node.delivery import CStoreTarget
from dicom_node.delivery.dimse import FindEyes, store
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.support import slices
from tests.support.listening import listening, settings_for, until

pytestmark = pytest.mark.component
OURS = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)


@contextmanager
def archive(*sop_classes: str) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """An archive that takes everything: its port, and who has called it."""
    seen: list[tuple[str, str]] = []
    entity = AE(ae_title="ORTHANC")
    for uid in (*sop_classes, StudyRootQueryRetrieveInformationModelFind):
        entity.add_supported_context(uid, ExplicitVRLittleEndian)

    def called(event: evt.Event) -> None:
        caller = event.assoc.requestor
        seen.append((str(caller.implementation_class_uid), str(caller.implementation_version_name)))

    handlers = [
        (evt.EVT_ACCEPTED, called),
        (evt.EVT_C_STORE, lambda event: 0x0000),
        (evt.EVT_C_FIND, lambda event: iter([(0x0000, None)])),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1], seen
    finally:
        server.shutdown()


def test_an_archive_that_is_sent_results_and_asked_sees_us() -> None:
    outgoing = make_object()
    with archive(outgoing.sop_class_uid) as (port, seen):
        target = CStoreTarget("127.0.0.1", port, "ORTHANC", timeout_s=10)
        assert store(target, outgoing)[0] == 0
        FindEyes(target).look(outgoing)
    assert seen == [OURS, OURS]


def test_the_archive_that_is_passed_originals_sees_us(tmp_path: Path) -> None:
    images = slices.series(tmp_path / "images", count=1)
    with archive(slices.MR) as (port, seen):
        orthanc = {"pass_originals": True, "dicom_port": port, "ae_title": "ORTHANC"}
        with listening(settings_for(tmp_path, orthanc=orthanc)) as node:
            assert slices.storescu(node.port, images.files, calling="MODALITY").returncode == 0
            until(lambda: bool(seen), 20, "the original is passed on")
    assert set(seen) == {OURS}


def test_no_program_of_the_node_calls_under_another_name() -> None:
    for path in Path(dicom_node.__file__).parent.rglob("*.py"):
        text = path.read_text()
        made = len(re.findall(r"\bAE\(", text))
        assert text.count("implementation_class_uid = IMPLEMENTATION_CLASS_UID") == made, path.name
        assert text.count("implementation_version_name = IMPLEMENTATION_VERSION_NAME") == made, path.name
