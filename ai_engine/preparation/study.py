"""A study as it was acquired, made into what a model of co-registered, skull-stripped sequences expects.

Three kinds are told apart by measurement, never by name:

* *prepared*: one grid, no skull, and every sequence at its peak of mutual information with the reference where it
  lies.  Passed on unchanged.
* *stripped*: no skull, but displaced or on different grids.  Laid on the reference and resampled.
* *native*: heads with their skulls.  Laid on the reference, the brain cut out, resampled.

Each step has a quality score that refuses; a study is prepared whole or refused by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine, closest_axes, rearrange
from ai_engine.packages import StudyPreparation
from ai_engine.prediction import InputVolume
from ai_engine.preparation.extraction import Brain, extract_brain
from ai_engine.preparation.prepared import PreparedStudy
from ai_engine.preparation.registration import Sequence, register
from ai_engine.preparation.rigid import Grid, Rigid, Shape, carry
from ai_engine.preparation.score import Points, sharpness
from ai_engine.runners.intensity import is_skull_stripped
from dicom_node.refusals import RefusalCode, Refused

MIN_FIELD_MM = 100.0
"""A volume shorter than this along any axis does not show a whole brain."""
MAX_FIELD_MM = 400.0
MARGIN_MM = 4.0
SAME_OUTLINE = 0.975
"""Least Dice of the outlines of two skull-stripped sequences on one grid."""
SAME_PLACE = 0.03
"""Least sharpness at which a sequence counts as lying on the reference already; it was not moved to a peak."""
EXTRACTION_ROLE = "flair"
"""The sequence in which the brain is found: the only one for which the method was judged."""

_AXIAL = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def prepare_study(inputs: Mapping[str, InputVolume], rule: StudyPreparation, reference: str) -> PreparedStudy:
    """Make a study what the model expects, or refuse it by name.

    Parameters
    ----------
    inputs
        By role, each on its own grid.
    rule
        What the package asks for.
    reference
        The role that the others are laid on and on whose grid results return.

    Raises
    ------
    Refused
        ``out-of-distribution`` (field of view, a mixture of native and stripped), ``registration-failed`` or
        ``brain-not-found``.
    """
    first = inputs[reference]
    source = Grid.of(first.array, first.affine)
    for role, volume in inputs.items():
        _check_field(volume, role)
    stripped = {role: _is_stripped(volume) for role, volume in inputs.items()}
    if len(set(stripped.values())) > 1:
        raise Refused(
            RefusalCode.OUT_OF_DISTRIBUTION,
            expected="all sequences native, or all skull-stripped",
            found=f"skull-stripped: {', '.join(sorted(role for role, is_so in stripped.items() if is_so))}",
        )
    is_native = not stripped[reference]
    if not is_native and is_prepared(inputs, reference):
        return PreparedStudy(dict(inputs), source, True)
    if is_native and rule.native == "refuse":
        raise Refused(
            RefusalCode.BRAIN_NOT_FOUND,
            expected="a skull-stripped study: this package takes no native ones",
            found="a native head with its skull",
        )
    if is_native and EXTRACTION_ROLE not in inputs:
        raise Refused(
            RefusalCode.BRAIN_NOT_FOUND,
            expected=f"a native study with {EXTRACTION_ROLE}, in which the brain is found",
            found=f"a native study with {', '.join(sorted(inputs))}",
        )
    return _prepare(inputs, rule, reference, source, is_native=is_native)


def is_prepared(inputs: Mapping[str, InputVolume], reference: str) -> bool:
    """Whether skull-stripped sequences lie on each other already: one grid, one outline, and a peak where they lie."""
    first = inputs[reference]
    grid = Grid.of(first.array, first.affine)
    brain = _tissue(first)
    points = Points.of(_clean(first), first.affine, brain)
    for role, volume in inputs.items():
        if role == reference:
            continue
        if not grid.same_as(Grid.of(volume.array, volume.affine)):
            return False
        other = _tissue(volume)
        if 2 * np.count_nonzero(brain & other) < SAME_OUTLINE * (np.count_nonzero(brain) + np.count_nonzero(other)):
            return False
        if sharpness(points, _clean(volume), volume.affine, Rigid.identity())[0] < SAME_PLACE:
            return False
    return True


def _prepare(
    inputs: Mapping[str, InputVolume], rule: StudyPreparation, reference: str, source: Grid, *, is_native: bool
) -> PreparedStudy:
    started = time.monotonic()
    first = inputs[reference]
    fixed = Sequence.of(_clean(first), first.affine)
    motions = {reference: Rigid.identity()}
    notes = []
    for role, volume in inputs.items():
        if role == reference:
            continue
        found = register(fixed, Sequence.of(_clean(volume), volume.affine))
        found.quality.require(role, reference)
        motions[role] = found.motion
        moved = float(np.linalg.norm(found.motion(fixed.middle_mm) - fixed.middle_mm))
        notes.append(
            f"{role} was laid on {reference}: {moved:.1f} mm, {found.motion.angle_deg:.1f} degrees; "
            f"{found.quality.words()}."
        )
    registered = time.monotonic()
    grid = working_grid(source, rule.grid_mm)
    brain: npt.NDArray[np.bool_] | None = None
    if is_native:
        flair = inputs[EXTRACTION_ROLE]
        cut = extract_brain(_clean(flair), flair.affine)
        cut.quality.require()
        brain = _brain_on(cut, flair.affine, motions[EXTRACTION_ROLE], grid)
        notes.append(
            f"The brain was cut out of the head by our own method in {EXTRACTION_ROLE}; {cut.quality.words()}."
        )
    extracted = time.monotonic()
    volumes = {}
    for role, volume in inputs.items():
        array = carry(_clean(volume), volume.affine, grid, motions[role])
        if brain is not None:
            array = np.where(brain, array, np.float32(0))
        volumes[role] = replace(volume, array=array, affine=grid.affine, valid=None)
    if brain is not None:
        volumes, grid = _cropped(volumes, brain)
    notes.append(f"Resampled to {rule.grid_mm:g} mm for the model; results returned to the grid of {reference}.")
    timings = {
        "register": registered - started,
        "extract": extracted - registered,
        "resample": time.monotonic() - extracted,
    }
    return PreparedStudy(volumes, source, False, tuple(notes), timings)


def working_grid(source: Grid, step_mm: float) -> Grid:
    """An isotropic grid along the axes of another, over the same space."""
    sides = [(size - 1) * step for size, step in zip(source.shape, source.affine.spacing_mm, strict=True)]
    slices, rows, columns = (int(np.floor(side / step_mm)) + 1 for side in sides)
    affine = Affine.from_axes(source.affine.origin_mm, source.affine.directions, (step_mm, step_mm, step_mm))
    return Grid((slices, rows, columns), affine)


def _brain_on(cut: Brain, affine: Affine, motion: Rigid, grid: Grid) -> npt.NDArray[np.bool_]:
    return np.asarray(carry(cut.mask.astype(np.float32), affine, grid, motion) >= 0.5)


def _cropped(volumes: Mapping[str, InputVolume], brain: npt.NDArray[np.bool_]) -> tuple[dict[str, InputVolume], Grid]:
    """The box of the brain with a margin: what lies outside is zero in every sequence."""
    affine = next(iter(volumes.values())).affine
    margin = round(MARGIN_MM / affine.spacing_mm[0])
    index = np.argwhere(brain)
    low = np.maximum(index.min(axis=0) - margin, 0)
    high = np.minimum(index.max(axis=0) + margin + 1, brain.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    matrix = affine.matrix.copy()
    matrix[:3, 3] = affine.to_patient(low)
    moved = Affine(matrix)
    cut = {role: replace(v, array=np.ascontiguousarray(v.array[box]), affine=moved) for role, v in volumes.items()}
    size: Shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
    return cut, Grid(size, moved)


def _check_field(volume: InputVolume, role: str) -> None:
    """A field of view that can hold a brain."""
    sides = [size * step for size, step in zip(volume.array.shape, volume.affine.spacing_mm, strict=True)]
    if min(sides) < MIN_FIELD_MM or max(sides) > MAX_FIELD_MM:
        raise Refused(
            RefusalCode.OUT_OF_DISTRIBUTION,
            expected=f"{role} with a field of view of {MIN_FIELD_MM:g} to {MAX_FIELD_MM:g} mm along each axis",
            found=" x ".join(f"{side:.0f}" for side in sides) + " mm",
        )


def _is_stripped(volume: InputVolume) -> bool:
    axes, flips = closest_axes(volume.affine, np.array(_AXIAL))
    axial = np.asarray(rearrange(_clean(volume), axes, flips), dtype=np.float32)
    step, row, column = (volume.affine.spacing_mm[axis] for axis in axes)
    return is_skull_stripped(axial, (step, row, column))


def _clean(volume: InputVolume) -> npt.NDArray[np.float32]:
    """Padding as air."""
    if volume.valid is None:
        return volume.array
    return np.where(volume.valid, volume.array, volume.array[volume.valid].min())


def _tissue(volume: InputVolume) -> npt.NDArray[np.bool_]:
    array = _clean(volume)
    return np.asarray(array > array.min())
