"""Pictures to look at: a head in three planes with outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine

COLOURS = ("red", "deepskyblue", "yellow")


def three_planes(
    array: npt.NDArray[np.float32], affine: Affine, masks: tuple[npt.NDArray[np.bool_], ...], target: Path
) -> None:
    """Five pictures in each of the three planes through the first mask, each mask's outline in its colour."""
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
