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


_SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D"}
_AFTER_CONTRAST = {
    "ContrastBolusAgent": "GADOLINIUM",
    "ContrastBolusRoute": "IV",
    "ContrastBolusVolume": "15",
    "ContrastBolusTotalDose": "15",
    "ContrastBolusIngredient": "GADOLINIUM",
    "ContrastBolusIngredientConcentration": "0.5",
}


def protocol() -> tuple[SeriesPlan, ...]:
    """The series in the order in which they were acquired."""
    scout = tuple(stack(plane, (3, MATRIX, MATRIX), (20.0, 1.0, 1.0)) for plane in (AXIAL, CORONAL, SAGITTAL))
    original = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")
    return (
        SeriesPlan(
            number=1,
            description="localizer 3 planes",
            contrast="t1",
            stacks=scout,
            start_s=0,
            duration_s=12,
            image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
            cuts=1,
            attributes={
                "ScanningSequence": "GR",
                "SequenceVariant": "SP",
                "MRAcquisitionType": "2D",
                "RepetitionTime": "8.6",
                "EchoTime": "4",
                "FlipAngle": "20",
                "EchoTrainLength": "1",
                "SequenceName": "*fl2d1",
            },
        ),
        SeriesPlan(
            number=2,
            description="t1_se_tra",
            contrast="t1",
            stacks=_axial(),
            start_s=90,
            duration_s=190,
            image_type=original,
            attributes={
                **_SPIN_ECHO,
                "RepetitionTime": "550",
                "EchoTime": "12",
                "FlipAngle": "90",
                "EchoTrainLength": "1",
                "SequenceName": "*se2d1",
            },
        ),
        SeriesPlan(
            number=3,
            description="t2_tse_tra",
            contrast="t2",
            stacks=_axial(),
            start_s=310,
            duration_s=150,
            image_type=original,
            attributes={
                **_SPIN_ECHO,
                "RepetitionTime": "4500",
                "EchoTime": "98",
                "FlipAngle": "150",
                "EchoTrainLength": "15",
                "SequenceName": "*tse2d1_15",
            },
        ),
        SeriesPlan(
            number=4,
            description="t2_tirm_tra_dark-fluid",
            contrast="flair",
            stacks=_axial(),
            start_s=480,
            duration_s=220,
            image_type=original,
            attributes={
                **_SPIN_ECHO,
                "ScanningSequence": ["SE", "IR"],
                "SequenceVariant": ["SK", "MP"],
                "RepetitionTime": "9000",
                "EchoTime": "110",
                "InversionTime": "2500",
                "FlipAngle": "150",
                "EchoTrainLength": "16",
                "SequenceName": "*tir2d1rr16",
            },
        ),
        SeriesPlan(
            number=5,
            description="t2_tse_cor oblique",
            contrast="t2",
            stacks=(stack(CORONAL, (24, MATRIX, MATRIX), (5.5, PIXEL_MM, PIXEL_MM), tilt_deg=25.0),),
            start_s=720,
            duration_s=160,
            image_type=original,
            cuts=1,
            attributes={
                **_SPIN_ECHO,
                "RepetitionTime": "4800",
                "EchoTime": "102",
                "FlipAngle": "150",
                "EchoTrainLength": "15",
                "SequenceName": "*tse2d1_15",
            },
        ),
        SeriesPlan(
            number=6,
            description="t1_se_tra +GD",
            contrast="t1c",
            stacks=_axial(),
            start_s=1080,
            duration_s=190,
            image_type=original,
            attributes={
                **_SPIN_ECHO,
                **_AFTER_CONTRAST,
                "RepetitionTime": "550",
                "EchoTime": "12",
                "FlipAngle": "90",
                "EchoTrainLength": "1",
                "SequenceName": "*se2d1",
            },
        ),
    )


FLAIR_NUMBER = 4
