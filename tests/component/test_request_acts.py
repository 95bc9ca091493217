"""What a person sees of requests by HTTP and of their transfers, and what he may do: the verbs of deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node import delivery
from dicom_node.cli import app, web
from dicom_node.durable import MemoryEngine, Put
from dicom_node.metrics import METRICS
from dicom_node.models import WarmModels
from dicom_node.record import actions, transfers, views
from dicom_node.record.tables import audit, predictions
from dicom_node.refusals import PeerTrouble
from dicom_node.road import jobs
from dicom_node.settings import Settings
from dicom_node.work import bury_the_dead, reconcile
from tests.fixtures_packages import make_tiny_package
from tests.support.api import ApiNode, dicom, head, nifti, zipped

pytestmark = pytest.mark.component

Act = Callable[..., list[actions.Job]]


class Acting(ApiNode):
    """A node whose jobs run when the test says so, with a model that is loaded once for all tests."""

    def __init__(self, folder: Path, models: WarmModels) -> None:
        super().__init__(folder, models._settings.engine.models, works=False)
        self.tools = replace(self.tools, models=models)
        self.engine = MemoryEngine(jobs=dict(jobs(self.tools)))

    def close(self) -> None:
        self.database.close()

    def ask(self, image: bytes, *, transfer: str = "", name: str = "scan.nii.gz") -> str:
        fields = {"role": "t1c", **({"transfer": transfer} if transfer else {})}
        said = self.client().post("/api/v1/predict/nnUNet?wait=false", files={"image": (name, image)}, data=fields)
        assert said.status_code == 202, said.text
        return str(said.json()["id"])

    def act(self, verb: Act, item: str) -> None:
        with self.database.write() as connection:
            follow = verb(connection, item, "tester", "because")
        for queue, job, key, args in follow:
            self.engine.put(Put(queue, job, key, args))
        self.engine.run()

    def refused(self, verb: Act, item: str) -> str:
        with self.database.write() as connection, pytest.raises(actions.UnknownItem) as unknown:
            verb(connection, item, "tester", "because")
        return str(unknown.value.args[0])

    def jobs(self) -> dict[str, dict[str, Any]]:
        with self.database.read() as connection:
            return {row["id"]: row for row in views.jobs(connection)}

    def held(self) -> dict[str, dict[str, Any]]:
        with self.database.read() as connection:
            return {row["id"]: row for row in views.held(connection)}

    def told(self, number: int = 1) -> dict[str, Any]:
        return dict(self.rows(predictions)[number - 1]["transfers"]["archive"])

    def gauge(self) -> set[str]:
        web._refresh(self.settings, self.database)
        return {line for line in METRICS.render().decode().splitlines() if line.startswith("ainode_jobs{")}

    def was_told(self, name: str) -> bool:
        public_id = self.rows(predictions)[0]["public_id"]
        return f"event: {name}\n" in self.client().get(f"/api/v1/results/{public_id}/events").text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmModels]:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_package(folder, role="t1c")
    engine = {"models": folder, "precision": "f32", "threads": 1}
    warm = WarmModels(Settings(data={"folder": folder / "data"}, engine=engine))
    yield warm
    warm.close()


@pytest.fixture
def node(tmp_path: Path, models: WarmModels) -> Iterator[Acting]:
    made = Acting(tmp_path / "node", models)
    yield made
    made.close()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return nifti(head(), tmp_path_factory.mktemp("scan") / "scan.nii.gz").read_bytes()


def test_requests_stand_in_the_list_and_in_the_gauge(node: Acting, scan: bytes) -> None:
    public_id = node.ask(scan)
    assert node.jobs()["request-1"] | {"study_uid": None} == {
        "id": "request-1", "state": "queued", "request": public_id, "study_uid": None, "attempt": 0, "error": None,
    }  # fmt: skip
    assert 'ainode_jobs{state="queued"} 1.0' in node.gauge()
    config = node.settings.data.folder.parent / "node.yaml"
    config.write_text(node.settings.model_dump_json(exclude_none=True))
    said = CliRunner().invoke(app, ["--config", str(config), "jobs", "list", "--json"])
    assert said.exit_code == 0 and public_id in said.stdout
    node.engine.run()
    assert node.jobs() == {} and 'ainode_jobs{state="built"} 1.0' in node.gauge()


def test_a_request_is_cancelled_and_started_again(node: Acting, scan: bytes) -> None:
    node.ask(scan)
    node.act(actions.cancel, "request-1")
    assert node.rows(predictions)[0]["state"] == "cancelled" and node.jobs() == {}
    assert "no running or queued request" in node.refused(actions.cancel, "request-1")
    node.act(actions.retry, "request-1")
    assert node.rows(predictions)[0]["state"] == "built" and node.was_told("retried")
    assert [row["action"] for row in node.rows(audit)][-2:] == ["job.cancelled", "job.retried"]
    assert "no failed or cancelled request" in node.refused(actions.retry, "request-1")
    assert "number" in node.refused(actions.retry, "request-x")


def test_a_request_whose_images_are_gone_ends_and_says_so(node: Acting, scan: bytes) -> None:
    node.ask(scan)
    node.act(actions.cancel, "request-1")
    for path in (node.settings.data.folder / "spool").glob("*/*"):
        path.unlink()
    node.act(actions.retry, "request-1")
    assert "sent again" in node.jobs()["request-1"]["error"]


def test_a_transfer_that_is_held_is_released_and_goes(node: Acting, tmp_path: Path) -> None:
    """Results of a phantom go to no archive until a person has looked."""
    images = zipped(dicom(tmp_path / "images", StudyDescription="QA phantom"), tmp_path / "images.zip")
    node.ask(images.read_bytes(), transfer="archive", name="study.zip")
    node.engine.run()
    item = "transfer-1-archive"
    assert node.held()[item]["reason"]["peer"] and node.jobs() == {}
    assert 'ainode_jobs{state="held"} 1.0' in node.gauge()
    assert list(node.archive.rglob("*.dcm")) == []
    node.act(actions.release, item)
    assert node.told()["state"] == "confirmed" and node.held() == {}
    assert len(list(node.archive.rglob("seg.dcm"))) == 1
    assert "expected a transfer that is held" in node.refused(actions.release, item)


def test_a_transfer_that_is_rejected_is_not_made_until_it_is_retried(node: Acting, tmp_path: Path) -> None:
    images = zipped(dicom(tmp_path / "images", StudyDescription="QA phantom"), tmp_path / "images.zip")
    node.ask(images.read_bytes(), transfer="archive", name="study.zip")
    node.engine.run()
    node.act(actions.reject, "transfer-1-archive")
    assert node.told()["state"] == "cancelled" and node.held() == {} == node.jobs()
    assert reconcile(node.tools, node.engine, is_start=True) == 0
    node.act(actions.retry, "transfer-1-archive")
    assert node.told()["state"] == "confirmed"


def test_a_transfer_that_was_taken_back_during_a_try_stays_so(
    node: Acting, scan: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled_meanwhile(*_: Any, **__: Any) -> Any:
        with node.database.write() as connection:
            actions.cancel(connection, "transfer-1-archive", "tester", "because")
        raise PeerTrouble("it is down")

    monkeypatch.setattr(delivery, "send", cancelled_meanwhile)
    node.ask(scan, transfer="archive")
    node.engine.run()
    assert (node.told()["state"], node.told()["tries"]) == ("cancelled", 1)


def test_a_transfer_that_kills_the_worker_ends_visibly(node: Acting, scan: bytes) -> None:
    node.ask(scan, transfer="archive")
    out = node.engine.jobs["predict"]
    node.engine.jobs["predict"] = lambda number, stage, name="": [] if stage == "send" else out(number, stage, name)
    node.engine.run()  # the job of the transfer is lost with the worker that began it
    limit = node.settings.work.max_worker_deaths

    def die(worker: str) -> None:
        with node.database.write() as connection:
            found = transfers.waiting(connection, 1, "archive")
            assert found is not None
            transfers.begin_try(connection, found, worker)
        bury_the_dead(replace(node.tools, worker=f"after-{worker}"))

    for number in range(limit - 1):
        die(f"dead-{number}")
    assert (node.told()["state"], node.told()["deaths"]) == ("pending", limit - 1)
    die("the-last")
    assert f"{limit} times" in node.jobs()["transfer-1-archive"]["error"]["peer"]
    assert reconcile(node.tools, node.engine, is_start=True) == 0
    node.engine.jobs["predict"] = out
    node.act(actions.retry, "transfer-1-archive")
    assert node.told()["state"] == "confirmed" and "worker" not in node.told()
