"""The synthetic head: repeatable, the same on every grid, with a lesion of known volume."""

from __future__ import annotations

import numpy as np
import pytest

from ai_engine.geometry import Affine
from ai_engine.phantom import Lesion, Tissue, axial_grid, draw_lesion, synthesise_head

pytestmark = pytest.mark.unit


def test_the_same_seed_gives_the_same_head() -> None:
    first = synthesise_head(5, shape=(6, 48, 48), spacing_mm=(20, 5, 5), lesion=draw_lesion(5))
    again = synthesise_head(5, shape=(6, 48, 48), spacing_mm=(20, 5, 5), lesion=draw_lesion(5))
    other = synthesise_head(6, shape=(6, 48, 48), spacing_mm=(20, 5, 5), lesion=draw_lesion(5))
    assert np.array_equal(first.render("flair"), again.render("flair"))
    assert not np.array_equal(first.render("flair"), other.render("flair"))


def test_a_smooth_lesion_has_the_volume_of_its_ellipsoid() -> None:
    lesion = Lesion(radii_mm=(15.0, 18.0, 12.0), roughness=0.0)
    head = synthesise_head(1, lesion=lesion)
    assert head.true_volume_mm3 == pytest.approx(4 / 3 * np.pi * 15 * 18 * 12, rel=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_truth_mask_has_the_true_volume(seed: int) -> None:
    head = synthesise_head(seed, lesion=Lesion(roughness=0.2))
    grid = axial_grid((40, 50, 50), (1.5, 1.5, 1.5), (32.0, 5.0, 28.0))
    counted = head.truth(grid, (40, 50, 50)).sum() * 1.5**3
    assert counted == pytest.approx(head.true_volume_mm3, rel=0.02)


def test_an_oblique_grid_holds_the_same_lesion() -> None:
    head = synthesise_head(4, lesion=Lesion(roughness=0.1))
    straight = axial_grid((40, 50, 50), (1.5, 1.5, 1.5), (32.0, 5.0, 28.0))
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = straight.matrix.copy()
    middle = matrix @ np.array([19.5, 24.5, 24.5, 1])
    matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = middle[:3] - matrix[:3, :3] @ np.array([19.5, 24.5, 24.5])
    shape = (40, 50, 50)
    assert head.truth(Affine(matrix), shape).sum() == pytest.approx(int(head.truth(straight, shape).sum()), rel=0.02)


def test_without_a_lesion_there_is_none() -> None:
    head = synthesise_head(3, shape=(8, 64, 64), spacing_mm=(15, 4, 4))
    assert head.true_volume_mm3 == 0.0
    assert not head.truth().any()


def test_anatomy_is_in_the_right_place() -> None:
    head = synthesise_head(0)
    scale = np.asarray(head._size)
    places = {
        (0, 300, 0): Tissue.AIR,
        (9, -4, 17): Tissue.CSF,
        (30, -74, -33): Tissue.EYE,
        (25, 10, 40): None,
    }
    for place, tissue in places.items():
        found = int(head.tissues([np.asarray(place) * scale])[0])
        assert found == tissue if tissue is not None else found in (Tissue.WHITE, Tissue.GREY, Tissue.CSF)


def test_contrasts_order_the_tissues_as_in_patients() -> None:
    head = synthesise_head(2, lesion=Lesion())
    labels = head.labels()
    pictures = {name: head.render(name, noise=0.0, bias=0.0) for name in ("t1", "t2", "flair")}

    def level(name: str, tissue: Tissue) -> float:
        return float(np.median(pictures[name][labels == tissue]))

    assert level("t1", Tissue.WHITE) > level("t1", Tissue.GREY) > level("t1", Tissue.CSF)
    assert level("t2", Tissue.CSF) > level("t2", Tissue.GREY) > level("t2", Tissue.WHITE)
    assert level("flair", Tissue.OEDEMA) > level("flair", Tissue.GREY) > level("flair", Tissue.CSF)
