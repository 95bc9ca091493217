"""Preparation of studies on real heads: known motions, registrations made to fail, and a brain whose outline is known.

The whole tables are made by ``python -m ai_engine.preparation.measure``; here a few rows of each are held.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_engine.packages import StudyPreparation
from ai_engine.prediction import InputVolume
from ai_engine.preparation.extraction import extract_brain
from ai_engine.preparation.known import acquired, known_motion, read_head, target_error_mm
from ai_engine.preparation.measure import JUDGED
from ai_engine.preparation.registration import Sequence, register
from ai_engine.preparation.rigid import Grid, Rigid, carry
from ai_engine.preparation.study import prepare_study
from ai_engine.preparation.truth import brain_in_head
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.realdata

CASE, OTHER = "Brats18_TCIA03_265_1", "Brats18_2013_11_1"
RULE = StudyPreparation(native="extract")


@pytest.fixture(scope="module")
def brats(data_dir: Path) -> Path:
    return data_dir / "brain" / "brats"


def head(brats: Path, case: str, sequence: str):
    return read_head(brats / case / f"{case}_{sequence}.nii.bz2")


@pytest.fixture(scope="module")
def t1c(brats: Path) -> Sequence:
    read = head(brats, CASE, "t1ce")
    return Sequence.of(read.array, read.affine)


def test_a_known_motion_is_found_again_and_the_same_each_time(brats: Path, t1c: Sequence):
    targets = t1c.affine.to_patient(np.argwhere(t1c.array > 0)[::997])
    true = known_motion(np.random.default_rng(5), targets.mean(axis=0), share=1.0)
    moving = acquired(head(brats, CASE, "flair"), true)
    assert moving.affine.spacing_mm[0] == 5.0
    sequence = Sequence.of(moving.array, moving.affine)
    found = register(t1c, sequence)
    median, worst = target_error_mm(found.motion, true, targets)
    assert median <= 1.0
    assert worst <= 2.0
    assert found.quality.is_good, found.quality.words()
    again = register(t1c, sequence)
    np.testing.assert_array_equal(again.motion.matrix, found.motion.matrix)


def test_another_persons_head_is_refused(brats: Path, t1c: Sequence):
    stranger = acquired(head(brats, OTHER, "flair"), Rigid.identity())
    found = register(t1c, Sequence.of(stranger.array, stranger.affine))
    with pytest.raises(Refused) as refused:
        found.quality.require("flair", "t1c")
    assert refused.value.refusal.code is RefusalCode.REGISTRATION_FAILED


def test_a_prepared_study_passes_unchanged_and_a_displaced_one_is_not_taken_for_it(brats: Path):
    one, two = head(brats, CASE, "t1ce"), head(brats, CASE, "flair")
    inputs = {"t1c": InputVolume(one.array, one.affine), "flair": InputVolume(two.array, two.affine)}
    study = prepare_study(inputs, RULE, "t1c")
    assert study.is_unchanged
    assert study.volumes["flair"].array is two.array
    shift = Rigid.about((0, 0, 0), (0, 0, 0), (0, 2, 2))
    moved = carry(two.array, two.affine, Grid.of(two.array, two.affine), shift)
    displaced = prepare_study({**inputs, "flair": InputVolume(moved, two.affine)}, RULE, "t1c")
    assert not displaced.is_unchanged
    inside = one.array > 0
    aligned = carry(displaced.volumes["flair"].array, displaced.volumes["flair"].affine, Grid.of(two.array, two.affine))
    assert np.corrcoef(aligned[inside], two.array[inside])[0, 1] > np.corrcoef(moved[inside], two.array[inside])[0, 1]
    assert np.corrcoef(aligned[inside], two.array[inside])[0, 1] > 0.95


@pytest.mark.parametrize(("native", "stripped"), JUDGED)
def test_the_brain_of_a_person_whose_brain_is_known(data_dir: Path, brats: Path, native: str, stripped: str):
    path = data_dir / "brain" / "lgg-flair" / f"{native}_flair.nii.bz2"
    whole, truth = brain_in_head(read_head(path, (5.0, 0.95, 0.95)), head(brats, stripped, "flair"))
    found = extract_brain(whole.array, whole.affine)
    dice = 2 * np.count_nonzero(found.mask & truth) / (np.count_nonzero(found.mask) + np.count_nonzero(truth))
    assert dice >= 0.93
    assert found.quality.is_good, found.quality.words()


def test_an_upside_down_head_has_no_brain_for_us(brats: Path, data_dir: Path):
    read = read_head(data_dir / "brain" / "lgg-flair" / f"{JUDGED[1][0]}_flair.nii.bz2", (6.0, 0.9, 0.9))
    found = extract_brain(np.ascontiguousarray(read.array[::-1]), read.affine)
    with pytest.raises(Refused) as refused:
        found.quality.require()
    assert refused.value.refusal.code is RefusalCode.BRAIN_NOT_FOUND
