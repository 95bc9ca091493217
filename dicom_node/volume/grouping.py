"""Which frames of a series belong to one stack.

Echoes, b-values, phases, inversion times and complex parts often share one series; sorted by position alone they would
interleave and halve the spacing.  So frames are grouped by the attributes that tell such images apart *before* any
geometry is read.  One group: that is the stack.  Several: only a documented rule may choose, and the choice is noted;
without a rule the series is refused as series-mixed.

Rules, in order:

1. frames with Image Type LOCALIZER are dropped when others remain;
2. when the groups differ in nothing but their complex part, the magnitude is taken;
3. up to `MAX_ODD_FRAMES` frames whose normal differs from all others by more than `ODD_ORIENTATION_DEG` are taken for
   unmarked localizers and dropped; that the rest is one clean stack is then checked as for any series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.volume.frames import Frame

MAX_ODD_FRAMES = 3
ODD_ORIENTATION_DEG = 20.0

DISCRIMINATING = (
    "Modality",
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "SequenceName",
    "StackID",
    "ConvolutionKernel",
    "ImageType",
)
"""Attributes that tell apart images of one series at one place.  Not: Acquisition Number, Trigger Time, Repetition Time
and Flip Angle, which some scanners change from slice to slice of one stack."""

_COMPLEX_PARTS = {
    "M": "magnitude", "M_SE": "magnitude", "M_FFE": "magnitude", "M_IR": "magnitude", "MAGNITUDE": "magnitude",
    "P": "phase", "P_SE": "phase", "P_FFE": "phase", "P_IR": "phase", "PHASE": "phase", "PHASE MAP": "phase",
    "R": "real", "R_SE": "real", "R_FFE": "real", "R_IR": "real", "REAL": "real",
    "I": "imaginary", "I_SE": "imaginary", "I_FFE": "imaginary", "I_IR": "imaginary", "IMAGINARY": "imaginary",
}  # fmt: skip


def one_stack(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """The frames of the one stack of a series, and in words what was left out.

    Raises
    ------
    Refused
        series-mixed, when several stacks are there and no rule chooses.
    """
    notes: list[str] = []
    chosen = _without_localizers(list(frames), notes)
    chosen = _without_odd_orientations(chosen, notes)
    groups = _grouped(chosen)
    if len(groups) > 1:
        groups = _magnitude_only(groups, notes)
    if len(groups) > 1:
        differing = sorted({name for key in groups for name in _differences(key, next(iter(groups)))})
        raise Refused(
            RefusalCode.SERIES_MIXED, "images of one kind", f"{len(groups)} kinds that differ in {', '.join(differing)}"
        )
    return next(iter(groups.values())), notes


Key = tuple[Any, ...]


def _key(frame: Frame) -> Key:
    values: list[Any] = []
    for keyword in DISCRIMINATING:
        value = frame.attributes.get(keyword)
        if isinstance(value, float):
            value = round(value, 3)
        values.append(tuple(value) if isinstance(value, list) else value)
    values.append(complex_part(frame.attributes))
    return tuple(values)


def complex_part(attributes: Mapping[str, Any]) -> str:
    """magnitude, phase, real, imaginary, or "" where nothing says (Image Type values 3 and on, or the enhanced tag)."""
    for part in [attributes.get("ComplexImageComponent"), *attributes.get("ImageType", [])[2:]]:
        if isinstance(part, str) and part in _COMPLEX_PARTS:
            return _COMPLEX_PARTS[part]
    return ""


def _grouped(frames: Sequence[Frame]) -> dict[Key, list[Frame]]:
    groups: dict[Key, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(_key(frame), []).append(frame)
    return groups


def _differences(one: Key, other: Key) -> set[str]:
    names = (*DISCRIMINATING, "ComplexImageComponent")
    return {name for name, left, right in zip(names, one, other, strict=True) if left != right}


def _without_localizers(frames: list[Frame], notes: list[str]) -> list[Frame]:
    others = [frame for frame in frames if "LOCALIZER" not in frame.attributes.get("ImageType", ())]
    if not others or len(others) == len(frames):
        return frames
    notes.append(f"{len(frames) - len(others)} localizer image(s) in the series left out")
    return others


def _without_odd_orientations(frames: list[Frame], notes: list[str]) -> list[Frame]:
    orientations = [frame.numbers("ImageOrientationPatient", 6) for frame in frames]
    if len(frames) < 2 or any(one is None for one in orientations):
        return frames
    cosines = np.asarray(orientations, dtype=np.float64)
    normals = np.cross(cosines[:, :3], cosines[:, 3:])
    lengths = np.linalg.norm(normals, axis=1)
    if lengths.min() < 0.5:
        return frames
    middle = np.median(normals / lengths[:, None], axis=0)
    alike = (normals / lengths[:, None]) @ middle >= np.cos(np.deg2rad(ODD_ORIENTATION_DEG)) * np.linalg.norm(middle)
    odd = len(frames) - int(alike.sum())
    if not 0 < odd <= MAX_ODD_FRAMES or odd * 4 > len(frames):
        return frames
    notes.append(f"{odd} image(s) of another orientation in the series left out")
    return [frame for frame, keep in zip(frames, alike, strict=True) if keep]


def _magnitude_only(groups: dict[Key, list[Frame]], notes: list[str]) -> dict[Key, list[Frame]]:
    """Rule 2: groups that differ only in how they spell their complex part."""
    first = next(iter(groups))
    differing = {name for key in groups for name in _differences(key, first)}
    parts = {key: key[-1] for key in groups}
    magnitudes = [key for key, part in parts.items() if part == "magnitude"]
    if not differing <= {"ImageType", "ComplexImageComponent"} or len(magnitudes) != 1 or "" in parts.values():
        return groups
    if len(set(parts.values())) != len(parts):
        return groups
    others = sorted(part for key, part in parts.items() if key != magnitudes[0])
    notes.append(f"magnitude images taken; {', '.join(others)} images of the series left out")
    return {magnitudes[0]: groups[magnitudes[0]]}
