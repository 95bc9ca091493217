"""What a localiser saves: a cheap look first, then one window where the tumour is, case by case.

    python -m bench.localiser --fold FOLDER=CASE,CASE [--fold ...] [--data BRATS]

For every case of a fold's own test patients, through the engine in bf16, not mirrored unless ``--mirrored`` is given
(mirroring multiplies the passes of every way alike, but for the coarse one):

*tiles*    how many of the overlapping tiles touch the tumour's box (of the full answer, and 10 mm more): the others
           are all that skipping tiles can save;
*window*   one window, put where the full answer says that the tumour is: the best that any localiser can do;
*coarse*   one window, put by one pass of the same network over the whole brain on a grid of half the resolution;
           where the box does not fit the window, all tiles are run.

Dice is against truth; loss is the full answer's Dice minus this one's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from ai_engine.backends import Network
from ai_engine.packages import Composite, Label
from ai_engine.runners import keras_unet, nnunet
from ai_engine.runners.localiser import MARGIN, Box, box_of, fits, half_resolution, one_window
from ai_engine.runners.tiles import Plan, sliding_window_logits
from bench.machine import about, machine, save, table

Floats = npt.NDArray[np.float32]
REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")
FULL, WINDOW, COARSE = "all tiles", "window at the answer", "window by a coarse pass"


@dataclass
class Look:
    """One way of looking at a case, in place of the runner's overlapping tiles; keeps what it saw."""

    way: str
    box: Box | None = None
    fits: bool = False
    passes: int = 0
    tiles: int = 0
    touched: int = 0

    def __call__(self, networks: Sequence[Network], data: Floats, plan: Plan, classes: int) -> tuple[Floats, int]:
        """Logits (classes, S, R, C) and passes, as `sliding_window_logits`."""
        coarse = 0
        if self.way == COARSE:
            looked, coarse = half_resolution(networks, data, plan, classes)
            self.box = box_of(looked)
        self.fits = self.box is not None and fits(self.box, plan)
        if self.way == FULL or self.box is None or not self.fits:
            logits, passes = sliding_window_logits(networks, data, plan, classes)
            if self.way == FULL:
                self.box = box_of(logits)
                self.tiles, self.touched = count_tiles(data.shape[1:], plan, self.box)
        else:
            logits, passes = one_window(networks, data, plan, classes, self.box)
        self.passes = passes + coarse
        return logits, self.passes


def count_tiles(shape: tuple[int, ...], plan: Plan, box: Box | None) -> tuple[int, int]:
    """All tiles, and those that touch the box and its margin."""
    from ai_engine.runners import tiles

    shape = tuple(max(size, side) for size, side in zip(shape, plan.patch, strict=True))
    windows = list(tiles._windows(shape, plan))
    if box is None:
        return len(windows), 0
    touched = 0
    for window in windows:
        places = [place for place in window if isinstance(place, slice)]
        touched += all(
            place.start < high + MARGIN and place.stop > low - MARGIN
            for place, (low, high) in zip(places, box, strict=True)
        )
    return len(windows), touched


def measure(folder: Path, names: Sequence[str], data: Path, threads: int, *, mirrored: bool) -> list[dict[str, Any]]:
    """Every case of one fold, looked at in the three ways."""
    from ai_engine.engine import Engine
    from ai_engine.evaluation.datasets import open_dataset, read_image, read_label, values_of
    from ai_engine.evaluation.levers import reference_axes_of
    from ai_engine.evaluation.metrics import dice
    from ai_engine.evaluation.variants import region_mask
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings

    package = load_package(folder)
    description = package.segmentation
    entries: dict[str, Label | Composite] = {entry.key: entry for entry in description.labels}
    entries |= {entry.key: entry for entry in description.composites}
    axes = reference_axes_of(package) if mirrored else ()
    settings = EngineSettings(device="cpu", precision="bf16", threads=threads, mirror_axes=axes, measuring=True)
    engine = Engine(package, settings)
    dataset = open_dataset(data)
    rows = []
    for case in (case for case in dataset.cases if case.name in names):
        inputs = {entry.role: read_image(case.images[entry.role]) for entry in description.inputs}
        labels = read_label(case.label, inputs[description.inputs[0].role], dataset.names)
        found: dict[str, Any] = {"case": case.name}
        box: Box | None = None
        for way in (FULL, WINDOW, COARSE):
            look = Look(way, box if way == WINDOW else None)
            begun = time.process_time()
            runner = keras_unet if description.runner == "keras" else nnunet
            with mock.patch.object(runner, "sliding_window_logits", look):  # where the runner asks for its windows
                mask = engine.run(inputs).mask
            box = look.box if way == FULL else box
            found[way] = {
                "passes": look.passes,
                "cpu_s": round(time.process_time() - begun, 2),
                "fits": look.fits,
                "tiles": look.tiles,
                "touched": look.touched,
                "box": look.box,
                "dice": {
                    key: round(
                        dice(
                            region_mask(mask, entries[key]),
                            np.isin(labels, sorted(values_of(entries[key], description, dataset.names) or ())),
                        ),
                        4,
                    )
                    for key in REGIONS
                },
            }
        rows.append(found)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One row per case, the mean below."""
    head = ["case", "tiles, of them touched", "passes: all tiles, window, coarse", "fits: answer's box, coarse box"]
    head += [f"{key}: all tiles, window, coarse" for key in REGIONS]
    ways, lines = (FULL, WINDOW, COARSE), []
    for row in rows:
        cells = [row["case"], f"{row[FULL]['tiles']}, {row[FULL]['touched']}"]
        cells.append(", ".join(str(row[way]["passes"]) for way in ways))
        cells.append(", ".join("yes" if row[way]["fits"] else "no" for way in (WINDOW, COARSE)))
        cells += [", ".join(f"{row[way]['dice'][key]:.3f}" for way in ways) for key in REGIONS]
        lines.append(cells)
    mean = ["**mean**", "", ", ".join(f"{np.mean([row[way]['passes'] for row in rows]):.0f}" for way in ways), ""]
    mean += [", ".join(f"{np.mean([row[way]['dice'][key] for row in rows]):.4f}" for way in ways) for key in REGIONS]
    return table("A localiser, case by case", head, [*lines, mean])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", action="append", required=True, help="FOLDER=CASE,CASE: a network and its own cases")
    parser.add_argument("--data", type=Path, help="tree of BraTS cases")
    parser.add_argument("--mirrored", action="store_true", help="mirror what training mirrored")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    data = options.data or Path(os.environ.get("AI_NODE_TEST_DATA", "../shared/data")) / "brain" / "brats"
    rows: list[dict[str, Any]] = []
    for text in options.fold:
        folder, _, names = text.partition("=")
        rows += measure(Path(folder), names.split(","), data, options.threads, mirrored=options.mirrored)
    facts = machine()
    print(markdown(rows))
    print(about(facts))
    save("localiser", facts, rows)


if __name__ == "__main__":
    main()
