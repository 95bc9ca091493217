"""The protocol of a brain tumour examination as a 1.5 T scanner would write it: one row per series.

Physics attributes are those of PS3.3 C.8.3.1 (MR Image Module); the contrast attributes of C.7.6.4 stand where a
scanner writes them, in the series after the injection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ai_engine.geometry import Affine, FloatArray
from ai_engine.phantom import Contrast

SLICES = 28
STEP_MM = 5.5
THICKNESS_MM = 5.0
PIXEL_MM = 0.9
MATRIX = 256

AXIAL = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Directions of slices (upwards), rows (to the back) and columns (to the left), LPS."""
CORONAL = ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0))
SAGITTAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
CENTRE_MM = (0.0, 0.0, -2.0)
FLAIR_NUMBER = 4


@dataclass(frozen=True)
class Stack:
    """One block of parallel slices."""

    affine: Affine
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class SeriesPlan:
    """What one series is made of and what its headers say."""

    number: int
    description: str
    contrast: Contrast
    stacks: tuple[Stack, ...]
    start_s: int
    """Seconds after the start of the study."""
    duration_s: int
    image_type: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    cuts: int = 3

    @property
    def images(self) -> int:
        return sum(stack.shape[0] for stack in self.stacks)


def stack(
    directions: tuple[tuple[float, float, float], ...],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    tilt_deg: float = 0.0,
) -> Stack:
    """A stack around the middle of the head, tilted about the left-right axis."""
    angle = np.deg2rad(tilt_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    axes: FloatArray = np.asarray(directions, dtype=np.float64) @ turn.T
    middle = ((np.asarray(shape) - 1) / 2 * np.asarray(spacing_mm)) @ axes
    return Stack(Affine.from_axes(np.asarray(CENTRE_MM) - middle, axes, spacing_mm), shape)


def _axial() -> tuple[Stack, ...]:
    return (stack(AXIAL, (SLICES, MATRIX, MATRIX), (STEP_MM, PIXEL_MM, PIXEL_MM)),)


def _physics(name: str, repetition_ms: str, echo_ms: str, flip_deg: str, train: str, **more: Any) -> dict[str, Any]:
    """MR Image Module of a 2D spin echo; `more` adds to it and replaces."""
    return {
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "MRAcquisitionType": "2D",
        "RepetitionTime": repetition_ms,
        "EchoTime": echo_ms,
        "FlipAngle": flip_deg,
        "EchoTrainLength": train,
        "SequenceName": name,
        **more,
    }


_LOCALIZER = _physics("*fl2d1", "8.6", "4", "20", "1", ScanningSequence="GR", SequenceVariant="SP")
_T1 = _physics("*se2d1", "550", "12", "90", "1")
_T2 = _physics("*tse2d1_15", "4500", "98", "150", "15")
_FLAIR = _physics(
    "*tir2d1rr16", "9000", "110", "150", "16", ScanningSequence=["SE", "IR"], SequenceVariant=["SK", "MP"],
    InversionTime="2500",
)  # fmt: skip
_AFTER_CONTRAST = {
    "ContrastBolusAgent": "GADOLINIUM",
    "ContrastBolusRoute": "IV",
    "ContrastBolusVolume": "15",
    "ContrastBolusTotalDose": "15",
    "ContrastBolusIngredient": "GADOLINIUM",
    "ContrastBolusIngredientConcentration": "0.5",
}
_ORIGINAL = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")


def protocol() -> tuple[SeriesPlan, ...]:
    """The series in the order in which they were acquired."""
    scout = tuple(stack(plane, (3, MATRIX, MATRIX), (20.0, 1.0, 1.0)) for plane in (AXIAL, CORONAL, SAGITTAL))
    scouting = ("ORIGINAL", "PRIMARY", "LOCALIZER")
    axial = _axial()
    oblique = (stack(CORONAL, (24, MATRIX, MATRIX), (5.5, PIXEL_MM, PIXEL_MM), tilt_deg=25.0),)
    t2_oblique = {**_T2, "RepetitionTime": "4800", "EchoTime": "102"}
    return (
        SeriesPlan(1, "localizer 3 planes", "t1", scout, 0, 12, scouting, _LOCALIZER, cuts=1),
        SeriesPlan(2, "t1_se_tra", "t1", axial, 90, 190, _ORIGINAL, _T1),
        SeriesPlan(3, "t2_tse_tra", "t2", axial, 310, 150, _ORIGINAL, _T2),
        SeriesPlan(FLAIR_NUMBER, "t2_tirm_tra_dark-fluid", "flair", axial, 480, 220, _ORIGINAL, _FLAIR),
        SeriesPlan(5, "t2_tse_cor oblique", "t2", oblique, 720, 160, _ORIGINAL, t2_oblique, cuts=1),
        SeriesPlan(6, "t1_se_tra +GD", "t1c", axial, 1080, 190, _ORIGINAL, {**_T1, **_AFTER_CONTRAST}),
    )
