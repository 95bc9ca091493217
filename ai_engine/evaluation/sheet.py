"""Sheets of pictures: where a mask and the truth lie on the head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

Row = tuple[str, Volume, Mask | None, Mask]
"""Title, picture (S, R, C), truth if known, prediction."""


def draw_sheet(path: Path, rows: Sequence[Row], *, columns: int = 8) -> None:
    """Draw one row of slices per case: truth green, prediction orange, as outlines.

    The slices are spread evenly over what truth or prediction covers, or over the whole head where both are empty.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), columns, figsize=(1.7 * columns, 1.9 * len(rows)), squeeze=False)
    for line, (title, picture, truth, predicted) in zip(axes, rows, strict=True):
        top = float(np.percentile(picture, 99.5)) or 1.0
        for cell, index in zip(line, _chosen(truth, predicted, columns), strict=True):
            cell.imshow(picture[index], cmap="gray", vmin=float(picture.min()), vmax=top)
            for mask, colour in ((truth, "#3ad13a"), (predicted, "#ff8000")):
                if mask is not None and mask[index].any():
                    cell.contour(mask[index], levels=[0.5], colors=colour, linewidths=0.8)
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_xlabel(str(index), fontsize=5, labelpad=1)
        line[0].set_title(title, fontsize=7, loc="left", pad=2)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _chosen(truth: Mask | None, predicted: Mask, count: int) -> list[int]:
    covered = predicted if truth is None else truth | predicted
    where = np.flatnonzero(covered.any((1, 2)))
    low, high = (int(where[0]), int(where[-1])) if where.size else (0, predicted.shape[0] - 1)
    low, high = max(0, low - 1), min(predicted.shape[0] - 1, high + 1)
    return [round(value) for value in np.linspace(low, high, count)]
