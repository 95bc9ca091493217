"""What a training looks like from outside: one picture of its curves and one page.

Both are drawn from ``history.json`` alone, so they can be made while the training runs.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CURVES = "curves.png"
PAGE = "training.html"


def read_history(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``history.json``."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["history"]
    return entries


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, learning rate and validation Dice over the minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [entry for entry in history if "loss" in entry]
    checks = [entry for entry in history if "dice" in entry]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    minutes = [entry["used_s"] / 60 for entry in steps]
    left.plot(minutes, [entry["loss"] for entry in steps], color="#1f5fa8", linewidth=0.9)
    left.set(xlabel="minutes", ylabel="loss (Dice and cross entropy, training)", title="Loss")
    rate = left.twinx()
    rate.plot(minutes, [entry["rate"] for entry in steps], color="#999999", linewidth=0.8, linestyle="--")
    rate.set_ylabel("learning rate (dashed)")
    for name in sorted({name for entry in checks for name in entry["dice"]}):
        known = [(entry["used_s"] / 60, entry["dice"][name]) for entry in checks if name in entry["dice"]]
        right.plot(*zip(*known, strict=True), linewidth=0.7, alpha=0.6, label=name)
    if checks:
        means = [float(np.mean(list(entry["dice"].values()))) for entry in checks]
        right.plot([entry["used_s"] / 60 for entry in checks], means, color="black", linewidth=1.8, label="mean")
        right.legend(fontsize=6, loc="lower right")
    merged = [entry["used_s"] / 60 for entry in checks if entry.get("merged")]
    if merged:
        right.axvspan(merged[0], max(merged[-1], merged[0] + 0.1), color="#dddddd", zorder=0)
        right.text(merged[0], 0.02, " these patients\n are learnt from too", fontsize=7)
    right.set(xlabel="minutes", ylabel="Dice per validation patient", title="Validation", ylim=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write_page(title: str, history: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], path: Path) -> None:
    """Write one HTML page with the curves (a picture beside it), the last validation and the settings."""
    checks = [entry for entry in history if "dice" in entry]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.3f}</td></tr>"
        for name, value in sorted((checks[-1]["dice"] if checks else {}).items())
    )
    chosen = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in settings.items()
    )
    last = history[-1] if history else {"iteration": 0, "used_s": 0.0}
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto}}td{{padding:.1rem .8rem .1rem 0}}
img{{max-width:100%}}</style>
<h1>{html.escape(title)}</h1>
<p>{last["iteration"]} iterations in {last["used_s"] / 60:.0f} minutes.</p>
<img src="{CURVES}" alt="loss and Dice over time">
<h2>Last validation, Dice</h2><table>{rows}</table>
<h2>Settings</h2><table>{chosen}</table></html>
""",
        encoding="utf-8",
    )


def write_report(work: Path, title: str) -> Path | None:
    """Draw curves and page from ``work/history.json``; the page, or ``None`` where there is no history yet."""
    source = work / "history.json"
    if not source.exists():
        return None
    content = json.loads(source.read_text(encoding="utf-8"))
    draw_curves(content["history"], work / CURVES)
    write_page(title, content["history"], content["settings"], work / PAGE)
    return work / PAGE
