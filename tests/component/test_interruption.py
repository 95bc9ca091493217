"""Who cancels does not wait, and nobody waits for what was cancelled: the network is interrupted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ai_engine.findings import Findings
from ai_engine.host import ModelHost
from ai_engine.prediction import InputVolume
from dicom_node.record import actions
from dicom_node.record.tables import artefacts, attempts, deliveries, predictions, runs
from dicom_node.stages.context import Mask, Unwanted
from tests.fixtures_packages import make_tiny_package
from tests.support import slices
from tests.support.api import ApiNode, head, nifti
from tests.support.quick import FLAIR, Quick

pytestmark = pytest.mark.component

PATIENCE_S = 240.0
"""A model is loaded in two seconds, and in a minute where ten others want the same core."""
FREE_AFTER_S = 5.0
"""Asked twice a second; the rest is for a busy machine."""


def wait_for(holds: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ApiNode]:
    make_tiny_package(tmp_path / "models", role="t1c")
    made = ApiNode(tmp_path / "node", tmp_path / "models", work={"max_deaths": 2})
    yield made
    made.close()


def child_of(node: ApiNode) -> int:
    """The process of the one model that is loaded."""
    (host,) = node.tools.models._hosts.values()  # type: ignore[attr-defined]
    assert host.pid is not None
    return int(host.pid)


def ask(node: ApiNode, folder: Path, seed: int, *, wait: bool = True) -> dict[str, Any]:
    image = nifti(head(seed=seed), folder / f"{seed}.nii.gz").read_bytes()
    url = f"/api/v1/predict/nnUNet?wait={str(wait).lower()}"
    return dict(node.client().post(url, files={"image": ("scan.nii.gz", image)}).json())


@pytest.mark.timeout(900)
def test_a_cancelled_request_frees_the_model_at_once(node: ApiNode, tmp_path: Path) -> None:
    ask(node, tmp_path, 1)
    child = child_of(node)
    os.kill(child, signal.SIGSTOP)  # the slowest of all networks
    slow = ask(node, tmp_path, 2, wait=False)
    wait_for(lambda: node.rows(predictions)[1]["current_attempt"] == 2, PATIENCE_S)  # the first was the reading
    waiting = ask(node, tmp_path, 3, wait=False)
    node.client().post(slow["links"]["cancel"])
    wait_for(lambda: not Path(f"/proc/{child}").exists(), FREE_AFTER_S)
    wait_for(lambda: node.rows(predictions)[2]["state"] == "built", PATIENCE_S)  # in a fresh child
    row = node.rows(predictions)[1]
    assert (row["state"], row["child_deaths"], row["answer"], row["files"]) == ("cancelled", 0, None, None)
    assert node.client().get(waiting["links"]["self"]).json()["success"]
    assert not any(name.startswith(slow["id"]) for name in os.listdir(node.archive))


@pytest.mark.parametrize("ended_by", ["cancelled", "superseded"])
def test_a_run_that_nobody_wants_is_interrupted_and_never_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    quick = Quick(tmp_path / "quick")
    files = slices.series(tmp_path / "flair", 6, **FLAIR)

    def interrupted(
        reference: str, inputs: Mapping[str, InputVolume], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Mask, Findings]:
        assert is_wanted is not None and is_wanted()
        with quick.database.write() as connection:
            if ended_by == "cancelled":
                actions.cancel(connection, "run-1", "tester", "because")
            else:
                connection.execute(runs.update().values(state="superseded"))
        assert not is_wanted()
        raise Unwanted

    monkeypatch.setattr(quick.model, "predict", interrupted)
    try:
        quick.receive(files.files)
        quick.close_series(files.series_uid)
        quick.engine.run()
        assert quick.engine.errors == {}
        (run,) = quick.rows(runs)
        assert (run["state"], run["child_deaths"], run["error"]) == (ended_by, 0, None)
        assert [row["outcome"] for row in quick.rows(attempts)] == ["unwanted"]
        assert quick.rows(artefacts) == [] == quick.rows(deliveries)
        quick.reconcile()
        assert quick.delivered() == []
    finally:
        quick.close()


def kill_in_the_middle(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the model's process be killed (-9) with the case in its hands, so many times."""
    left = list(range(times))
    ask_as_before = ModelHost._ask

    def ask_and_kill(self: ModelHost, child: Any, body: Mapping[str, Any], *arguments: Any) -> Any:
        if body.get("kind") == "predict" and left:
            left.pop()
            read_as_before = child.read_exactly

            def killed(count: int, watch: Any) -> bytes:
                os.kill(child.process.pid, signal.SIGKILL)
                return bytes(read_as_before(count, watch))

            child.read_exactly = killed
        return ask_as_before(self, child, body, *arguments)

    monkeypatch.setattr(ModelHost, "_ask", ask_and_kill)


@pytest.mark.timeout(900)
def test_a_request_whose_network_is_killed_is_tried_again_and_then_fails_visibly(
    node: ApiNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in_the_middle(monkeypatch, times=1)
    told = ask(node, tmp_path, 1)
    assert told["success"] and node.rows(predictions)[0]["child_deaths"] == 1
    limit = node.settings.work.max_deaths
    kill_in_the_middle(monkeypatch, times=limit)
    failed = ask(node, tmp_path, 2)
    row = node.rows(predictions)[1]
    assert (failed["status"], row["state"], row["child_deaths"]) == (500, "failed", limit)
    assert f"{limit} times" in row["error"] and "child-died" in row["error"]
    events = node.client().get(f"/api/v1/results/{row['public_id']}/events").text
    assert events.count("event: child-died\n") == limit and events.count("event: failed\n") == 1
    wait_for(lambda: ask(node, tmp_path, 3).get("success"), PATIENCE_S)  # the node lives on
