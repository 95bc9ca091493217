"""The one picture that a classifier sees, with what is known about it; and what it answers.

Importable without torch: rooms that only make pictures need no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ai_engine.findings import Code, Findings

PictureKind = Literal["dermoscopic", "plain", ""]
"""What the sender declared: taken through a dermatoscope, taken without one, or nothing said."""


@dataclass(frozen=True, eq=False)
class InputPicture:
    """A decoded colour picture of skin, ready for a classifier.

    Attributes
    ----------
    pixels
        (rows, columns, 3) uint8, sRGB, upright as a viewer shows it.
    declared
        Kind as the sender declared it; empty where nothing was said.
    modality
        Modality (0008,0060) of the object it was decoded from.
    age_years
        Age when the picture was taken; None when unknown.
    sex
        Patient's Sex (0010,0040): F, M, O or empty.
    body_site
        Anatomic region (0008,2218) as the object names it; None when it names none.
    """

    pixels: npt.NDArray[np.uint8]
    declared: PictureKind = ""
    modality: str = "XC"
    age_years: float | None = None
    sex: str = ""
    body_site: Code | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"(rows, columns, 3) uint8 expected, found {self.pixels.shape} {self.pixels.dtype}")


HeatMap = npt.NDArray[np.uint8]
"""(rows, columns) over a whole picture: 0 to 255 of the strongest evidence."""


@dataclass(frozen=True, eq=False)
class PictureAnswer:
    """What a run says about one picture that it answered.

    Attributes
    ----------
    findings
        One observation per output of the package, the deciding one first.
    heat_map
        Where the network looked; smaller than the picture, in its proportions.  None where the package has none.
    quality
        What the quality gate saw, as plain JSON.
    timings_s
        Seconds per stage: prepare, network, restore, judge.  Not repeatable, never part of a digest.
    """

    findings: Findings
    heat_map: HeatMap | None
    quality: Mapping[str, Any]
    timings_s: Mapping[str, float]
