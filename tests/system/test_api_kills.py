"""kill -9 of worker and web while predictions are asked for over HTTP: an id that was given out stays good (I1, I11).

Real processes on real ports: `ai-node web` and `ai-node work` on one data folder.  The fail-points P1 to P3 stand in
the stages of a request: after its volumes were cached, before the model is called, before its end is committed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dicom_node import durable
from dicom_node.demo.site import free_ports
from dicom_node.record import keys
from dicom_node.record.tables import predictions
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_packages import make_tiny_package
from tests.fixtures_photo import drawn_lesion, jpeg
from tests.support.api import head, nifti
from tests.support.node import ROUTES, Node

pytestmark = pytest.mark.system

POINTS = ("P1", "P2", "P3")
DEADLINE_S = 120.0


class Site:
    """One data folder and its two processes."""

    def __init__(self, folder: Path) -> None:
        make_tiny_package(folder / "models", role="t1c")
        (port,) = free_ports(1)
        make_tiny_classifier(folder / "models")
        alias = {
            "nnUNet": {"model": "tiny-bright", "default_role": "t1c"}, "skin-lesion": {"model": "tiny-classifier"}
        }  # fmt: skip
        self.node = Node(
            folder / "node", folder / "models", ROUTES.replace("[flair]", "[t1c]"),
            web={"port": port}, api={"aliases": alias}, work={"reconcile_s": 3},
        )  # fmt: skip
        durable.migrate(self.node.settings.engine_url)
        self.config = folder / "node.yaml"
        self.config.write_text(yaml.safe_dump(self.node.settings.model_dump(mode="json", exclude_none=True)))
        self.url = f"http://127.0.0.1:{port}/api/v1"
        key = keys.create(self.node.database, "clinic", ["predict:run"])
        self.http = httpx.Client(headers={"X-API-Key": key}, timeout=60.0, trust_env=False)
        self.log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, process: str, point: str | None = None) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AI_NODE_")} | {"OMP_NUM_THREADS": "1"}
        if point is not None:
            environment |= {"AI_NODE_FAILPOINT": point, "AI_NODE_TEST_BUILD": "failpoints-may-kill"}
        command = [sys.executable, "-m", "dicom_node.cli", "--config", str(self.config), process]
        with self.log.open("ab") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(started)
        return started

    def web(self) -> subprocess.Popen[bytes]:
        started = self.start("web")
        _wait_for(self._answers, self.log)
        return started

    def _answers(self) -> bool:
        try:
            return self.http.get(f"{self.url}/models").status_code == 200
        except httpx.TransportError:
            return False

    def told(self, public_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"{self.url}/results/{public_id}").raise_for_status().json())

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.http.close()
        self.node.close()


def _wait_for(holds: Any, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(log.read_text()[-3000:])
        time.sleep(0.1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


@pytest.mark.timeout(600)
def test_a_request_outlives_the_worker_and_the_web_process(site: Site, tmp_path: Path) -> None:
    image = nifti(head(), tmp_path / "scan.nii.gz").read_bytes()
    web = site.web()
    accepted = site.http.post(f"{site.url}/predict/nnUNet?wait=false", files={"image": ("s.nii.gz", image)})
    assert accepted.status_code == 202
    public_id = accepted.json()["id"]
    web.send_signal(signal.SIGKILL)
    web.wait(10)
    for point in POINTS:  # nobody is there to answer, and the work goes on all the same
        worker = site.start("work", point)
        assert worker.wait(DEADLINE_S) == -signal.SIGKILL, site.log.read_text()[-3000:]
    site.start("work")
    site.web()
    _wait_for(lambda: site.told(public_id)["status"] in ("completed", "failed", "refused"), site.log)
    told = site.told(public_id)
    assert told["status"] == "completed", told
    assert sum(one["pixeles"] for one in told["class_details"].values()) == 24 * 48 * 40
    assert site.http.get(told["output_path"]).status_code == 200
    (row,) = site.node.rows(predictions)
    assert row["worker_deaths"] == 3 and row["child_deaths"] == 0
    # the web process dies while a caller waits: the caller asks again by id or by its own key
    headers = {"Idempotency-Key": "once"}
    first = site.http.post(f"{site.url}/predict/nnUNet", files={"image": ("s.nii.gz", image)}, headers=headers).json()
    again = site.http.post(f"{site.url}/predict/nnUNet", files={"image": ("s.nii.gz", image)}, headers=headers).json()
    assert first["id"] == again["id"] and first["from_cache"] and first["success"]


@pytest.mark.timeout(600)
def test_a_request_about_a_photograph_outlives_the_worker(site: Site) -> None:
    """The upload, wrapped again after each death, is the same object: one identity, one answer."""
    site.web()
    patient = {"patient": '{"id": "P-17", "system": "https://clinic.example/patients"}', "kind": "dermoscopic"}
    image = {"image": ("lesion.jpg", jpeg(drawn_lesion()))}
    accepted = site.http.post(f"{site.url}/predict/skin-lesion?wait=false", files=image, data=patient)
    assert accepted.status_code == 202, accepted.text
    public_id = accepted.json()["id"]
    for point in POINTS:
        worker = site.start("work", point)
        assert worker.wait(DEADLINE_S) == -signal.SIGKILL, site.log.read_text()[-3000:]
    site.start("work")
    _wait_for(lambda: site.told(public_id)["status"] in ("completed", "failed", "refused"), site.log)
    told = site.told(public_id)
    assert told["status"] == "completed" and told["probability"] is not None, told
    for name in ("photo.dcm", "sr.dcm", "sc.dcm", "report.pdf", "report.fhir.json"):
        assert site.http.get(f"{site.url}/results/{public_id}/files/{name}").status_code == 200, name
    (row,) = site.node.rows(predictions)
    assert row["worker_deaths"] == 3 and row["child_deaths"] == 0
