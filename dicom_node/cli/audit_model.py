"""`ai-node audit-model`: how a model does on this node's own patients, or that there is too little to say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import typer

from dicom_node.cli.common import JSON_OPTION, Exit, answering, emit, out, settings, stop
from dicom_node.cli.operate import record

_DISAGREEMENTS = {
    "flagged_against_benign": "doctor benign, model at or above a threshold",
    "unflagged_against_suspicious": "doctor suspicious, model below every threshold",
}


def audit_model(
    model: str = typer.Argument(..., help="Name of the model, without a version."),
    since: str = typer.Option(..., "--since", help="First day, YYYY-MM-DD (UTC): analyses asked for from then on."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Sensitivity, specificity, calibration and yield of disagreement on the outcomes known so far, or "too few".

    Each version with its thresholds is told by itself. What counts as too few, and why: docs/reference/outcomes.md.

    Example: ai-node audit-model skin-lesion --since 2026-01-01
    """
    from ai_engine.packages import find_package
    from dicom_node.desks import model_audit

    first = _day(since)
    with record() as (chosen, database):
        told = model_audit.audit_model(database, chosen.data.folder / "artefacts", model, first)
    if not told["answered"]:
        with answering(as_json=as_json):
            find_package(settings().engine.models, model)  # a name that nothing has is a slip, not an empty answer
    if as_json:
        emit(told)
        return
    lines = [f"{model} since {first}: {told['answered']} analyses answered, {told['with_outcome']} with an outcome"]
    if told["unreadable"]:
        lines.append(f"{told['unreadable']} answers cannot be read and are left out: restore the artefacts")
    if not told["versions"]:
        lines.append("too few: no answer of this model yet")
    for version in told["versions"]:
        lines += _version_lines(version)
    out.print("\n".join([*lines, told["caution"]]), markup=False, soft_wrap=True)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        stop(Exit.USAGE, f"--since: expected a day as YYYY-MM-DD; found {text!r}")


def _version_lines(version: Mapping[str, Any]) -> list[str]:
    site = ", the site's own thresholds" if version["site_override_sha256"] else ""
    lines = [f"\n{version['version']} ({version['digest_sha256'][:12]}{site}): {version['answered']} answers"]
    for key, told in version["outputs"].items():
        above, below = told["followed_above"], told["followed_below"]
        lines += [
            f"  {key}, threshold {100 * told['threshold']:.3g} %",
            f"    with an outcome: {told['followed']} ({told['positive']} of them {key}); "
            f"at or above the threshold {above['known']} of {above['of']}, below {below['known']} of {below['of']}",
            f"    sensitivity: {_share(told['sensitivity'])}",
            f"    specificity: {_share(told['specificity'])}",
            f"    calibration: {_calibration(told['calibration'])}",
        ]
    for name, words in _DISAGREEMENTS.items():
        one = version["disagreement"][name]
        lines.append(f"  {words}: {one['malignant']} of {one['followed']} malignant; yield {_share(one['yield'])}")
    return lines


def _share(told: Mapping[str, Any]) -> str:
    if "too_few" in told:
        return f"too few: {told['too_few']}"
    return f"{told['value']:.3f} ({told['low']:.3f} to {told['high']:.3f}, n = {told['n']})"


def _calibration(told: Mapping[str, Any]) -> str:
    if "too_few" in told:
        return f"too few: {told['too_few']}"
    gap = told["said_minus_seen"]
    return (
        f"said {100 * told['mean_probability']:.1f} % on average, seen {100 * told['share']:.1f} % "
        f"(difference {100 * gap['value']:+.1f}, {100 * gap['low']:+.1f} to {100 * gap['high']:+.1f} points); "
        f"expected calibration error {told['expected_calibration_error']:.3f}, Brier {told['brier']['value']:.3f}"
    )
