"""The true brain of a head: the same person's skull-stripped brain, laid on the head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ai_engine.geometry import Affine
from ai_engine.preparation.known import Head
from ai_engine.preparation.rigid import Grid, Rigid, as_image, carry, in_one_order


def brain_in_head(head: Head, brain: Head) -> tuple[Head, npt.NDArray[np.bool_]]:
    """Carry the outline of a brain over to the head it was cut out of.

    Affine, by mutual information inside the brain and 2 mm around it, because the head's spacing is not known; the
    stretch found is the spacing that the head really has.

    Parameters
    ----------
    head
        With its declared spacing.
    brain
        The same person's, zero outside.

    Returns
    -------
    The head with its true spacing, and (S, R, C) bool on its grid.
    """
    import SimpleITK as sitk
    from scipy import ndimage

    inside = (brain.array > 0).astype(np.uint8)
    near = ndimage.binary_dilation(inside, iterations=2).astype(np.uint8)
    fixed, moving = as_image(brain.array, brain.affine), as_image(head.array, head.affine)
    own, other = (Grid.of(volume.array, volume.affine).centre_mm for volume in (brain, head))
    transform = sitk.AffineTransform(3)
    transform.SetCenter(own.tolist())
    transform.SetTranslation((other - own).tolist())
    method = in_one_order()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([1.0, 0.3], 3)
    method.SetMetricFixedMask(as_image(near, brain.affine))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.005, 200, 0.7, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    found = Rigid.from_simpleitk(transform)
    mask = carry(inside.astype(np.float32), brain.affine, Grid.of(head.array, head.affine), found.inverse()) >= 0.5
    # how long one declared millimetre along each axis of the head is in the brain's true ones
    true = np.linalg.norm(found.inverse().matrix[:3, :3] @ head.affine.matrix[:3, :3], axis=0)
    affine = Affine.from_axes(head.affine.origin_mm, head.affine.directions, [float(step) for step in true])
    return Head(head.array, affine), np.asarray(mask)
