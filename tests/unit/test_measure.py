"""Measuring bodies of known size on straight, oblique and anisotropic grids, with the error that is expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ai_engine.geometry import Affine
from ai_engine.measure import component_count, diameter_3d_mm, mean_and_sd, plane_diameters, volume_ml

pytestmark = pytest.mark.unit

Mask = np.ndarray[Any, np.dtype[np.bool_]]
AXIAL = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=np.float64)


def _rotation(seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.linalg.det(q)))


GRIDS = {
    "isotropic": (AXIAL, (1.0, 1.0, 1.0)),
    "thick slices": (AXIAL, (5.0, 0.9, 0.9)),
    "not square": (AXIAL, (3.0, 0.7, 1.3)),
    "oblique": (_rotation(1), (1.0, 1.0, 1.0)),
    "oblique, thick": (_rotation(2), (4.0, 0.8, 1.1)),
}


def _grid(name: str, extent_mm: float = 90.0) -> tuple[tuple[int, int, int], Affine]:
    """A grid around the patient-space origin, not centred on it."""
    directions, spacing = GRIDS[name]
    shape = tuple(int(extent_mm / s) + 3 for s in spacing)
    start = -sum(directions[k] * spacing[k] * (shape[k] - 1) / 2 for k in range(3)) + np.array([0.31, -0.17, 0.23])
    return (shape[0], shape[1], shape[2]), Affine.from_axes(list(start), directions, spacing)


def _inside(name: str, body: Any) -> tuple[Mask, Affine]:
    shape, affine = _grid(name)
    points = affine.to_patient(np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1))
    return np.asarray(body(points)), affine


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("radius", [12.0, 30.0])
def test_sphere(name: str, radius: float) -> None:
    mask, affine = _inside(name, lambda p: (p**2).sum(axis=-1) <= radius**2)
    spacing = affine.spacing_mm
    found = plane_diameters(mask, affine)
    assert found is not None
    assert volume_ml(mask, affine) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.03)
    in_plane = max(spacing[1:])
    # the nearest slice may pass the centre at half a step: its circle is that much smaller
    cut = 2 * radius - 2 * np.sqrt(radius**2 - (spacing[0] / 2) ** 2)
    for value in (found.long_mm, found.short_mm):
        assert 2 * radius - cut - in_plane <= value <= 2 * radius + in_plane
    assert found.short_mm <= found.long_mm + 1e-9
    assert diameter_3d_mm(mask, affine) == pytest.approx(2 * radius, abs=max(spacing))


@pytest.mark.parametrize("name", ["isotropic", "thick slices", "not square"])
def test_ellipsoid_in_line_with_the_slices(name: str) -> None:
    """Half axes 33, 20, 14 mm; the long one turned by 30 degrees inside the slice plane."""
    turn = np.radians(30)
    long_axis, short_axis = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    mask, affine = _inside(
        name, lambda p: (p @ long_axis / 33) ** 2 + (p @ short_axis / 20) ** 2 + (p[..., 2] / 14) ** 2 <= 1
    )
    spacing = affine.spacing_mm
    found = plane_diameters(mask, affine)
    assert found is not None
    shrink = np.sqrt(1 - (spacing[0] / 2 / 14) ** 2)
    pixel = max(spacing[1:])
    assert 66 * shrink - pixel <= found.long_mm <= 66 + pixel
    assert 40 * shrink - 1.5 * pixel <= found.short_mm <= 40 + 1.5 * pixel
    assert volume_ml(mask, affine) == pytest.approx(4 / 3 * np.pi * 33 * 20 * 14 / 1000, rel=0.02)
    assert diameter_3d_mm(mask, affine) == pytest.approx(66, abs=max(spacing))
    ends = np.array(found.long_ends_mm)
    direction = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    assert abs(direction @ long_axis) > np.cos(np.radians(4)), "the long axis lies where the body's does, in LPS"
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(found.long_mm)


@pytest.mark.parametrize("name", GRIDS)
def test_ellipsoid_in_any_direction_keeps_its_3d_size(name: str) -> None:
    frame = _rotation(7)
    mask, affine = _inside(name, lambda p: ((p @ frame.T / np.array([36.0, 18.0, 12.0])) ** 2).sum(axis=-1) <= 1)
    assert diameter_3d_mm(mask, affine) == pytest.approx(72, abs=max(affine.spacing_mm))
    assert volume_ml(mask, affine) == pytest.approx(4 / 3 * np.pi * 36 * 18 * 12 / 1000, rel=0.02)


def test_the_error_of_diameters_is_the_one_stated() -> None:
    """Over many discs: long by 0.8 pixel on average, never short and never by more than 1.2."""
    affine = Affine.from_axes([0, 0, 0], AXIAL, [1.0, 1.0, 1.0])
    rows, columns = np.mgrid[:60, :60].astype(np.float64)
    random = np.random.default_rng(5)
    errors = []
    for _ in range(60):
        row, column, radius = random.uniform(28, 32), random.uniform(28, 32), random.uniform(5, 25)
        disc = ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)[None]
        found = plane_diameters(disc, affine)
        assert found is not None
        errors.append(found.long_mm - 2 * radius)
    assert 0.6 < np.mean(errors) < 0.95
    assert min(errors) > 0
    assert max(errors) < 1.2


def test_one_voxel_is_one_voxel_long() -> None:
    affine = Affine.from_axes([0, 0, 0], AXIAL, [5.0, 0.8, 1.2])
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 2, 3] = True
    found = plane_diameters(mask, affine)
    assert found is not None
    assert (found.long_mm, found.short_mm, found.slice_index) == (pytest.approx(1.2), pytest.approx(0.8), 1)
    assert diameter_3d_mm(mask, affine) == pytest.approx(5.0)
    assert volume_ml(mask, affine) == pytest.approx(5.0 * 0.8 * 1.2 / 1000)


def test_an_empty_mask_has_no_size() -> None:
    affine = Affine.from_axes([0, 0, 0], AXIAL, [1.0, 1.0, 1.0])
    empty = np.zeros((3, 4, 5), dtype=bool)
    assert plane_diameters(empty, affine) is None
    assert diameter_3d_mm(empty, affine) == 0
    assert volume_ml(empty, affine) == 0
    assert component_count(empty) == 0
    assert mean_and_sd(empty, np.zeros((3, 4, 5), dtype=np.float32)) is None


def test_the_long_axis_belongs_to_one_island() -> None:
    """Two islands far apart in one slice are two lesions; the 3D diameter spans both."""
    affine = Affine.from_axes([0, 0, 0], AXIAL, [1.0, 1.0, 1.0])
    mask = np.zeros((1, 50, 50), dtype=bool)
    mask[0, 2:8, 2:6] = mask[0, 40:44, 40:44] = True
    found = plane_diameters(mask, affine)
    assert found is not None
    assert 6 <= found.long_mm <= 8
    assert diameter_3d_mm(mask, affine) > 50


def test_a_sheared_grid_is_measured_in_millimetres() -> None:
    """A volume is the determinant, not the product of spacings."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0.0, 0.0, 1.0], [0.3, 1.0, 0.0], [2.0, 0.0, 0.0]])
    assert volume_ml(np.ones((1, 1, 1), dtype=bool), Affine(matrix)) == pytest.approx(0.002)


def test_corners_touching_are_one_component() -> None:
    mask = np.zeros((2, 2, 2), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert component_count(mask) == 1


def test_padding_is_no_part_of_the_statistics() -> None:
    values = np.array([[[1.0, 3.0, 99.0]]], dtype=np.float32)
    valid = np.array([[[True, True, False]]])
    assert mean_and_sd(np.ones((1, 1, 3), dtype=bool), values, valid) == (2.0, 1.0)
    assert mean_and_sd(~valid, values, valid) is None
