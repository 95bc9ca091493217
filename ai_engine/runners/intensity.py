"""Grey values of MR pictures made comparable, by pure functions of the whole volume.

MR grey values carry no unit: scanners, hospitals and conversions scale them at will, and how much air surrounds the
head depends on the field of view. What stays is the head itself, so every number here is taken inside it.

Guaranteed for :func:`standardise_flair`: the result does not depend on a positive factor or a constant added to all
values, and hardly on the share of air in the picture or on the number of slices. The same function runs in training
and at run time; the name under which a package asks for it is in :data:`STANDARDISATIONS`.

Not guaranteed: correction of coil shading, or any meaning of the numbers for a picture that is not a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]

_SAMPLES = 2_000_000
_BINS = 256
_AIR_SHARE_OF_MEDIAN = 0.4
_HIGH = 3.0


def _otsu(values: npt.NDArray[np.float32]) -> float:
    """Threshold that parts ``values`` into two classes of the greatest variance between them (Otsu, 1979)."""
    top = float(np.percentile(values, 99.5))
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(np.clip(values, 0, top), bins=_BINS, range=(0.0, top))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
        between = below.astype(np.float64) * above * gap**2
    between[~np.isfinite(between)] = 0
    return float(edges[int(np.argmax(between)) + 1])


def head_level(volume: Volume) -> tuple[float, float]:
    """Find the level of air and, above it, the median of the tissue of a head.

    Tissue is every voxel above 0.4 times the tissue median; the median is found by iterating from Otsu's threshold, so
    that it settles on the same value whatever the share of air.

    Parameters
    ----------
    volume
        ``(S, R, C)`` grey values, any unit. Values that are not finite are left out.

    Returns
    -------
    floor, median
        The level taken as zero, and the tissue median above it, in the unit of the input. The median is 0 for a
        picture without contrast.
    """
    values = np.asarray(volume, dtype=np.float32).ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    if values.size > _SAMPLES:
        values = values[:: values.size // _SAMPLES + 1]
    floor = float(np.percentile(values, 0.1))
    values = values - np.float32(floor)
    threshold = _otsu(values)
    median = 0.0
    for _ in range(20):
        tissue = values[values > threshold]
        if tissue.size == 0:
            return floor, 0.0
        median = float(np.median(tissue))
        if abs(threshold - _AIR_SHARE_OF_MEDIAN * median) <= 1e-4 * median:
            break
        threshold = _AIR_SHARE_OF_MEDIAN * median
    return floor, median


def standardise_flair(volume: Volume) -> Volume:
    """Bring a FLAIR volume of a head to a common grey scale.

    Air becomes 0 and the tissue median 1, the rest in proportion; values end at 3. Air is exactly 0 so that nnU-Net's
    cropping and padding, which both use 0, do the right thing. The spread of the tissue is left as it is, because it
    carries the lesion: dividing by the distance between the quartiles made large bright lesions fade (67 volumes).

    Parameters
    ----------
    volume
        ``(S, R, C)`` float32, any unit, native or skull-stripped. Values that are not finite count as air.

    Returns
    -------
    ``(S, R, C)`` float32 within 0 and 3. All zeros if the volume holds no contrast.
    """
    volume = np.asarray(volume, dtype=np.float32)
    floor, median = head_level(volume)
    if median <= 0:
        return np.zeros(volume.shape, dtype=np.float32)
    clean = np.nan_to_num(volume, nan=floor, posinf=floor, neginf=floor)
    return np.asarray(np.clip((clean - np.float32(floor)) / np.float32(median), 0.0, _HIGH), dtype=np.float32)


def unchanged(volume: Volume) -> Volume:
    """Leave the grey values as they are: the plan's own normalisation does all."""
    return np.asarray(volume, dtype=np.float32)


STANDARDISATIONS: Mapping[str, Callable[[Volume], Volume]] = MappingProxyType(
    {"standardise_flair": standardise_flair, "none": unchanged}
)
"""What a package may name under ``intensity``."""


def skull_share(volume: Volume, spacing_mm: tuple[float, float, float]) -> float:
    """How dark the shell of the head is, where a native head has its skull.

    In every slice the outline is filled, and the values between 4 and 14 mm below it are compared with those deeper
    than 25 mm. Cortical bone gives no signal, so a native head is dark there; a skull-stripped brain is as bright as
    inside.

    Parameters
    ----------
    volume
        ``(S, R, C)``, axial, any unit.
    spacing_mm
        ``(slice, row, column)``.

    Returns
    -------
    Share of shell voxels below 0.4 times the median of the inside; 0 where no slice is large enough.
    """
    from scipy import ndimage

    standard = standardise_flair(volume)
    shell: list[npt.NDArray[np.float32]] = []
    inside: list[npt.NDArray[np.float32]] = []
    for picture in standard[standard.shape[0] // 3 :: max(1, standard.shape[0] // 24)]:
        parts, count = ndimage.label(ndimage.binary_fill_holes(picture > _AIR_SHARE_OF_MEDIAN))
        if count == 0:
            continue
        head = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        depth = ndimage.distance_transform_edt(head, sampling=spacing_mm[1:])
        if depth.max() < 40:
            continue
        shell.append(picture[(depth > 4) & (depth < 14)])
        inside.append(picture[depth > 25])
    if not shell:
        return 0.0
    level = float(np.median(np.concatenate(inside)))
    return float((np.concatenate(shell) < _AIR_SHARE_OF_MEDIAN * level).mean())


def is_skull_stripped(volume: Volume, spacing_mm: tuple[float, float, float]) -> bool:
    """Whether the brain was cut out of the head and the rest set to one value.

    Two signs together: no dark shell (:func:`skull_share` below 0.06), and more than 30 % of all voxels exactly at the
    smallest value. Measured on 58 native and 9 skull-stripped FLAIRs: all 67 told right; either sign alone was not
    enough.
    """
    values = np.asarray(volume, dtype=np.float32)
    if float((values == values.min()).mean()) <= 0.3:
        return False
    return skull_share(values, spacing_mm) < 0.06
