"""Agreement measures against numbers worked out by hand, label values by name, datasets of three kinds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ai_engine.evaluation.agreement import agreement
from ai_engine.evaluation.datasets import (
    BRATS_NAMES,
    DatasetError,
    concept,
    open_dataset,
    read_image,
    read_label,
    values_of,
)
from ai_engine.evaluation.page import card_section, page, put_into_card
from ai_engine.evaluation.study import evaluate_dataset, has_collapsed
from ai_engine.packages import load_package
from tests.fixtures_packages import make_tiny_package

pytestmark = pytest.mark.unit

SPACING = (2.0, 1.0, 1.0)


def box(*bounds: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((12, 24, 24), bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def test_two_shifted_boxes_have_the_overlap_and_distance_of_arithmetic() -> None:
    truth = box((2, 6), (4, 14), (4, 14))  # 4 x 10 x 10
    found = box((2, 6), (4, 14), (7, 17))  # three columns on: 3 mm
    result = agreement(found, truth, SPACING, 2.0)
    assert result.dice == pytest.approx(0.7)
    assert result.iou == pytest.approx(280 / 520)
    assert result.sensitivity == pytest.approx(0.7)
    assert result.specificity == pytest.approx(1 - 120 / (truth.size - 400))
    assert result.hd95_mm == pytest.approx(3.0)
    assert result.volume_error_percent == 0.0
    assert result.truth_ml == pytest.approx(0.8)


def test_a_surface_within_the_tolerance_counts_as_right() -> None:
    truth, found = box((2, 6), (4, 14), (4, 14)), box((2, 6), (4, 14), (5, 15))
    assert agreement(found, truth, SPACING, 1.0).surface_dice == 1.0
    assert agreement(found, truth, SPACING, 0.5).surface_dice < 0.9


def test_distances_are_in_millimetres_along_slices_too() -> None:
    truth, found = box((2, 6), (4, 14), (4, 14)), box((2, 8), (4, 14), (4, 14))
    assert agreement(found, truth, SPACING, 1.0).hd95_mm == pytest.approx(4.0)  # two slices of 2 mm


def test_empty_masks_say_what_they_are() -> None:
    nothing, something = box((0, 0), (0, 0), (0, 0)), box((2, 6), (4, 14), (4, 14))
    both = agreement(nothing, nothing, SPACING, 1.0)
    assert (both.dice, both.both_empty, both.hd95_mm, both.sensitivity) == (1.0, True, None, None)
    missed = agreement(nothing, something, SPACING, 1.0)
    assert (missed.dice, missed.sensitivity, missed.hd95_mm, missed.surface_dice) == (0.0, 0.0, None, 0.0)


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("Gd-enhancing tumor", "enhancing tumor"),
        ("ET", "enhancing tumor"),
        ("peritumoral edema", "edema"),
        ("Oedema", "edema"),
        ("NCR/NET", "necrotic core"),
        ("Whole tumour", "whole tumor"),
        ("liver", "liver"),
    ],
)
def test_names_of_the_field_mean_what_they_mean(spelling: str, meaning: str) -> None:
    assert concept(spelling) == meaning


def test_four_and_three_are_both_enhancing(tmp_path: Path) -> None:
    labels = [
        {"label": 1, "key": "necrotic_core", "name": "Necrotic core", "abbreviation": "NCR"},
        {"label": 2, "key": "oedema", "name": "Oedema", "abbreviation": "ED"},
        {"label": 3, "key": "enhancing_tumour", "name": "Enhancing tumour", "abbreviation": "ET"},
    ]
    package = load_package(make_tiny_package(tmp_path, description={"labels": [_with_codes(one) for one in labels]}))
    by_key = {entry.key: entry for entry in package.description.labels}
    assert values_of(by_key["enhancing_tumour"], package.description, BRATS_NAMES) == {3, 4}
    assert values_of(by_key["oedema"], package.description, {7: "edema"}) == {7}
    assert values_of(by_key["oedema"], package.description, {1: "liver"}) is None


def test_the_whole_is_everything_that_is_labelled(tmp_path: Path) -> None:
    package = load_package(make_tiny_package(tmp_path, description={"labels": [_with_codes(_WHOLE)]}))
    assert values_of(package.description.labels[0], package.description, BRATS_NAMES) == {1, 2, 3, 4}


def test_a_dataset_of_each_kind_is_read_and_judged(tmp_path: Path) -> None:
    package = load_package(make_tiny_package(tmp_path / "models", description={"labels": [_with_codes(_WHOLE)]}))
    image, label = _write_case(tmp_path)
    (tmp_path / "brats" / "case-1").mkdir(parents=True)
    image.copy_to(tmp_path / "brats" / "case-1" / "case-1-t2f.nii.gz")
    label.copy_to(tmp_path / "brats" / "case-1" / "case-1-seg.nii.gz")
    raw = tmp_path / "nnunet"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    image.copy_to(raw / "imagesTr" / "case-1_0000.nii.gz")
    label.copy_to(raw / "labelsTr" / "case-1.nii.gz")
    told = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    table = tmp_path / "cases.csv"
    table.write_text(f"case,role,path,label\ncase-1,flair,{image.path},{label.path}\n", encoding="utf-8")

    from ai_engine.engine import Engine
    from ai_engine.prediction import EngineSettings

    engine = Engine(package, EngineSettings(device="cpu", precision="f32", threads=1))
    results = []
    for path, names in ((tmp_path / "brats", None), (raw, None), (table, {1: "lesion"})):
        study = evaluate_dataset(engine, open_dataset(path, names), lambda _: None, pictures=tmp_path / "pictures")
        results.append(study.cases[0].regions["whole_tumour"].dice)
        section = card_section(study)
        assert put_into_card(put_into_card("# Card\n", section), section).count("evaluation: begin") == 1
        assert "data:image/png" in page(study)
    assert results[0] == results[1] == results[2] > 0.8


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    image, _ = _write_case(tmp_path)
    volume = read_image(image.path)
    small = tmp_path / "small.nii.gz"
    _save(np.zeros((4, 4, 4), np.uint8), small)
    with pytest.raises(DatasetError, match="shape"):
        read_label(small, volume, {1: "lesion"})
    assert read_label(tmp_path / "label.nii.gz", volume, {1: "lesion"}).any()
    mirrored = nibabel.load(tmp_path / "label.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(mirrored.dataobj), np.diag([1.0, -1.0, 5.0, 1.0])), tmp_path / "m.nii.gz"
    )
    with pytest.raises(DatasetError, match="another place"):
        read_label(tmp_path / "m.nii.gz", volume, {1: "lesion"})
    other = tmp_path / "other.nii.gz"
    _save(np.full((40, 40, 10), 9, np.uint8), other)
    with pytest.raises(DatasetError, match="have no name"):
        read_label(other, volume, {1: "lesion"})
    table = tmp_path / "cases.csv"
    table.write_text("case,role,path,label\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="--labels"):
        open_dataset(table)
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    told = {"channel_names": {"0": "FLAIR"}, "labels": regions, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(DatasetError, match="--labels"):
        open_dataset(tmp_path)
    unknown = tmp_path / "unknown.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), unknown)
    with pytest.raises(DatasetError, match="units"):
        read_image(unknown)


def test_a_collapse_is_told_from_a_fair_share() -> None:
    assert has_collapsed({"a": (1.0, 0.3), "b": (0.0, 0.7)})
    assert has_collapsed({"a": (0.0, 0.3), "b": (0.0, 0.7)})
    assert not has_collapsed({"a": (0.35, 0.3), "b": (0.65, 0.7)})
    assert not has_collapsed({"a": (1.0, 0.995), "b": (0.0, 0.005)})
    assert has_collapsed({"only": (0.0, 1.0)}), "background everywhere is one class"
    assert not has_collapsed({"only": (1.0, 1.0)}) and not has_collapsed({"only": (0.0, 0.0)}) and not has_collapsed({})


_WHOLE = {"label": 1, "key": "whole_tumour", "name": "Whole tumour", "abbreviation": "WT"}
_CODE = {"value": "301766008", "scheme": "SCT", "meaning": "Lesion of Brain"}


def _with_codes(label: dict[str, object]) -> dict[str, object]:
    return {**label, "category": _CODE, "type": _CODE, "site": _CODE, "color_rgb": [200, 60, 60]}


class _File:
    def __init__(self, path: Path) -> None:
        self.path = path

    def copy_to(self, target: Path) -> None:
        target.write_bytes(self.path.read_bytes())


def _save(array: np.ndarray, path: Path) -> None:
    image = nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 5.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _write_case(folder: Path) -> tuple[_File, _File]:
    """A head-like ball with a bright ball inside, and the truth about it."""
    x, y, z = np.meshgrid(np.arange(40), np.arange(40), np.arange(10), indexing="ij")
    head = (x - 20) ** 2 + (y - 20) ** 2 + 9 * (z - 5) ** 2 < 300
    lesion = (x - 24) ** 2 + (y - 18) ** 2 + 9 * (z - 5) ** 2 < 40
    values = np.where(lesion, 300, np.where(head, 100, 0)) + np.random.default_rng(0).normal(0, 1, x.shape)
    _save(values.astype(np.float32), folder / "image.nii.gz")
    _save(lesion.astype(np.uint8), folder / "label.nii.gz")
    return _File(folder / "image.nii.gz"), _File(folder / "label.nii.gz")
