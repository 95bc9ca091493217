"""Predictions by HTTP: what the thesis's clients send and read, and what a request may ask for besides."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydicom import dcmread

from dicom_node.record import predictions, tables
from dicom_node.stages.prediction_care import throw_away
from tests.fixtures_packages import make_random_package, make_tiny_package
from tests.support.api import ApiNode, dicom, head, nifti, zipped

pytestmark = pytest.mark.component

FIELDS = {
    "success", "status", "message", "model", "device", "elapsed_time", "unique_classes", "num_classes_detected",
    "class_details", "model_info", "segmentation_path", "segmentation_file", "output_path",
}  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("api")
    make_tiny_package(folder / "models", role="t1c")
    make_random_package(
        folder / "models", patch=(32, 32), channels=3, description={"role_sets": [["flair", "t1"], ["flair"]]}
    )
    made = ApiNode(folder / "node", folder / "models")
    yield made
    made.close()


@pytest.fixture
def client(node: ApiNode) -> TestClient:
    return node.client()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return nifti(head(), tmp_path_factory.mktemp("scan") / "scan.nii.gz").read_bytes()


def ask(client: TestClient, image: bytes, *, model: str = "nnUNet", name: str = "scan.nii.gz", **fields: str) -> Any:
    return client.post(f"/api/v1/predict/{model}", files={"image": (name, image)}, data=fields)


def test_the_clients_of_the_thesis_work_unchanged(client: TestClient, scan: bytes) -> None:
    answer = ask(client, scan)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert set(told) >= FIELDS
    assert (told["success"], told["status"], told["model"]) == (True, "completed", "tiny-bright@1.0.0")
    details = told["class_details"]
    assert all(set(d) == {"nombre", "sigla", "color", "descripcion", "pixeles", "porcentaje"} for d in details.values())
    assert sum(d["pixeles"] for d in details.values()) == 24 * 48 * 40
    assert sum(d["porcentaje"] for d in details.values()) == pytest.approx(100, abs=0.01)
    assert told["unique_classes"] == [0, 1] and told["num_classes_detected"] == 2
    assert told["model_info"] == {"output_shape": [40, 48, 24], "num_classes": 2, "total_params": 156}
    mask = client.get(told["output_path"])
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask.content))
    sent = nibabel.Nifti1Image.from_bytes(gzip.decompress(scan))
    assert image.shape == (40, 48, 24) and np.allclose(image.affine, sent.affine)
    assert int(np.count_nonzero(np.asanyarray(image.dataobj))) == details["1"]["pixeles"] > 300
    assert mask.headers["content-disposition"] == f'attachment; filename="{told["segmentation_file"]}"'
    assert told["segmentation_path"] == f"/api/v1/results/{told['id']}/files/mask.nii.gz"


def test_the_mask_lies_where_the_bright_spot_is(client: TestClient, scan: bytes) -> None:
    told = ask(client, scan).json()
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(client.get(told["output_path"]).content))
    centre = np.argwhere(np.asanyarray(mask.dataobj) == 1).mean(axis=0)
    assert np.abs(centre - (16, 20, 12)).max() < 1.0


def test_a_batch_answers_in_order_and_a_bad_file_fails_alone(client: TestClient, scan: bytes, tmp_path: Path) -> None:
    other = nifti(head(seed=9, lesion=False), tmp_path / "other.nii.gz").read_bytes()
    labels = nifti(np.eye(48, dtype=np.uint8)[None].repeat(24, 0), tmp_path / "labels.nii.gz").read_bytes()
    names = [("a.nii.gz", scan), ("b.nii.gz", b"junk"), ("c.nii.gz", other), ("d-flair.nii.gz", scan),
             ("e.nii.gz", labels)]  # fmt: skip
    answer = client.post("/api/v1/predict/nnUNet/batch", files=[("images", one) for one in names])
    assert answer.status_code == 200
    told = answer.json()
    assert (told["success"], told["total"], told["completed"]) == (False, 5, 2)
    codes = [entry.get("refusal", {}).get("code") for entry in told["results"]]
    assert codes == [None, "not-nifti", None, "roles-unfilled", "image-is-label-map"]
    assert [entry["index"] for entry in told["results"]] == [0, 1, 2, 3, 4]
    again = client.get(f"/api/v1/batches/{told['batch']}").json()
    assert [one["id"] for one in again["results"]] == [one["id"] for one in told["results"]]


def test_a_single_image_does_not_wait_for_a_batch_of_its_own_key(tmp_path: Path, scan: bytes) -> None:
    make_tiny_package(tmp_path / "models", role="t1c")
    node = ApiNode(tmp_path / "node", tmp_path / "models", works=False)
    try:
        client, image = node.client(), ("s.nii.gz", scan)
        for _ in range(2):
            client.post("/api/v1/predict/nnUNet/batch?wait=false", files=[("images", image)] * 4)
        for key in (node.key, node.other_key):
            node.client(key=key).post("/api/v1/predict/nnUNet?wait=false", files={"image": image})
        rows = node.rows(tables.predictions)
        (*batches, own, strangers) = [int(row["priority"]) for row in rows]
        assert batches == sorted(set(batches)), "of two batches the first goes first"
        assert own == strangers < batches[1], "as if it were somebody else's"
    finally:
        node.close()


def test_a_batch_holds_at_most_fifty_and_at_least_one(client: TestClient, scan: bytes) -> None:
    many = client.post("/api/v1/predict/nnUNet/batch", files=[("images", ("a.nii.gz", b"x"))] * 51)
    assert (many.status_code, many.json()["code"]) == (413, "too-large")
    none = client.post("/api/v1/predict/nnUNet/batch", data={"role": "t1c"}, files={})
    assert none.status_code == 400


def test_without_waiting_events_tell_the_story(client: TestClient, scan: bytes) -> None:
    accepted = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s.nii.gz", scan)})
    assert accepted.status_code == 202
    told = accepted.json()
    assert accepted.headers["location"] == f"/api/v1/results/{told['id']}"
    assert told["output_path"] is None and told["status"] in ("waiting", "running", "completed")
    stream = client.get(told["links"]["events"]).text
    names = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
    assert names == ["accepted", "read", "was-read", "infer", "inferred", "write", "completed"]
    ids = [int(line.removeprefix("id: ")) for line in stream.splitlines() if line.startswith("id: ")]
    rest = client.get(told["links"]["events"], headers={"Last-Event-ID": str(ids[4])}).text
    assert rest.count("event: ") == 2
    assert client.get(f"/api/v1/results/{told['id']}").json()["status"] == "completed"


def test_another_keys_result_is_not_there(node: ApiNode, client: TestClient, scan: bytes) -> None:
    told = ask(client, scan).json()
    stranger = node.client(key=node.other_key)
    batch = client.post("/api/v1/predict/nnUNet/batch", files=[("images", ("a.nii.gz", scan))]).json()["batch"]
    for path in (f"/api/v1/results/{told['id']}", told["links"]["events"], *told["links"]["files"].values(),
                 f"/api/v1/batches/{batch}"):  # fmt: skip
        missing = stranger.get(path.replace(told["id"], "0" * 32))
        foreign = stranger.get(path)
        assert foreign.status_code == missing.status_code == 404
        without = [{k: v for k, v in answer.json().items() if k != "instance"} for answer in (foreign, missing)]
        assert without[0] == without[1]
    assert stranger.post(f"/api/v1/results/{told['id']}/cancel").status_code == 404


def test_the_role_of_a_lone_file(client: TestClient, scan: bytes) -> None:
    assert ask(client, scan, name="BraTS-GLI-00000-000-t1c.nii.gz").status_code == 200
    assert ask(client, scan, name="Brats18_1_t1ce.nii.gz").status_code == 200
    assert ask(client, scan, name="x_flair.nii.gz", role="t1ce").status_code == 200
    refused = ask(client, scan, name="BraTS-GLI-00000-000-t2f.nii.gz").json()
    assert (refused["status"], refused["code"], refused["found"]) == (422, "roles-unfilled", "flair")
    assert "t1c" in refused["expected"]
    assert ask(client, scan, role="t9").status_code == 400
    # by its package's name there is no default role, but a package with one role leaves no choice
    assert ask(client, scan, model="tiny-bright@1.0.0").status_code == 200


def test_role_sets_choose_what_is_read(client: TestClient, scan: bytes) -> None:
    both = client.post("/api/v1/predict/tiny-random", files={"t1": ("a", scan), "flair": ("b", scan)})
    assert both.status_code == 200, both.text
    result = client.get(both.json()["links"]["files"]["result.json"]).json()
    assert sorted(result["input"]["roles"]) == ["flair", "t1"]
    more = client.post("/api/v1/predict/tiny-random", files={"t2": ("a", scan), "flair": ("b", scan)}).json()
    assert more["success"] and any("t2" in warning for warning in more["warnings"])
    missing = client.post("/api/v1/predict/tiny-random", files={"t1": ("a", scan)}).json()
    assert missing["code"] == "roles-unfilled" and "flair" in missing["expected"]


def test_fields_of_old_clients_are_noted_and_never_opened(client: TestClient, scan: bytes, tmp_path: Path) -> None:
    target = tmp_path / "out"
    told = ask(client, scan, output_dir=str(target), source_path="/etc/passwd").json()
    assert told["success"] and not target.exists()
    assert [w.split()[0] for w in told["warnings"]] == ["output_dir", "source_path"]
    refused = ask(client, scan, transfer="ftp://evil.example/")
    assert (refused.status_code, refused.json()["code"]) == (400, "validation")
    assert "archive" in refused.json()["expected"]
    assert ask(client, scan, colour="red").status_code == 400


def test_transfer_brings_results_to_a_configured_destination(
    node: ApiNode, client: TestClient, scan: bytes, tmp_path: Path
) -> None:
    told = ask(client, scan, transfer="archive").json()
    assert told["success"]
    _wait_for(lambda: client.get(told["links"]["self"]).json()["transfers"]["archive"]["state"] == "confirmed")
    assert (node.archive / told["id"] / "mask.nii.gz").is_file()


def _wait_for(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_dicom_gives_objects_for_its_own_patient(node: ApiNode, client: TestClient, tmp_path: Path) -> None:
    files = dicom(tmp_path / "one", PatientID="P-1", PatientName="One^Patient")
    answer = client.post(
        "/api/v1/predict/nnUNet", files=[("files", (f.name, f.read_bytes())) for f in files], data={"role": "t1c"}
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    seg = dcmread(BytesIO(client.get(told["links"]["files"]["seg.dcm"]).content))
    assert (seg.PatientID, seg.Modality) == ("P-1", "SEG")
    assert seg.StudyInstanceUID == dcmread(files[0]).StudyInstanceUID
    frames = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    assert int(frames[: seg.NumberOfFrames * 48 * 40].sum()) == told["class_details"]["1"]["pixeles"] > 0
    assert client.get(told["links"]["files"]["report.pdf"]).content.startswith(b"%PDF")
    picture = Image.open(BytesIO(client.get(told["links"]["files"]["overlay.png"]).content))
    assert picture.format == "PNG" and picture.width > 500
    audited = {row["action"]: row["actor"] for row in node.rows(tables.audit)}
    assert audited["prediction-asked"] == audited["read-prediction-file"] == "key:clinic"


def test_the_same_pixels_under_two_patients(node: ApiNode, client: TestClient, tmp_path: Path) -> None:
    picture = head(seed=31)
    told = []
    for number in ("A", "B"):
        files = dicom(tmp_path / number, picture, PatientID=f"TWIN-{number}", PatientName=f"Twin^{number}")
        archive = zipped(files, tmp_path / f"{number}.zip")
        told.append(ask(client, archive.read_bytes(), name="study.zip", role="t1c").json())
    assert [one["from_cache"] for one in told] == [False, True]
    seg = [dcmread(BytesIO(client.get(one["links"]["files"]["seg.dcm"]).content)) for one in told]
    assert [one.PatientID for one in seg] == ["TWIN-A", "TWIN-B"]
    assert seg[0].SOPInstanceUID != seg[1].SOPInstanceUID and seg[0].PixelData == seg[1].PixelData
    for one in told:
        assert any("another patient" in w for w in client.get(one["links"]["self"]).json()["warnings"])
    warned = [event["study_uid"] for event in node.events("pixels.other-patient")]
    assert sorted(warned) == sorted(str(one.StudyInstanceUID) for one in seg)


def test_two_studies_of_one_patient_are_no_warning(node: ApiNode, client: TestClient, tmp_path: Path) -> None:
    picture = head(seed=32)
    for number in (1, 2):
        files = dicom(tmp_path / str(number), picture, PatientID="SAME", PatientName="Same^Patient")
        told = ask(client, zipped(files, tmp_path / f"{number}.zip").read_bytes(), role="t1c").json()
    assert told["from_cache"] and not any("another patient" in warning for warning in told["warnings"])


def test_an_idempotency_key_stands_for_one_request(client: TestClient, scan: bytes, tmp_path: Path) -> None:
    def once(image: bytes) -> Any:
        return client.post(
            "/api/v1/predict/nnUNet", files={"image": ("s.nii.gz", image)}, headers={"Idempotency-Key": "k-1"}
        )

    first, second = once(scan).json(), once(scan).json()
    assert first["id"] == second["id"]
    other = once(nifti(head(seed=4), tmp_path / "o.nii.gz").read_bytes())
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")


def test_unknown_models_and_models_that_are_not_installed(client: TestClient, scan: bytes) -> None:
    assert ask(client, scan, model="nobody").status_code == 404
    assert ask(client, scan, model="tiny-bright@9.9.9").status_code == 404
    assert ask(client, scan, model="..%2f..%2fetc").status_code == 404


def test_a_request_that_is_cancelled_gives_nothing(tmp_path: Path, scan: bytes) -> None:
    make_tiny_package(tmp_path / "models", role="t1c")
    node = ApiNode(tmp_path / "node", tmp_path / "models", works=False)
    try:
        client = node.client()
        told = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s.nii.gz", scan)}).json()
        assert client.post(told["links"]["cancel"]).json()["status"] == "cancelled"
        assert client.post(f"/api/v1/results/{told['id']}/cancel").json()["status"] == "cancelled"
        node.engine.run()
        row = node.rows(tables.predictions)[0]
        assert (row["state"], row["current_attempt"], row["files"]) == ("cancelled", 0, None)
    finally:
        node.close()


def test_limits_of_rate_and_queue(tmp_path: Path, scan: bytes) -> None:
    make_tiny_package(tmp_path / "models", role="t1c")
    api = {"images_per_minute": 4, "max_waiting_per_key": 3}
    node = ApiNode(tmp_path / "node", tmp_path / "models", works=False, api=api)
    try:
        client = node.client()
        for _ in range(3):
            assert client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s", scan)}).status_code == 202
        full = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s", scan)})
        assert (full.status_code, full.json()["code"]) == (429, "too-busy")
        slower = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s", scan)})
        assert slower.status_code == 429 and 1 <= int(slower.headers["retry-after"]) <= 60
        assert node.client(key=node.other_key, local=False).get("/api/v1/models").status_code == 200
    finally:
        node.close()


def test_what_was_kept_long_enough_is_thrown_away(tmp_path: Path, scan: bytes) -> None:
    make_tiny_package(tmp_path / "models", role="t1c")
    node = ApiNode(tmp_path / "node", tmp_path / "models", works=False, api={"keep_uploads_h": 0.0})
    try:
        client = node.client()
        told = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s", scan)}).json()
        spool = node.settings.data.folder / "spool"
        kept = [path for path in spool.glob("*/*")]
        assert len(kept) == 1
        os.utime(kept[0], (1, 1))
        throw_away(node.tools)
        assert kept[0].exists()  # its request is not over
        client.post(told["links"]["cancel"])
        throw_away(node.tools)
        assert not kept[0].exists() and client.get(told["links"]["self"]).status_code == 200
        with node.database.write() as connection:
            connection.execute(tables.predictions.update().values(finished_at="2020-01-01T00:00:00.000000+00:00"))
        assert throw_away(node.tools) == 1
        assert client.get(told["links"]["self"]).status_code == 404
        assert node.rows(tables.prediction_events) == []
    finally:
        node.close()


def test_deaths_of_the_worker_are_counted_and_the_request_goes_on(tmp_path: Path, scan: bytes) -> None:
    from dicom_node.durable import MemoryEngine
    from dicom_node.work import bury_the_dead, reconcile

    make_tiny_package(tmp_path / "models", role="t1c")
    node = ApiNode(tmp_path / "node", tmp_path / "models", works=False)
    try:
        client = node.client()
        told = client.post("/api/v1/predict/nnUNet?wait=false", files={"image": ("s", scan)}).json()
        with node.database.write() as connection:
            turn = predictions.begin(connection, 1, "read", "the-worker-before")
        assert turn is not None
        bury_the_dead(node.tools)
        assert node.rows(tables.predictions)[0]["worker_deaths"] == 1
        lost = MemoryEngine(jobs=node.engine.jobs)  # the engine's own books are gone
        assert reconcile(node.tools, lost, is_start=True) == 1
        lost.run()
        assert client.get(told["links"]["self"]).json()["status"] == "completed"
        with node.database.write() as connection:  # the one that was stopped past the take-over changes nothing (I12)
            assert not predictions.go_on(connection, turn, "infer", {})
        assert json.loads(node.rows(tables.predictions)[0]["public_id"].join('""')) == told["id"]
    finally:
        node.close()
