"""Infer, of photographs: the job of one run asks a classifier about those of others that wait, too (queue `model`).

A network answers several pictures together faster than one by one, and a clinic sends several together.  So the job
whose turn it is takes along queued runs of the same model, up to the package's batch; each has its own attempt, its own
answer or refusal, and its own job afterwards.  When the job of a run that was taken along comes up, there is nothing
left to do.  A picture at which the child died is asked about alone from then on, so that no other run pays for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from ai_engine.pictures import InputPicture, PictureAnswer
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import canonical_json, runs
from dicom_node.record.runs import Attempt
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal, Refused
from dicom_node.stages.analysis_places import QUEUE as PHOTOS
from dicom_node.stages.context import FINDINGS, HEAT_MAP, ChildDied, Tools, Unwanted, pack_mask
from dicom_node.stages.infer import after_death, fail, infer, is_wanted, refuse, start
from dicom_node.stages.prediction_cache import picture_digest
from dicom_node.stages.read import case_picture
from dicom_node.stages.trial import shadow_trials
from dicom_node.stages.twins import note_twins
from dicom_node.turns import ahead
from dicom_node.words import RunState

log = structlog.get_logger()

TOGETHER = "done-together"
"""Outcome of an attempt that another run's job took along."""


@dataclass(frozen=True, eq=False)
class _Turn:
    """One run with its picture, in this call of the network."""

    attempt: Attempt
    case: dict[str, Any]
    run: dict[str, Any]
    picture: InputPicture

    @property
    def put(self) -> Put:
        return _write_put(self.attempt.run_id, self.attempt.number, int(self.case["priority"]))


def infer_run(tools: Tools, run_id: int) -> list[Put]:
    """Run one model version on one case, once: volumes one case at a time, photographs several together."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        model = str(runs.row(connection, cases, run["case_id"])["model"])
    try:
        at_once = tools.models.describe(model).pictures_at_once
    except (Refused, ChildDied):
        at_once = 0  # said by the run itself, below
    return _infer_pictures(tools, run_id, model, at_once) if at_once else infer(tools, run_id)


def _infer_pictures(tools: Tools, run_id: int, model: str, at_once: int) -> list[Put]:
    reach("K8")
    done = _taken_along(tools, run_id)
    if done is not None:
        return done
    started = start(tools, run_id, "infer")
    if started is None:
        return []
    attempt, case = started
    reach("K9")
    with tools.database.write() as connection:
        run = dict(runs.row(connection, run_table, run_id))
        if runs.artefact(connection, run_id, FINDINGS) is not None:
            runs.end_attempt(connection, attempt, "done")
            return [_write_put(run_id, attempt.number, int(case["priority"]))]
    try:
        first = _Turn(attempt, case, run, case_picture(tools, run))
    except Refused as refused:
        return refuse(tools, attempt, refused)
    others = [] if run["child_deaths"] else _others(tools, run, model, at_once - 1)
    return _ask(tools, model, [first, *others])


def _others(tools: Tools, run: dict[str, Any], model: str, count: int) -> list[_Turn]:
    """Queued runs of the same model package whose pictures can be read, the most urgent first."""
    with tools.database.read() as connection:
        waiting = runs.waiting_like(connection, int(run["id"]), model, str(run["model_digest"]), count)
    turns = []
    for row in waiting:
        try:
            picture = case_picture(tools, row)
        except Refused:
            continue  # its own job says so
        started = start(tools, int(row["id"]), "infer")
        if started is not None:
            turns.append(_Turn(*started, dict(row), picture))
    return turns


def _ask(tools: Tools, model: str, turns: Sequence[_Turn]) -> list[Put]:
    """Ask about all pictures in one call, and write down each answer by itself."""
    first, others = turns[0], turns[1:]
    reach("K10")
    try:
        answers = tools.models.classify(
            model, [turn.picture for turn in turns], lambda: is_wanted(tools, first.attempt)
        )
    except Refused as refused:  # of the package, not of a picture
        _let_go(tools, others)
        return refuse(tools, first.attempt, refused)
    except ChildDied as death:
        _let_go(tools, others)
        return after_death(tools, first.attempt, str(death), int(first.case["priority"]))
    except Unwanted:
        _let_go(tools, turns)
        return []
    follow: list[Put] = []
    for turn, answer in zip(turns, answers, strict=True):
        if isinstance(answer, Refusal):
            follow += refuse(tools, turn.attempt, Refused(answer.code, answer.expected, answer.found))
        else:
            follow += _keep(tools, turn, answer, len(turns), "done" if turn is first else TOGETHER)
    return follow


def _keep(tools: Tools, turn: _Turn, answer: PictureAnswer, together: int, outcome: str) -> list[Put]:
    """Keep findings and heat map of one run; the job that writes its objects."""
    run_id, study_uid = turn.attempt.run_id, turn.case["study_uid"]
    findings = answer.findings
    if findings.model.digest_sha256 != turn.run["model_digest"]:
        reason = "the model package is not the one that the run was decided for: start the worker again"
        fail(tools, turn.attempt, reason)
        return []
    said = canonical_json(findings.to_json()).encode()
    heat = None if answer.heat_map is None else pack_mask(answer.heat_map)
    tools.keep_bytes(said, *([] if heat is None else [heat]))
    with tools.database.write() as connection:
        kept = heat is None or tools.keep(connection, turn.attempt, HEAT_MAP, heat)
        kept = kept and tools.keep(connection, turn.attempt, FINDINGS, said)
        runs.end_attempt(connection, turn.attempt, outcome if kept else "stale")
        if not kept:
            return []
        note(
            connection,
            "run.inferred",
            study_uid,
            run_id=run_id,
            seconds={key: round(value, 3) for key, value in findings.timings_s},
            observations={o.key: "" if o.category is None else o.category.meaning for o in findings.observations},
            quality=dict(answer.quality),
            pictures_together=together,
            from_cache=False,
        )
        role = next(iter(turn.case["revisions"]))
        pictures = {str(role): picture_digest(turn.picture)}
        note_twins(connection, pictures, turn.run["identity"]["attributes"], study_uid)
        return [turn.put, *shadow_trials(connection, run_id, turn.case["model"])]


def _let_go(tools: Tools, turns: Sequence[_Turn]) -> None:
    """Runs that were taken along and got no answer: their own jobs ask again."""
    with tools.database.write() as connection:
        for turn in turns:
            runs.end_attempt(connection, turn.attempt, "unwanted")


def _taken_along(tools: Tools, run_id: int) -> list[Put] | None:
    """What follows for a run that another one's job has answered already; None where this is its own to do."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        if run["state"] == RunState.QUEUED.value:  # never begun, or put back by somebody
            return None
        number = runs.last_infer_attempt(connection, run_id, TOGETHER)
        if number is None:
            return None
        case = runs.row(connection, cases, run["case_id"])
    # the same key as when it was put first: put twice it is there once, and a kill between the two loses nothing
    return [_write_put(run_id, number, int(case["priority"]))]


def _write_put(run_id: int, attempt: int, priority: int) -> Put:
    return Put(PHOTOS, "write", f"write/{run_id}/{attempt}", (run_id,), ahead(priority))
