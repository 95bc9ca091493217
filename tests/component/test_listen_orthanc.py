"""With a real Orthanc in front: what is forwarded, how, and what is not; originals passed on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.demo.site import free_ports
from dicom_node.orthanc import Modality, OrthancChild
from dicom_node.words import PRODUCT, Grade
from tests.support import slices
from tests.support.listening import Listening, listening, settings_for, until

pytestmark = pytest.mark.component

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Listening, OrthancChild]]:
    """Orthanc in front, the listener behind, both on ports of their own."""
    http_port, dicom_port, node_port = free_ports(3)
    child = OrthancChild(
        tmp_path / "orthanc",
        http_port,
        dicom_port,
        node_port=node_port,
        modalities={"modality": Modality("MODALITY", 104), "storescu": Modality("STORESCU", 104)},
        stable_age_s=1,
    )
    with child:
        settings = settings_for(
            tmp_path,
            door={"port": node_port},
            gather={"quiet_s": 0.5, "cap_s": 20.0, "study_quiet_s": 3.0},
            orthanc={
                "url": child.url,
                "username": child.username,
                "password_file": child.password_file,
                "dicom_port": dicom_port,
                "pass_originals": True,
            },
        )
        with listening(settings) as node:
            yield node, child


def send_to_orthanc(child: OrthancChild, files: tuple[Path, ...]) -> None:
    done = slices.storescu(child.dicom_port, files, calling="STORESCU", called="ORTHANC")
    assert done.returncode == 0, done.stdout + done.stderr


def stow(client: httpx.Client, file: Path) -> None:
    answer = client.post(
        "/dicom-web/studies",
        content=b"--ainode\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n--ainode--",
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=ainode',
            "Accept": "application/dicom+json",
        },
    )
    assert answer.status_code == 200, answer.text


def test_one_association_per_stable_series_and_transferred_evidence(
    site: tuple[Listening, OrthancChild], tmp_path: Path
) -> None:
    node, child = site
    study_uid = str(generate_uid())
    made = [slices.series(tmp_path / f"s{n}", 4 + n, study_uid=study_uid) for n in range(9)]
    send_to_orthanc(child, tuple(f for s in made for f in s.files))
    until(lambda: len(node.reads) == 9, 40, "nine revisions")
    assert node.count("instances") == sum(len(s.files) for s in made)
    assert node.count("copies") == 0
    arrivals = node.rows("arrivals")
    assert len(arrivals) == 9, "one association per series"
    assert all(a["released"] for a in arrivals)
    assert sorted(a["instances"] for a in arrivals) == sorted(len(s.files) for s in made)
    for revision in node.rows("revisions"):
        assert revision["grade"] == Grade.TRANSFERRED.value
        assert revision["evidence"]["archive_count"] == revision["evidence"]["instances"]
    until(lambda: node.quiets, 15, "a quiet study")
    assert node.quiets == [(study_uid, 1)]


def test_results_never_come_to_the_node(site: tuple[Listening, OrthancChild], tmp_path: Path) -> None:
    node, child = site
    made = slices.series(tmp_path / "mr", 4)
    send_to_orthanc(child, made.files)
    until(lambda: len(node.reads) == 1, 30)
    with child.client() as client:
        # by STOW-RS, as the node delivers: a secondary capture under its name
        stowed = slices.slice_of(
            made.study_uid, str(generate_uid()), 1, ManufacturerModelName="dicom-ai-node", Modality="MR"
        )
        stow(client, slices.write(stowed, tmp_path / "stow.dcm"))
        # by C-STORE from elsewhere: our product, and kinds that are no image
        ours = slices.slice_of(made.study_uid, str(generate_uid()), 1, ManufacturerModelName=PRODUCT)
        seg = slices.slice_of(made.study_uid, str(generate_uid()), 1, SOPClassUID=SEG, Modality="SEG")
        sr = slices.slice_of(made.study_uid, str(generate_uid()), 1, SOPClassUID=SR, Modality="SR")
        nameless = slices.slice_of(made.study_uid, str(generate_uid()), 1, SOPClassUID=SR, Modality="SR")
        del nameless.SeriesDescription, nameless.Manufacturer
        others = [slices.write(ds, tmp_path / f"o{n}.dcm") for n, ds in enumerate((ours, seg, sr, nameless))]
        send_to_orthanc(child, tuple(others))
        # a further series proves that the script still lives and that the others had their turn
        late = slices.series(tmp_path / "late", 3, study_uid=made.study_uid)
        send_to_orthanc(child, late.files)
        until(lambda: len(node.reads) == 2, 30)
        assert len(client.get("/instances").json()) == 4 + 1 + 4 + 3
    assert {r["uid"] for r in node.rows("instances")} == {*made.uids, *late.uids}


def test_images_that_others_send_by_stow_are_forwarded(site: tuple[Listening, OrthancChild], tmp_path: Path) -> None:
    node, child = site
    made = slices.series(tmp_path / "mr", 3)
    with child.client() as client:
        for file in made.files:
            stow(client, file)
    until(lambda: len(node.reads) == 1, 30)
    assert {r["uid"] for r in node.rows("instances")} == set(made.uids)


def test_originals_are_passed_on_once_and_do_not_come_back(
    site: tuple[Listening, OrthancChild], tmp_path: Path
) -> None:
    node, child = site
    made = slices.series(tmp_path / "direct", 5, ImagesInAcquisition=5)
    done = slices.storescu(node.port, made.files, calling="MODALITY")
    assert done.returncode == 0
    until(lambda: len(node.reads) == 1)
    assert node.rows("revisions")[0]["grade"] == Grade.PROMISED.value
    until(lambda: node.count("instances", pass_state="passed") == 5, 20, "five originals in the archive")
    with child.client() as client:
        stored = until(lambda: len(client.get("/instances").json()) == 5, 10)
        assert stored
        # what the archive holds is what the modality sent
        for instance in client.get("/instances").json():
            (tmp_path / "back.dcm").write_bytes(client.get(f"/instances/{instance}/file").content)
            back = dcmread(tmp_path / "back.dcm")
            (origin,) = (f for f, uid in zip(made.files, made.uids, strict=True) if uid == back.SOPInstanceUID)
            assert back.PixelData == dcmread(origin).PixelData
        until(lambda: "stable" in json.dumps(client.get("/changes?limit=100").json()).lower(), 15)
        until(lambda: len(node.quiets) == 1, 15)
        assert client.get("/jobs?expand").json() == [], "nothing was forwarded back"
    assert node.count("arrivals") == 1


def test_originals_wait_for_an_archive_that_is_down(site: tuple[Listening, OrthancChild], tmp_path: Path) -> None:
    node, child = site
    child.stop()
    made = slices.series(tmp_path / "direct", 3)
    assert slices.storescu(node.port, made.files, calling="MODALITY").returncode == 0
    until(lambda: node.count("instances", pass_state="pending") == 3)
    child.start()
    until(lambda: node.count("instances", pass_state="passed") == 3, 30, "passed after the archive came back")


def test_late_slices_are_forwarded_and_make_a_second_revision(
    site: tuple[Listening, OrthancChild], tmp_path: Path
) -> None:
    node, child = site
    made = slices.series(tmp_path / "late", 6)
    send_to_orthanc(child, made.files[:5])
    until(lambda: len(node.reads) == 1, 30)
    send_to_orthanc(child, made.files[5:])
    until(lambda: len(node.reads) == 2, 30)
    first, second = node.rows("revisions")
    assert (first["number"], first["state"], len(first["instance_uids"])) == (1, "superseded", 5)
    assert (second["number"], second["state"], len(second["instance_uids"])) == (2, "complete", 6)
    assert node.count("instances") == 6 and node.count("copies") == 0


def test_orthanc_is_closed_to_strangers(site: tuple[Listening, OrthancChild], tmp_path: Path) -> None:
    _, child = site
    made = slices.series(tmp_path / "x", 1)
    assert slices.storescu(child.dicom_port, made.files, calling="STRANGER", called="ORTHANC").returncode != 0
    assert httpx.get(f"{child.url}/system", trust_env=False).status_code == 401
    assert httpx.post(f"{child.url}/tools/execute-script", content="print(1)", trust_env=False).status_code == 401
    with child.client() as client:
        assert client.post("/tools/execute-script", content="print(1)").status_code == 403
        assert client.get("/instances").json() == []
    assert child.password_file.stat().st_mode & 0o077 == 0
    assert shutil.which("storescu") is not None
