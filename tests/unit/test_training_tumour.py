"""brain-tumour's training: who is kept apart, what labels mean, what a patch is, and that a stop changes nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from ai_engine.packages.schema import parse_description
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.tumour import BRAIN_TUMOUR, CONFIGURATION, TumourTraining, tumour_plans
from ai_engine.training.tumour_augment import TumourAugmentation, Volume, cut, training_patch
from ai_engine.training.tumour_cases import (
    CORE,
    ENHANCING,
    OEDEMA,
    OUTSIDE,
    PARTLESS,
    Study,
    fold_of,
    read_study,
    rough_brain,
    tumour_cases,
)
from ai_engine.training.tumour_folds import _lengthened_words
from ai_engine.training.tumour_package import tumour_model_tree
from ai_engine.training.tumour_trainer import Stage, TumourLoss, TumourRun, rate_at

pytestmark = pytest.mark.unit

STILL = TumourAugmentation(
    shift=0, mirror=(0, 0, 0), turn_deg=(0, 0, 0), scale_log=0, stretch_log=0, warp=0, transplant=0, region=0,
    contrast=0, bias=0, noise=0, low_resolution=0, drop_flair=0,
)  # fmt: skip
PATIENTS = (
    ("Brats18_A", "HGG", "NA", "1 2 4 (BraTS 2018)", 4),
    ("Brats18_B", "LGG", "TCGA-DU-TWIN", "1 2 4 (BraTS 2018)", 4),
    ("BraTS-GLI-C", "not stated", "NA", "1 2 3 (BraTS 2023)", 3),
    ("Brats18_D", "LGG", "NA", "1 2 4 (BraTS 2018)", 4),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "brain"
    random = np.random.default_rng(0)
    rows = []
    for name, grade, tcga, convention, enhancing in PATIENTS:
        folder = root / "brats" / name
        folder.mkdir(parents=True)
        labels = np.zeros((40, 40, 40), dtype=np.uint8)
        labels[10:20, 10:20, 10:20], labels[12:18, 12:18, 12:18], labels[14:16, 14:16, 14:16] = 2, enhancing, 1
        for suffix in ("t1ce", "flair"):
            _write(folder / f"{name}_{suffix}.nii.bz2", random.normal(100, 10, labels.shape).astype(np.float32))
        _write(folder / f"{name}_seg.nii.gz", labels)
        rows.append({"case": name, "grade": grade, "tcga_patient": tcga, "label_convention": convention})
    _table(root / "brats" / "cases.csv", rows)
    lgg = root / "lgg-flair"
    lgg.mkdir()
    names = ("TCGA_DU_TWIN_19990101", "TCGA_HT_OTHER_19990101")
    for name in names:
        picture = np.zeros((60, 60, 12), dtype=np.uint8)
        picture[10:50, 10:50] = 120
        mask = np.zeros_like(picture)
        mask[20:30, 20:30, 4:8] = 1
        _write(lgg / f"{name}_flair.nii.bz2", picture)
        _write(lgg / f"{name}_mask.nii.gz", mask)
    _table(lgg / "cases.csv", [{"case": name, "institution": "X"} for name in names])
    return root


def _write(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _volume(seed: int = 0, *, has_t1c: bool = True, side: int = 40) -> Volume:
    random = np.random.default_rng(seed)
    channels = random.normal(0, 1, (2, side, side, side)).astype(np.float32)
    labels = np.zeros((side, side, side), dtype=np.int8)
    labels[12:24, 12:24, 12:24] = OEDEMA if has_t1c else PARTLESS
    if has_t1c:
        labels[14:22, 14:22, 14:22], labels[16:20, 16:20, 16:20] = ENHANCING, CORE
    labels[:4] = OUTSIDE
    channels[:, :4] = 0
    return Volume(f"v{seed}", Study(channels, labels, (1.0, 1.0, 1.0)), has_t1c)


def test_labels_are_mapped_by_what_the_year_calls_them(data: Path) -> None:
    by_name = {case.name: read_study(case) for case in tumour_cases(data) if case.source == "brats"}
    for study in by_name.values():
        values, counts = np.unique(study.labels, return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True))[ENHANCING] == 6**3 - 2**3
        assert study.channels.shape == (2, 40, 40, 40)


def test_a_value_that_the_convention_does_not_know_is_refused(data: Path) -> None:
    case = next(case for case in tumour_cases(data) if case.name == "BraTS-GLI-C")
    with pytest.raises(TrainingDataError, match="label 3"):
        read_study(replace(case, convention="1 2 4 (BraTS 2018)"))


def test_a_person_of_both_collections_is_learnt_from_in_one_only(data: Path) -> None:
    cases = tumour_cases(data)
    assert [case.name for case in cases if case.source == "lgg-flair"] == ["TCGA_HT_OTHER_19990101"]
    assert sum(case.patient == "TCGA-DU-TWIN" for case in cases) == 1


def test_folds_are_a_rule_that_spreads_the_grades(data: Path) -> None:
    folds = fold_of(tumour_cases(data))
    assert folds == fold_of(list(reversed(tumour_cases(data))))
    assert folds["Brats18_B"] != folds["Brats18_D"]


def test_an_unchanged_patch_is_the_volume_itself() -> None:
    volume = _volume()
    volume.parts = {1: np.array([[20, 20, 20]], dtype=np.int16)}
    image, labels = cut(volume, (16, 20, 24), STILL, np.random.default_rng(0), on_object=True)
    # the place is at the middle between two voxels, so neighbours are averaged; labels take the nearer one
    assert image.shape == (1, 2, 16, 20, 24)
    block = volume.image[0, :, 12:28, 10:30, 8:32]
    before = volume.image[0, :, 11:27, 9:29, 7:31]
    assert float((image[0] - (block + before) / 2).abs().mean()) < float(block.std())
    assert set(labels.unique().tolist()) <= {-1.0, 0.0, 1.0, 2.0, 3.0}


def test_what_lies_beyond_the_volume_is_outside() -> None:
    volume = _volume()
    volume.brain = np.array([[39, 39, 39]], dtype=np.int16)
    _, labels = cut(volume, (16, 16, 16), STILL, np.random.default_rng(0), on_object=False)
    assert (labels[0, 0, -4:] == OUTSIDE).all()


def test_channels_are_left_out_as_the_contract_says() -> None:
    groups = {"brats": [_volume()], "lgg-flair": [_volume(1, has_t1c=False)]}
    random = np.random.default_rng(0)
    image, labels, partless = training_patch(groups, {"lgg-flair": 1.0}, (16, 16, 16), STILL, random)
    assert partless
    assert not image[:, 0].any()
    assert set(labels.unique().tolist()) <= {0, PARTLESS}
    without = replace(STILL, drop_flair=1.0)
    image, labels, partless = training_patch(groups, {"brats": 1.0}, (16, 16, 16), without, random)
    assert not partless
    assert not image[:, 1].any()
    assert image[:, 0].any()
    assert int(labels.max()) <= ENHANCING


def test_an_outline_without_parts_judges_only_the_sum_of_the_parts() -> None:
    loss = TumourLoss()
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    labels[:, 2:6, 2:6, 2:6] = PARTLESS
    logits = torch.randn(1, 4, 8, 8, 8)
    swapped = logits[:, [0, 3, 1, 2]]
    assert torch.allclose(loss._one(logits, labels, True, 1e-5), loss._one(swapped, labels, True, 1e-5), atol=1e-6)
    parts = labels.clamp(max=CORE)
    assert not torch.allclose(loss._one(logits, parts, False, 1e-5), loss._one(swapped, parts, False, 1e-5), atol=1e-3)
    right = torch.nn.functional.one_hot((labels > 0).long(), 4).permute(0, 4, 1, 2, 3).float() * 20
    assert float(loss._one(right, labels, True, 1e-5)) < -0.95


def test_false_voxels_in_a_patch_without_tumour_count() -> None:
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    wrong = torch.zeros(1, 4, 8, 8, 8)
    wrong[:, 3, :4] = 9.0
    right = torch.zeros(1, 4, 8, 8, 8)
    right[:, 0] = 9.0
    loss = TumourLoss()
    assert float(loss._one(right, labels, False, 5.0)) < -0.7
    assert float(loss._one(wrong, labels, False, 5.0)) > -0.4


def test_the_rate_warms_up_stays_and_falls() -> None:
    stage = Stage(shares={}, learning_rate=1.0, patch=(8, 8, 8), warm_up=10, plateau=0.5)
    assert rate_at(0.0, 0, stage) == pytest.approx(0.1)
    assert rate_at(0.4, 100, stage) == pytest.approx(1.0)
    assert rate_at(1.0, 100, stage) == pytest.approx(0.01)


def test_a_resumed_run_goes_on_from_the_same_place(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # as a training does
    plans = tumour_plans(BRAIN_TUMOUR)
    groups = {"brats": [_volume(0), _volume(1)]}
    stage = Stage(shares={"brats": 1.0}, learning_rate=1e-3, patch=(32, 32, 32), warm_up=1)
    whole = TumourRun("x", plans, CONFIGURATION, groups, 5)
    whole.steps(1, 0.0, stage)
    whole.save(tmp_path / "x.pt")
    again = TumourRun("x", plans, CONFIGURATION, groups, 6)
    assert again.resume(tmp_path / "x.pt")
    assert again.iteration == whole.iteration == 1
    assert again.random.bit_generator.state == whole.random.bit_generator.state
    assert all(torch.equal(value, again.ema[key]) for key, value in whole.ema.items())
    kept, had = again.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"]
    assert all(torch.equal(kept[at][key], had[at][key]) for at in had for key in had[at])
    # the same patch by the same network; weights after it differ in what bf16 makes of where arrays lie in memory
    assert again.steps(1, 0.5, stage) == pytest.approx(whole.steps(1, 0.5, stage), rel=1e-4)


def test_no_network_learns_from_those_it_is_tested_on(data: Path, tmp_path: Path) -> None:
    recipe = replace(BRAIN_TUMOUR, phantoms=0)
    training = TumourTraining(recipe, data, tmp_path / "work", say=lambda line: None)
    for fold in range(3):
        seen = {volume.name for volume in training._side_of(str(fold))["brats"]}
        tested = {name for name, own in training.folds.items() if own == fold}
        assert tested
        assert not seen & tested
        assert seen | tested == set(training.folds)
    assert len(training._side_of("all")["brats"]) == len(PATIENTS)
    assert "brats" not in recipe.start.shares


def test_the_rough_brain_leaves_the_scalp_behind() -> None:
    grid = np.indices((20, 120, 120))
    radius = np.hypot(grid[1] - 60, grid[2] - 60)
    head = np.where(radius < 36, 100.0, 0.0) + np.where((radius > 44) & (radius < 52), 180.0, 0.0)
    found = rough_brain(head.astype(np.float32))
    assert found[10][radius[10] < 34].all()
    assert not found[10][radius[10] > 43].any()


def test_the_description_is_one_the_engine_accepts() -> None:
    tree = tumour_model_tree(BRAIN_TUMOUR, "1.0.0", self_test_voxels={1: 5, 2: 6, 3: 7})
    description = parse_description(yaml.safe_dump(tree, sort_keys=False).encode())
    assert description.accepted_roles == (("t1c", "flair"), ("t1c",))
    assert {entry.skull for entry in description.inputs} == {"stripped"}
    assert [entry.abbreviation for entry in description.composites] == ["WT", "TC"]


def test_the_card_says_that_a_clock_was_lengthened():
    steps = [{"stage": "near", "progress": 0.9}, *({"stage": "wide", "progress": share} for share in (0.1, 0.6, 1.0))]
    assert _lengthened_words({"history": steps}) == ""
    assert "1 time(s)" in _lengthened_words({"history": [*steps, {"stage": "wide", "progress": 0.13}]})
