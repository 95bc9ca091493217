"""Versions side by side on the real road: a switch under load, a version that reads along, past studies read again."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from ai_engine.packages import find_package, load_package
from dicom_node.cli.comparison import page_of, summary_of, told_of
from dicom_node.durable import Put
from dicom_node.record import registry
from dicom_node.record.registry import Choice
from dicom_node.record.tables import cases, runs, trials
from dicom_node.registry import resolve
from dicom_node.stages.trial import trial_put
from dicom_node.work import reconcile
from tests.fixtures_packages import make_tiny_package
from tests.support.node import Node

pytestmark = [pytest.mark.component, pytest.mark.realdata]

OLD, NEW = "1.0.0", "1.1.0"
SERIES = ("s0701_flair_axial",)


@pytest.fixture(scope="module")
def study(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The FLAIR series of the tumour study before contrast."""
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(data_dir / "dicom" / "tumour-study-philips.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return {name: sorted(path for path in folder.rglob(f"{name}/*") if path.is_file()) for name in SERIES}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    models = tmp_path / "models"
    make_tiny_package(models, version=OLD)
    make_tiny_package(models, version=NEW, threshold=1.2)
    made = Node(tmp_path / "node", models)
    put_in_force(made, OLD)
    yield made
    made.close()


def put_in_force(node: Node, *versions: str) -> None:
    share = 100 // len(versions)
    choices = [Choice(version, digest_of(node, version), share) for version in versions]
    with node.database.write() as connection:
        registry.set_alias(connection, "tiny-bright", "stable", choices, "tester", "test")


def digest_of(node: Node, version: str) -> str:
    folder = find_package(node.settings.engine.models, f"tiny-bright@{version}")
    return load_package(folder, weights=False).digest_sha256


def arrive(node: Node, files: list[Path]) -> None:
    node.receive(files)
    node.close_series(str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID))


def models_of(node: Node) -> list[str]:
    return [case["model"] for case in node.rows(cases)]


def test_a_switch_holds_for_the_next_decision_and_not_for_a_run_that_waits(
    node: Node, study: dict[str, list[Path]]
) -> None:
    infer = node.engine.jobs["infer"]

    def switched_before(run_id: int) -> Sequence[Put]:
        put_in_force(node, NEW)  # the run is decided and waits; now somebody switches
        return infer(run_id)

    node.engine.jobs["infer"] = switched_before
    arrive(node, study[SERIES[0]])
    node.engine.run()
    assert models_of(node) == [f"tiny-bright@{OLD}"]
    assert node.rows(runs)[0]["state"] == "built"
    assert node.findings(1)["model"]["version"] == OLD

    with node.database.read() as connection:
        assert resolve(connection, "tiny-bright", "1.2.3").reference == f"tiny-bright@{NEW}"


def test_a_shadow_reads_along_and_nothing_of_it_leaves(node: Node, study: dict[str, list[Path]]) -> None:
    with node.database.write() as connection:
        registry.start_shadow(connection, "tiny-bright", NEW, digest_of(node, NEW), "tester", "test")
    arrive(node, study[SERIES[0]])
    node.engine.run()
    assert node.engine.errors == {}
    (row,) = node.rows(trials)
    assert row["state"] == "done", row["reason"]
    (region, *_) = row["comparison"]["regions"]
    assert 0.0 < region["dice"] < 1.0  # a lower threshold marks more
    assert region["candidate_ml"] > region["reference_ml"]
    assert len(node.rows(runs)) == 1
    assert len(node.delivered()) == 3
    assert node.findings(1)["model"]["version"] == OLD
    assert [event["detail"]["candidate"] for event in node.events("trial.compared")] == [f"tiny-bright@{NEW}"]


def test_past_studies_are_read_again_and_shown_side_by_side(
    node: Node, study: dict[str, list[Path]], tmp_path: Path
) -> None:
    arrive(node, study[SERIES[0]])
    node.engine.run()
    with node.database.write() as connection:
        number = registry.add_replay(connection, "tiny-bright", NEW, "tester", "test")
        (run,) = registry.past_runs(connection, "tiny-bright", 20)
        trial_id, _ = registry.add_trial(
            connection, int(run["id"]), f"tiny-bright@{NEW}", digest_of(node, NEW), replay_id=number
        )
    node.engine.put(trial_put(trial_id))
    node.engine.run()
    with node.database.read() as connection:
        rows = registry.trials_of(connection, replay_id=number)
    told = [told_of(row) for row in rows]
    page = page_of("test", told, summary_of(told), node.settings.data.folder / "artefacts")
    (tmp_path / "replay.html").write_text(page, encoding="utf-8")
    assert told[0]["state"] == "done"
    assert page.count("data:image/png;base64,") == 1
    assert "Candidate, mL" in page
    patient = dcmread(study[SERIES[0]][0], stop_before_pixels=True)
    assert str(patient.PatientID) not in page
    assert str(patient.StudyInstanceUID) not in page


def test_a_trial_whose_job_was_lost_is_put_again_and_one_that_kills_the_worker_ends(
    node: Node, study: dict[str, list[Path]]
) -> None:
    arrive(node, study[SERIES[0]])
    node.engine.run()
    with node.database.write() as connection:
        number = registry.add_replay(connection, "tiny-bright", NEW, "tester", "test")
        trial_id, _ = registry.add_trial(connection, 1, f"tiny-bright@{NEW}", digest_of(node, NEW), replay_id=number)
        for _ in range(node.settings.work.max_deaths):
            registry.count_start(connection, trial_id)  # as a worker does before the work that kills it
    assert reconcile(node.tools, node.engine, is_start=True) == 1
    node.engine.run()
    (row,) = node.rows(trials)
    assert row["state"] == "failed"
    assert "3 times" in row["reason"]


def test_the_candidate_must_be_the_package_that_was_asked_for(node: Node, study: dict[str, list[Path]]) -> None:
    arrive(node, study[SERIES[0]])
    node.engine.run()
    with node.database.write() as connection:
        number = registry.add_replay(connection, "tiny-bright", NEW, "tester", "test")
        trial_id, _ = registry.add_trial(connection, 1, f"tiny-bright@{NEW}", "0" * 64, replay_id=number)
    node.engine.put(trial_put(trial_id))
    node.engine.run()
    (row,) = node.rows(trials)
    assert (row["state"], row["comparison"]) == ("failed", None)


def test_both_versions_of_an_ab_choice_are_said_with_their_share(node: Node, study: dict[str, list[Path]]) -> None:
    put_in_force(node, OLD, NEW)
    arrive(node, study[SERIES[0]])
    node.engine.run()
    case: dict[str, Any] = node.rows(cases)[0]
    assert case["model"] in (f"tiny-bright@{OLD}", f"tiny-bright@{NEW}")
    assert "50 % of studies" in json.dumps(case["reasons"])
