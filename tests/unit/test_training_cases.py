"""Cases and splits: nobody is on two sides, and tables say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from ai_engine.training.cases import Case, TrainingDataError, find_cases, read_pair, read_table, split_patients
from ai_engine.training.recipe import BRAIN_FLAIR

pytestmark = pytest.mark.unit


def _case(name: str, patient: str, source: str, site: str) -> Case:
    return Case(name, patient, source, site, Path("i"), Path("m"))


def _cases() -> list[Case]:
    cases = [_case(f"a{n}", f"p{n}", "a", "HT" if n < 22 else "DU") for n in range(40)]
    return cases + [_case(f"b{n}", f"p{n * 5}", "b", "-") for n in range(8)] + [_case("b9", "q", "b", "-")]


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_two_sides(seed: int) -> None:
    cases = _cases()
    split = split_patients(cases, test_share=0.2, validation_share=0.1, seed=seed)
    patient = {case.name: case.patient for case in cases}
    sides = [{patient[name] for name in side} for side in (split.train, split.validation, split.test)]
    assert sides[0].isdisjoint(sides[1]) and sides[0].isdisjoint(sides[2]) and sides[1].isdisjoint(sides[2])
    assert sorted(split.train + split.validation + split.test) == sorted(patient)


def test_patients_of_two_collections_are_never_tested_on() -> None:
    split = split_patients(_cases(), test_share=0.9, validation_share=0.1, seed=1)
    assert {f"b{n}" for n in range(8)} <= set(split.train)


def test_every_site_gives_its_share() -> None:
    split = split_patients(_cases(), test_share=0.2, validation_share=0.0, seed=3)
    sites = {case.name: case.site for case in _cases()}
    assert sum(sites[name] == "HT" for name in split.test) == 4
    assert sum(sites[name] == "DU" for name in split.test) == 4


@pytest.mark.realdata
def test_the_shipped_split_keeps_both_pairs_together(data_dir: Path) -> None:
    cases = find_cases(data_dir / "brain")
    recipe = BRAIN_FLAIR
    split = split_patients(
        cases, test_share=recipe.test_share, validation_share=recipe.validation_share, seed=recipe.split_seed
    )
    train = set(split.train)
    for first, second in (
        ("TCGA_DU_A5TR_19970726", "Brats18_TCIA10_628_1"),
        ("TCGA_DU_A5TW_19980228", "Brats18_TCIA10_639_1"),
    ):
        assert first in train and second in train
    assert sum(name.startswith("TCGA") for name in split.test) == 10
    assert sum(name.startswith("Br") for name in split.test) == 2


def test_a_pair_is_turned_to_axial_lps(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4), dtype=np.float32)
    array[5, 0, 3] = 9  # most to the right, most to the front, highest, in a file that counts R, A -> P, S
    affine = np.array([[1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "i.nii.gz")
    nibabel.save(nibabel.Nifti1Image((array > 0).astype(np.uint8), affine), tmp_path / "m.nii.gz")
    case = Case("c", "p", "own", "-", tmp_path / "i.nii.gz", tmp_path / "m.nii.gz")
    pair = read_pair(case)
    assert pair.image.shape == (4, 5, 6)
    assert pair.spacing_mm == (3.0, 2.0, 1.0)
    assert pair.image[3, 0, 0] == 9 and pair.mask[3, 0, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("case,image,mask\na,,m.nii.gz\n", "no value for image"),
        ("case,image,mask\na,i.nii.gz,m.nii.gz\n", "no file"),
        ("case,image,mask,spacing_mm\na,t.csv,t.csv,1;2\n", "spacing_mm must be"),
        ("case,image,mask\na,t.csv,t.csv\na,t.csv,t.csv\n", "named twice"),
    ],
)
def test_a_table_says_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TrainingDataError, match=expected):
        read_table(tmp_path / "t.csv")
