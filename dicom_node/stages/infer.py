"""Infer: the volumes of a case go through one model; the mask and the findings are kept (queue `model`)."""

from __future__ import annotations

from typing import Any

import structlog

from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import canonical_json, runs, studies
from dicom_node.record.runs import Attempt
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.record.timeline import note
from dicom_node.refusals import Refused
from dicom_node.routing.fallback import OF_THE_IMAGES
from dicom_node.stages.context import FINDINGS, MASK, ChildDied, Tools, Unwanted, pack_mask
from dicom_node.stages.prediction_cache import is_hit, pixels_digest
from dicom_node.stages.read import case_inputs
from dicom_node.stages.trial import shadow_trials
from dicom_node.stages.twins import note_twins
from dicom_node.stages.withdraw import withdraw
from dicom_node.words import RunState

log = structlog.get_logger()


def infer(tools: Tools, run_id: int) -> list[Put]:
    """Run one model version on one case, once.

    A run that already has its findings goes on at once.  A refusal of the input ends the run as *refused*; a dead child
    is counted before the next try, and three deaths end the run as *failed* (I11).
    """
    reach("K8")
    started = start(tools, run_id, "infer")
    if started is None:
        return []
    attempt, case = started
    # the attempt's number makes the key new when the run is retried, or taken up again after it was superseded
    follow = [Put("cpu", "write", f"write/{run_id}/{attempt.number}", (run_id,), case["priority"])]
    reach("K9")
    with tools.database.write() as connection:
        run = runs.row(connection, run_table, run_id)
        if runs.artefact(connection, run_id, FINDINGS) is not None:
            runs.end_attempt(connection, attempt, "done")
            return follow
    try:
        inputs = case_inputs(tools, case["revisions"], int(run["identity"]["reference_revision"]))
        reach("K10")
        mask, findings = tools.models.predict(case["model"], inputs, lambda: is_wanted(tools, attempt))
    except Refused as refused:
        return refuse(tools, attempt, refused)
    except ChildDied as death:
        return after_death(tools, attempt, str(death), case["priority"])
    except Unwanted:
        with tools.database.write() as connection:
            runs.end_attempt(connection, attempt, "unwanted")
        return []
    if findings.model.digest_sha256 != run["model_digest"]:
        fail(tools, attempt, "the model package is not the one that the run was decided for: start the worker again")
        return []
    packed, said = pack_mask(mask), canonical_json(findings.to_json()).encode()
    tools.keep_bytes(packed, said)
    pictures = {role: pixels_digest(volume) for role, volume in inputs.items()}
    with tools.database.write() as connection:
        kept = tools.keep(connection, attempt, MASK, packed) and tools.keep(connection, attempt, FINDINGS, said)
        runs.end_attempt(connection, attempt, "done" if kept else "stale")
        if not kept:
            return []
        note(
            connection,
            "run.inferred",
            case["study_uid"],
            run_id=run_id,
            seconds={key: round(value, 3) for key, value in findings.timings_s},
            regions={region.key: region.voxels for region in findings.regions},
            from_cache=is_hit(findings),
        )
        if is_hit(findings):
            runs.set_cache_hit(connection, run_id)
        note_twins(connection, pictures, run["identity"]["attributes"], case["study_uid"])
        follow += shadow_trials(connection, run_id, case["model"])
    return follow


def is_wanted(tools: Tools, attempt: Attempt) -> bool:
    """Whether anybody waits for this attempt: its run may be cancelled or superseded while the network computes."""
    with tools.database.read() as connection:
        return runs.is_current(connection, attempt)


def start(tools: Tools, run_id: int, stage: str) -> tuple[Attempt, dict[str, Any]] | None:
    """Count an attempt before the work begins; None when the run is over, cancelled or superseded."""
    with tools.database.write() as connection:
        run = runs.row(connection, run_table, run_id)
        if run["state"] not in (RunState.QUEUED.value, RunState.RUNNING.value) or run["cancel"]:
            return None
        study = studies.study_row(connection, run["study_uid"])
        if study["held"] or study["cancelled"]:
            return None  # no result for anyone until a person has decided; the reconciler comes back to it
        case = dict(runs.row(connection, cases, run["case_id"]))
        attempt = runs.begin_attempt(connection, run_id, stage, tools.worker)
        runs.move(connection, "run", run_id, RunState.RUNNING)
        note(connection, f"run.{stage}", run["study_uid"], run_id=run_id, attempt=attempt.number)
    return attempt, case


def refuse(tools: Tools, attempt: Attempt, refused: Refused) -> list[Put]:
    """End the run as refused: permanent, named, and never shown as a finding (I6).

    Where another route may stand in, the study is to be decided anew: that stands in the record with the refusal, so
    no kill loses it.  Otherwise what the run was to replace is of images that are refused by now, and is taken back
    outside.  Returns the jobs that see to it.
    """
    follow: list[Put] = []
    with tools.database.write() as connection:
        if runs.is_current(connection, attempt):
            run = runs.row(connection, run_table, attempt.run_id)
            case = runs.row(connection, cases, run["case_id"])
            study = str(run["study_uid"])
            runs.move(connection, "run", attempt.run_id, RunState.REFUSED, refusal=refused.refusal.to_json())
            note(connection, "run.refused", study, run_id=attempt.run_id, refusal=refused.refusal.to_json())
            if refused.refusal.code in OF_THE_IMAGES and case["route"] in tools.stood_in_for:
                studies.decide_again(connection, study)
                key = f"quiet/{study}/refused-{attempt.run_id}-{attempt.number}"
                follow = [Put("cpu", "read", key, ("study", study), int(case["priority"]))]
            else:
                follow = withdraw(tools, connection, attempt.run_id, refused.refusal.to_json())
        runs.end_attempt(connection, attempt, "refused", refused.refusal.code.value)
    return follow


def fail(tools: Tools, attempt: Attempt, reason: str) -> None:
    """End the run as failed: a fault of ours, visible, with a retry by hand."""
    with tools.database.write() as connection:
        if runs.is_current(connection, attempt):
            study = runs.row(connection, run_table, attempt.run_id)["study_uid"]
            runs.move(connection, "run", attempt.run_id, RunState.FAILED, error=reason)
            note(connection, "run.failed", study, run_id=attempt.run_id, reason=reason)
        runs.end_attempt(connection, attempt, "failed", reason)
    # the reason stands on the timeline; it may quote what was expected of an object and found in it
    log.error("run.failed", run=attempt.run_id, attempt=attempt.number)


def after_death(tools: Tools, attempt: Attempt, reason: str, priority: int) -> list[Put]:
    """Count a death of the model's child; the next try, later each time, or the end of the run."""
    limit = tools.settings.work.max_deaths
    with tools.database.write() as connection:
        if tools.stopping.is_set():  # its process ended because this one does
            runs.end_attempt(connection, attempt, "worker-stopped")
            return []
        deaths = runs.count_death(connection, attempt.run_id, "child_deaths")
        study = runs.row(connection, run_table, attempt.run_id)["study_uid"]
        note(connection, "run.child-died", study, run_id=attempt.run_id, deaths=deaths, reason=reason)
        runs.end_attempt(connection, attempt, "child-died", reason)
    if deaths >= limit:
        fail(tools, attempt, f"the model's process ended {deaths} times ({reason}); given up after {limit}")
        return []
    key = f"infer/{attempt.run_id}/after-{attempt.number}"
    return [Put("model", "infer", key, (attempt.run_id,), priority, delay_s=2.0 * deaths)]
