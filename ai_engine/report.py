"""From a mask to regions: labels and composites with codes, measurements and confidence.

Codes of measurements and units: standards digest 2.3 (SNOMED CT, DCM, IBSI; UCUM).  Numbers are stored unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from ai_engine.findings import Code, Measurement, Region
from ai_engine.measure import PlaneDiameters, component_count, diameter_3d_mm, mean_and_sd, plane_diameters, volume_ml
from ai_engine.packages import Composite, Description, Label, MeasurementName
from ai_engine.prediction import InputVolume

CM3 = Code("cm3", "UCUM", "cubic centimeter")
MM = Code("mm", "UCUM", "millimeter")
ARBITRARY = Code("[arb'U]", "UCUM", "arbitrary unit")
VOLUME = Code("118565006", "SCT", "Volume")
VOXEL_SUM = Code("126030", "DCM", "Sum of segmented voxel method for volume")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
DIAMETER_3D = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
_SIGNAL = {
    "t1": Code("110804", "DCM", "T1 Weighted MR Signal Intensity"),
    "t1c": Code("110804", "DCM", "T1 Weighted MR Signal Intensity"),
    "t2": Code("110805", "DCM", "T2 Weighted MR Signal Intensity"),
    "flair": Code("110805", "DCM", "T2 Weighted MR Signal Intensity"),
    "pd": Code("110803", "DCM", "Proton Density Weighted MR Signal Intensity"),
}

Mask = npt.NDArray[np.bool_]


def regions_of(
    mask: npt.NDArray[np.uint8],
    probability: Mapping[int, npt.NDArray[np.float16]],
    first: InputVolume,
    description: Description,
    removed: Mapping[int, tuple[str, ...]],
) -> tuple[Region, ...]:
    """Regions of a mask, labels first and composites after them, in the package's order.

    Parameters
    ----------
    mask
        (S, R, C) label values after post-processing.
    probability
        Per label, (S, R, C) softmax on the same grid.
    first
        The volume of the package's first role, on the same grid; intensities are measured on it.
    removed
        Per label, what post-processing did, in words.
    """
    labelled = int(np.count_nonzero(mask))
    regions = []
    for entry in description.labels:
        inside = np.asarray(mask == entry.label)
        scores = probability[entry.label][inside]
        regions.append(_region(entry, inside, scores, first, description, labelled, removed.get(entry.label, ())))
    for union in description.composites:
        inside = np.isin(mask, union.labels)
        total = np.zeros(int(np.count_nonzero(inside)), dtype=np.float32)
        for label in union.labels:
            total += probability[label][inside]
        regions.append(_region(union, inside, np.minimum(total, 1), first, description, labelled, ()))
    return tuple(regions)


def _region(
    entry: Label | Composite,
    inside: Mask,
    scores: npt.NDArray[np.floating],
    first: InputVolume,
    description: Description,
    labelled: int,
    removed: tuple[str, ...],
) -> Region:
    voxels = int(np.count_nonzero(inside))
    return Region(
        key=entry.key,
        name=entry.name,
        abbreviation=entry.abbreviation,
        category=entry.category.code(),
        type=entry.type.code(),
        site=entry.site.code(),
        color_cielab=entry.cielab,
        color_rgb=entry.color_rgb,
        voxels=voxels,
        percent=100.0 * voxels / labelled if labelled else 0.0,
        label=entry.label if isinstance(entry, Label) else None,
        composite_of=entry.labels if isinstance(entry, Composite) else (),
        measurements=measurements_of(inside, first, description) if voxels else (_volume(inside, first),),
        confidence=float(scores.astype(np.float64).mean()) if voxels else None,
        components=component_count(inside) if voxels else 0,
        removed=removed,
    )


def measurements_of(inside: Mask, first: InputVolume, description: Description) -> tuple[Measurement, ...]:
    """The measurements that the package asks for, in its order; the volume always, and first if not listed."""
    wanted = description.measurements
    names = wanted if MeasurementName.VOLUME in wanted else (MeasurementName.VOLUME, *wanted)
    in_plane = cache(lambda: plane_diameters(inside, first.affine))  # both axes come of one search
    makers: Mapping[MeasurementName, Callable[[], Measurement | None]] = {
        MeasurementName.VOLUME: lambda: _volume(inside, first),
        MeasurementName.LONG_AXIS: lambda: _axis(in_plane(), len(inside), is_long=True),
        MeasurementName.SHORT_AXIS: lambda: _axis(in_plane(), len(inside), is_long=False),
        MeasurementName.DIAMETER_3D: lambda: Measurement(
            "diameter_3d", DIAMETER_3D, diameter_3d_mm(inside, first.affine), MM
        ),
        MeasurementName.MEAN: lambda: _intensity(inside, first, description.inputs[0].role, is_mean=True),
        MeasurementName.SD: lambda: _intensity(inside, first, description.inputs[0].role, is_mean=False),
    }
    made = (makers[name]() for name in names)
    return tuple(measurement for measurement in made if measurement is not None)


def _volume(inside: Mask, first: InputVolume) -> Measurement:
    return Measurement("volume", VOLUME, volume_ml(inside, first.affine), CM3, method=VOXEL_SUM)


def _axis(found: PlaneDiameters | None, slices: int, *, is_long: bool) -> Measurement | None:
    if found is None:
        return None
    note = f"in the acquired slice plane, slice {found.slice_index + 1} of {slices}"
    if is_long:
        return Measurement("long_axis", LONG_AXIS, found.long_mm, MM, note=note)
    return Measurement("short_axis", SHORT_AXIS, found.short_mm, MM, note=note)


def _intensity(inside: Mask, first: InputVolume, role: str, *, is_mean: bool) -> Measurement | None:
    found = mean_and_sd(inside, first.array, first.valid)
    if found is None or role not in _SIGNAL:
        return None
    derivation = MEAN if is_mean else STANDARD_DEVIATION
    value = found[0] if is_mean else found[1]
    return Measurement(
        "mean" if is_mean else "sd",
        _SIGNAL[role],
        value,
        ARBITRARY,
        derivation=derivation,
        note=f"of the {role} series",
    )
