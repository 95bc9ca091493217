"""DICOMweb through the portal, with a real Orthanc behind: what a visitor sees, and where links point."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import uvicorn
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, MRImageStorage

from dicom_node.metrics import Metrics
from dicom_node.record.keys import SCOPES, KeyIdentity
from fhir_bridge.server import Access
from portal import Listen, PortalServices, TicketOffice, ViewerSettings, create_app
from portal.serving import ListenRefused, configure

pytestmark = pytest.mark.component

MINE, OTHER = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
PAGE = b"%PDF-1.4 a page of the report\n" + b"x" * 50_000
PIXELS = bytes(range(256)) * 2


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _object(sop_class: str, study: str, number: int) -> Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"{study}.{number}.1"
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, f"{study}.{number}.1"
    made.StudyInstanceUID, made.SeriesInstanceUID = study, f"{study}.{number}"
    made.PatientID, made.PatientName = "P1", "Test^Patient"
    made.StudyDate, made.SeriesNumber, made.InstanceNumber = "20261122", number, 1
    return made


def _image(study: str) -> Dataset:
    made = _object(MRImageStorage, study, 1)
    made.Modality, made.Rows, made.Columns = "MR", 16, 16
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PixelData = PIXELS
    return made


def _document(study: str) -> Dataset:
    made = _object(EncapsulatedPDFStorage, study, 2)
    made.Modality, made.MIMETypeOfEncapsulatedDocument = "DOC", "application/pdf"
    made.EncapsulatedDocument = PAGE
    return made


def _bytes(made: Dataset) -> bytes:
    target = BytesIO()
    made.save_as(target, enforce_file_format=True)
    return target.getvalue()


@dataclass
class Portal:
    url: str
    office: TicketOffice
    noted: list[tuple[str, Access]]

    @contextmanager
    def visit(self, study: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=20) as client:
            assert client.get(self.office.link("", study)).status_code == 303
            yield client


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("orthanc"), _port()
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/system").raise_for_status()
                break
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    pytest.fail("Orthanc did not start within 60 s")
                time.sleep(0.2)
        for made in (_image(MINE), _document(MINE), _image(OTHER)):
            httpx.post(f"http://127.0.0.1:{port}/instances", content=_bytes(made)).raise_for_status()
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def portal(orthanc: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    folder = tmp_path_factory.mktemp("portal")
    (folder / "index.html").write_text("<html></html>")
    office = TicketOffice(folder / "tickets")
    viewer = ViewerSettings(folder, f"http://127.0.0.1:{orthanc}/dicom-web", office)
    key = KeyIdentity("program", "0a1b2c3d", frozenset(SCOPES))
    port = _port()
    noted: list[tuple[str, Access]] = []
    services = PortalServices(
        {"key": key}.get,
        {},
        metrics=Metrics(),
        viewer=viewer,
        on_access=lambda request, access: noted.append((request.state.actor, access)),
    )
    app = create_app(services)
    server = uvicorn.Server(configure(app, Listen(port=port)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.started
    yield Portal(f"http://127.0.0.1:{port}", office, noted)
    server.should_exit = True
    thread.join(20)


def test_a_visitor_sees_one_study_and_no_other(portal: Portal) -> None:
    with portal.visit(MINE) as client:
        listed = client.get("/dicom-web/studies").json()
        assert [study["0020000D"]["Value"] for study in listed] == [[MINE]]
        assert client.get("/dicom-web/studies", params={"00100020": "P1"}).json() == listed
        narrowed = client.get("/dicom-web/studies", params={"StudyInstanceUID": OTHER})
        assert narrowed.json() == []
        assert client.get(f"/dicom-web/studies/{OTHER}/metadata").status_code == 404
        assert client.get(f"/dicom-web/studies/{MINE}/series").status_code == 200
    with portal.visit("*") as client:
        assert len(client.get("/dicom-web/studies").json()) == 2


def test_pixels_arrive_as_they_are(portal: Portal) -> None:
    with portal.visit(MINE) as client:
        frame = f"/dicom-web/studies/{MINE}/series/{MINE}.1/instances/{MINE}.1.1/frames/1"
        accept = "multipart/related; type=application/octet-stream; transfer-syntax=*"
        answer = client.get(frame, headers={"Accept": accept})
        assert answer.status_code == 200
        assert PIXELS in answer.content
        assert answer.headers["content-type"].startswith("multipart/related")
        assert answer.headers["cache-control"] == "no-store"


def test_the_archives_links_lead_back_to_this_origin_and_the_pdf_can_be_read(portal: Portal) -> None:
    with portal.visit(MINE) as client:
        metadata = client.get(f"/dicom-web/studies/{MINE}/metadata", headers={"Accept": "application/dicom+json"})
        links = [item["00420011"]["BulkDataURI"] for item in metadata.json() if "00420011" in item]
        assert len(links) == 1
        assert links[0].startswith(f"{portal.url}/dicom-web/studies/{MINE}/")
        answer = client.get(links[0], headers={"Accept": "application/pdf"})
        assert answer.status_code == 200
        assert PAGE in answer.content


def test_looking_at_a_study_is_noted_once_with_who_looked(portal: Portal) -> None:
    portal.noted.clear()
    with httpx.Client(base_url=portal.url, trust_env=False, headers={"X-API-Key": "key"}) as client:
        for _ in range(3):
            client.get(f"/dicom-web/studies/{OTHER}/metadata")
    told = [(actor, access.action, access.study_uid) for actor, access in portal.noted]
    assert told == [("key:program", "dicomweb", OTHER)]


def test_nobody_reads_the_archive_and_nobody_writes_to_it(portal: Portal) -> None:
    with httpx.Client(base_url=portal.url, trust_env=False) as client:
        assert client.get("/dicom-web/studies").status_code == 401
        client.headers["X-API-Key"] = "key"
        assert len(client.get("/dicom-web/studies").json()) == 2
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, f"/dicom-web/studies/{MINE}").status_code == 405
        for path in ("/dicom-web/servers", "/dicom-web/../instances", "/dicom-web/%2e%2e/system", "/dicom-web/"):
            assert client.get(path).status_code == 404


def test_the_server_says_nothing_about_itself_and_survives_nonsense(portal: Portal) -> None:
    host, _, port = portal.url.removeprefix("http://").partition(":")
    for nonsense in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
            assert b"uvicorn" not in answer.lower()
            assert b"Traceback" not in answer
    assert httpx.get(f"{portal.url}/livez", trust_env=False).status_code == 200


def test_plain_text_stays_on_this_machine(portal: Portal, tmp_path: Path) -> None:
    app = create_app(PortalServices({}.get, {}, metrics=Metrics()))
    with pytest.raises(ListenRefused):
        configure(app, Listen(host="0.0.0.0"))
    assert configure(app, Listen(host="0.0.0.0", insecure_ok_because="isolated test network")).access_log is False
