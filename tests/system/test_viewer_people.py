"""The viewer behind a session: who asked opens the study with its overlay in OHIF; who may not finds nothing.

A real Orthanc holds the study; the result goes back to it by STOW-RS; OHIF reads both through the node's own origin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.demo.site import free_ports
from dicom_node.orthanc import OrthancChild
from dicom_node.permissions import Role
from dicom_node.record.tables import predictions
from portal import sessions
from tests.component.test_study_pages import FLAIR, finished
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom
from tests.support.browsing import served
from tests.support.chromium import viewer
from tests.support.visits import visit

pytestmark = pytest.mark.system

OHIF = Path(__file__).resolve().parents[2] / ".tools/ohif"
JANE = {"PatientName": "ROE^JANE", "PatientID": "ID-4711", "PatientBirthDate": "19480817"}
SENT_S = 60.0


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancChild]:
    http_port, dicom_port, node_port = free_ports(3)
    with OrthancChild(tmp_path / "orthanc", http_port, dicom_port, node_port=node_port) as made:
        yield made


@pytest.fixture
def node(tmp_path: Path, orthanc: OrthancChild) -> Iterator[ApiNode]:
    make_tiny_package(tmp_path / "models", role="flair")
    known = {"username": orthanc.username, "password_file": orthanc.password_file}
    archive = {"kind": "stow", "url": orthanc.dicomweb_url, **known}
    section = {"url": orthanc.url, **known}
    made = ApiNode(tmp_path / "node", tmp_path / "models", orthanc=section, web={"viewer_folder": OHIF},
                   destinations={"archive": archive}, report={"issuers": {"": "urn:test"}})  # fmt: skip
    yield made
    made.close()


def test_who_asked_sees_the_overlay_and_a_stranger_nothing(
    node: ApiNode, orthanc: OrthancChild, tmp_path: Path
) -> None:
    files = dicom(tmp_path / "mr", **FLAIR, **JANE)
    study = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    with orthanc.client() as client:
        for path in files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    with served(node.app) as address:
        doctor = visit(node.app, node.settings, node.database, Role.CLINICIAN, sites=("base",), address=address)
        picked = doctor.post("/study/pick", by="patient", value="ID-4711", study=study)
        asked = doctor.post(picked.headers["location"], model="tiny-bright", role_0="flair", transfer="archive")
        location = asked.headers["location"]
        finished(doctor, location)
        deadline = time.monotonic() + SENT_S
        while node.rows(predictions)[0]["transfers"]["archive"]["state"] != "confirmed":
            assert time.monotonic() < deadline, node.rows(predictions)[0]["transfers"]
            time.sleep(0.1)
        segmentation = dcmread(BytesIO(doctor.get(f"{location}/files/seg.dcm").content))
        number = location.rpartition("/")[2]
        with viewer() as page:
            cookie = {"name": sessions.SESSION, "value": doctor.secret, "url": address}
            page.page.context.add_cookies([cookie])
            page.open(f"{address}/view/request/{number}")
            assert page.shown_images()
            assert "SEG" in [modality for modality, _, _ in page.display_sets()]
            page.show_segmentation(str(segmentation.SeriesDescription))
            assert page.label_counts() == {1: int(segmentation.pixel_array.sum())}
            assert page.troubles == []
        stranger = visit(node.app, node.settings, node.database, Role.CLINICIAN, sites=("base",), address=address)
        for path in (f"/view/request/{number}", f"/dicom-web/studies/{study}/series"):
            assert stranger.get(path).status_code == 404
        assert stranger.get(f"/dicom-web/studies?StudyInstanceUID={study}").json() == []
        doctor.post("/sign-out")
        assert doctor.client.get(f"/dicom-web/studies/{study}/series").status_code == 401
