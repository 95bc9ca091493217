"""A model refuses a study's images after routing: another route stands in, once, durably, and everybody is told.

Two routes of one family: `parts` (T1 after contrast and FLAIR) and, for it, `whole` (FLAIR).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai_engine.prediction import InputVolume
from dicom_node.record.tables import cases, deliveries, reports, runs
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.stages.context import ModelDescription
from tests.fixtures_results import MODEL
from tests.support import slices
from tests.support.node import ROUTES
from tests.support.quick import FLAIR, Quick, QuickModel
from tests.support.wrapped import words

pytestmark = pytest.mark.component

PARTS_AND_WHOLE = ROUTES.replace("brain-flair", "parts").replace("[[flair]]", "[[t1c, flair], [t1c]]").replace(
    "tiny-bright", "parts"
) + ROUTES.split("routes:\n")[1].replace("name: brain-flair", "name: whole\n    fallback_for: parts")
T1C: dict[str, Any] = {
    **FLAIR,
    "SeriesDescription": "ax t1 post gd",
    "SequenceName": "*se2d1",
    "ScanningSequence": "SE",
    "RepetitionTime": "500",
    "EchoTime": "10",
    "InversionTime": "0",
    "ContrastBolusAgent": "gadolinium",
    "SeriesTime": "121000",
    "SeriesNumber": 2,
}


class TwoModels(QuickModel):
    """`parts` reads two series and refuses by the codes it is told; `tiny-bright` reads FLAIR."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, RefusalCode] = {"parts": RefusalCode.BRAIN_NOT_FOUND}

    def describe(self, reference: str) -> ModelDescription:
        if not reference.startswith("parts"):
            return super().describe(reference)
        return ModelDescription("parts", "1.0.0", MODEL.digest_sha256, "ef" * 32, ("t1c", "flair"), "t1c")

    def predict(self, reference: str, inputs: Mapping[str, InputVolume], *more: Any) -> Any:
        for name, code in self.refuses.items():
            if reference.startswith(name):
                self.asked.append(reference)
                raise Refused(code, "a skull-stripped study", "a native head with its skull")
        return super().predict(reference, {"flair": inputs["t1c" if "t1c" in inputs else "flair"]}, *more)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Quick]:
    made = Quick(tmp_path / "node", PARTS_AND_WHOLE)
    made.model = TwoModels()
    made.tools = replace(made.tools, models=made.model)
    made.forget_jobs()
    yield made
    made.close()


@pytest.fixture
def flair(tmp_path: Path) -> slices.SeriesFiles:
    return slices.series(tmp_path / "flair", 8, **FLAIR)


@pytest.fixture
def t1c(tmp_path: Path, flair: slices.SeriesFiles) -> slices.SeriesFiles:
    return slices.series(tmp_path / "t1c", 8, study_uid=flair.study_uid, **T1C)


def quiet(node: Quick, files: slices.SeriesFiles) -> None:
    node.quiet(files.study_uid)
    node.engine.run()
    assert node.engine.errors == {}


def of_kind(node: Quick, modality: str) -> list[Dataset]:
    return [d for d in node.delivered() if d.Modality == modality]


@pytest.mark.parametrize(
    "code", [RefusalCode.BRAIN_NOT_FOUND, RefusalCode.REGISTRATION_FAILED, RefusalCode.OUT_OF_DISTRIBUTION]
)
def test_what_the_first_model_refuses_the_second_reads_and_says_so(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles, code: RefusalCode
) -> None:
    node.model.refuses = {"parts": code}
    node.bring(flair)
    node.bring(t1c)
    assert node.states(runs) == ["refused"] and node.delivered() == []
    assert f"refused, {code.value}" in str(node.events("case.waits")[-1]["detail"]["reasons"])
    quiet(node, flair)
    assert node.states(runs) == ["superseded", "built"] and node.state() == "completed"
    assert [c["route"] for c in node.rows(cases)] == ["parts", "whole"]
    ready = node.events("case.ready")[-1]["detail"]
    assert ready["stands_in_for"] == {"parts": code.value}
    assert any(f"whole stands in for parts: the model of parts refused the images ({code.value}" in r
               for r in ready["reasons"])  # fmt: skip
    assert {d["run_id"] for d in node.rows(deliveries)} == {2} and set(node.states()) == {"confirmed"}
    assert sorted(d.Modality for d in node.delivered()) == ["DOC", "SEG", "SR"]
    assert "stands in for parts" in words(of_kind(node, "SR")[0])
    report = [row["resource"] for row in node.rows(reports) if row["resource_type"] == "DiagnosticReport"]
    assert len(report) == 1
    assert "stands in for parts" in str([row["resource"] for row in node.rows(reports)])
    node.nothing_is_left()


def test_flair_alone_goes_to_the_second_model_after_the_quiet_period(node: Quick, flair: slices.SeriesFiles) -> None:
    node.bring(flair)
    assert node.rows(runs) == []
    quiet(node, flair)
    assert node.states(runs) == ["built"] and node.model.asked == ["tiny-bright@1.0.0"]
    assert node.events("case.ready")[0]["detail"]["stands_in_for"] == {"parts": "roles-unfilled"}
    assert "no series for t1c" in words(of_kind(node, "SR")[0])


def test_what_the_first_model_reads_needs_nobody_to_stand_in(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles
) -> None:
    node.model.refuses = {}
    node.bring(flair)
    node.bring(t1c)
    quiet(node, flair)
    assert [c["route"] for c in node.rows(cases)] == ["parts"] and node.states(runs) == ["built"]
    assert node.events("case.ready")[0]["detail"]["stands_in_for"] == {}


def test_the_stand_in_is_found_again_after_a_kill(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles
) -> None:
    """The refusal and the need of a new decision are one transaction: whatever job is lost, the reconciler comes."""
    node.bring(flair)
    node.receive(t1c.files)
    node.close_series(t1c.series_uid)
    node.quiet(flair.study_uid)
    while "refused" not in node.states(runs):
        item = node.engine._heap.pop(0)[3]
        for follow in node.engine.jobs[item.job](*item.args):
            node.engine.put(follow)
    node.forget_jobs()
    assert node.reconcile() == 1
    assert node.states(runs) == ["superseded", "built"] and len(of_kind(node, "SEG")) == 1
    node.nothing_is_left()


def test_where_both_refuse_the_last_refusal_is_the_answer(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles
) -> None:
    node.model.refuses["tiny"] = RefusalCode.IMAGE_BLANK
    node.bring(flair)
    node.bring(t1c)
    for _ in range(3):
        quiet(node, flair)
    assert node.states(runs) == ["superseded", "refused"] and node.model.asked == ["parts@1.0.0", "tiny-bright@1.0.0"]
    assert node.state() == "refused" and node.delivered() == []
    node.nothing_is_left()


def test_a_late_series_that_is_refused_replaces_the_stand_in_and_takes_nothing_away(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles
) -> None:
    node.bring(flair)
    quiet(node, flair)
    first = {str(d.SOPInstanceUID) for d in node.delivered()}
    node.bring(t1c)
    quiet(node, flair)
    assert [c["route"] for c in node.rows(cases)] == ["whole", "parts", "whole"]
    assert node.states(runs) == ["superseded", "superseded", "built"]
    assert node.events("run.withdrawn") == []
    (rejection,) = of_kind(node, "KO")
    named = {
        str(item.ReferencedSOPInstanceUID)
        for study in rejection.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }
    assert named == first
    newest = max(of_kind(node, "SR"), key=lambda d: d.SOPInstanceUID not in first)
    assert "the model of parts refused the images" in words(newest)
    node.nothing_is_left()


def test_a_late_slice_is_decided_anew_and_where_nobody_is_left_the_result_is_taken_back(
    node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles
) -> None:
    node.bring(t1c)
    node.bring(flair, 7)
    quiet(node, flair)
    assert node.states(runs) == ["superseded", "built"]
    node.model.refuses["tiny"] = RefusalCode.IMAGE_BLANK
    node.bring(flair)
    assert node.events("run.withdrawn") == [], "another route may still stand in"
    quiet(node, flair)
    assert [c["route"] for c in node.rows(cases)] == ["parts", "whole", "parts", "whole"]
    assert node.states(runs)[-1] == "refused" and len(node.events("run.withdrawn")) == 1
    assert len(of_kind(node, "KO")) == 1
    report = [row["resource"] for row in node.rows(reports) if row["resource_type"] == "DiagnosticReport"][-1]
    assert report["status"] == "entered-in-error"
    node.nothing_is_left()


def test_a_fault_of_ours_calls_nobody_in(node: Quick, flair: slices.SeriesFiles, t1c: slices.SeriesFiles) -> None:
    node.model.refuses = {"parts": RefusalCode.BACKEND_MISSING}
    node.bring(flair)
    node.bring(t1c)
    quiet(node, flair)
    assert [c["route"] for c in node.rows(cases)] == ["parts"] and node.states(runs) == ["refused"]
    node.nothing_is_left()
