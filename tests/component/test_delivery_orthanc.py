"""Delivery to a real Orthanc, by STOW-RS and by C-STORE, read back by DCMTK and by Orthanc's own REST interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, StudyRootQueryRetrieveInformationModelFind
from test_delivery_stow import make_object

from dicom_node.delivery import CStoreTarget, Seen, StowTarget, send
from dicom_node.demo.site import free_ports
from dicom_node.orthanc import OrthancChild
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

pytestmark = pytest.mark.component


@dataclass
class Peer:
    """An archive as delivery sees it, and a way to look into it that is not delivery's."""

    dicom: int
    http: httpx.Client | None = None
    stow_target: StowTarget | None = None

    @property
    def stow(self) -> StowTarget:
        assert self.stow_target is not None
        return self.stow_target

    def cstore(self, verify: StowTarget | None = None) -> CStoreTarget:
        return CStoreTarget("127.0.0.1", self.dicom, "ORTHANC", timeout_s=10, verify=verify)

    def find(self, level: str, **query: str) -> list[str]:
        assert self.http is not None
        return list(self.http.post("/tools/find", json={"Level": level, "Query": query}).json())

    def studies(self, study_uid: str) -> list[str]:
        return self.find("Study", StudyInstanceUID=study_uid)

    def file(self, sop_instance_uid: str) -> bytes:
        assert self.http is not None
        (one,) = self.find("Instance", SOPInstanceUID=sop_instance_uid)
        return self.http.get(f"/instances/{one}/file").content


@contextmanager
def running(folder: Path, **options: object) -> Iterator[Peer]:
    """A real Orthanc with the shipped configuration, credentials included."""
    http_port, dicom_port = free_ports(2)
    with OrthancChild(folder, http_port, dicom_port, options=options) as child, child.client() as http:
        password = child.password_file.read_text().strip()
        yield Peer(dicom_port, http, StowTarget(child.dicomweb_url, child.username, lambda: password, timeout_s=20))


@pytest.fixture(scope="module", params=[True, False], ids=["overwrites", "keeps-first"])
def orthanc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with running(tmp_path_factory.mktemp("orthanc"), OverwriteInstances=request.param) as peer:
        yield peer


def fresh(number: int, study: int, **changes: object):
    uids = {
        "StudyInstanceUID": f"2.25.7700{study}",
        "SeriesInstanceUID": f"2.25.7700{study}.1",
        "SOPInstanceUID": f"2.25.7700{study}.1.{number}",
    }
    return make_object(number, **{**uids, **changes})


def test_stow_stores_the_very_bytes_and_sending_again_changes_nothing(orthanc):
    outgoing = fresh(1, 101)
    first = send(outgoing, orthanc.stow)
    assert (first.seen, first.was_already_there) == (Seen.CONTENT, False)
    assert send(outgoing, orthanc.stow, attempt=2).was_already_there
    assert dcmread_equal(orthanc.file(outgoing.sop_instance_uid), outgoing.data)
    assert len(orthanc.studies(outgoing.study_uid)) == 1


def dcmread_equal(first: bytes, second: bytes) -> bool:
    return dcmread(BytesIO(first)) == dcmread(BytesIO(second))


@pytest.mark.parametrize("verified", [True, False], ids=["dicomweb", "c-find"])
def test_c_store_is_seen_by_dicomweb_or_by_c_find(orthanc, verified):
    outgoing = fresh(1, 110 + verified)
    destination = orthanc.cstore(orthanc.stow if verified else None)
    assert send(outgoing, destination).seen is (Seen.CONTENT if verified else Seen.LISTED)
    assert send(outgoing, destination, attempt=2).was_already_there
    assert dcmread_equal(orthanc.file(outgoing.sop_instance_uid), outgoing.data)


def test_a_result_under_a_merged_patient_is_held_before_it_splits_the_study(orthanc):
    images = fresh(1, 120, PatientID="MERGED")
    send(images, orthanc.stow)
    for destination in (orthanc.stow, orthanc.cstore()):
        with pytest.raises(Refused) as refused:
            send(fresh(2, 120), destination)
        assert refused.value.refusal.code is RefusalCode.PATIENT_CHANGED
    assert len(orthanc.studies(images.study_uid)) == 1


def test_a_study_already_split_in_two_is_held(orthanc):
    first, second = fresh(1, 130), fresh(2, 130, PatientID="MERGED")
    send(first, orthanc.stow)
    orthanc.http.post("/instances", content=second.data).raise_for_status()
    with pytest.raises(Refused) as refused:
        send(fresh(3, 130), orthanc.stow)
    assert refused.value.refusal.code is RefusalCode.PATIENT_CHANGED


def test_other_content_under_our_uid_is_held_and_left_alone(orthanc):
    theirs = fresh(1, 140, PixelData=bytes(128))
    send(theirs, orthanc.stow)
    with pytest.raises(Refused) as refused:
        send(fresh(1, 140), orthanc.stow)
    assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT
    assert dcmread_equal(orthanc.file(theirs.sop_instance_uid), theirs.data)


def test_the_same_uid_in_another_study_is_held(orthanc):
    theirs = fresh(1, 150, StudyInstanceUID="2.25.7700999")
    send(theirs, orthanc.stow)
    with pytest.raises(Refused) as refused:
        send(fresh(1, 150), orthanc.stow)
    assert refused.value.refusal.code is RefusalCode.DELIVERY_CONFLICT


def test_an_archive_that_writes_in_another_transfer_syntax_still_has_the_same_content(tmp_path):
    with running(tmp_path, IngestTranscoding="1.2.840.10008.1.2.4.80") as peer:
        outgoing = fresh(1, 160)
        assert send(outgoing, peer.stow).seen is Seen.CONTENT
        (tmp_path / "stored.dcm").write_bytes(peer.file(outgoing.sop_instance_uid))
        assert dcmread(tmp_path / "stored.dcm").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"
        assert send(outgoing, peer.stow, attempt=2).was_already_there
    with pytest.raises(PeerTrouble):
        send(outgoing, peer.stow)
    with pytest.raises(PeerTrouble):
        send(outgoing, peer.cstore())


# -- C-STORE peers that misbehave


@pytest.fixture
def scp():
    """A DIMSE archive that answers with the next status of its script and lists what it kept."""
    kept: list[bytes] = []
    script: list[int] = []

    def on_store(event: evt.Event) -> int:
        status = script.pop(0) if script else 0
        if status in (0x0000, 0xB000, 0xFE00):
            kept.append(event.request.DataSet.getvalue())
        if status == 0xFE00:
            event.assoc.abort()
        return status

    def on_find(event: evt.Event):
        if event.identifier.QueryRetrieveLevel == "IMAGE" and kept:
            yield 0xFF00, event.identifier

    entity = AE(ae_title="ORTHANC")
    entity.add_supported_context(MRImageStorage)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_C_FIND, on_find)]
    )
    peer = Peer(server.socket.getsockname()[1])
    yield peer, script, kept
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x0000, None),
        (0xB000, None),
        (0xA700, PeerTrouble),
        (0x0110, PeerTrouble),
        (0xA900, Refused),
        (0xC000, Refused),
        (0x0122, Refused),
    ],
)
def test_c_store_status_by_class(scp, status, error):
    peer, script, kept = scp
    script.append(status)
    outgoing = fresh(1, 170)
    if error is None:
        assert send(outgoing, peer.cstore()).seen is Seen.LISTED
        assert kept == [outgoing.dataset]
    else:
        with pytest.raises(error):
            send(outgoing, peer.cstore())
        assert kept == []


def test_c_store_whose_answer_is_lost_is_found_and_not_sent_again(scp):
    peer, script, kept = scp
    script.append(0xFE00)
    outgoing = fresh(1, 171)
    assert send(outgoing, peer.cstore()).seen is Seen.LISTED
    assert send(outgoing, peer.cstore(), attempt=2).was_already_there
    assert len(kept) == 1


def test_a_sop_class_the_archive_does_not_take_is_held(scp):
    peer, _, kept = scp
    outgoing = fresh(1, 172, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    with pytest.raises(Refused) as refused:
        send(outgoing, peer.cstore())
    assert refused.value.refusal.code is RefusalCode.DELIVERY_INCOMPLETE
    assert kept == []
