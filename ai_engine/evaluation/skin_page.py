"""The evaluation of a classifier as pictures, as one self-contained page, and as a section of a model card."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_engine.evaluation.skin_plots import draw_confusion, draw_misses, draw_reliability, draw_roc
from ai_engine.evaluation.skin_study import SkinStudy, truth_of

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
ROC, RELIABILITY, CONFUSION, MISSES = "roc.png", "reliability.png", "confusion.png", "misses.png"
LEARNING = "curves.png"
PLOTS = (ROC, RELIABILITY, CONFUSION, MISSES)

_FIGURES = (
    ("AUC", "auc"),
    ("average precision", "average_precision"),
    ("sensitivity (recall, malignant)", "sensitivity"),
    ("specificity (recall, benign)", "specificity"),
    ("precision, malignant", "precision_malignant"),
    ("precision, benign", "precision_benign"),
    ("accuracy", "accuracy"),
    ("Brier score", "brier"),
)


def draw_study(study: SkinStudy, folder: Path) -> None:
    """Write the four pictures of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = study.told["outputs"]
    draw_roc(
        {key: (truth_of(study.cases, key), study.probability[key], outputs[key]["threshold"]) for key in outputs},
        folder / ROC,
    )
    draw_reliability({key: outputs[key]["reliability"] for key in outputs}, folder / RELIABILITY)
    first = next(iter(outputs))
    draw_confusion(outputs[first]["confusion"], (first, f"not {first}"), folder / CONFUSION)
    draw_misses(study.misses, folder / MISSES)


def write_study(study: SkinStudy, folder: Path, title: str, also: Mapping[str, str] | None = None) -> Path:
    """Write ``evaluation.json``, the pictures and ``evaluation.html``; the page.

    Parameters
    ----------
    also
        More pictures of the folder for the page: heading to file name.
    """
    draw_study(study, folder)
    (folder / "evaluation.json").write_text(json.dumps(study.told, indent=1) + "\n", encoding="utf-8")
    page = folder / "evaluation.html"
    page.write_text(_page(study, folder, title, also or {}), encoding="utf-8")
    return page


def card_section(study: SkinStudy, pictures: str) -> str:
    """The figures as Markdown between two marks, so that they can be put into a card again and again.

    Parameters
    ----------
    pictures
        What was measured on, in words.
    """
    told = study.told
    lines = [
        BEGIN,
        f"`{told['model']}` on {pictures}: {told['pictures']} pictures of {told['groups']} patients or lesions.",
    ]
    for key, entry in told["outputs"].items():
        lines += ["", f"### Output `{key}`, threshold {entry['threshold']:.4f}", "", *_table(entry)]
        lines += ["", _shares(entry), ""]
        lines += _prevalence(entry["prevalence"])
        for kind, rows in entry["by"].items():
            lines += ["", f"By {kind}:", "", *_groups(kind, rows)]
    return "\n".join([*lines, "", END]) + "\n"


def _table(entry: Mapping[str, Any]) -> list[str]:
    rows = ["| figure | value | 95 % interval |", "|---|---|---|"]
    for name, key in _FIGURES:
        value = entry["figures"][key]
        rows.append(f"| {name} | {_three(value['value'])} | {_three(value['low'])} to {_three(value['high'])} |")
    rows.append(f"| expected calibration error | {entry['calibration_error']:.3f} | |")
    counts = entry["confusion"]
    rows.append(
        f"| found / missed / false alarms / rightly passed | {counts['true_positive']} / {counts['false_negative']} / "
        f"{counts['false_positive']} / {counts['true_negative']} | |"
    )
    return rows


def _shares(entry: Mapping[str, Any]) -> str:
    return (
        f"Called positive: {entry['predicted_share']:.1%} of all; truly positive: {entry['true_share']:.1%}; mean "
        f"probability {entry['mean_probability']:.1%}. Collapsed to one class: {'YES' if entry['collapsed'] else 'no'}."
    )


def _prevalence(rows: Sequence[Mapping[str, float]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "What a flag is worth (from the sensitivity and specificity above; another clinic's will differ):",
        "",
        "| of 1,000 pictures malignant | PPV | NPV | flagged per 1,000 | missed per 1,000 |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {1000 * row['prevalence']:g} ({row['prevalence']:.1%}) | {row['ppv']:.1%} | {row['npv']:.2%} | "
            f"{row['flagged_per_1000']:.0f} | {row['missed_per_1000']:.1f} |"
        )
    return lines


def _groups(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"| {kind} | pictures | positive | AUC | sensitivity | specificity | precision | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.get("figures")
        cells = [_interval(found[k]) for k in ("auc", "sensitivity", "specificity")] if found else ["-"] * 3
        both = found is not None and 0 < row["malignant"] < row["n"]
        cells.append(_three(found["precision_malignant"]["value"]) if found and both else "-")
        cells.append(_three(row["calibration_error"]) if both else "-")
        lines.append(f"| {row['group']} | {row['n']} | {row['malignant']} | {' | '.join(cells)} |")
    return lines


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _page(study: SkinStudy, folder: Path, title: str, also: Mapping[str, str]) -> str:
    parts = []
    for heading, name in {
        "ROC": ROC,
        "Reliability": RELIABILITY,
        "Confusion matrix": CONFUSION,
        **also,
        f"The {len(study.misses)} positives with the lowest probability": MISSES,
    }.items():
        parts.append(
            f"<h2>{html.escape(heading)}</h2><img src='{_inline(folder / name)}' alt='{html.escape(heading)}'>"
        )
    figures = _as_html(card_section(study, "the labelled set"))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:.6rem 0}}td,th{{padding:.15rem .7rem .15rem 0;text-align:left;
border-bottom:1px solid #ddd}}img{{max-width:100%}}</style>
<h1>{html.escape(title)}</h1>
<p>Research and evaluation only: figures of a decision-support model, no diagnosis of anybody.</p>
{figures}
{"".join(parts)}</html>
"""


def _as_html(markdown: str) -> str:
    """Our own sections as HTML: headings, tables and paragraphs, nothing else occurs in them."""
    lines: list[str] = []
    in_table = False
    for line in markdown.splitlines():
        if line.startswith("<!--"):
            continue
        if line.startswith("|"):
            if set(line) <= set("|-"):
                continue
            cells = [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
            kind = "td" if in_table else "th"
            lines.append(("" if in_table else "<table>") + "<tr>" + "".join(f"<{kind}>{c}</{kind}>" for c in cells))
            in_table = True
            continue
        if in_table:
            lines.append("</table>")
            in_table = False
        if line.startswith("### "):
            lines.append(f"<h2>{html.escape(line[4:].replace('`', ''))}</h2>")
        elif line:
            lines.append(f"<p>{html.escape(line.replace('`', ''))}</p>")
    return "\n".join([*lines, "</table>" if in_table else ""])


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
