"""How a model does on this node's own patients: its answers since a day beside the outcomes that are known so far.

Each version with its thresholds is told by itself: figures of two versions together are those of neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_engine.evaluation.skin_outcomes import Answered, Compared, audited, disagreement
from ai_engine.findings import Findings, Observation, findings_from_json
from dicom_node import files
from dicom_node.record import Database, outcomes, removals, runs
from dicom_node.record.outcomes import Followed, Outcome
from dicom_node.refusals import Refused

ABOVE = "AI-OP-ABOVE"
"""Code of an output at or above its threshold, as the engine writes it."""

Version = tuple[str, str, str, tuple[tuple[str, float], ...]]
"""name@version, digest of the package, digest of the site's override or nothing, thresholds by output."""

CAUTION = (
    "Only lesions with an outcome count. Those that were never removed are mostly thought benign, so sensitivity "
    "looks better and specificity worse than they are; followed_above and followed_below say how different the two "
    "sides were followed."
)


def audit_model(database: Database, artefact_folder: Path, model: str, since: str) -> dict[str, Any]:
    """Figures of every version of a model on the analyses since a day, as JSON.

    Parameters
    ----------
    model
        Its name, without a version.
    since
        YYYY-MM-DD, in UTC.
    """
    with database.read() as connection:
        rows = outcomes.followed(connection, model, since)
        said = [(row, _findings(connection, artefact_folder, row.run_id)) for row in rows]
    versions: dict[Version, list[tuple[Followed, Findings]]] = {}
    for row, findings in said:
        if findings is not None:
            versions.setdefault(_version(findings), []).append((row, findings))
    return {
        "model": model,
        "since": since,
        "answered": len(rows),
        "with_outcome": sum(row.outcome is not None for row in rows),
        "unreadable": sum(findings is None for _, findings in said),
        "caution": CAUTION,
        "versions": [_told(version, answers) for version, answers in versions.items()],
    }


def _told(version: Version, answers: Sequence[tuple[Followed, Findings]]) -> dict[str, Any]:
    reference, digest, override, _ = version
    outputs: dict[str, list[Answered]] = {}
    for row, findings in answers:
        for observation in findings.observations:
            if observation.key in TRUTHS:
                outputs.setdefault(observation.key, []).append(_answered(row, observation))
    return {
        "version": reference,
        "digest_sha256": digest,
        "site_override_sha256": override or None,
        "answered": len(answers),
        "outputs": {key: audited(given) for key, given in outputs.items()},
        "disagreement": disagreement([_compared(row, findings) for row, findings in answers]),
    }


def _compared(row: Followed, findings: Findings) -> Compared:
    """As the page compared them before the doctor: any output at or above its threshold speaks for malignant."""
    is_above = any(one.category is not None and one.category.value == ABOVE for one in findings.observations)
    is_malignant = None if row.outcome is None else row.outcome.malignant
    return Compared(str(row.analysis["impression"]), is_above, is_malignant, _patient(row.analysis))


def _malignant(outcome: Outcome) -> bool:
    return outcome.malignant


def _melanoma(outcome: Outcome) -> bool:
    return outcome.melanoma


TRUTHS = {"malignant": _malignant, "melanoma": _melanoma}
"""What an outcome says about an output, by its key; of other outputs histology says nothing."""


def _answered(row: Followed, observation: Observation) -> Answered:
    first = observation.measurements[0]
    scale = 100.0 if first.unit.value == "%" else 1.0
    return Answered(
        probability=first.value / scale,
        threshold=(observation.threshold or 0.0) / scale,
        truth=None if row.outcome is None else TRUTHS[observation.key](row.outcome),
        patient=_patient(row.analysis),
    )


def _patient(analysis: Mapping[str, Any]) -> str:
    """The same for two analyses of one patient; nothing where nobody said who it was."""
    told = analysis["patient"] or {}
    named = [str(told.get(key) or "") for key in ("system", "issuer", "type", "id")]
    return json.dumps(named) if told.get("id") else ""


def _version(findings: Findings) -> Version:
    model = findings.model
    thresholds = tuple((one.key, float(one.threshold or 0.0)) for one in findings.observations)
    override = dict(model.settings).get("site_override", "")
    return f"{model.name}@{model.version}", model.digest_sha256, override, thresholds


def _findings(connection: Any, folder: Path, run_id: int) -> Findings | None:
    """What a run said; None where the file is not as it was kept, which the answer counts."""
    row = runs.artefact(connection, run_id, "findings")
    if row is None:
        return None
    try:
        return findings_from_json(json.loads(files.load(folder, *removals.place(row))))
    except (OSError, ValueError, KeyError, TypeError, Refused):
        return None
