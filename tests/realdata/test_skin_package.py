"""The shipped skin-lesion on real pictures: what it claims in its card, and what must not move its answer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_engine.backends import NetworkOptions
from ai_engine.evaluation.skin_scores import auc, confusion
from ai_engine.evaluation.skin_study import answer_pictures, pixels_of
from ai_engine.packages import find_package, load_package
from ai_engine.runners.classifier import ClassifierRunner
from ai_engine.training.skin_cases import SkinCase, found_pictures, skin_cases

pytestmark = pytest.mark.realdata

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ("skin-lesion", "skin-lesion-cc0")
PADDING_BOUND, REENCODED_BOUND = 0.12, 0.10
"""Largest change of a probability (0 to 1), stated in the card."""


@pytest.fixture(scope="module")
def runner() -> ClassifierRunner:
    package = load_package(find_package(MODELS, "skin-lesion"))
    return ClassifierRunner(package, NetworkOptions(device="cpu", threads=1))


@pytest.fixture(scope="module")
def cases(data_dir: Path) -> list[SkinCase]:
    table = skin_cases(data_dir / "dermoscopy" / "labels.csv")
    return [case for case in table if case.split == "val" and case.source == "ISIC2017"]


@pytest.fixture(scope="module")
def pictures(data_dir: Path, cases: list[SkinCase]) -> list[np.ndarray]:
    found = found_pictures(cases[::6], data_dir / "dermoscopy")
    return [pixels_of(content, name) for name, content in sorted(found)]


def probabilities(runner: ClassifierRunner, pictures: list[np.ndarray]) -> np.ndarray:
    decide = runner.description.deciding
    return np.array([decide.calibration.probability(scores.logits[decide.key]) for scores in runner.run(pictures)])


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_the_licence_is_the_datas(name: str) -> None:
    package = load_package(find_package(MODELS, name))
    assert sum(len(package.files[weights]) for weights in package.classification.weights) < 20e6
    assert ("CC BY-NC" in package.classification.licence) == (name == "skin-lesion")
    assert any("Fitzpatrick" in limit for limit in package.classification.limits)


def test_it_tells_melanoma_from_nevus_and_keratosis_on_the_official_validation_part(
    runner: ClassifierRunner, cases: list[SkinCase], data_dir: Path
) -> None:
    logits = answer_pictures(runner, cases, data_dir / "dermoscopy", lambda _: None)
    truth = np.array([case.malignant for case in cases])
    decide = runner.description.deciding
    said = np.array([decide.calibration.probability(float(value)) for value in logits[decide.key]])
    assert len(cases) == 148
    assert auc(truth, logits[decide.key]) >= 0.84
    counts = confusion(truth, said, decide.threshold)
    assert counts.sensitivity >= 0.90
    assert counts.specificity >= 0.40


def test_neighbours_in_a_batch_do_not_move_a_probability(runner: ClassifierRunner, pictures: list[np.ndarray]) -> None:
    alone = np.concatenate([probabilities(runner, [picture]) for picture in pictures[:9]])
    assert np.array_equal(probabilities(runner, pictures[:9]), alone)


def test_a_padded_row_and_column_hardly_move_it(runner: ClassifierRunner, pictures: list[np.ndarray]) -> None:
    """As encoders pad to even sizes: the last row and column once more."""
    padded = [np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge") for picture in pictures]
    assert np.abs(probabilities(runner, padded) - probabilities(runner, pictures)).max() < PADDING_BOUND


def test_another_jpeg_encoding_hardly_moves_it(runner: ClassifierRunner, pictures: list[np.ndarray]) -> None:
    again = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=90)
        again.append(pixels_of(stream.getvalue(), "a picture"))
    assert np.abs(probabilities(runner, again) - probabilities(runner, pictures)).max() < REENCODED_BOUND


@pytest.mark.parametrize("name", NAMES)
def test_melanoma_is_never_said_to_be_likelier_than_malignancy(name: str, pictures: list[np.ndarray]) -> None:
    """A melanoma is malignant: a reader who sees it the other way round believes neither number."""
    runner = ClassifierRunner(load_package(find_package(MODELS, name)), NetworkOptions(device="cpu", threads=1))
    said = [runner.description.probabilities(scores.logits) for scores in runner.run(pictures)]
    assert all(one["melanoma"] <= one["malignant"] for one in said)
    assert any(one["melanoma"] < one["malignant"] for one in said)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_states_nothing_of_one_class_that_needs_two(name: str) -> None:
    """Of pictures that are all malignant, or all benign, there is no precision and no calibration error."""
    rows = [line.strip("|").split("|") for line in (find_package(MODELS, name) / "CARD.md").read_text().splitlines()]
    groups = [[cell.strip() for cell in row] for row in rows if len(row) == 8 and row[1].strip().isdigit()]
    assert len(groups) > 20
    for _, count, positive, *_, precision, error in groups:
        if positive in ("0", count):
            assert (precision, error) == ("-", "-")
