"""What came of an analysis, read from the records of its study: one state, one answer, or why there is none.

Nothing is kept twice.  The analysis knows its study; runs, cases and refusals of that study say how far it is, and the
artefacts of the run hold what the model said.  A withdrawn analysis has no numbers any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping

from ai_engine.findings import Observation, findings_from_json
from dicom_node import files, sayings
from dicom_node.record import analyses, arrivals, removals, runs, studies
from dicom_node.record.analyses import Row
from dicom_node.record.identity_removal import GONE
from dicom_node.record.timeline import last_of_run
from dicom_node.words import CaseState, RunState

WAITING, COMPLETED, REFUSED = "waiting", "completed", "refused"
FAILED, HELD, WITHDRAWN = "failed", "held", "withdrawn"
STATES = (WAITING, COMPLETED, REFUSED, FAILED, HELD, WITHDRAWN)

PHOTO, HEAT_MAP, PAGE = "photo", "heat_map.png", "report.pdf"
FILES: Mapping[str, tuple[str, str]] = {
    HEAT_MAP: ("overlay", "image/png"),
    PAGE: ("pdf-page", "application/pdf"),
}
"""What can be fetched besides the photograph: name -> kind of the run's artefact, media type."""

_ABOVE = "AI-OP-ABOVE"
_NOBODY_READS = "no route of this node reads photographs: config/routes.yaml"


@dataclass(frozen=True)
class Output:
    """One number of the model.

    Attributes
    ----------
    key
        ``malignant`` or ``melanoma``: the model's own name of it.
    value, threshold
        0 to 1; a probability where `is_probability`, else a score that nobody has calibrated.
    is_above
        At or above the operating threshold; False where there is none.
    """

    key: str
    name: str
    value: float
    threshold: float | None
    is_above: bool
    is_probability: bool


@dataclass(frozen=True)
class AnalysisResult:
    """What came of an analysis.

    Attributes
    ----------
    state
        One of `STATES`.
    quality
        What the model's quality gate saw of an accepted picture: its kind and its measures.
    refusal
        ``{code, message, expected, found, advice}``, where the picture was refused or is held.
    error
        A fault of ours in fixed words; the picture had no part in it.
    analysed_at
        When the model answered, as the record writes times; empty until then.
    files
        Names of what can be fetched: `PHOTO`, and keys of `FILES`.
    study_id
        The study's opaque id, for the timeline and the viewer; empty before it is there.
    is_private
        It stays in the node: no identity, or one that nobody confirmed.
    limits
        What the model says about its own answer.
    removed
        What was deleted by retention, and when: `photo`, `result`, `identity`.
    """

    state: str
    outputs: tuple[Output, ...] = ()
    model: str = ""
    quality: Mapping[str, Any] = field(default_factory=dict)
    refusal: Mapping[str, Any] | None = None
    error: str = ""
    analysed_at: str = ""
    files: frozenset[str] = frozenset()
    study_id: str = ""
    is_private: bool = True
    limits: tuple[str, ...] = ()
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Language -> what the model's package says in English -> the same in that language."""
    removed: Mapping[str, str] = field(default_factory=dict)

    @property
    def malignant(self) -> Output | None:
        return self.output("malignant")

    @property
    def melanoma(self) -> Output | None:
        return self.output("melanoma")

    def limits_in(self, language: str) -> list[str]:
        """`limits` for somebody who reads this language."""
        return [sayings.said(one, language, self.words.get(language)) for one in self.limits]

    def output(self, key: str) -> Output | None:
        """The number of this name."""
        return next((one for one in self.outputs if one.key == key), None)

    def is_contradicted(self, impression: str) -> bool:
        """Whether what the doctor saw and what the model says point apart: somebody else should look."""
        if self.state != COMPLETED or not self.outputs:
            return False
        is_above = any(one.is_above for one in self.outputs)
        return (impression == "benign" and is_above) or (impression == "suspicious" and not is_above)


def result_of(connection: Connection, artefact_folder: Path, row: Row) -> AnalysisResult:
    """What came of one analysis until now."""
    is_private = not row["is_identified"] or row["patient"].get("confirmed") not in analyses.CONFIRMATIONS
    if row["state"] == analyses.FAILED:
        told = analyses.told_error(row)
        refusal = told.get("refusal")
        state = FAILED if refusal is None else REFUSED
        return AnalysisResult(state, refusal=refusal, error=told.get("reason", ""), is_private=is_private)
    study = studies.find(connection, row["study_uid"]) if row["study_uid"] else None
    kept = frozenset({PHOTO}) if study is not None and _is_kept(connection, row) else frozenset[str]()
    common: dict[str, Any] = {
        "files": kept,
        "removed": _removed(connection, row),
        "study_id": "" if study is None else study["public_id"],
        "is_private": is_private,
    }
    if row["state"] == analyses.WITHDRAWN:
        return AnalysisResult(WITHDRAWN, **common)
    if study is None:
        return AnalysisResult(WAITING, **common)
    hold = study["held"] or next((one["held"] for one in studies.series_rows(connection, study["uid"]) if _waits(one)),
                                 None)  # fmt: skip
    if hold:
        return AnalysisResult(HELD, refusal=hold, **common)
    run = runs.latest_run(connection, study["uid"])
    if run is None:
        return _undecided(connection, study, common)
    return _of_run(connection, artefact_folder, run, common)


def _waits(series: RowMapping) -> bool:
    return bool(series["held"]) and not series["held"].get("rejected")


def _is_kept(connection: Connection, row: Row) -> bool:
    return row["sop_instance_uid"] is not None and arrivals.stored_path(connection, row["sop_instance_uid"]) is not None


def _removed(connection: Connection, row: Row) -> dict[str, str]:
    """What of an analysis is deleted, apart from its result."""
    photo = arrivals.removed_at(connection, row["sop_instance_uid"] or "")
    identity = (row["patient"] or {}).get(GONE)
    return {key: str(at) for key, at in (("photo", photo), ("identity", identity)) if at}


def _undecided(connection: Connection, study: RowMapping, common: Mapping[str, Any]) -> AnalysisResult:
    """A study for which no model was asked, yet or at all."""
    cases = runs.cases_of(connection, study["uid"])
    for case in reversed(cases):
        if case["state"] in (CaseState.REFUSED.value, CaseState.HELD.value):
            state = REFUSED if case["state"] == CaseState.REFUSED.value else HELD
            return AnalysisResult(state, refusal=case["refusal"], **common)
    for revision in studies.closed_revisions(connection, study["uid"]):
        if revision["refusal"] is not None:
            return AnalysisResult(REFUSED, refusal=revision["refusal"], **common)
    if study["quiet_put_at"] is not None and not cases and not studies.is_undecided(connection, study["uid"]):
        return AnalysisResult(FAILED, error=_NOBODY_READS, **common)
    return AnalysisResult(WAITING, **common)


def _of_run(
    connection: Connection, artefact_folder: Path, run: RowMapping, common: Mapping[str, Any]
) -> AnalysisResult:
    state = RunState(run["state"])
    if state is RunState.REFUSED:
        return AnalysisResult(REFUSED, refusal=run["refusal"], **common)
    if state is RunState.FAILED:
        return AnalysisResult(FAILED, error=str(run["error"] or ""), **common)
    if state is RunState.CANCELLED:
        return AnalysisResult(FAILED, error="a person has stopped it", **common)
    if state is not RunState.BUILT:
        return AnalysisResult(WAITING, **common)
    kept = {row["kind"]: row for row in runs.artefacts_of(connection, int(run["id"]))}
    said = kept["findings"]
    if said["removed_at"]:
        gone = {**common["removed"], "result": str(said["removed_at"])}
        return AnalysisResult(COMPLETED, analysed_at=str(said["created_at"]), **{**common, "removed": gone})
    findings = findings_from_json(json.loads(files.load(artefact_folder, *removals.place(said))))
    names = {name for name, (kind, _) in FILES.items() if kind in kept and not kept[kind]["removed_at"]}
    return AnalysisResult(
        COMPLETED,
        outputs=tuple(_output(one) for one in findings.observations),
        model=f"{findings.model.name}@{findings.model.version}",
        quality=_quality(connection, run),
        analysed_at=str(said["created_at"]),
        limits=findings.notes,
        words=findings.model.words,
        **{**common, "files": common["files"] | names},
    )


def _output(said: Observation) -> Output:
    measurement = said.measurements[0]
    is_percent = measurement.unit.value == "%"
    scale = 100.0 if is_percent else 1.0
    return Output(
        key=said.key,
        name=said.name.meaning,
        value=measurement.value / scale,
        threshold=None if said.threshold is None else said.threshold / scale,
        is_above=said.category is not None and said.category.value == _ABOVE,
        is_probability=is_percent,
    )


def _quality(connection: Connection, run: RowMapping) -> Mapping[str, Any]:
    return dict(last_of_run(connection, int(run["id"]), "run.inferred").get("quality", {}))
