"""The types that go into and come out of a run; importable without torch, openvino or nnunetv2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ai_engine.backends import BackendName, Device, Precision
from ai_engine.findings import Findings
from ai_engine.geometry import Affine
from ai_engine.packages.common import Window


@dataclass(frozen=True, eq=False)
class InputVolume:
    """One input of a run.

    Attributes
    ----------
    array
        (S, R, C) float32 modality values.
    affine
        (slice, row, column) to LPS millimetres.
    valid
        (S, R, C) bool, False where padding; None when there is none.
    modality
        DICOM Modality (0008,0060); empty when the source says none (NIfTI), which is then the caller's word.
    age_years
        From Patient's Age (0010,1010); None when the source says none.
    body_part
        Body Part Examined (0018,0015); empty when the source says none.
    """

    array: npt.NDArray[np.float32]
    affine: Affine
    valid: npt.NDArray[np.bool_] | None = None
    modality: str = ""
    age_years: float | None = None
    body_part: str = ""


@dataclass(frozen=True)
class EngineSettings:
    """How a model is run; None and ``package`` mean what the package says.

    The fields are what ``engine.*`` of the configuration and the options of ``ai-node predict`` set.
    """

    device: Device = "auto"
    backend: BackendName = "auto"
    precision: Precision | Literal["package"] = "package"
    threads: int = 0
    """0: as many as there are processors."""
    step: float | None = None
    """Tile step as a share of the patch."""
    mirroring: bool | None = None
    """False switches the package's mirroring off."""
    batch: int | None = None
    folds: Literal["all", "first"] = "all"
    mirror_axes: tuple[int, ...] | None = None
    """Other axes of the patch to mirror and average than the package's own."""
    window: Window | None = None
    """``box``: one window over everything that is not empty."""
    measuring: bool = False
    """Set by the accuracy gate alone: run also what the package does not offer, because it is being measured."""
    site_override: str | None = None
    """A classifier's file of the site's own thresholds (`ai_engine.packages.site`); its digest stands in results."""
    cache_folder: str | None = None
    """Where OpenVINO may keep compiled networks for a faster start."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a run says.

    Attributes
    ----------
    mask
        (S, R, C) uint8 label values on the input's own grid.
    affine
        Of the mask and of the input.
    findings
        Regions with measurements, model identity, notes and timings.
    timings_s
        Seconds per stage: gate, prepare, network, restore, measure.  Not repeatable, never part of a digest.
    passes
        Tiles that went through a network.
    """

    mask: npt.NDArray[np.uint8]
    affine: Affine
    findings: Findings
    timings_s: Mapping[str, float]
    passes: int
