"""The one picture that a classifier sees, with what is known about it.

Importable without torch: rooms that only make pictures need no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ai_engine.findings import Code

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
