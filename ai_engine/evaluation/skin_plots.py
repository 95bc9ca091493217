"""Pictures of a classifier's evaluation: ROC, reliability, confusion matrix, sheet of misses, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.evaluation.skin_scores import auc, roc

Pixels = npt.NDArray[np.uint8]
_COLOURS = ("#1f5fa8", "#b2541a", "#3a7d44", "#6b4c9a")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_roc(curves: Mapping[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], float]], path: Path) -> None:
    """ROC of several outputs: name to (truth, probability, threshold); the threshold is marked."""
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(5.2, 5))
    for colour, (name, (truth, probability, threshold)) in zip(_COLOURS, curves.items(), strict=False):
        false_rate, true_rate = roc(truth, probability)
        axis.plot(false_rate, true_rate, color=colour, label=f"{name}: AUC {auc(truth, probability):.3f}")
        found = probability >= threshold
        axis.plot(found[~truth].mean(), found[truth].mean(), "o", color=colour)
    axis.plot((0, 1), (0, 1), color="#999999", linewidth=0.8, linestyle="--")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC (dot: threshold)", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right", fontsize=8)
    _write(pyplot, figure, path)


def draw_reliability(tables: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Said probability against seen share, equally filled bins."""
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(5.2, 5))
    for colour, (name, rows) in zip(_COLOURS, tables.items(), strict=False):
        said, seen = [row["probability"] for row in rows], [row["share"] for row in rows]
        spread = [1.96 * float(np.sqrt(max(s * (1 - s), 1e-9) / row["n"])) for s, row in zip(seen, rows, strict=True)]
        axis.errorbar(said, seen, yerr=spread, fmt="o-", color=colour, capsize=2, linewidth=1, label=name)
    axis.plot((0, 1), (0, 1), color="#999999", linewidth=0.8, linestyle="--")
    axis.set(xlabel="mean probability said", ylabel="share that is", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="upper left", fontsize=8)
    _write(pyplot, figure, path)


def draw_confusion(counts: Mapping[str, int], names: tuple[str, str], path: Path) -> None:
    """The four counts of one output, with shares of each truth; `names` are those of the ill and of the others."""
    pyplot = _pyplot()
    table = np.array(
        [
            [counts["true_positive"], counts["false_negative"]],
            [counts["false_positive"], counts["true_negative"]],
        ]
    )
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axis = pyplot.subplots(figsize=(4.4, 4))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            ink = "white" if shares[row, column] > 0.55 else "black"
            text = f"{table[row, column]}\n{100 * shares[row, column]:.0f} %"
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=12)
    axis.set_xticks((0, 1), ("at or above\nthreshold", "below\nthreshold"))
    axis.set_yticks((0, 1), names)
    axis.set(xlabel="model", ylabel="truth", title="Confusion matrix")
    _write(pyplot, figure, path)


def draw_misses(rows: Sequence[tuple[str, Pixels]], path: Path, columns: int = 6) -> None:
    """A sheet of pictures with captions."""
    pyplot = _pyplot()
    lines = max(1, -(-len(rows) // columns))
    figure, axes = pyplot.subplots(lines, columns, figsize=(2 * columns, 2.45 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (caption, pixels) in zip(axes.flat, rows, strict=False):
        axis.imshow(pixels)
        axis.set_title(caption, fontsize=7)
    _write(pyplot, figure, path)


def draw_learning(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Loss and validation AUC over epochs, one line per training."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for index, (name, history) in enumerate(runs.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        losses = [entry for entry in history if "loss" in entry]
        checks = [entry for entry in history if "auc" in entry]
        left.plot([e["epoch"] for e in losses], [e["loss"] for e in losses], color=colour, linewidth=0.9, label=name)
        right.plot([e["epoch"] for e in checks], [e["auc"] for e in checks], "o-", color=colour, label=name)
    left.set(xlabel="epoch", ylabel="loss (training)", title="Loss")
    right.set(xlabel="epoch", ylabel="AUC, malignant (held-back pictures)", title="Validation")
    right.legend(fontsize=7, loc="lower right")
    _write(pyplot, figure, path)


def _write(pyplot: Any, figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
