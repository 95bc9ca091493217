"""The parts of ``ai-node train skin``: table, pictures, folds, balance, augmentation, steps that resume."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ai_engine.faults import WrongInput
from ai_engine.training.cases import TrainingDataError
from ai_engine.training.skin_augment import SkinAugmentation, augmented
from ai_engine.training.skin_cases import SIDE, UNNAMED, SkinCase, load_pictures, skin_cases
from ai_engine.training.skin_folds import folds_of, groups_of
from ai_engine.training.skin_trainer import (
    BalancedSampler,
    SkinHow,
    SkinRun,
    SkinStage,
    answers_of,
    begin_from,
    schedule,
    source_shares,
)
from tests.fixtures_skin import make_skin_data

pytestmark = pytest.mark.unit

TINY = SkinHow(batch=4, stages=(SkinStage(0.0, 32),), arithmetic="f32")


def case(name: str, **changes: object) -> SkinCase:
    plain = SkinCase(name, "", "", "", None, "", "nevus", False, False, "one", "train", False, "")
    return replace(plain, **changes)  # type: ignore[arg-type]


def quiet(_: str) -> None:
    pass


# -- the table ------------------------------------------------------------------------------------------------------


def test_the_challenges_own_table_is_read(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text(
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
        "A,P1,male,45.0,torso,melanoma,malignant,1\nB.jpg,P2,,,,unknown,benign,0\n",
        encoding="utf-8",
    )
    first, second = skin_cases(table)
    assert (first.malignant, first.melanoma, first.age, first.kind) == (True, True, 45.0, 0)
    assert (second.name, second.malignant, second.age, second.kind, second.source) == ("B", False, None, UNNAMED, "own")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_name,diagnosis\nA,nevus\n", "expected the columns image_name, target; found image_name, diagnosis"),
        ("image_name,target\nA,1\nA,0\n", "more than one row"),
        ("image_name,target\nA,maybe\n", "0 or 1"),
        ("image_name,target\n../A,1\n", "plain name"),
        ("image_name,target,age_approx\nA,1,old\n", "age_approx"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(content, encoding="utf-8")
    with pytest.raises(WrongInput, match=message):
        skin_cases(table)


def test_pictures_come_from_tars_and_folders_and_lie_in_the_tables_order(tmp_path: Path) -> None:
    table = make_skin_data(tmp_path / "data", 12)
    cases = skin_cases(table)
    pictures = load_pictures(cases, table.parent, tmp_path / "work", quiet)
    assert pictures.shape == (12, SIDE, SIDE, 3)
    middle = pictures[:, SIDE // 2, SIDE // 2].astype(int).sum(1)
    assert [bool(value < 250) for value in middle] == [entry.malignant for entry in cases]
    again = load_pictures(cases, tmp_path / "nowhere", tmp_path / "work", quiet)
    assert np.array_equal(again, pictures)


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    table = make_skin_data(tmp_path / "data", 6)
    os.remove(tmp_path / "data" / "loose" / "PIC_0005.jpg")
    with pytest.raises(TrainingDataError, match="1 of 6"):
        load_pictures(skin_cases(table), table.parent, tmp_path / "work", quiet)


# -- folds ----------------------------------------------------------------------------------------------------------


def many_cases(count: int = 600) -> list[SkinCase]:
    random = np.random.default_rng(7)
    cases = []
    for number in range(count):
        ill = random.random() < 0.3
        cases.append(
            case(
                f"N{number}",
                patient=f"P{random.integers(count // 3)}" if random.random() < 0.7 else "",
                lesion=f"L{random.integers(count // 2)}" if random.random() < 0.7 else "",
                malignant=ill,
                melanoma=ill and random.random() < 0.6,
                source="one" if random.random() < 0.6 else "two",
            )
        )
    return cases


def test_folds_share_no_patient_and_no_lesion() -> None:
    cases = many_cases()
    fold = folds_of(cases, 5, seed=1)
    for kind in ("patient", "lesion"):
        seen: dict[tuple[str, str], set[int]] = {}
        for entry, where in zip(cases, fold.tolist(), strict=True):
            value = getattr(entry, kind)
            if value:
                seen.setdefault((entry.source, value), set()).add(where)
        assert max(len(folds) for folds in seen.values()) == 1


def test_folds_are_alike_in_class_and_source() -> None:
    cases = [case(f"N{i}", malignant=i % 4 == 0, source=("one", "two")[i % 3 == 0]) for i in range(240)]
    fold = folds_of(cases, 4, seed=1)
    tables = [Counter((c.source, c.malignant) for c, f in zip(cases, fold, strict=True) if f == k) for k in range(4)]
    for stratum in tables[0]:
        counts = [table[stratum] for table in tables]
        assert max(counts) - min(counts) <= 1


def test_groups_join_through_others() -> None:
    cases = [case("a", patient="P"), case("b", patient="P", lesion="L"), case("c", lesion="L"), case("d", source="two")]
    groups = groups_of([*cases, case("e", patient="P", source="two")])
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_too_few_malignant_groups_for_the_folds_is_an_error() -> None:
    with pytest.raises(TrainingDataError, match="malignant"):
        folds_of([case("a", malignant=True), case("b"), case("c")], 2, seed=0)


# -- balance --------------------------------------------------------------------------------------------------------


def test_a_source_says_nothing_about_the_class_in_a_batch() -> None:
    cases = [case(f"A{i}", malignant=i < 40, melanoma=i < 20, source="ISIC2017") for i in range(400)]
    cases += [case(f"B{i}", malignant=i < 80, melanoma=i < 10, source="HAM10000") for i in range(100)]
    how = SkinHow()
    drawn = BalancedSampler(cases, how).draw(40_000, np.random.default_rng(0))
    shares = source_shares(cases, how)
    assert sum(shares.values()) == pytest.approx(1)
    for source, share in shares.items():
        mine = [cases[i] for i in drawn if cases[i].source == source]
        assert len(mine) / len(drawn) == pytest.approx(share, abs=0.02)
        ill = [entry for entry in mine if entry.malignant]
        assert len(ill) / len(mine) == pytest.approx(how.malignant_share, abs=0.02)
        assert np.mean([entry.melanoma for entry in ill]) == pytest.approx(how.melanoma_share, abs=0.03)


def test_unknown_sources_share_what_is_left() -> None:
    cases = [case("a", malignant=True, source="x"), case("b", source="x"), case("c", source="y")]
    shares = source_shares(cases, SkinHow())
    assert set(shares) == {"x", "y"}
    assert shares["x"] > shares["y"] > 0


# -- augmentation ---------------------------------------------------------------------------------------------------


def test_copies_are_the_same_for_the_same_seed_and_stay_in_range() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
    everything = SkinAugmentation(hairs=1, sticker=1, ruler=1, ink=1, vignette=1, blur=1, noise=1)
    first = augmented(pictures, 48, everything, np.random.default_rng(3))
    again = augmented(pictures, 48, everything, np.random.default_rng(3))
    other = augmented(pictures, 48, everything, np.random.default_rng(4))
    assert first.shape == (6, 3, 48, 48)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) >= 0 and float(first.max()) <= 1


@pytest.mark.parametrize("kind", ["hairs", "sticker", "ruler", "ink", "vignette"])
def test_each_drawing_changes_a_picture_and_leaves_the_stored_one(kind: str) -> None:
    nothing = SkinAugmentation(hairs=0, sticker=0, ruler=0, ink=0, vignette=0, blur=0, noise=0)
    plain = np.full((4, SIDE, SIDE, 3), 180, np.uint8)
    plain.setflags(write=False)
    changed = replace(nothing, **{kind: 1.0}, brightness_log=0, contrast_log=0, channel_log=0)
    copies = augmented(plain, 64, changed, np.random.default_rng(1))
    assert float((copies - 180 / 255).abs().max()) > 0.05
    assert int(plain.min()) == int(plain.max()) == 180


# -- steps ----------------------------------------------------------------------------------------------------------


def a_run(tmp_path: Path, seed: int = 5) -> SkinRun:
    table = make_skin_data(tmp_path / "data", 16)
    cases = skin_cases(table)
    pictures = load_pictures(cases, table.parent, tmp_path / "work", quiet)
    return SkinRun(cases, pictures, np.arange(16), TINY, seed)


def test_a_resumed_training_takes_the_same_steps(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = a_run(tmp_path)
    losses = [whole.step(n / 4) for n in range(4)]
    stopped = a_run(tmp_path)
    first = [stopped.step(n / 4) for n in range(2)]
    stopped.save(tmp_path / "state.pt", history=[{"epoch": 1}])
    resumed = a_run(tmp_path, seed=5)
    assert resumed.resume(tmp_path / "state.pt") == {"history": [{"epoch": 1}]}
    assert losses == first + [resumed.step(n / 4) for n in (2, 3)]
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name


def test_without_a_state_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert a_run(tmp_path).resume(tmp_path / "none.pt") is None


def test_starting_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    wrong = {name: value for name, value in run.network.features.state_dict().items() if name != "conv_head.weight"}
    with pytest.raises(ValueError, match=r"conv_head\.weight"):
        begin_from(run.network.features, wrong)


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    network = run.averaged()
    index = np.arange(7)
    alone = answers_of(network, run.pictures, index, 32, batch=1)
    assert answers_of(network, run.pictures, index, 32, batch=4) == pytest.approx(alone, abs=1e-5)


def test_the_rate_warms_up_and_goes_down() -> None:
    rates = [schedule(progress, 0.1) for progress in (0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.01)
