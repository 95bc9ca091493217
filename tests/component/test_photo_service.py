"""The service that other platforms call: one photograph in; an estimate, a refusal, and a call back when it is over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from pydicom import dcmread

from dicom_node.demo.site import free_ports
from dicom_node.refusals import Refusal
from dicom_node.stages.destinations import OWN_ENDPOINT
from dicom_node.stages.pictures import as_picture
from dicom_node.stages.report import report_input
from dicom_node.volume import read_picture
from portal.api.photo_schemas import PhotoAnswer
from tests.fixtures_classifier import make_tiny_classifier
from tests.support.api import ApiNode
from tests.support.photos import saved, scene

pytestmark = pytest.mark.component

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "teledermatology.py"
URL = "/api/v1/predict/skin-lesion"
PATIENT = {"id": "P-17", "system": "https://clinic.example/patients"}
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY = b"0123456789abcdef0123456789abcdef"


class Platform(ThreadingHTTPServer):
    """A platform on loopback that keeps every call, and answers as it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.heard = threading.Condition()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks"

    def wait_for(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.calls) >= count, 30.0), f"{len(self.calls)} calls"
            return list(self.calls)


class _Handler(BaseHTTPRequestHandler):
    server: Platform

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.heard:
            status = self.server.answers.pop(0) if self.server.answers else 204
            self.server.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.server.heard.notify_all()
        self.send_response(status)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[ApiNode]:
    folder = tmp_path_factory.mktemp("photos")
    make_tiny_classifier(folder / "models")
    secret = folder / "hook.secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    hook = {"url": platform.url, "secret_file": secret, "retry_first_s": 0.01, "circuit_failures": 1000}
    made = ApiNode(
        folder / "node",
        folder / "models",
        api={"aliases": {"skin-lesion": {"model": "tiny-classifier"}}, "max_photo_mb": 2},
        webhooks={"clinic": hook},
    )
    yield made
    made.close()


@pytest.fixture
def client(node: ApiNode) -> TestClient:
    return node.client()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return saved(scene(480, 640))


def as_json(photo: bytes, **fields: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(photo).decode(), **fields}


def test_a_photograph_gets_an_estimate_and_everything_to_file_it_with(
    node: ApiNode, client: TestClient, photo: bytes, tmp_path: Path
) -> None:
    answer = client.post(
        URL,
        files={"image": ("lesion.jpg", photo)},
        data={"patient": json.dumps(PATIENT), "order": "A-1", "bodySite": "back", "kind": "dermoscopic"},
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    PhotoAnswer.model_validate(told)
    assert (told["status"], told["model"], told["language"]) == ("completed", "tiny-classifier@1.0.0", "en")
    for share in (told["probability"], told["threshold"]):
        assert share["percent"] == pytest.approx(100 * share["fraction"])
    is_above = told["probability"]["percent"] >= told["threshold"]["percent"]
    assert told["category"]["at_or_above_threshold"] is is_above and told["quality"]["accepted"] is True
    assert "not a diagnosis" in told["disclaimer"]

    files = {name: client.get(path).content for name, path in told["links"]["files"].items()}
    assert files["report.pdf"].startswith(b"%PDF") and client.get(told["pdf"]).content == files["report.pdf"]
    assert Image.open(BytesIO(client.get(told["heat_map"]).content)).format == "PNG"
    stored = dcmread(BytesIO(files["photo.dcm"]))
    assert (stored.PatientID, stored.IssuerOfPatientID, stored.AccessionNumber) == ("P-17", PATIENT["system"], "A-1")
    for name in ("sr.dcm", "pdf.dcm", "sc.dcm"):
        made = dcmread(BytesIO(files[name]))
        assert (made.PatientID, made.StudyInstanceUID) == ("P-17", stored.StudyInstanceUID), name

    bundle = json.loads(files["report.fhir.json"])
    (report,) = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport"]
    identifier = report["identifier"][0]
    reference = told["diagnostic_report"]
    assert reference["identifier"] == {"system": identifier["system"], "value": identifier["value"]}
    assert PATIENT["system"] in json.dumps(report["subject"]) and report["status"] == "preliminary"

    # the model was asked about what lies in the object, and about nothing else
    path = tmp_path / "photo.dcm"
    path.write_bytes(files["photo.dcm"])
    asked = as_picture(read_picture(path))
    (again,) = node.tools.models.classify("tiny-classifier@1.0.0", [asked])
    assert not isinstance(again, Refusal)
    assert again.findings.observations[0].measurements[0].value == told["probability"]["percent"]


def test_base64_says_the_same_in_the_language_asked_for(client: TestClient, photo: bytes) -> None:
    form = client.post(URL, files={"file": ("x", photo)}, data={"kind": "dermoscopic"}).json()
    body = as_json(photo, kind="dermoscopic")
    body["image"] = f"data:image/jpeg;base64,{body['image']}"
    answer = client.post(URL, json=body, headers={"Accept-Language": "fr, es-CL;q=0.8, en;q=0.3"})
    told = answer.json()
    assert answer.status_code == 200, told
    assert told["probability"] == form["probability"] and told["language"] == "es"
    assert "no es un diagnóstico" in told["disclaimer"] and "estimación" in told["message"]
    assert client.get(told["links"]["self"], headers={"Accept-Language": "en"}).json()["language"] == "en"
    # of nobody: a page to read, and nothing that could be filed under a name
    assert told["diagnostic_report"] is None
    assert sorted(told["links"]["files"]) == ["heat_map.png", "report.pdf", "result.json"]


def test_a_picture_that_is_refused_has_no_number(client: TestClient) -> None:
    black = saved(np.zeros((480, 640, 3), dtype=np.uint8))
    answer = client.post(URL, json=as_json(black, patient=PATIENT), headers={"Accept-Language": "es"})
    told = answer.json()
    assert (answer.status_code, told["code"]) == (422, "image-exposure"), told
    assert answer.headers["content-type"] == "application/problem+json"
    assert "dermatoscopio" in told["detail"]
    later = client.get(f"/api/v1/results/{told['id']}").json()
    PhotoAnswer.model_validate(later)
    assert later["status"] == "refused" and later["quality"]["code"] == "image-exposure"
    assert later["probability"] is later["score"] is later["threshold"] is later["category"] is later["pdf"] is None
    assert later["outputs"] == [] and "files" not in later["links"]


BAD_BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no base64": ({"image": "not base64!"}, 422, "base64-invalid"),
    "line breaks": ({"image": "/9j/\n4AAQ"}, 422, "base64-invalid"),
    "another type": ({"image": "data:image/png;base64,/9j/4AAQ"}, 415, "image-type-mismatch"),
    "a gif": ({"image": base64.b64encode(b"GIF89a" + bytes(20)).decode()}, 415, "image-type-unsupported"),
    "a program": ({"image": base64.b64encode(b"MZ" + bytes(20)).decode()}, 415, "not-an-image"),
    "no system": ({"image": "/9j/4AAQ", "patient": {"id": "P"}}, 400, "validation"),
    "no URI": ({"image": "/9j/4AAQ", "patient": {"id": "P", "system": "clinic"}}, 400, "validation"),
    "unknown site": ({"image": "/9j/4AAQ", "bodySite": "moon"}, 400, "validation"),
    "a URL to call": ({"image": "/9j/4AAQ", "callback": "http://127.0.0.1/"}, 400, "validation"),
    "unknown field": ({"image": "/9j/4AAQ", "output_dir": "/"}, 400, "validation"),
    "cut off": ({"image": "/9j/4AAQ"}, 422, "image-truncated"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_what_is_no_question_is_refused_by_name(client: TestClient, name: str) -> None:
    body, status, code = BAD_BODIES[name]
    answer = client.post(URL, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_the_limit_is_this_routes_own(client: TestClient) -> None:
    large = client.post(URL, json={"image": "A" * 2_100_000})
    assert large.status_code == 413
    assert client.post(URL, content=b'{"image": "AA==", "image": "AA=="}',
                       headers={"Content-Type": "application/json"}).status_code == 400  # fmt: skip
    elsewhere = client.post("/api/v1/predict/tiny-classifier", json={"image": "A" * 1_100_000})
    assert elsewhere.status_code == 413
    volume = client.post("/api/v1/predict/tiny-classifier", files={"image": b"x"})
    assert (volume.status_code, volume.json()["code"]) == (400, "validation")


def test_the_same_question_is_answered_once(client: TestClient, photo: bytes) -> None:
    headers = {"Idempotency-Key": "question-1"}
    first = client.post(URL, json=as_json(photo, order="A-2"), headers=headers).json()
    again = client.post(URL, json=as_json(photo, order="A-2"), headers=headers).json()
    form = client.post(URL, files={"image": ("a.jpg", photo)}, data={"order": "A-2"}, headers=headers)
    assert first["id"] == again["id"] == form.json()["id"] and again["probability"] == first["probability"]
    other = client.post(URL, json=as_json(photo, order="A-3"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")


def test_the_platform_is_called_back_until_it_has_heard(client: TestClient, platform: Platform, photo: bytes) -> None:
    begun = len(platform.calls)
    platform.answers[:] = [500, 503]
    accepted = client.post(URL, json=as_json(photo, patient=PATIENT, order="A-4", callback="clinic"))
    assert accepted.status_code == 202, accepted.text
    calls = platform.wait_for(begun + 3)[begun:]
    assert len({headers["webhook-id"] for headers, _ in calls}) == 1, "one event, however often it is told"
    for headers, body in calls:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert abs(time.time() - int(headers["webhook-timestamp"])) < 120
        assert b"P-17" not in body and b"A-4" not in body and b"probab" not in body
        assert "authorization" not in headers
    data = json.loads(calls[-1][1])["data"]
    assert data == {"id": accepted.json()["id"], "status": "completed", "result": accepted.json()["links"]["self"]}
    told = settled(client, data["result"])
    assert (told["callback"]["name"], told["callback"]["state"], told["callback"]["tries"]) == (
        "clinic",
        "confirmed",
        3,
    )


def test_a_refusal_is_told_too_and_a_no_is_held(client: TestClient, platform: Platform) -> None:
    begun = len(platform.calls)
    platform.answers[:] = [404]
    accepted = client.post(URL, json={"image": "/9j/4AAQ", "callback": "clinic"})
    assert accepted.status_code == 202
    told = settled(client, accepted.json()["links"]["self"])
    (call,) = platform.wait_for(begun + 1)[begun:]
    assert json.loads(call[1])["data"] | {"result": ""} == {
        "id": accepted.json()["id"], "status": "refused", "code": "image-truncated", "result": ""}  # fmt: skip
    assert told["callback"]["state"] == "held" and told["callback"]["refusal"]["code"] == "peer-rejected"


def settled(client: TestClient, path: str) -> dict[str, Any]:
    """The answer once nobody is any more to be called."""
    deadline = time.monotonic() + 60
    while True:
        told: dict[str, Any] = client.get(path).json()
        if told["callback"]["state"] not in ("waiting", "pending") or time.monotonic() > deadline:
            return told
        time.sleep(0.2)


ROUTE = """
schema_version: 1
routes:
  - name: skin-lesion
    when: {all: [{attribute: SOPClassUID, equals: 1.2.840.10008.5.1.4.1.1.77.1.4}]}
    role_sets: [[dermoscopy]]
    cases: one-per-series
    model: tiny-classifier
    result_family: skin-lesion
    destinations: [archive]
    publish: pacs
"""


def test_a_published_photograph_goes_to_the_archive_and_its_results_by_the_road(
    node: ApiNode, platform: Platform, photo: bytes, tmp_path: Path
) -> None:
    hook = dict(node.settings.webhooks["clinic"])
    sections: dict[str, Any] = {
        "api": {"aliases": {"skin-lesion": {"model": "tiny-classifier"}}},
        "webhooks": {"clinic": hook},
    }
    models = node.settings.engine.models
    other = ApiNode(tmp_path / "node", models, works=False, routes=ROUTE, **sections)
    try:
        client = other.client()
        asked = client.post(f"{URL}?wait=false", json=as_json(photo, patient=PATIENT, kind="dermoscopic"))
        unwanted = client.post(URL, json=as_json(photo, callback="clinic")).json()
        begun = len(platform.calls)
        assert client.post(unwanted["links"]["cancel"]).json()["status"] == "cancelled"
        other.engine.run()
        (call,) = platform.wait_for(begun + 1)[begun:]
        assert json.loads(call[1])["data"]["status"] == "cancelled"

        told = client.get(asked.json()["links"]["self"]).json()
        assert told["transfers"]["archive"]["state"] == "confirmed"
        (stored,) = other.delivered()
        assert stored.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.4", "the photograph alone: the road writes results"
        (file,) = other.archive.rglob("*.dcm")
        other.receive([file])
        other.close_series(stored.SeriesInstanceUID)
        other.quiet(stored.StudyInstanceUID)
        other.engine.run()
        (run,) = other.current_runs()
        said = other.findings(run["id"])["observations"][0]["measurements"][0]
        assert said["value"] == told["probability"]["percent"], "one road: HTTP and C-STORE say the same"
        report = report_input(other.tools, run["id"], OWN_ENDPOINT)
        assert report.result_id == told["diagnostic_report"]["identifier"]["value"]
    finally:
        other.close()


def test_the_example_in_the_documentation_works_as_a_platform_would(
    node: ApiNode, photo: bytes, tmp_path: Path
) -> None:
    (port, listen) = free_ports(2)
    hook = dict(node.settings.webhooks["clinic"]) | {"url": f"http://127.0.0.1:{listen}/hooks"}
    sections: dict[str, Any] = {
        "api": {"aliases": {"skin-lesion": {"model": "tiny-classifier"}}},
        "webhooks": {"clinic": hook},
    }
    other = ApiNode(tmp_path / "node", node.settings.engine.models, **sections)
    server = uvicorn.Server(uvicorn.Config(other.app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        (tmp_path / "key").write_text(other.key)
        (tmp_path / "lesion.jpg").write_bytes(photo)
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.05)
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), "--node", f"http://127.0.0.1:{port}", "--key-file", str(tmp_path / "key"),
             "--webhook", "clinic", "--secret-file", str(hook["secret_file"]), "--listen", str(listen),
             "--patient", "P-17", "--system", PATIENT["system"], "--body-site", "back", "--order", "A-9",
             "--folder", str(tmp_path / "records"), str(tmp_path / "lesion.jpg")],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "no es un diagnóstico" in done.stdout and " %" in done.stdout
        (page,) = (tmp_path / "records").glob("*.pdf")
        assert page.read_bytes().startswith(b"%PDF")
        (report,) = (tmp_path / "records").glob("*.fhir.json")
        assert json.loads(report.read_text())["resourceType"] == "Bundle"
    finally:
        server.should_exit = True
        thread.join(10.0)
        other.close()
