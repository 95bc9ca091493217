"""Pictures to look at: a head in three planes with outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine

COLOURS = ("red", "deepskyblue", "yellow")


def separation(groups: Mapping[str, Sequence[float]], limit: float, label: str, target: Path) -> None:
    """One row of points per group, the limit as a line: what a score tells apart and what it does not."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.4 * len(groups) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(groups.values()):
        colours = [COLOURS[1] if value >= limit else COLOURS[0] for value in values]
        axes.scatter(values, [row] * len(values), s=22, c=colours, alpha=0.7, linewidths=0)
    axes.axvline(limit, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), [f"{name} ({len(values)})" for name, values in groups.items()])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    figure.savefig(target, dpi=90)


def three_planes(
    array: npt.NDArray[np.float32],
    affine: Affine,
    masks: tuple[npt.NDArray[np.bool_], ...],
    target: Path,
    *,
    margin_mm: float | None = None,
) -> None:
    """Five pictures in each of the three planes through the first mask, each mask's outline in its colour.

    Parameters
    ----------
    margin_mm
        Show only the box of the first mask and so much around it, which leaves most of a face out; None: everything.
    """
    if margin_mm is not None and masks[0].any():
        index, margin = np.argwhere(masks[0]), np.round(margin_mm / np.array(affine.spacing_mm)).astype(int)
        low, high = np.maximum(index.min(axis=0) - margin, 0), index.max(axis=0) + margin + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        array, masks = array[box], tuple(mask[box] for mask in masks)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9.5), layout="constrained")
    panels = figure.subplots(3, 5)
    top = float(np.percentile(array, 99.5))
    index = np.argwhere(masks[0])
    for plane in range(3):
        low, high = (index.min(axis=0)[plane], index.max(axis=0)[plane]) if len(index) else (0, array.shape[plane] - 1)
        spacing = [affine.spacing_mm[axis] for axis in range(3) if axis != plane]
        for panel, place in zip(panels[plane], np.linspace(low, high, 7).round().astype(int)[1:-1], strict=True):
            panel.imshow(
                np.take(array, place, axis=plane),
                cmap="gray",
                vmax=top,
                aspect=spacing[0] / spacing[1],
                origin="upper" if plane == 0 else "lower",
            )
            for mask, colour in zip(masks, COLOURS, strict=False):
                cut = np.take(mask, place, axis=plane)
                if cut.any() and not cut.all():
                    panel.contour(cut, [0.5], colors=colour, linewidths=0.8)
            panel.set_axis_off()
    figure.savefig(target, dpi=70)
