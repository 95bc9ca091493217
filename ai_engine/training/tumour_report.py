"""What the training of ``brain-tumour`` looks like from outside: its curves and one page, also while it runs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ai_engine.training.tumour import HISTORY_FILE, START
from ai_engine.training.tumour_folds import FOLDS_FILE, fold_lines

CURVES = "tumour-curves.png"
PAGE = "tumour-training.html"


def draw_tumour_curves(history: Mapping[str, Any], path: Path) -> None:
    """Draw the training loss of the start and of every network over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    entries = history["history"]
    names = sorted({name for entry in entries for name in entry["loss"]})
    for axis, title, shown in (
        (axes[0], "First stage: outlines and synthetic brains", [name for name in names if name == START]),
        (axes[1], "Second stage: folds and shipped network (all)", [name for name in names if name != START]),
    ):
        for name in shown:
            points = [(entry["iteration"], entry["loss"][name]) for entry in entries if name in entry["loss"]]
            steps, losses = zip(*points, strict=True)
            axis.plot(steps, _smooth(losses), linewidth=1.0, label=name)
            axis.legend(fontsize=7)
        axis.set(xlabel="steps (one patch each)", title=title)
    axes[0].set_ylabel("loss (soft Dice and cross entropy, training)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _smooth(values: tuple[float, ...], width: int = 5) -> list[float]:
    return [
        sum(values[max(0, at - width + 1) : at + 1]) / len(values[max(0, at - width + 1) : at + 1])
        for at in range(len(values))
    ]


def write_tumour_report(work: Path) -> Path | None:
    """Write curves and page beside the states; None if there is no history yet."""
    path = work / HISTORY_FILE
    if not path.exists():
        return None
    history = json.loads(path.read_text(encoding="utf-8"))
    draw_tumour_curves(history, work / CURVES)
    measured = work / FOLDS_FILE
    tables = "\n".join(fold_lines(json.loads(measured.read_text(encoding="utf-8")))) if measured.exists() else ""
    (work / PAGE).write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>brain-tumour, training</title>'
        "<style>body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto}pre{overflow:auto}</style>"
        f"<h1>Training of brain-tumour</h1><p>{history['used_s'] / 60:.0f} minutes used.</p>"
        f'<img src="{CURVES}" alt="Training loss by step" style="width:100%">'
        f"<h2>Folds</h2><pre>{html.escape(tables or 'not measured yet')}</pre>"
        f"<h2>Recipe</h2><pre>{html.escape(json.dumps(history['recipe'], indent=1))}</pre></html>\n",
        encoding="utf-8",
    )
    return work / PAGE
