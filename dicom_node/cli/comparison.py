"""How another version of a model compares: the trials of shadows and replays as a table, as JSON and as one page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table
from sqlalchemy import RowMapping

from ai_engine.inline import png_uri
from dicom_node import files
from dicom_node.cli.common import emit, out
from dicom_node.record import registry
from dicom_node.settings import Settings


def tell(rows: Sequence[RowMapping], chosen: Settings, html: Path | None, as_json: bool, *, title: str) -> None:
    """Print what came of trials, and write the page where one is wanted.

    Parameters
    ----------
    rows
        As `registry.trials_of` gives them.
    """
    told = [told_of(row) for row in rows]
    summary = summary_of(told)
    if html is not None:
        html.write_text(page_of(title, told, summary, chosen.data.folder / "artefacts"), encoding="utf-8")
    outputs = outputs_of(told)
    if as_json:
        emit({"summary": summary, "outputs": outputs, "trials": told})
        return
    table = Table("study", "in force", "candidate", "state", "region", "Dice", "mL before", "mL now", "change %")
    for entry in told:
        for region in [*entry["regions"], *entry["observations"]] or [None]:
            cells = [entry["study"], entry["reference"], entry["candidate"], entry["state"]]
            table.add_row(*cells, *(_cells(region) if region else [entry["reason"] or "", "", "", "", ""]))
    out.print(table)
    for line in summary:
        out.print(
            f"{line['region']}: n = {line['n']}, mean Dice {line['mean_dice']:.3f}, lowest {line['lowest_dice']:.3f}, "
            f"median change of volume {line['median_difference_ml']:+.2f} mL",
            markup=False,
        )
    for line in outputs:
        out.print(
            f"{line['output']}: n = {line['n']}, on the other side of the threshold {line['other_side']}, "
            f"median change {line['median_difference']:+.2f} {line['unit']}",
            markup=False,
        )
    if html is not None:
        out.print(f"with pictures: {html}", markup=False)


def told_of(row: RowMapping) -> dict[str, Any]:
    """One trial as it is told: plain values, and the study by its opaque id."""
    comparison = row["comparison"] or {}
    return {
        "study": row["study"],
        "run": row["run_id"],
        "reference": row["reference"],
        "candidate": row["candidate"],
        "kind": "replay" if row["replay_id"] else "shadow",
        "state": row["state"],
        "reason": _reason(row),
        "regions": comparison.get("regions", []),
        "observations": comparison.get("observations", []),
        "only_reference": comparison.get("only_reference", []),
        "only_candidate": comparison.get("only_candidate", []),
        "seconds": comparison.get("seconds", {}),
        "picture": comparison.get("picture"),
        "ended_at": row["ended_at"],
    }


def _reason(row: RowMapping) -> str | None:
    """Why a trial has no comparison: a refusal in words, else as it was written down."""
    if row["state"] != registry.REFUSED:
        return None if row["reason"] is None else str(row["reason"])
    refusal = json.loads(row["reason"])
    return f"{refusal['message']} Expected {refusal['expected']}, found {refusal['found']}."


def summary_of(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over all trials, region by region: how many, Dice, change of volume in mL."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for entry in told:
        for region in entry["regions"]:
            by_key.setdefault(region["key"], []).append(region)
    return [
        {
            "key": key,
            "region": found[0]["name"],
            "n": len(found),
            "both_empty": sum(region["both_empty"] for region in found),
            "mean_dice": statistics.fmean(region["dice"] for region in found),
            "lowest_dice": min(region["dice"] for region in found),
            "median_difference_ml": statistics.median(region["difference_ml"] for region in found),
        }
        for key, found in by_key.items()
    ]


def outputs_of(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `summary_of` is for regions, for what models say about whole photographs."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for entry in told:
        for output in entry["observations"]:
            by_key.setdefault(output["key"], []).append(output)
    return [
        {
            "key": key,
            "output": found[0]["name"],
            "unit": found[0]["unit"],
            "n": len(found),
            "other_side": sum(not output["same_side"] for output in found),
            "median_difference": statistics.median(output["difference"] for output in found),
        }
        for key, found in by_key.items()
    ]


def _cells(region: dict[str, Any]) -> list[str]:
    if "same_side" in region:  # of a photograph: numbers in their own unit, and whether the threshold divides them
        same = "same side" if region["same_side"] else "other side"
        numbers = [f"{region[which]:.2f} {region['unit']}" for which in ("reference", "candidate")]
        return [region["name"], same, *numbers, f"{region['difference']:+.2f}"]
    change = region["difference_percent"]
    return [
        region["name"],
        "both empty" if region["both_empty"] else f"{region['dice']:.3f}",
        f"{region['reference_ml']:.2f}",
        f"{region['candidate_ml']:.2f}",
        "" if change is None else f"{change:+.1f}",
    ]


def page_of(title: str, told: Sequence[dict[str, Any]], summary: Sequence[dict[str, Any]], artefacts: Path) -> str:
    """One self-contained page; least agreement first.  Studies appear under their opaque ids."""
    environment = Environment(
        loader=PackageLoader("dicom_node.cli", "templates"), autoescape=True, undefined=StrictUndefined
    )
    ordered = sorted(told, key=_agreement)
    entries = [{**entry, "picture": _picture(artefacts, entry["picture"])} for entry in ordered]
    page = environment.get_template("comparison.html")
    return page.render(title=title, entries=entries, summary=summary, outputs=outputs_of(told))


def _agreement(entry: dict[str, Any]) -> tuple[float, float]:
    """Least first: nothing to compare, an output on the other side, the lowest Dice, an output's largest change."""
    outputs = entry["observations"]
    least = [region["dice"] for region in entry["regions"]] + [float(output["same_side"]) for output in outputs]
    return min(least, default=-1.0), -max((abs(output["difference"]) for output in outputs), default=0.0)


def _picture(folder: Path, path: str | None) -> str | None:
    if path is None:
        return None
    data = files.load(folder, path, path.replace("/", ""))
    return png_uri(data)
