"""Cut the brain out of a native FLAIR of a head; our own method, part of this repository and under its licence.

A mean brain (`ai_engine.preparation.atlas`) is laid rigidly on the head by mutual information from several heights;
that says roughly where the brain is.  The outline then comes from the picture: fluid and cortical bone are dark on
FLAIR, so in every slice a watershed from the sure brain and from the sure outside meets in that dark ring, and what is
dark is taken off.  The mean brain is fitted to the outcome (affine, squared difference of the masks), and outline and
fit are found again in narrower bands, twice.

The score that refuses asks how far the fitted mean brain agrees, how much of the outline has something dark just
outside it, and whether volume and stretch are a brain's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine, closest_axes, rearrange
from ai_engine.preparation.atlas import Atlas, load_atlas
from ai_engine.preparation.outline import Band, dark_outside, outline
from ai_engine.preparation.rigid import Grid, Rigid, as_image, carry, in_one_order
from ai_engine.runners.intensity import standardise_flair
from dicom_node.refusals import RefusalCode, Refused

METHOD = "mean brain and watershed on FLAIR"
MIN_AGREEMENT = 0.9
MIN_DARK_OUTSIDE = 0.85
VOLUME_ML = (850.0, 2000.0)
SCALE = (0.75, 1.3)
BANDS = (Band(12.0, 10.0, 3.0), Band(8.0, 6.0, 2.5), Band(7.0, 5.0, 2.5))
"""From the first guess to the last: how far the outline may lie inside and outside the mean brain's."""
HEIGHTS_MM = (-25.0, -5.0, 15.0)
"""Starts of the search: where the top of the brain lies against 12 mm below the top of the head."""
THIN_MM = 2.0
"""Slices nearer than this are averaged to about 3 mm: the method sees slice by slice."""
SEED = 3

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BrainQuality:
    """What speaks for a brain mask.

    Attributes
    ----------
    agreement
        Dice of the mask with the mean brain fitted to it.
    dark_outside
        Share of the outline with something dark within 5 mm outside it.
    volume_ml
    scale
        Smallest and largest stretch of the fitted mean brain.
    """

    agreement: float
    dark_outside: float
    volume_ml: float
    scale: tuple[float, float]

    @property
    def is_good(self) -> bool:
        """Whether the mask may be used."""
        return (
            self.agreement >= MIN_AGREEMENT
            and self.dark_outside >= MIN_DARK_OUTSIDE
            and VOLUME_ML[0] <= self.volume_ml <= VOLUME_ML[1]
            and SCALE[0] <= self.scale[0] <= self.scale[1] <= SCALE[1]
        )

    def words(self) -> str:
        """In numbers, for a note or a refusal."""
        return (
            f"agreement {self.agreement:.3f}, dark outside {100 * self.dark_outside:.0f} %, "
            f"{self.volume_ml:.0f} mL, stretch {self.scale[0]:.2f} to {self.scale[1]:.2f}"
        )

    def require(self) -> None:
        """Refuse a mask that must not be used.

        Raises
        ------
        Refused
            ``brain-not-found``.
        """
        if not self.is_good:
            raise Refused(
                RefusalCode.BRAIN_NOT_FOUND,
                expected=f"agreement at least {MIN_AGREEMENT:g}, dark outside at least {100 * MIN_DARK_OUTSIDE:.0f} %, "
                f"{VOLUME_ML[0]:.0f} to {VOLUME_ML[1]:.0f} mL, stretch {SCALE[0]:g} to {SCALE[1]:g}",
                found=self.words(),
            )


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain mask (S, R, C) bool on the grid of the volume that came in, and what speaks for it."""

    mask: Mask
    quality: BrainQuality


def extract_brain(array: Floats, affine: Affine) -> Brain:
    """Find the brain in a native FLAIR.

    Parameters
    ----------
    array, affine
        (S, R, C), nearly axial once its axes are permuted.
    """
    atlas = load_atlas()
    axes, flips = closest_axes(affine, np.eye(3)[::-1])
    axial = np.ascontiguousarray(rearrange(array, axes, flips), dtype=np.float32)
    lies = affine.rearranged(axes, flips, array.shape)
    head, where = _thicker(axial, lies)
    motion = _laid_on(atlas, head, where)
    mask: Mask = np.zeros(head.shape, dtype=np.bool_)
    for band in BANDS:
        mask = outline(head, _expected(atlas, motion, head, where), where.spacing_mm, band)
        if not mask.any():
            return Brain(np.zeros(array.shape, np.bool_), BrainQuality(0.0, 0.0, 0.0, (0.0, 0.0)))
        motion = _fitted(atlas, mask, where, motion)
    expected = _expected(atlas, motion, head, where)
    stretch = np.linalg.svd(motion.matrix[:3, :3])[1]
    quality = BrainQuality(
        agreement=float(2 * np.count_nonzero(mask & expected) / (np.count_nonzero(mask) + np.count_nonzero(expected))),
        dark_outside=dark_outside(head, mask, where.spacing_mm),
        volume_ml=float(np.count_nonzero(mask) * where.voxel_volume_mm3 / 1000),
        scale=(float(stretch.min()), float(stretch.max())),
    )
    on_own = carry(mask.astype(np.float32), where, Grid.of(array, affine)) >= 0.5
    return Brain(np.asarray(on_own), quality)


def _expected(atlas: Atlas, motion: Rigid, head: Floats, where: Affine) -> Mask:
    return np.asarray(carry(atlas.brain, atlas.grid.affine, Grid.of(head, where), motion.inverse()) > 0.5)


def _thicker(array: Floats, affine: Affine) -> tuple[Floats, Affine]:
    """Slices nearer than `THIN_MM` averaged to about 3 mm, pixels below 0.7 mm to about 1 mm."""
    from ai_engine.preparation.registration import averaged

    step = affine.spacing_mm[0]
    if step < THIN_MM:
        factor = round(3.0 / step)
        whole = len(array) // factor * factor
        thick = array[:whole].reshape(-1, factor, *array.shape[1:]).mean(axis=1, dtype=np.float32)
        matrix = affine.matrix.copy()
        matrix[:3, 3] = affine.to_patient(((factor - 1) / 2, 0, 0))
        matrix[:3, 0] *= factor
        array, affine = np.asarray(thick, dtype=np.float32), Affine(matrix)
    return averaged(array, affine)


def _laid_on(atlas: Atlas, head: Floats, where: Affine) -> Rigid:
    """The mean brain on the head: points of the atlas to points of the head, rigid."""
    import SimpleITK as sitk
    from scipy import ndimage

    level = standardise_flair(head)
    near = ndimage.binary_dilation(atlas.brain > 0.5, iterations=2).astype(np.uint8)
    fixed, moving = as_image(atlas.flair, atlas.grid.affine), as_image(level, where)
    mask = as_image(near, atlas.grid.affine)
    tissue = where.to_patient(np.argwhere(level > 0.4)[::7])
    top = float(np.percentile(tissue[:, 2], 99.5))
    band = np.abs(tissue[:, 2] - (top - 60)) < 8
    middle = (tissue[band] if band.any() else tissue).mean(axis=0)
    own_top = float(atlas.grid.affine.to_patient(np.argwhere(atlas.brain > 0.5))[:, 2].max())
    centre = atlas.centre_mm
    ends = []
    for height in HEIGHTS_MM:
        transform = sitk.Euler3DTransform()
        transform.SetCenter(centre.tolist())
        shift = (middle[0] - centre[0], middle[1] - centre[1], top - 12 - own_top + height)
        transform.SetTranslation([float(value) for value in shift])
        method = _method((1.0, 0.3), (4, 2), (4.0, 2.0), 2.0, mask)
        method.SetMetricAsMattesMutualInformation(32)
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, moving)
        except RuntimeError:  # ITK's word for "no common points"
            continue
        ends.append((float(method.GetMetricValue()), Rigid.from_simpleitk(transform)))
    return min(ends, key=lambda end: end[0])[1] if ends else Rigid.about((0, 0, 0), (0, 0, 0), middle - centre)


def _fitted(atlas: Atlas, mask: Mask, where: Affine, motion: Rigid) -> Rigid:
    """The mean brain stretched to a mask: affine, least squared difference of both, blurred."""
    import SimpleITK as sitk
    from scipy import ndimage

    grid = atlas.grid
    seen = carry(np.ones(mask.shape, np.float32), where, grid, motion) > 0.5
    there = ndimage.gaussian_filter(carry(mask.astype(np.float32), where, grid, motion), 1.5)
    own = ndimage.gaussian_filter(atlas.brain, 1.5)
    method = _method((0.5, 0.15), (2, 1), (0.0, 0.0), 1.0, as_image(seen.astype(np.uint8), grid.affine))
    method.SetMetricAsMeanSquares()
    transform = sitk.AffineTransform(3)
    transform.SetCenter(atlas.centre_mm.tolist())
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(as_image(own, grid.affine), as_image(there, grid.affine))
    except RuntimeError:
        return motion
    return motion.after(Rigid.from_simpleitk(transform))


def _method(
    shares: tuple[float, ...], shrink: tuple[int, ...], smoothing: tuple[float, ...], step: float, mask: Any
) -> Any:
    import SimpleITK as sitk

    method = in_one_order()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(list(shares), SEED)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel(list(smoothing))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.01, 150, 0.7, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    return method
