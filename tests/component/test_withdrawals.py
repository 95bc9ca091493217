"""I19: a published result whose study, case or successor is refused is taken back outside: durably and once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_node import delivery
from dicom_node.record import actions
from dicom_node.record.tables import deliveries, reports, runs, series, studies
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from dicom_node.stages import deliver as deliver_stage
from tests.peers.fhir_peer import FhirPeer
from tests.support import slices
from tests.support.node import ROUTES
from tests.support.quick import FLAIR, Quick, QuickModel, Trouble, down

pytestmark = pytest.mark.component

LATE = 8
"""Slices 1 to 6 are published; then slice 8 comes without 7, and the series is no volume any more."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node")
    yield made
    made.close()


@pytest.fixture
def flair(tmp_path: Path) -> slices.SeriesFiles:
    return slices.series(tmp_path / "flair", 9, **FLAIR)


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


def spoil(node: Quick, flair: slices.SeriesFiles) -> None:
    """A late slice arrives, with a gap before it, and the study is quiet: its case is refused."""
    node.receive([flair.files[LATE - 1]])
    node.close_series(flair.series_uid)
    node.engine.run()
    node.quiet(flair.study_uid)
    node.engine.run()


def rejections(node: Quick) -> list[Dataset]:
    return [d for d in node.delivered() if d.Modality == "KO"]


def named(rejection: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in rejection.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }


def report(node: Quick) -> dict[str, Any]:
    """The newest version of the node's own report."""
    found = [row["resource"] for row in node.rows(reports) if row["resource_type"] == "DiagnosticReport"]
    return dict(found[-1])


def of(node: Quick, run_id: int, destination: str) -> list[tuple[str, str]]:
    with node.database.read() as connection:
        from dicom_node.record.deliveries import of_run

        return [(row["kind"], row["state"]) for row in of_run(connection, run_id, destination)]


def test_a_late_slice_that_makes_the_series_unreadable_takes_the_result_back(
    node: Quick, flair: slices.SeriesFiles
) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    assert report(node)["status"] == "preliminary"
    spoil(node, flair)
    assert node.states(runs) == ["superseded"] and node.state() == "refused"
    assert [named(d) for d in rejections(node)] == [first]
    rejection = rejections(node)[0]
    assert rejection.ConceptNameCodeSequence[0].CodeValue == "113001"
    words = [item.TextValue for item in rejection.ContentSequence if "TextValue" in item]
    assert any("withdrawn" in text and "There is no current result." in text for text in words), words
    assert rejection.PatientID == FLAIR["PatientID"] and rejection.StudyInstanceUID == flair.study_uid
    assert report(node)["status"] == "entered-in-error"
    current = {}
    for row in node.rows(reports):
        current[row["resource_id"]] = row["resource"]
    assert {r["status"] for r in current.values() if r["resourceType"] == "Observation"} == {"entered-in-error"}
    event = node.events("run.withdrawn")[0]["detail"]
    assert event["refusal"] == "slices-missing" and event["destinations"] == ["archive", "own-fhir"]
    assert set(node.states()) == {"confirmed"}
    node.nothing_is_left()


def test_a_withdrawal_is_made_once(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    spoil(node, flair)
    before = (len(node.delivered()), len(node.rows(reports)), len(node.rows(deliveries)))
    for _ in range(3):
        node.forget_jobs()
        node.quiet(flair.study_uid)
        node.engine.run()
        node.reconcile()
    assert (len(node.delivered()), len(node.rows(reports)), len(node.rows(deliveries))) == before


def test_what_never_left_the_node_needs_no_withdrawal(node: Quick, flair: slices.SeriesFiles) -> None:
    node.receive(flair.files[:6])
    node.close_series(flair.series_uid)
    for _ in range(3):  # read, infer, write: nothing is sent yet
        item = node.engine._heap.pop(0)[3]
        for follow in node.engine.jobs[item.job](*item.args):
            node.engine.put(follow)
    assert node.states(runs) == ["built"] and set(node.states()) == {"pending"}
    node.forget_jobs()
    spoil(node, flair)
    assert node.delivered() == [] and node.rows(reports) == [] and node.events("run.withdrawn") == []
    assert set(node.states()) == {"cancelled"}
    node.nothing_is_left()


def test_the_rejection_names_what_is_there_and_nothing_else(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SEG is there, of the PDF nobody knows, the SR was never sent."""
    stored = deliver_stage._send

    def answers_lost(tools: Any, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
        confirmation = stored(tools, run_id, name, row, tries=tries)
        if row["kind"] == "pdf" and tries == 1:
            raise PeerTrouble("the answer was lost")
        return confirmation

    monkeypatch.setattr(deliver_stage, "_send", answers_lost)
    node.receive(flair.files[:6])
    node.close_series(flair.series_uid)
    node.engine.run(until_s=0.0)
    there = {str(d.SOPInstanceUID) for d in node.delivered()}
    assert sorted(node.states()) == ["confirmed", "pending", "pending", "pending"] and len(there) == 2
    node.forget_jobs()
    spoil(node, flair)
    assert [named(d) for d in rejections(node)] == [there]
    assert of(node, 1, "archive") == [
        ("seg", "confirmed"),
        ("pdf", "confirmed"),
        ("sr", "cancelled"),
        ("withdrawal", "confirmed"),
    ]
    assert node.rows(reports) == [] and of(node, 1, "own-fhir") == [("findings", "cancelled")]
    node.nothing_is_left()


def test_an_object_that_the_archive_does_not_take_is_not_named(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    trouble.queue["archive"] = []
    node.receive(flair.files[:6])
    node.close_series(flair.series_uid)
    real = deliver_stage._send

    def refuses_the_page(tools: Any, run_id: int, name: str, row: Any, *, tries: int) -> dict[str, Any]:
        if row["kind"] == "pdf":
            raise Refused(RefusalCode.DELIVERY_INCOMPLETE)
        return real(tools, run_id, name, row, tries=tries)

    deliver_stage._send = refuses_the_page  # the fixture takes it back
    node.engine.run()
    assert node.held() == [f"delivery-{node.ids('archive', 'held')[0]}"]
    spoil(node, flair)
    segmentation = {str(d.SOPInstanceUID) for d in node.delivered() if d.Modality == "SEG"}
    assert [named(d) for d in rejections(node)] == [segmentation]
    assert node.held() == []
    node.nothing_is_left()


def test_a_destination_that_is_down_hears_of_it_later(node: Quick, flair: slices.SeriesFiles, trouble: Trouble) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    trouble.queue["archive"] = down(4)
    spoil(node, flair)
    assert len(node.events("delivery.later")) == 4
    assert [named(d) for d in rejections(node)] == [first]
    assert [
        d["attempts"] for d in node.rows(deliveries) if d["position"] == 1000 and d["destination"] == "archive"
    ] == [5]
    assert report(node)["status"] == "entered-in-error", "the EHR does not wait for the archive"
    node.nothing_is_left()


class Killed(BaseException):
    """Stands for kill -9: nothing after it is run, nothing is tidied up."""


@pytest.mark.parametrize("place", ["K13", "K14", "K15", "K17"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_a_kill_at_every_point_changes_nothing(
    place: str, occurrence: int, node: Quick, flair: slices.SeriesFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    node.receive([flair.files[LATE - 1]])
    node.close_series(flair.series_uid)
    node.engine.run()
    seen = 0

    def reach(name: str) -> None:
        nonlocal seen
        seen += name == place
        if name == place and seen == occurrence:
            raise Killed

    monkeypatch.setattr(deliver_stage, "reach", reach)
    node.quiet(flair.study_uid)
    with contextlib.suppress(Killed):
        node.engine.run()
    monkeypatch.undo()
    for _ in range(4):
        node.forget_jobs()
        node.reconcile()
    assert [named(d) for d in rejections(node)] == [first]
    assert report(node)["status"] == "entered-in-error" and set(node.states()) == {"confirmed"}
    assert len(node.delivered()) == len(first) + 1
    node.nothing_is_left()


def test_killed_after_the_decision_and_before_its_jobs(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    node.receive([flair.files[LATE - 1]])
    node.close_series(flair.series_uid)
    node.engine.run()
    node.quiet(flair.study_uid)
    item = node.engine._heap.pop(0)[3]
    assert node.engine.jobs[item.job](*item.args), "the jobs that are lost"
    node.forget_jobs()
    assert len(rejections(node)) == 0
    node.reconcile()
    assert len(rejections(node)) == 1 and report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_newer_revision_that_the_model_refuses_takes_the_older_result_back(
    node: Quick, flair: slices.SeriesFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}

    def refuses(*_: Any) -> Any:
        raise Refused(RefusalCode.OUT_OF_DISTRIBUTION)

    monkeypatch.setattr(QuickModel, "predict", refuses)
    node.bring(flair)
    assert node.states(runs) == ["superseded", "refused"]
    assert [named(d) for d in rejections(node)] == [first] and report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_successor_that_was_never_sent_leaves_its_predecessor_to_be_taken_back(
    node: Quick, flair: slices.SeriesFiles
) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    node.receive(flair.files[:7])
    node.close_series(flair.series_uid)
    read = node.engine._heap.pop(0)[3]
    node.engine.jobs[read.job](*read.args)  # a second run is decided, and its jobs are lost
    assert node.states(runs) == ["superseded", "queued"]
    node.receive([flair.files[8]])
    node.close_series(flair.series_uid)
    node.engine.run()
    node.quiet(flair.study_uid)
    node.engine.run()
    assert node.states(runs) == ["superseded", "superseded"]
    assert [named(d) for d in rejections(node)] == [first] and report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_result_that_replaced_another_is_taken_back_alone(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    node.bring(flair, 7)
    second = {str(d.SOPInstanceUID) for d in node.delivered() if d.Modality != "KO"} - first
    node.receive([flair.files[8]])
    node.close_series(flair.series_uid)
    node.engine.run()
    node.quiet(flair.study_uid)
    node.engine.run()
    assert sorted(map(sorted, (named(d) for d in rejections(node)))) == sorted([sorted(first), sorted(second)])
    assert report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_good_revision_after_a_withdrawal_is_published(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    old = next(d for d in node.delivered() if d.Modality == "SR")
    spoil(node, flair)
    node.bring(flair)
    assert node.states(runs) == ["superseded", "built"] and set(node.states()) == {"confirmed"}
    new = [d for d in node.delivered() if d.Modality == "SR" and d.SOPInstanceUID != old.SOPInstanceUID]
    assert len(new) == 1
    predecessor = new[0].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert report(node)["status"] == "preliminary"
    node.nothing_is_left()


def test_a_destination_without_rejections_is_not_told_and_the_timeline_says_so(
    tmp_path: Path, flair: slices.SeriesFiles
) -> None:
    archive = {"kind": "folder", "path": tmp_path / "node" / "archive", "reject_superseded": False}
    node = Quick(tmp_path / "node", destinations={"archive": archive})
    try:
        node.bring(flair, 6)
        spoil(node, flair)
        assert rejections(node) == [] and report(node)["status"] == "entered-in-error"
        event = node.events("run.withdrawn")[0]["detail"]
        assert (event["destinations"], event["not_told"]) == (["own-fhir"], ["archive"])
        node.nothing_is_left()
    finally:
        node.close()


def test_a_report_that_a_person_has_signed_is_left_to_a_person(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    """The server's own guard is tested in `test_fhir_client`; here, what becomes of its refusal."""
    node.bring(flair, 6)
    trouble.queue["own-fhir"] = [Refused(RefusalCode.DELIVERY_CONFLICT)]
    spoil(node, flair)
    assert len(rejections(node)) == 1 and report(node)["status"] == "preliminary"
    held = node.held()
    assert held == [f"delivery-{node.ids('own-fhir', 'held')[0]}"]
    node.act(actions.release, held[0])
    assert report(node)["status"] == "entered-in-error" and node.held() == []
    node.nothing_is_left()


def test_a_person_may_leave_the_signed_report_as_it_is(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    node.bring(flair, 6)
    trouble.queue["own-fhir"] = [Refused(RefusalCode.DELIVERY_CONFLICT)]
    spoil(node, flair)
    node.act(actions.reject, node.held()[0])
    assert report(node)["status"] == "preliminary" and node.held() == []
    node.nothing_is_left()


def test_a_fault_of_ours_on_the_way_is_visible_and_a_retry_goes_on(
    node: Quick, flair: slices.SeriesFiles, trouble: Trouble
) -> None:
    """The answer for the SEG was lost; looking for it once more fails by a fault of ours."""
    trouble.queue["archive"] = down(1)
    node.receive(flair.files[:6])
    node.close_series(flair.series_uid)
    node.engine.run(until_s=0.0)
    node.forget_jobs()
    trouble.queue["archive"] = [ValueError()]
    spoil(node, flair)
    (failed,) = node.ids("archive", "failed")
    assert rejections(node) == [] and node.state() == "failed" and node.reconcile() == 0
    node.act(actions.retry, f"delivery-{failed}")
    assert of(node, 1, "archive") == [
        ("seg", "confirmed"),
        ("pdf", "cancelled"),
        ("sr", "cancelled"),
        ("withdrawal", "confirmed"),
    ]
    assert [named(d) for d in rejections(node)] == [
        {str(d.SOPInstanceUID) for d in node.delivered() if d.Modality == "SEG"}
    ]
    with pytest.raises(actions.UnknownItem), node.database.write() as connection:
        actions.retry(connection, f"delivery-{failed + 1}", "tester", "never sent")
    node.nothing_is_left()


def test_a_rejected_study_is_taken_back(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    node.change(studies, held=Refused(RefusalCode.PATIENT_CONFLICT).refusal.to_json())
    held = node.held()[0]
    with node.database.write() as connection:
        jobs = actions.reject(connection, held, "tester", "no")
    assert jobs
    node.forget_jobs()  # killed between the act and its jobs
    node.reconcile()
    assert [named(d) for d in rejections(node)] == [first] and report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_rejected_series_takes_its_result_back(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair, 6)
    node.change(series, held=Refused(RefusalCode.UID_CONFLICT).refusal.to_json())
    node.quiet(flair.study_uid)
    node.engine.run()
    assert rejections(node) == [], "held is not yet refused"
    node.act(actions.reject, next(i for i in node.held() if i.startswith("series")))
    assert len(rejections(node)) == 1 and report(node)["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_rejected_case_takes_the_result_before_it_back(
    node: Quick, flair: slices.SeriesFiles, tmp_path: Path
) -> None:
    node.bring(flair, 6)
    other = slices.series(tmp_path / "other", 3, study_uid=flair.study_uid, **{**FLAIR, "PatientSex": "F"})
    node.bring(other)
    node.quiet(flair.study_uid)
    node.engine.run()
    assert [i.split("-")[0] for i in node.held()] == ["case"] and rejections(node) == []
    node.act(actions.reject, node.held()[0])
    assert len(rejections(node)) == 1 and report(node)["status"] == "entered-in-error" and node.held() == []
    node.nothing_is_left()


def test_the_rejection_is_built_once(node: Quick, flair: slices.SeriesFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry sends the stored bytes, whatever the program would build by then (I2)."""
    from dicom_node.stages import withdraw as stage

    node.bring(flair, 6)
    sent: list[str] = []
    real = delivery.send

    def lossy(outgoing: Any, target: Any, **more: Any) -> Any:
        confirmation = real(outgoing, target, **more)
        sent.append(outgoing.sha256)
        if len(sent) == 1:
            monkeypatch.setattr(stage, "build_rejection", None)
            raise PeerTrouble("the answer was lost")
        return confirmation

    monkeypatch.setattr(delivery, "send", lossy)
    spoil(node, flair)
    assert len(sent) == 2 and len(set(sent)) == 1 and len(rejections(node)) == 1
    node.nothing_is_left()


# a real FHIR server


PATIENTS = "urn:test:patients"


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[tuple[Quick, FhirPeer]]:
    """A node with an archive folder and a hospital's FHIR server, which knows the patient."""
    with FhirPeer() as fhir:
        fhir.create({"resourceType": "Patient", "identifier": [{"system": PATIENTS, "value": FLAIR["PatientID"]}]})
        folder = tmp_path / "node"
        made = Quick(
            folder,
            ROUTES.replace("[archive]", "[archive, ehr]"),
            destinations={
                "archive": {"kind": "folder", "path": folder / "archive"},
                "ehr": {"kind": "fhir", "url": fhir.url},
            },
            report={"issuers": {FLAIR["IssuerOfPatientID"]: PATIENTS}},
        )
        yield made, fhir
        made.close()


@pytest.fixture
def smooth(tmp_path: Path) -> slices.SeriesFiles:
    """A series of a ramp: pictures of noise make a page of more bytes than the server takes in one element."""
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))
    return slices.series(tmp_path / "smooth", 9, **FLAIR, PixelData=ramp.tobytes())


@pytest.mark.parametrize("fault", ["", "drop-before", "drop-after"])
def test_the_hospitals_server_shows_the_report_as_entered_in_error(
    hospital: tuple[Quick, FhirPeer], smooth: slices.SeriesFiles, fault: str
) -> None:
    node, fhir = hospital
    node.bring(smooth, 6)
    assert [r["status"] for r in fhir.all("DiagnosticReport")] == ["preliminary"]
    if fault:  # the request is lost, or the answer after the server has done its work
        fhir.fail("POST /", fault)
    spoil(node, smooth)
    (shown,) = fhir.all("DiagnosticReport")
    assert shown["status"] == "entered-in-error" and "presentedForm" not in shown
    assert shown["conclusion"].startswith("Withdrawn: ")
    assert {o["status"] for o in fhir.all("Observation")} == {"entered-in-error"}
    operations = [p["activity"]["coding"][0]["code"] for p in fhir.all("Provenance")]
    assert sorted(operations) == ["CREATE", "NULLIFY"]
    assert set(node.states()) == {"confirmed"}
    node.nothing_is_left()
    if not fault:  # a good revision is a new report beside it, which says what it replaces
        node.bring(smooth)
        first, second = sorted(fhir.all("DiagnosticReport"), key=lambda r: r["status"])
        assert (first["status"], second["status"]) == ("entered-in-error", "preliminary")
        assert second["extension"][0]["valueReference"]["reference"] == f"DiagnosticReport/{first['id']}"
        node.nothing_is_left()


def test_a_doctors_report_stays_as_it_is(hospital: tuple[Quick, FhirPeer], smooth: slices.SeriesFiles) -> None:
    """Standards 4.5: never over what a person has signed; the delivery is held, and a person decides."""
    node, fhir = hospital
    node.bring(smooth, 6)
    (written,) = fhir.all("DiagnosticReport")
    signed = {**written, "status": "final", "resultsInterpreter": [{"display": "Dr. Roe"}]}
    fhir.update(signed)
    spoil(node, smooth)
    (shown,) = fhir.all("DiagnosticReport")
    assert (shown["status"], shown["resultsInterpreter"]) == ("final", signed["resultsInterpreter"])
    assert len(rejections(node)) == 1 and report(node)["status"] == "entered-in-error"
    held = node.ids("ehr", "held")
    assert node.held() == [f"delivery-{held[0]}"]
    assert [d["reason"]["code"] for d in node.rows(deliveries) if d["id"] == held[0]] == ["delivery-conflict"]
    node.act(actions.reject, node.held()[0])
    assert node.held() == [] and fhir.all("DiagnosticReport")[0]["status"] == "final"
    node.nothing_is_left()
