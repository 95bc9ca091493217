"""What becomes of a study when something goes wrong half-way: every state ends, visibly; nothing is lost or doubled.

The product itself from records to delivery, with a model that answers at once, in virtual time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dicom_node.durable import Put
from dicom_node.record import actions
from dicom_node.record.tables import attempts, cases, deliveries, reports, runs, series, studies
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.stages import deliver as deliver_stage
from dicom_node.stages import write as write_stage
from dicom_node.stages.context import ModelDescription
from dicom_node.stages.read import load_or_build, trim_cache
from dicom_node.work import bury_the_dead, reconcile
from tests.support import slices
from tests.support.quick import FLAIR, Quick, QuickModel, Trouble, down

pytestmark = pytest.mark.component


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node")
    yield made
    made.close()


@pytest.fixture
def flair(tmp_path: Path) -> slices.SeriesFiles:
    return slices.series(tmp_path / "flair", 8, **FLAIR)


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


def test_the_road_is_whole(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair)
    assert node.engine.errors == {}
    assert node.states(runs) == ["built"] and set(node.states()) == {"confirmed"}
    assert node.rows(cases)[0]["model"] == "tiny-bright@1.0.0" == node.model.asked[0]
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.state() == "completed"
    node.nothing_is_left()


# deliveries


def test_a_fault_of_ours_is_a_failed_delivery_and_a_retry_mends_it(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    trouble.queue["archive"] = [ValueError("of a patient")]
    node.bring(flair)
    assert node.engine.errors == {}
    assert [d["reason"]["fault"].split(";")[0] for d in node.rows(deliveries) if d["state"] == "failed"] == [
        "ValueError"
    ]
    assert node.state() == "failed"
    node.nothing_is_left()
    node.act(actions.retry, f"delivery-{node.ids('archive', 'failed')[0]}")
    assert set(node.states()) == {"confirmed"} and node.rows(reports)


def test_a_destination_that_is_down_again_after_a_release_is_tried_again_with_pauses(
    tmp_path: Path, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    archive = {"kind": "folder", "path": tmp_path / "node" / "archive", "retry_span_h": 1e-12, "circuit_failures": 1000}
    node = Quick(tmp_path / "node", destinations={"archive": archive})
    try:
        trouble.queue["archive"] = down(1)
        node.bring(flair)
        assert node.held() == [f"delivery-{node.ids('archive', 'held')[0]}"] and node.state() == "held"
        assert node.reconcile() == 0, "what waits for a person is not submitted again and again"
        node.settings.destinations["archive"].__dict__["retry_span_h"] = 72.0
        trouble.queue["archive"] = down(5)
        node.act(actions.release, node.held()[0])
        assert len(node.events("delivery.later")) == 5
        assert set(node.states()) == {"confirmed"}
        node.nothing_is_left()
    finally:
        node.close()


def test_rejecting_a_delivery_ends_what_waits_for_it(node: Quick, flair: slices.SeriesFiles, trouble: Trouble) -> None:
    trouble.queue["archive"] = [Refused(RefusalCode.DELIVERY_CONFLICT)]
    node.bring(flair)
    node.act(actions.reject, node.held()[0])
    assert node.reconcile() == 0
    assert set(node.states()) == {"cancelled"} and node.rows(reports) == []
    assert len(node.events("delivery.cancelled")) == 1
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.state() == "completed"
    node.nothing_is_left()


def test_cancelling_one_object_cancels_what_follows_it_and_a_retry_opens_all(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    trouble.queue["archive"] = [ValueError()]
    node.bring(flair)
    node.act(actions.cancel, f"delivery-{node.ids('archive', 'failed')[0]}")
    assert {d["state"] for d in node.rows(deliveries) if d["destination"] == "archive"} == {"cancelled"}
    node.act(actions.retry, f"delivery-{node.ids('archive', 'cancelled')[0]}")
    assert set(node.states()) == {"confirmed"}


def test_a_destination_taken_out_of_the_configuration_holds_what_is_open(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    trouble.queue["archive"] = [PeerTrouble("down")]
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.run(until_s=0.0)
    node.settings.destinations.pop("archive")
    node.forget_jobs()
    node.reconcile()
    assert {d["state"] for d in node.rows(deliveries) if d["destination"] == "archive"} == {"held"}
    assert "no destination" in str(node.events("delivery.held")[0]["detail"]["reason"])
    assert node.rows(reports) == []
    node.nothing_is_left()


def test_the_engine_can_be_emptied_at_any_moment(node: Quick, flair: slices.SeriesFiles) -> None:
    """Truth is in the records (design section 4): whatever the engine forgets, the reconciler brings back."""
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    for lost in range(1, 12):
        node.forget_jobs()
        if reconcile(node.tools, node.engine, is_start=True) == 0:
            break
        for _ in range(lost):  # so many jobs are run, and what follows from the last one is forgotten
            if node.engine._heap:
                item = node.engine._heap.pop(0)[3]
                for follow in node.engine.jobs[item.job](*item.args):
                    node.engine.put(follow)
    assert node.states(runs) == ["built"] and set(node.states()) == {"confirmed"}
    assert len(node.delivered()) == 3
    node.nothing_is_left()


def test_a_quiet_study_whose_job_was_lost_is_decided(node: Quick, tmp_path: Path) -> None:
    from dicom_node.record import revisions as revision_rows

    brought = slices.series(tmp_path / "t1", 6, **{**FLAIR, "SeriesDescription": "ax t1", "InversionTime": "0",
                                                   "ScanningSequence": "SE", "RepetitionTime": "500", "EchoTime": "10",
                                                   "SequenceName": "se"})  # fmt: skip
    node.bring(brought)
    assert node.rows(cases) == []
    with node.database.write() as connection:
        assert revision_rows.declare_quiet(connection, brought.study_uid) == 1
    assert node.reconcile() == 1
    assert [c["state"] for c in node.rows(cases)] == ["refused"]
    assert node.state() == "refused"


def test_volumes_above_the_limit_are_removed_and_built_again(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair)
    assert trim_cache(node.tools, 10**9) == 0 and len(list(node.tools.volume_folder.iterdir())) == 1
    assert trim_cache(node.tools, 0) == 1 and list(node.tools.volume_folder.iterdir()) == []
    assert load_or_build(node.tools, 1).array.shape == (8, 64, 64)


# runs


def test_a_run_that_failed_while_writing_can_be_retried(
    node: Quick, flair: slices.SeriesFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_stage.build

    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("MARKERPHI")

    monkeypatch.setattr(write_stage, "build", broken)
    node.bring(flair)
    assert node.states(runs) == ["failed"] and "MARKERPHI" not in node.rows(runs)[0]["error"]
    node.nothing_is_left()
    monkeypatch.setattr(write_stage, "build", real)
    node.act(actions.retry, "run-1")
    assert node.states(runs) == ["built"] and set(node.states()) == {"confirmed"}
    assert len(node.model.asked) == 1, "the findings that exist are not computed again"
    node.nothing_is_left()


def test_three_deaths_of_the_model_end_the_run_and_a_retry_has_three_again(
    node: Quick, flair: slices.SeriesFiles
) -> None:
    node.model.deaths = 5
    node.bring(flair)
    assert node.states(runs) == ["failed"] and len(node.model.asked) == 3
    node.nothing_is_left()
    node.act(actions.retry, "run-1")
    assert node.states(runs) == ["built"] and len(node.model.asked) == 6


def test_twenty_deaths_of_the_worker_end_the_run(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    read = node.engine._heap[0][3]
    node.engine.jobs["read"](*read.args)
    from dicom_node.stages.infer import start

    for death in range(20):
        assert node.states(runs) == ["running" if death else "queued"]
        dead = replace(node.tools, worker=f"dead-{death}")
        assert start(dead, 1, "infer") is not None
        bury_the_dead(node.tools)
    assert node.states(runs) == ["failed"] and "20 times" in node.rows(runs)[0]["error"]
    assert {a["outcome"] for a in node.rows(attempts)} == {"worker-died"}


def test_an_attempt_of_this_very_worker_is_not_buried(node: Quick, flair: slices.SeriesFiles) -> None:
    """The engine takes its jobs up as soon as it is started, perhaps before the dead are counted."""
    from dicom_node.stages.infer import start

    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.jobs["read"](*node.engine._heap[0][3].args)
    start(node.tools, 1, "infer")
    bury_the_dead(node.tools)
    assert node.rows(attempts)[0]["ended_at"] is None and node.rows(runs)[0]["worker_deaths"] == 0


def test_a_cancelled_run_stays_cancelled_and_its_predecessor_is_still_replaced(
    node: Quick, flair: slices.SeriesFiles
) -> None:
    node.bring(flair, 6)
    first = {d.SOPInstanceUID for d in node.delivered()}
    node.receive(flair.files[:7])
    node.close_series(flair.series_uid)
    read = node.engine._heap[0][3]
    node.engine.jobs["read"](*read.args)
    node.act(actions.cancel, "run-2")
    assert node.states(runs) == ["superseded", "cancelled"]
    node.nothing_is_left()
    node.bring(flair)
    assert node.states(runs) == ["superseded", "superseded", "built"]
    rejection = next(d for d in node.delivered() if d.Modality == "KO")
    named = {
        item.ReferencedSOPInstanceUID
        for study in rejection.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }
    assert named == first
    with pytest.raises(actions.UnknownItem), node.database.write() as connection:
        actions.retry(connection, "run-2", "tester", "because")


def test_what_is_left_of_a_superseded_run_goes_first_and_its_report_never_follows(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    node.receive(flair.files[:6])
    node.close_series(flair.series_uid)
    trouble.queue["archive"] = down(1)
    real = deliver_stage._send
    once: list[int] = []

    def second_fails(tools: Any, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
        if name == "archive" and row["kind"] == "pdf" and len(once) < 3:
            once.append(1)
            raise PeerTrouble("down")
        return real(tools, run_id, name, row, tries=tries)

    deliver_stage._send = second_fails  # the fixture takes it back
    trouble.queue["archive"] = []
    node.engine.run(until_s=0.0)
    assert sorted(set(node.states())) == ["confirmed", "pending"]
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.run()
    node.reconcile()
    assert node.states(runs) == ["superseded", "built"]
    sent = [(run, kind) for run, name, kind in trouble.sent if name == "archive"]
    assert [run for run, _ in sent] == sorted(run for run, _ in sent), sent
    assert [(run, name) for run, name, _ in trouble.sent if name != "archive"] == [(2, "own-fhir")]
    assert {d["state"] for d in node.rows(deliveries) if d["run_id"] == 1} == {"confirmed", "cancelled"}
    node.nothing_is_left()


def test_the_same_choice_after_a_refusal_runs_again(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair)
    node.change(series, held={"code": "uid-conflict", "rejected": True})
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.states(runs) == ["superseded"] and node.states(cases) == ["ready", "refused"]
    node.change(series, held=None)
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.states(runs) == ["superseded", "built"]
    assert node.rows(runs)[1]["predecessor_run"] == 1, "what was published before is replaced"
    node.nothing_is_left()


def test_a_run_that_was_never_published_is_taken_up_again(tmp_path: Path, flair: slices.SeriesFiles) -> None:
    node = Quick(tmp_path / "node")
    try:
        node.receive(flair.files)
        node.close_series(flair.series_uid)
        node.settings.destinations.pop("archive")  # nothing but the own endpoint, and that is held back
        node.change(studies, held={"code": "patient-conflict"})
        node.change(studies, held=None)
        node.engine.jobs["read"](*node.engine._heap[0][3].args)
        node.change(series, held={"code": "uid-conflict", "rejected": True})
        node.forget_jobs()
        node.quiet(flair.study_uid)
        node.engine.run()
        assert node.states(runs) == ["superseded"]
        node.change(series, held=None)
        node.quiet(flair.study_uid)
        node.engine.run()
        assert node.states(runs) == ["built"] and node.rows(runs)[0]["case_id"] == node.rows(cases)[-1]["id"]
        node.nothing_is_left()
    finally:
        node.close()


# holds


def test_a_study_that_is_held_stands_still_and_goes_on_when_released(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.jobs["read"](*node.engine._heap[0][3].args)
    node.change(studies, held=Refused(RefusalCode.PATIENT_CONFLICT).refusal.to_json())
    assert node.reconcile() == 0
    assert node.states(runs) == ["queued"] and node.delivered() == [] and node.state() == "held"
    node.act(actions.release, node.held()[0])
    assert node.states(runs) == ["built"] and set(node.states()) == {"confirmed"}
    node.nothing_is_left()


def test_a_rejected_study_goes_no_further(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.engine.jobs["read"](*node.engine._heap[0][3].args)
    node.change(studies, held=Refused(RefusalCode.PATIENT_CONFLICT).refusal.to_json())
    node.act(actions.reject, node.held()[0])
    assert node.states(runs) == ["cancelled"] and node.held() == []
    with pytest.raises(actions.UnknownItem), node.database.write() as connection:
        actions.retry(connection, "run-1", "tester", "because")
    node.nothing_is_left()
    assert node.delivered() == []


def test_a_rejected_series_is_not_used_and_does_not_come_back(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.change(series, held=Refused(RefusalCode.UID_CONFLICT).refusal.to_json())
    node.quiet(flair.study_uid)
    node.engine.run()
    assert sorted(item.split("-")[0] for item in node.held()) == ["case", "series"] and node.state() == "held"
    with pytest.raises(actions.UnknownItem), node.database.write() as connection:
        actions.release(connection, next(i for i in node.held() if i.startswith("case")), "tester", "because")
    node.act(actions.reject, next(i for i in node.held() if i.startswith("series")))
    assert node.held() == [] and node.rows(runs) == []
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.rows(runs) == [] and node.held() == []
    node.nothing_is_left()


def test_a_released_series_is_used(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files)
    node.close_series(flair.series_uid)
    node.change(series, held=Refused(RefusalCode.UID_CONFLICT).refusal.to_json())
    node.quiet(flair.study_uid)
    node.engine.run()
    node.act(actions.release, next(i for i in node.held() if i.startswith("series")))
    assert node.states(runs) == ["built"] and node.held() == [] and node.state() == "completed"


def test_a_held_series_that_still_gathers_does_not_stop_the_rest(
    node: Quick, flair: slices.SeriesFiles, tmp_path: Path
) -> None:
    other = slices.series(tmp_path / "other", 3, study_uid=flair.study_uid, **FLAIR)
    node.receive(other.files)
    node.change(series, held=Refused(RefusalCode.UID_CONFLICT).refusal.to_json())
    t1 = {"SeriesDescription": "ax t1", "InversionTime": "0", "ScanningSequence": "SE", "RepetitionTime": "500",
          "EchoTime": "10", "SequenceName": "se"}  # fmt: skip
    node.bring(slices.series(tmp_path / "t1", 6, study_uid=flair.study_uid, **{**FLAIR, **t1}))
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.states(cases) == ["refused"], "decided, although the held series never closed"


def test_series_that_name_their_patient_differently_are_held_and_a_release_lets_them_pass(
    node: Quick, flair: slices.SeriesFiles, tmp_path: Path
) -> None:
    other = slices.series(tmp_path / "other", 3, study_uid=flair.study_uid, **{**FLAIR, "PatientSex": "F"})
    node.receive(flair.files)
    node.receive(other.files)
    node.close_series(other.series_uid)
    node.close_series(flair.series_uid)
    node.quiet(flair.study_uid)
    node.engine.run()
    assert [i.split("-")[0] for i in node.held()] == ["case"] and node.rows(runs) == []
    node.act(actions.release, node.held()[0])
    assert node.states(runs) == ["built"] and node.held() == [] and node.state() == "completed"
    node.nothing_is_left()


def test_a_study_that_the_node_cannot_decide_ends_with_a_person(
    node: Quick, flair: slices.SeriesFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = QuickModel.describe

    def broken(*_: Any) -> ModelDescription:
        raise RuntimeError("MARKERPHI")

    monkeypatch.setattr(QuickModel, "describe", broken)
    node.bring(flair)
    for _ in range(5):
        node.reconcile()
    assert [i.split("-")[0] for i in node.held()] == ["study"] and len(node.events("study.fault")) == 3
    assert "MARKERPHI" not in str(node.rows(studies)[0]["held"])
    monkeypatch.setattr(QuickModel, "describe", real)
    node.engine.errors.clear()
    node.act(actions.release, node.held()[0])
    assert node.states(runs) == ["built"] and node.held() == []


# the command line


class Recorder:
    """Takes the place of the engine's client."""

    def __init__(self) -> None:
        self.puts: list[Put] = []

    def put(self, item: Put) -> None:
        self.puts.append(item)

    def close(self) -> None:
        """Nothing to close."""


def test_the_commands_of_the_person_on_duty(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node import durable
    from dicom_node.cli import app

    trouble.queue["archive"] = [Refused(RefusalCode.DELIVERY_CONFLICT)]
    node.bring(flair)
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump(node.settings.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    recorder = Recorder()
    monkeypatch.setattr(durable, "connect", lambda url: recorder)

    def run(*arguments: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["--config", str(config), *arguments])
        return found.exit_code, found.stdout

    code, said = run("studies")
    assert code == 0 and "[all]" in said, "what a route publishes is shown, not eaten as markup"
    code, said = run("studies", "--json")
    study = json.loads(said)[0]
    assert code == 0 and study["state"] == "held" and "mL" in study["runs"][0]["says"]
    assert run("study", "show", study["id"], "--json")[0] == 0
    assert run("study", "show", "1.2.3")[0] == 3
    code, said = run("held", "list", "--json")
    item = json.loads(said)[0]["id"]
    assert code == 0 and json.loads(run("held", "show", item)[1])["reason"]["code"] == "delivery-conflict"
    assert run("held", "release", item)[0] == 2, "a reason is asked for"
    code, said = run("held", "release", item, "--reason", "looked at", "--json")
    assert code == 0 and json.loads(said) == {"item": item, "jobs": 1}
    assert run("held", "release", item, "--reason", "again")[0] == 3
    assert run("jobs", "retry", "nonsense", "--reason", "x")[0] == 3
    assert run("jobs", "retry", "study-1", "--reason", "x")[0] == 3
    assert run("jobs", "list")[0] == 0
    assert run("jobs", "cancel", item, "--reason", "enough")[0] == 0
    assert run("audit", "verify", "--json")[0] == 0
    for put in recorder.puts:
        node.engine.put(put)
    node.engine.run()
    assert {d["state"] for d in node.rows(deliveries) if d["destination"] == "archive"} == {"cancelled"}
