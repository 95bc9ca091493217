"""kill -9 of the worker at every kill point from K8 to K17, and at random instants: nothing lost, nothing twice.

Real Orthanc and a real FHIR server stand behind the node.  After each death the oracle is the same: I2 (one object per
UID, one set per study), I3 (complete or absent), I11 (every run ends), I12 (one attempt's effects), no orphan process.
K1 to K7 are the listener's: tests/system/test_listen_kills.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node import durable
from dicom_node.demo.site import free_ports
from dicom_node.durable import Put
from dicom_node.orthanc import OrthancChild
from dicom_node.record import workers
from dicom_node.record.tables import attempts, deliveries, runs
from tests.fixtures_packages import make_tiny_package
from tests.peers.fhir_peer import FhirPeer
from tests.support.node import ROUTES, Node

pytestmark = [pytest.mark.system, pytest.mark.realdata]

POINTS = ("K8", "K9", "K10", "K11", "K12", "K13", "K14", "K15", "K16", "K17")
SERIES = "s0701_flair_axial"
DEADLINE_S = 150.0
ISSUER = "TEST"
SYSTEM = "urn:test:patients"


@pytest.fixture(scope="module")
def flair(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("flair")
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        members = [m for m in archive.getmembers() if f"/{SERIES}/" in m.name]
        archive.extractall(folder, members=members, filter="data")
    return sorted(p for p in folder.rglob("*") if p.is_file())


def as_study(flair: list[Path], folder: Path, number: int) -> list[Path]:
    """The series as another study of another, identified patient."""
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid(entropy_srcs=[f"{kind}-{number}"]) for kind in ("study", "series", "frame"))
    written = []
    for path in flair:
        dataset = dcmread(path)
        for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.IssuerOfPatientID, dataset.PatientID = ISSUER, f"KILL-{number}"
        dataset.PatientName = f"KILL^{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[f"{number}-{path.name}"])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        target = folder / path.name
        dataset.save_as(target)
        written.append(target)
    return written


class Site:
    """Orthanc, a FHIR server, records and vault; the worker runs and dies as the test says."""

    def __init__(
        self,
        folder: Path,
        models: Path,
        orthanc: OrthancChild,
        fhir: FhirPeer,
        routes: str = ROUTES,
        results: tuple[str, ...] = ("DOC", "SEG", "SR"),
    ) -> None:
        self.results = list(results)
        routes = routes.replace("[archive]", "[pacs, ehr]")
        destinations: dict[str, Any] = {
            "pacs": {
                "kind": "stow",
                "url": orthanc.dicomweb_url,
                "username": orthanc.username,
                "password_file": str(orthanc.password_file),
                "retry_first_s": 0.5,
                "retry_cap_s": 2.0,
            },
            "ehr": {"kind": "fhir", "url": fhir.url, "retry_first_s": 0.5, "retry_cap_s": 2.0},
        }
        report = {"issuers": {ISSUER: SYSTEM}}
        self.node = Node(folder, models, routes, destinations=destinations, report=report, work={"reconcile_s": 5})
        durable.migrate(self.node.settings.engine_url)
        self.config = folder / "node.yaml"
        self.config.write_text(yaml.safe_dump(self.node.settings.model_dump(mode="json", exclude_none=True)))
        self.fhir = fhir
        self.orthanc = orthanc
        self.log = folder / "work.log"
        self._begun = ""

    def bring(self, files: list[Path]) -> str:
        """A study arrives and its series closes; its UID."""
        self.node.receive(files)
        header = dcmread(files[0], stop_before_pixels=True)
        self.fhir.create(
            {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": str(header.PatientID)}]}
        )
        revision = self.node.close_series(str(header.SeriesInstanceUID))
        client = durable.connect(self.node.settings.engine_url)
        client.put(Put("cpu", "read", f"read/{revision}", ("revision", revision)))
        client.close()
        return str(header.StudyInstanceUID)

    def start(self, point: str | None = None) -> subprocess.Popen[bytes]:
        """A worker; with a kill point it ends itself there."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AI_NODE_")}
        environment["OMP_NUM_THREADS"] = "1"
        if point is not None:
            environment |= {"AI_NODE_FAILPOINT": point, "AI_NODE_TEST_BUILD": "failpoints-may-kill"}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "--config", str(self.config), "work"],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_begun(self, worker: subprocess.Popen[bytes]) -> None:
        """Until the worker has said that it lives, or has ended."""
        before, deadline = self._begun, time.monotonic() + DEADLINE_S
        while self._begun == before and worker.poll() is None and time.monotonic() < deadline:
            with self.node.database.read() as connection:
                self._begun = workers.seen_at(connection) or ""
            time.sleep(0.05)

    def is_done(self, studies: int) -> bool:
        rows = self.node.rows(deliveries)
        built = [r for r in self.node.rows(runs) if r["state"] == "built"]
        return len(built) == studies and bool(rows) and all(r["state"] == "confirmed" for r in rows)

    def interrupted(self) -> dict[str, int]:
        """In how many readings, attempts and deliveries a worker died."""
        died = [row for row in self.node.rows(attempts) if row["outcome"] == "worker-died"]
        again = [row for row in self.node.rows(deliveries) if row["attempts"] > 1]
        return {
            "readings": len(self.node.events("study.reader-died")), "attempts": len(died), "deliveries": len(again)
        }  # fmt: skip

    def check(self, studies: list[str]) -> None:
        """The oracle."""
        assert [r["state"] for r in self.node.rows(runs)] == ["built"] * len(studies), self.log.read_text()[-3000:]
        with self.orthanc.client() as http:
            for study in studies:
                found = http.get("/dicom-web/instances", params={"StudyInstanceUID": study}).json()
                modalities = sorted(item["00080060"]["Value"][0] for item in found)
                assert modalities == self.results, modalities
        reports = self.fhir.all("DiagnosticReport")
        assert len(reports) == len(studies)
        assert len({r["subject"]["reference"] for r in reports}) == len(studies)
        for row in self.node.rows(attempts):
            assert row["ended_at"] is not None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    models = tmp_path / "models"
    make_tiny_package(models)

    http_port, dicom_port = free_ports(2)
    orthanc = OrthancChild(tmp_path / "orthanc", http_port, dicom_port, node_port=1)
    with orthanc, FhirPeer() as fhir:
        made = Site(tmp_path / "node", models, orthanc, fhir)
        yield made
        made.node.close()


def orphans(worker_pid: int) -> list[str]:
    """Living children of a dead worker: model and decode children name their parent on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        is_ours = any("host_child" in part or "volume.child" in part for part in line)
        if is_ours and str(worker_pid) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(line))
    return found


def wait_dead(worker: subprocess.Popen[bytes], log: Path) -> None:
    try:
        try:
            code = worker.wait(DEADLINE_S)
        finally:
            worker.kill()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the worker never reached its kill point\n{log.read_text()[-3000:]}")
    assert code == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while orphans(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert orphans(worker.pid) == []


def finish(site: Site, studies: list[str]) -> None:
    worker = site.start()
    try:
        deadline = time.monotonic() + DEADLINE_S + 10.0 * len(studies)
        while not site.is_done(len(studies)) and time.monotonic() < deadline:
            time.sleep(0.3)
    finally:
        worker.terminate()
        worker.wait(40)
    site.check(studies)


@pytest.mark.timeout(1200)
def test_killed_at_every_point_of_the_road(site: Site, flair: list[Path], tmp_path: Path) -> None:
    """One study; the worker dies at each point in turn, and each next worker goes on where it stood."""
    study = site.bring(as_study(flair, tmp_path / "study", 1))
    for point in POINTS:
        wait_dead(site.start(point), site.log)
    finish(site, [study])
    inferred = [e for e in site.node.events("run.inferred")]
    assert len(inferred) == 1


def one_life_s(site: Site) -> float:
    """Seconds from a worker's first sign of life until the one study that waits has everything."""
    worker = site.start()
    site.wait_begun(worker)
    begun = time.monotonic()
    try:
        while not site.is_done(1) and time.monotonic() < begun + DEADLINE_S:
            time.sleep(0.1)
        life_s = time.monotonic() - begun
    finally:
        worker.terminate()
        worker.wait(40)
    assert site.is_done(1), site.log.read_text()[-3000:]
    return life_s


def random_kills(site: Site, study: Callable[[int], list[Path]], kills: int, studies: int, seed: int) -> None:
    """Studies arrive one by one between the kills, so that there is always some work for a worker to die in.

    One study goes through undisturbed first, and says how long a life on this machine takes to do one: instants are
    drawn from a little more than that.  On a slow machine shorter lives would never finish anything, and a study that
    twenty workers died of is given up, as it should be.
    """
    rng = random.Random(seed)
    brought = [site.bring(study(0))]
    life_s = one_life_s(site)
    for kill in range(kills):
        while len(brought) * kills < studies * (kill + 1):
            brought.append(site.bring(study(len(brought))))
        worker = site.start()
        site.wait_begun(worker)  # an instant in a life: however long the machine takes to start one
        time.sleep(rng.uniform(0.0, 1.3 * life_s))
        os.kill(worker.pid, signal.SIGKILL)
        wait_dead(worker, site.log)
    finish(site, brought)
    assert sum(site.interrupted().values()) > 0, "no kill met any work: the machine is too slow for these instants"


@pytest.mark.timeout(900)
def test_killed_at_20_random_instants(site: Site, flair: list[Path], tmp_path: Path) -> None:
    random_kills(site, lambda number: as_study(flair, tmp_path / f"study-{number}", number), 20, studies=4, seed=20)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_at_200_random_instants(site: Site, flair: list[Path], tmp_path: Path) -> None:
    random_kills(site, lambda number: as_study(flair, tmp_path / f"study-{number}", number), 200, studies=30, seed=200)
