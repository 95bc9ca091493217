"""Rigid co-registration of two sequences of one head, with a score that says whether to believe it.

Mattes' mutual information (IEEE Transactions on Medical Imaging 22, 2003), maximised by regular-step gradient descent
over three resolutions (SimpleITK).  Values between thick slices are not invented where it can be helped: the points of
comparison are the voxel centres of the coarser volume, and the finer one is blurred along the coarser one's slice
direction as the scanner blurred it.  This halved the error for 5 mm slices.

Guaranteed: the same input gives the same motion (fixed seed, one order of adding up: `in_one_order`).  Not guaranteed:
anything for tissue that is not rigid, such as the neck and the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from ai_engine.preparation.rigid import Rigid, as_image, in_one_order
from ai_engine.preparation.score import Points, Quality, sharpness
from ai_engine.runners.intensity import head_level

SEED = 20260
BINS = 32
SMOOTHING_MM = {4: 2.0, 2: 1.0, 1: 0.5}
"""Per shrink factor."""
STEP_MM = {4: 2.0, 2: 1.0, 1: 0.5}
"""First step of the descent, per shrink factor of the level it begins with."""
POINTS = {4: 40_000, 2: 40_000, 1: 100_000}
"""Points of comparison per shrink factor."""
MARGIN_MM = 6.0
"""How far around the head points are compared: the outline itself must be among them."""
TISSUE = 0.3
"""Share of the tissue median above which a voxel is head."""
SLICE_PROFILE = 0.9
"""Width at half height of a slice's profile, as a share of the slice step."""
FINE_MM = 0.7
"""Pixels finer than this are averaged to about 1 mm first: they cost time and add nothing."""
RETURNS: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((8.0, 0.0, 5.0), (0.0, 8.0, 6.0)),
    ((-5.0, 7.0, -5.0), (8.0, -6.0, 0.0)),
)
"""Rotation vectors (degrees) and shifts (mm) by which the result is displaced to see whether the search comes back."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sequence:
    """A volume of one head as registration sees it.

    Attributes
    ----------
    array, affine
        (S, R, C) float32 and where it lies.
    head
        (S, R, C) bool: tissue, not air.
    """

    array: Floats
    affine: Affine
    head: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, array: Floats, affine: Affine) -> Sequence:
        """Find the tissue; pixels much finer than a millimetre are averaged first."""
        array, affine = averaged(array, affine)
        floor, median = head_level(array)
        return cls(array, affine, array > floor + TISSUE * median)

    @property
    def step_mm(self) -> float:
        """The coarsest spacing."""
        return max(self.affine.spacing_mm)

    @property
    def middle_mm(self) -> npt.NDArray[np.float64]:
        """LPS centre of the tissue."""
        index = np.argwhere(self.head)
        middle = index.mean(axis=0) if len(index) else (np.array(self.array.shape) - 1) / 2
        return np.asarray(self.affine.to_patient(middle))


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the moving volume lies.

    Attributes
    ----------
    motion
        Points (LPS mm) of the reference's space to points of the moving volume's space.
    quality
        What speaks for it.
    """

    motion: Rigid
    quality: Quality


def register(reference: Sequence, moving: Sequence) -> Registration:
    """Find the rigid motion from the reference to the moving volume.

    The search starts where the headers say that the volumes lie and, apart from it, where the middles of the heads
    meet; it goes on from the better one.  From two places around the result (about 10 degrees and 10 mm away) it must
    come back to it; how well it does is part of the score.
    """
    is_swapped = moving.step_mm >= reference.step_mm
    coarse, fine = (moving, reference) if is_swapped else (reference, moving)
    search = _Search(coarse, fine)
    between = fine.middle_mm - coarse.middle_mm
    starts = (Rigid.identity(), Rigid.about((0, 0, 0), (0, 0, 0), between))
    start = min((search.descend(place, (4,)) for place in starts), key=lambda end: end[1])[0]
    ends = [search.descend(start, (2,))]
    for turn, shift in RETURNS:
        away = ends[0][0].after(Rigid.about(coarse.middle_mm, turn, shift))
        ends.append(search.descend(away, (4, 2)))
    best = min(ends, key=lambda end: end[1])[0]
    places = coarse.affine.to_patient(np.argwhere(coarse.head)[::499])
    spread = max(float(np.linalg.norm(best(places) - end(places), axis=1).max(initial=0.0)) for end, _ in ends)
    motion, _ = search.descend(best, (1,))
    peak, view = sharpness(search.points, search.blurred, fine.affine, motion)
    return Registration(motion.inverse() if is_swapped else motion, Quality(peak, spread, view))


class _Search:
    """Descents over one pair of volumes; motions are from the coarse volume's space to the fine one's."""

    def __init__(self, coarse: Sequence, fine: Sequence) -> None:
        from scipy import ndimage

        self.blurred = blurred_as(fine, coarse)
        self.points = Points.of(coarse.array, coarse.affine, coarse.head)
        self._centre = coarse.middle_mm
        self._fixed = as_image(coarse.array, coarse.affine)
        self._moving = as_image(self.blurred, fine.affine)
        reach = ndimage.distance_transform_edt(~coarse.head, sampling=coarse.affine.spacing_mm)
        self._mask = as_image((reach <= MARGIN_MM).astype(np.uint8), coarse.affine)
        self._voxels = coarse.array.size

    def descend(self, start: Rigid, shrink: tuple[int, ...]) -> tuple[Rigid, float]:
        """Walk downhill from a start; the end, and minus the mutual information there."""
        import SimpleITK as sitk

        method = in_one_order()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        shares = [min(1.0, POINTS[factor] * factor**3 / self._voxels) for factor in shrink]
        method.SetMetricSamplingPercentagePerLevel(shares, SEED)
        method.SetMetricFixedMask(self._mask)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetShrinkFactorsPerLevel(list(shrink))
        method.SetSmoothingSigmasPerLevel([SMOOTHING_MM[factor] for factor in shrink])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetOptimizerAsRegularStepGradientDescent(STEP_MM[shrink[0]], 0.005, 120, 0.6, 1e-6)
        method.SetOptimizerScalesFromPhysicalShift()
        transform = self._transform(start)
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(self._fixed, self._moving)
        except RuntimeError:  # ITK's word for "no common points": this start leads nowhere
            return start, np.inf
        return Rigid.from_simpleitk(transform), float(method.GetMetricValue())

    def _transform(self, start: Rigid) -> Any:
        import SimpleITK as sitk

        transform = sitk.Euler3DTransform()
        transform.SetCenter(self._centre.tolist())
        transform.SetMatrix(start.matrix[:3, :3].ravel().tolist(), 1e-6)
        transform.SetTranslation((start(self._centre) - self._centre).tolist())
        return transform


def blurred_as(fine: Sequence, coarse: Sequence) -> Floats:
    """The finer volume, blurred along the axis nearest to the coarse volume's slice direction as its slices are."""
    from scipy import ndimage

    thick = int(np.argmax(coarse.affine.spacing_mm))
    width = SLICE_PROFILE * coarse.affine.spacing_mm[thick]
    along = int(np.argmax(np.abs(fine.affine.directions @ coarse.affine.directions[thick])))
    own = fine.affine.spacing_mm[along]
    if width < 1.5 * own:
        return fine.array
    sigma = float(np.sqrt(width**2 - own**2)) / 2.355 / own
    return np.asarray(ndimage.gaussian_filter1d(fine.array, sigma, axis=along), dtype=np.float32)


def averaged(array: Floats, affine: Affine) -> tuple[Floats, Affine]:
    """Average blocks of voxels along axes finer than `FINE_MM`, to about 1 mm."""
    factors = [max(1, round(1.0 / step)) if step < FINE_MM else 1 for step in affine.spacing_mm]
    if max(factors) == 1:
        return array, affine
    whole = [size // factor * factor for size, factor in zip(array.shape, factors, strict=True)]
    blocks = [part for size, factor in zip(whole, factors, strict=True) for part in (size // factor, factor)]
    small = array[: whole[0], : whole[1], : whole[2]].reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)
    matrix = affine.matrix.copy()
    matrix[:3, 3] = affine.to_patient([(factor - 1) / 2 for factor in factors])
    matrix[:3, :3] *= factors
    return np.asarray(small, dtype=np.float32), Affine(matrix)
