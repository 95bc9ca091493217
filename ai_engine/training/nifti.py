"""NIfTI files of training data: read, and turned to axial LPS order without resampling."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from ai_engine.labelled_files import open_nifti


def read_axial(path: Path) -> tuple[npt.NDArray[np.float32], tuple[float, float, float]]:
    """One image, axes permuted and flipped so that slices go up, rows to the back and columns to the left.

    Returns
    -------
    array, spacing_mm
        (S, R, C) float32, and its spacing in the same order.

    Raises
    ------
    WrongInput
        If there is no such NIfTI file.
    """
    image = open_nifti(path)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    )
    image = image.as_reoriented(turn)
    x, y, z = (float(step) for step in image.header.get_zooms()[:3])
    return np.ascontiguousarray(image.get_fdata(dtype=np.float32).transpose(2, 1, 0)), (z, y, x)
