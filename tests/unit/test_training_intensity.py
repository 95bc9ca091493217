"""Intensity standardisation depends on the head, not on how it was stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ai_engine.phantom import Lesion, Tissue, synthesise_head
from ai_engine.runners.intensity import head_level, is_skull_stripped, standardise_flair
from ai_engine.training.cases import find_cases, read_pair

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def head() -> npt.NDArray[np.float32]:
    phantom = synthesise_head(9, shape=(14, 128, 128), spacing_mm=(10, 1.8, 1.8), lesion=Lesion())
    return phantom.render("flair") * np.float32(300)


def test_air_is_zero_and_tissue_is_one(head: npt.NDArray[np.float32]) -> None:
    result = standardise_flair(head)
    assert result.dtype == np.float32
    assert result.min() >= 0.0
    assert result.max() <= 3.0
    assert np.median(result[result > 0.4]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("factor", "offset"), [(0.01, 0.0), (37.0, 0.0), (1.0, -1024.0), (3.0, 500.0)])
def test_scale_and_offset_do_not_matter(head: npt.NDArray[np.float32], factor: float, offset: float) -> None:
    changed = (head * np.float32(factor) + np.float32(offset)).astype(np.float32)
    assert np.abs(standardise_flair(changed) - standardise_flair(head)).max() < 0.01


def test_the_share_of_air_hardly_matters(head: npt.NDArray[np.float32]) -> None:
    wide = np.pad(head, ((0, 0), (100, 100), (100, 100)))
    inner = standardise_flair(wide)[:, 100:-100, 100:-100]
    assert np.abs(inner - standardise_flair(head)).max() < 0.05


def test_the_order_of_slices_does_not_matter(head: npt.NDArray[np.float32]) -> None:
    assert np.array_equal(standardise_flair(np.ascontiguousarray(head[::-1])), standardise_flair(head)[::-1])


def test_values_that_are_not_finite_count_as_air(head: npt.NDArray[np.float32]) -> None:
    broken = head.copy()
    broken[0, :2] = np.nan
    result = standardise_flair(broken)
    assert np.isfinite(result).all()
    assert (result[0, :2] == 0).all()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_volume_without_contrast_becomes_zero(value: float) -> None:
    assert not standardise_flair(np.full((3, 8, 8), value, dtype=np.float32)).any()


def test_the_level_is_found_in_a_skull_stripped_head(head: npt.NDArray[np.float32]) -> None:
    stripped = np.where(head > 60, head, 0)
    assert head_level(stripped.astype(np.float32))[1] == pytest.approx(head_level(head)[1], rel=0.1)


def test_a_native_head_and_a_cut_out_brain_are_told_apart() -> None:
    phantom = synthesise_head(9, shape=(14, 128, 128), spacing_mm=(10, 1.8, 1.8))
    native = phantom.render("flair")
    labels = phantom.labels()
    brain = np.isin(labels, (Tissue.GREY, Tissue.WHITE, Tissue.CSF))
    stripped = np.where(brain, native, 0).astype(np.float32)
    assert not is_skull_stripped(native, phantom.affine.spacing_mm)
    assert is_skull_stripped(stripped, phantom.affine.spacing_mm)


@pytest.mark.realdata
def test_skull_stripping_is_seen_in_real_heads(data_dir: Path) -> None:
    chosen = {"TCGA_CS_6188_20010812", "TCGA_FG_A4MU_20030903", "Brats18_TCIA02_135_1", "Brats18_TCIA01_378_1"}
    for case in find_cases(data_dir / "brain"):
        if case.name in chosen:
            pair = read_pair(case)
            assert is_skull_stripped(pair.image, pair.spacing_mm) == (case.source == "brats"), case.name
