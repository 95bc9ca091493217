"""The mean brain in which brain extraction starts, and how it was made.

``atlas.safetensors`` holds the mean FLAIR (each divided by the median of its brain) and the share of brains at each
place, on a 2 mm grid, of six skull-stripped cases of the collection *brats* that are one person each and none of whom
is in the collection *lgg-flair* that extraction is judged on.  It is a mean of research data: research use only.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from ai_engine.preparation.rigid import Grid, carry

Floats = npt.NDArray[np.float32]

CASES = (
    "Brats18_2013_3_1",
    "Brats18_2013_11_1",
    "Brats18_TCIA03_265_1",
    "Brats18_TCIA01_425_1",
    "Brats18_TCIA01_378_1",
    "Brats18_TCIA02_135_1",
)
FILE = "atlas.safetensors"
LICENCE = "mean of six BraTS 2018 cases; research use only, cite Menze 2015, Bakas 2017, Bakas 2018"
_SHAPE = (78, 110, 90)
_FIRST_MM = (30.0, -230.0, -2.0)
_STEP_MM = 2.0


@dataclass(frozen=True, eq=False)
class Atlas:
    """The mean brain.

    Attributes
    ----------
    flair
        (S, R, C), 1 = median of a brain.
    brain
        (S, R, C), 0 to 1: share of the cases whose brain is there.
    grid
        Axial, 2 mm, LPS.
    """

    flair: Floats
    brain: Floats
    grid: Grid

    @property
    def centre_mm(self) -> npt.NDArray[np.float64]:
        """Middle of the mean brain."""
        return np.asarray(self.grid.affine.to_patient(np.argwhere(self.brain > 0.5).mean(axis=0)))


@functools.cache
def load_atlas() -> Atlas:
    """The atlas that is shipped."""
    from safetensors.numpy import load

    tensors = load(importlib.resources.files("ai_engine.preparation").joinpath(FILE).read_bytes())
    flair = tensors["flair"].astype(np.float32) / 100
    brain = tensors["brain"].astype(np.float32) / len(CASES)
    return Atlas(flair, brain, Grid(_SHAPE, Affine(tensors["affine"])))


def make_atlas(brats: Path, target: Path) -> None:
    """Make the atlas again from the folder *brats*; the same bytes from the same data."""
    from safetensors.numpy import save_file

    from ai_engine.preparation.known import read_head

    grid = Grid(_SHAPE, Affine.from_axes(_FIRST_MM, np.eye(3)[::-1], (_STEP_MM, _STEP_MM, _STEP_MM)))
    flair, brain = np.zeros(_SHAPE, np.float32), np.zeros(_SHAPE, np.float32)
    for case in CASES:
        head = read_head(brats / case / f"{case}_flair.nii.bz2")
        inside = head.array > 0
        flair += carry(head.array / np.median(head.array[inside]), head.affine, grid) / len(CASES)
        brain += np.round(carry(inside.astype(np.float32), head.affine, grid))
    tensors = {
        "flair": np.clip(np.round(flair * 100), 0, 255).astype(np.uint8),
        "brain": brain.astype(np.uint8),
        "affine": grid.affine.matrix.copy(),
    }
    save_file(tensors, target, metadata={"licence": LICENCE})
