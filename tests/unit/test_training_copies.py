"""Copies of heads for training: who they belong to, what they show, and the stages that learn from them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ai_engine.phantom import Lesion, synthesise_head
from ai_engine.runners.intensity import is_skull_stripped
from ai_engine.training import recipe as recipes
from ai_engine.training.augment import Augmentation
from ai_engine.training.cases import Pair
from ai_engine.training.copies import base_name, brain_mask, kind_of_copy, oblique_copy, stripped_copy, tilted_copy
from ai_engine.training.prepare import compact_plans, dataset_folder
from ai_engine.training.recipe import BRAIN_FLAIR, train_recipe
from ai_engine.training.trainer import STATE_FILE, TrainingSettings, kind_of

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def head() -> Pair:
    phantom = synthesise_head(
        5, shape=(30, 144, 144), spacing_mm=(5.0, 1.6, 1.6), lesion=Lesion(center_mm=(30, 0, 30), radii_mm=(20, 20, 20))
    )
    return Pair(phantom.render("flair"), phantom.truth(), phantom.affine.spacing_mm)


def _ml(pair: Pair) -> float:
    return float(pair.mask.sum()) * float(np.prod(pair.spacing_mm)) / 1000


def test_a_copy_stays_with_its_case() -> None:
    sources = {"a": "x", "a__b": "y"}
    for name, base, kind in (
        ("a", "a", "x"),
        ("a__oblique12", "a", "x-oblique"),
        ("a__tilted0", "a", "x-tilted"),
        ("a__stripped3", "a", "x-stripped"),
        ("a__b", "a__b", "y"),
        ("a__b__tilted1", "a__b", "y-tilted"),
    ):
        assert base_name(name) == base
        assert kind_of(name, sources) == kind
    assert kind_of_copy("a__tilted") == ""


@pytest.mark.parametrize("angles", [(20.0, 0.0, 0.0), (0.0, -25.0, 0.0), (0.0, 0.0, 25.0), (5.0, 15.0, -15.0)])
def test_a_turned_lesion_keeps_its_volume(head: Pair, angles: tuple[float, float, float]) -> None:
    turned = oblique_copy(head, angles, 5.0, 1.6)
    assert _ml(turned) == pytest.approx(_ml(head), rel=0.06)
    assert turned.image[turned.mask].mean() > 1.1 * np.median(turned.image[turned.image > 0.3 * turned.image.max()])


def test_thin_slices_become_slices_of_every_thickness() -> None:
    phantom = synthesise_head(
        6, shape=(70, 72, 72), spacing_mm=(1.9, 3.0, 3.0), lesion=Lesion(center_mm=(30, 0, 30), radii_mm=(20, 20, 20))
    )
    thin = Pair(phantom.render("flair"), phantom.truth(), phantom.affine.spacing_mm)
    made = [tilted_copy(thin, random=np.random.default_rng(seed), in_plane_mm=3.0) for seed in range(12)]
    steps = [pair.spacing_mm[0] for pair in made]
    assert min(steps) < 2 and max(steps) > 3
    assert all(_ml(pair) == pytest.approx(_ml(thin), rel=0.12) for pair in made)


def test_a_brain_taken_out_of_its_head_counts_as_such_and_keeps_its_lesion(head: Pair) -> None:
    assert not is_skull_stripped(head.image, head.spacing_mm)
    brain = brain_mask(head)
    assert brain[head.mask].all()
    bare = Pair(np.where(brain, head.image, head.image.min()), head.mask, head.spacing_mm)
    assert is_skull_stripped(bare.image, bare.spacing_mm)
    assert 0.9 < brain.sum() * np.prod(head.spacing_mm) / 1e6 < 2.2  # litres
    for seed in range(4):
        copy = stripped_copy(head, random=np.random.default_rng(seed), in_plane_mm=1.6)
        assert _ml(copy) > 0.3 * _ml(head)  # the step of a tilted copy is drawn anew
        assert np.count_nonzero(copy.image > 0.3 * copy.image.max()) < np.count_nonzero(
            head.image > 0.3 * head.image.max()
        )


def test_stages_follow_each_other_and_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        recipes, "compact_plans", partial(compact_plans, patch=(64, 64), batch_size=2, spacing_mm=(4.0, 4.0))
    )
    data = tmp_path / "data"
    data.mkdir()
    rows = ["case,image,mask,source"]
    for seed in range(3):
        made = synthesise_head(seed, shape=(8, 60, 60), spacing_mm=(16, 4, 4), lesion=Lesion())
        for kind, array in (("image", made.render("flair")), ("mask", made.truth().astype(np.uint8))):
            nibabel.save(
                nibabel.Nifti1Image(array.transpose(2, 1, 0), made.affine.to_nifti()), data / f"{seed}{kind}.nii"
            )
        rows.append(f"c{seed},{seed}image.nii,{seed}mask.nii,own")
    (data / "cases.csv").write_text("\n".join(rows))
    stage = TrainingSettings(
        minutes=1e-4, iterations_per_epoch=1, augmentation=replace(Augmentation(), output=(64, 64)), sampling={"own": 1}
    )
    recipe = replace(
        BRAIN_FLAIR,
        dataset_name="Dataset998_Stages",
        test_share=0.0,
        validation_share=0.0,
        oblique={},
        tilted={"own": 2},
        stripped={"own": 1},
        phantoms=0,
        settings=stage,
        later_stages=(
            stage,
            replace(stage, minutes=1e9, sampling={"own": 0.5, "own-tilted": 0.3, "own-stripped": 0.2}),
        ),
    )
    said: list[str] = []
    work = tmp_path / "work"
    first = train_recipe(recipe, data, work, pretrained=None, resume=False, say=said.append, max_iterations=1)
    assert (first.stage, first.iteration) == (2, 3)
    assert sum("stage" in line and "begins" in line for line in said) == 2
    stored = {path.stem for path in dataset_folder(work, recipe.dataset_name).glob("*_2d/*.pkl")}
    assert stored == {f"c{n}{copy}" for n in range(3) for copy in ("", "__tilted0", "__tilted1", "__stripped0")}
    again = train_recipe(recipe, data, work, pretrained=None, resume=True, say=said.append, max_iterations=1)
    assert (again.stage, again.iteration) == (2, 4)
    assert int(torch.load(work / STATE_FILE, weights_only=True)["stage"]) == 2
