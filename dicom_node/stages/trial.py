"""Trial: another model version reads the case of a run, and what it says is compared, never delivered.

Shadows (a version reads along with every new run) and replays (a version reads past studies again) are both made of
trials.  They run on the queue `model` behind everything that a patient waits for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ai_engine.findings import Findings, Region, findings_from_json
from dicom_node import files
from dicom_node.durable import Put
from dicom_node.record import registry, runs
from dicom_node.record.tables import cases
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal, RefusalCode, Refused
from dicom_node.results import side_by_side
from dicom_node.stages.context import (
    FINDINGS,
    MASK,
    ChildDied,
    Mask,
    ModelDescription,
    Tools,
    pack_mask,
    unpack_mask,
)
from dicom_node.stages.read import case_inputs, case_picture, load_or_build, photographs
from dicom_node.turns import TRIAL

log = structlog.get_logger()


def shadow_trials(connection: Connection, run_id: int, model: str) -> list[Put]:
    """Insert the trials of a run that was just inferred, one per version that reads along; their jobs."""
    name, _, version = model.partition("@")
    puts = []
    for row in registry.active_shadows(connection, name):
        if row["version"] == version:
            continue  # it would be compared with itself
        candidate = f"{name}@{row['version']}"
        number, _ = registry.add_trial(connection, run_id, candidate, row["digest"], shadow_id=int(row["id"]))
        puts.append(trial_put(number))
    return puts


def trial_put(trial_id: int, suffix: str = "") -> Put:
    """The job of a trial."""
    return Put("model", "trial", f"trial/{trial_id}{suffix}", (trial_id,), TRIAL)


def trial(tools: Tools, trial_id: int) -> list[Put]:
    """Run one trial: predict, compare, keep both.  What goes wrong ends the trial and touches nothing else."""
    try:
        _trial(tools, trial_id)
    except OperationalError:  # of the record itself: the reconciler comes back to it
        raise
    except Exception as fault:  # the job's boundary
        if tools.stopping.is_set():  # what a stop interrupts is no start: it is taken up again after the next one
            with tools.database.write() as connection:
                registry.uncount_start(connection, trial_id)
            return []
        log.exception("trial.fault", trial=trial_id)
        told = str(fault) if isinstance(fault, ChildDied) else f"{type(fault).__name__}; see the worker's log"
        _end(tools, trial_id, registry.FAILED, f"a fault of the node: {told}")
    return []


def _trial(tools: Tools, trial_id: int) -> None:
    limit = tools.settings.work.max_deaths
    with tools.database.write() as connection:
        row = registry.trial(connection, trial_id)
        if row["state"] != registry.QUEUED:
            return
        run = runs.run_row(connection, int(row["run_id"]))
        case = dict(runs.row(connection, cases, run["case_id"]))
        if registry.count_start(connection, trial_id) > limit:
            reason = f"it was begun {limit} times, and the process ended each time"
            registry.end_trial(connection, trial_id, registry.FAILED, reason=reason)
            return
        packed = tools.load(connection, int(row["run_id"]), MASK)
        said = tools.load(connection, int(row["run_id"]), FINDINGS)
    if said is None:
        _end(tools, trial_id, registry.FAILED, "the run has no findings to compare with")
        return
    reference = int(run["identity"]["reference_revision"])
    if photographs(tools, reference):
        _trial_of_picture(tools, trial_id, row, run, findings_from_json(json.loads(said)))
        return
    if packed is None:
        _end(tools, trial_id, registry.FAILED, "the run has no mask to compare with")
        return
    try:
        inputs = case_inputs(tools, case["revisions"], reference)
        _on_the_same_grid(tools.models.describe(row["candidate"]), next(iter(inputs)))
        mask, findings = tools.models.predict(row["candidate"], inputs)
    except Refused as refused:
        _end(tools, trial_id, registry.REFUSED, json.dumps(refused.refusal.to_json(), ensure_ascii=False))
        return
    if findings.model.digest_sha256 != row["candidate_digest"]:
        _end(tools, trial_id, registry.FAILED, "the package is not the one that the trial was asked for")
        return
    before, expected = unpack_mask(packed), findings_from_json(json.loads(said))
    compared = compare(before, expected, mask, findings)
    picture = side_by_side(
        load_or_build(tools, reference),
        [(case["model"], before, expected.regions), (row["candidate"], mask, findings.regions)],
    )
    compared["picture"] = files.keep(tools.artefact_folder, picture)[1]
    sha256, path = files.keep(tools.artefact_folder, pack_mask(mask))
    with tools.database.write() as connection:
        registry.end_trial(connection, trial_id, registry.DONE, comparison=compared, mask_path=path, mask_sha256=sha256)
        note(
            connection,
            "trial.compared",
            run["study_uid"],
            run_id=int(row["run_id"]),
            candidate=row["candidate"],
            dice={entry["key"]: entry["dice"] for entry in compared["regions"]},
        )


def _trial_of_picture(tools: Tools, trial_id: int, row: Any, run: Any, said: Findings) -> None:
    """Ask another version about the photograph of a run, and compare what both say about the whole picture."""
    try:
        picture = case_picture(tools, run)
        (answer,) = tools.models.classify(row["candidate"], [picture])
    except Refused as refused:
        _end(tools, trial_id, registry.REFUSED, json.dumps(refused.refusal.to_json(), ensure_ascii=False))
        return
    if isinstance(answer, Refusal):
        _end(tools, trial_id, registry.REFUSED, json.dumps(answer.to_json(), ensure_ascii=False))
        return
    if answer.findings.model.digest_sha256 != row["candidate_digest"]:
        _end(tools, trial_id, registry.FAILED, "the package is not the one that the trial was asked for")
        return
    compared = compare_pictures(said, answer.findings)
    with tools.database.write() as connection:
        registry.end_trial(connection, trial_id, registry.DONE, comparison=compared)
        note(
            connection,
            "trial.compared",
            run["study_uid"],
            run_id=int(row["run_id"]),
            candidate=row["candidate"],
            observations={entry["key"]: entry["difference"] for entry in compared["observations"]},
        )


def compare_pictures(said: Findings, says: Findings) -> dict[str, Any]:
    """How two answers about one photograph differ, output by output; matched by key.

    Returns
    -------
    dict
        ``observations``: key, name, both values and thresholds in the unit of the output, their difference, and whether
        both lie on the same side of their own threshold; ``regions``: none; the rest as `compare`.
    """
    ours = {entry.key: entry for entry in said.observations}
    theirs = {entry.key: entry for entry in says.observations}
    both = [(entry, theirs[key]) for key, entry in ours.items() if key in theirs]
    return {
        "regions": [],
        "observations": [
            {
                "key": a.key,
                "name": a.name.meaning,
                "unit": a.measurements[0].unit.value,
                "reference": a.measurements[0].value,
                "candidate": b.measurements[0].value,
                "difference": b.measurements[0].value - a.measurements[0].value,
                "thresholds": [a.threshold, b.threshold],
                "same_side": a.category == b.category,
            }
            for a, b in both
        ],
        "only_reference": [key for key in ours if key not in theirs],
        "only_candidate": [key for key in theirs if key not in ours],
        "seconds": {"reference": _rounded(said.timings_s), "candidate": _rounded(says.timings_s)},
    }


def compare(reference: Mask, said: Findings, candidate: Mask, says: Findings) -> dict[str, Any]:
    """How two answers about one case differ, region by region; regions are matched by key, never by label value.

    Parameters
    ----------
    reference, candidate
        (S, R, C) label values on the same grid.
    said, says
        What was found, with the regions' labels and volumes.

    Returns
    -------
    dict
        ``regions``: key, name, ``dice`` (1 where both are empty, with ``both_empty``), volumes in mL, their difference
        in mL and in percent of the reference's (None where that is empty); ``only_reference`` and ``only_candidate``:
        keys that the other does not have; ``seconds`` of both, by stage.
    """
    if reference.shape != candidate.shape:
        raise ValueError("the two masks do not lie on the same grid")
    ours = {region.key: region for region in said.regions}
    theirs = {region.key: region for region in says.regions}
    return {
        "regions": [
            _region(reference, region, candidate, theirs[key]) for key, region in ours.items() if key in theirs
        ],
        "only_reference": [key for key in ours if key not in theirs],
        "only_candidate": [key for key in theirs if key not in ours],
        "seconds": {"reference": _rounded(said.timings_s), "candidate": _rounded(says.timings_s)},
    }


def _on_the_same_grid(candidate: ModelDescription, reference_role: str) -> None:
    """Refuse a candidate that answers on the grid of another series: two masks can then not be compared."""
    if candidate.reference_role != reference_role:
        raise Refused(
            RefusalCode.VALIDATION,
            expected=f"a version that answers on the grid of {reference_role}, as the run did",
            found=f"{candidate.name}@{candidate.version} answers on that of {candidate.reference_role}",
        )


def inside(mask: Mask, region: Region) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a region is, label or composite."""
    return np.isin(mask, region.composite_of or (int(region.label or 0),))


def _region(reference: Mask, one: Region, candidate: Mask, other: Region) -> dict[str, Any]:
    a, b = inside(reference, one), inside(candidate, other)
    total = int(a.sum()) + int(b.sum())
    before, after = _millilitres(one), _millilitres(other)
    return {
        "key": one.key,
        "name": one.name,
        "dice": 2.0 * int((a & b).sum()) / total if total else 1.0,
        "both_empty": total == 0,
        "reference_ml": before,
        "candidate_ml": after,
        "difference_ml": after - before,
        "difference_percent": 100.0 * (after - before) / before if before else None,
    }


def _millilitres(region: Region) -> float:
    found = region.measure("volume")
    return found.value if found is not None else 0.0


def _rounded(timings: Sequence[tuple[str, float]] | Mapping[str, float]) -> dict[str, float]:
    return {stage: round(seconds, 3) for stage, seconds in dict(timings).items()}


def _end(tools: Tools, trial_id: int, state: str, reason: str) -> None:
    with tools.database.write() as connection:
        registry.end_trial(connection, trial_id, state, reason=reason)
    log.warning("trial.ended", trial=trial_id, state=state)
