"""The prediction cache: keyed by all that a model may see, bounded by bytes, never wrong (I7, I14)."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ai_engine.findings import Findings, ModelIdentity
from ai_engine.geometry import Affine
from ai_engine.prediction import InputVolume
from dicom_node.stages import prediction_cache
from dicom_node.stages.prediction_cache import HIT, PredictionCache, cache_key, is_hit, pixels_digest

pytestmark = pytest.mark.unit

MODEL = ModelIdentity("m", "1.0.0", "d" * 64, "A model", "a framework", "torch", "CPU", "f32")


def volume(**changes: object) -> InputVolume:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    return replace(InputVolume(array, Affine(np.eye(4)), None, "MR"), **changes)


def answer(seed: int = 0, shape: tuple[int, int, int] = (3, 4, 5)) -> tuple[np.ndarray, Findings]:
    mask = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    return mask, Findings(model=MODEL, timings_s=(("network", 1.5),))


def test_what_was_kept_comes_back_with_the_time_of_the_look(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, 10_000)
    mask, said = answer()
    assert cache.load("k") is None
    cache.keep("k", mask, said)
    found = cache.load("k")
    assert found is not None and np.array_equal(found[0], mask)
    assert replace(found[1], timings_s=()) == replace(said, timings_s=())
    assert is_hit(found[1]) and not is_hit(said) and found[1].timings_s[0][0] == HIT


def test_another_version_of_the_program_answers_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key("m", "s", {"flair": volume()})
    monkeypatch.setattr(prediction_cache, "PROGRAM", "0.0.0")
    assert cache_key("m", "s", {"flair": volume()}) != before


def test_every_field_of_an_input_is_part_of_the_key() -> None:
    changed = {
        "array": np.arange(60, dtype=np.float32).reshape(3, 4, 5)[::-1].copy(),
        "affine": Affine(np.diag([1.0, 1.0, 1.5, 1.0])),
        "valid": np.ones((3, 4, 5), dtype=np.bool_),
        "modality": "CT",
        "age_years": 50.0,
        "body_part": "HEAD",
    }
    other = {field.name: changed[field.name] for field in fields(InputVolume)}
    keys = {cache_key("m", "s", {"flair": volume(**{name: value})}) for name, value in other.items()}
    keys |= {cache_key("m", "s", {"flair": volume()}), cache_key("m2", "s", {"flair": volume()})}
    keys |= {cache_key("m", "s2", {"flair": volume()}), cache_key("m", "s", {"t1": volume()})}
    assert len(keys) == len(other) + 4
    # the order in which roles are given counts only by whose grid the mask lies on
    a, b = volume(), volume(modality="CT")
    assert cache_key("m", "s", {"t1": a, "t2": b}) != cache_key("m", "s", {"t2": b, "t1": a})
    assert cache_key("m", "s", {"t1": a, "t2": b, "t3": a}) == cache_key("m", "s", {"t1": a, "t3": a, "t2": b})


def test_pixels_are_the_same_wherever_they_lie() -> None:
    assert pixels_digest(volume()) == pixels_digest(volume(affine=Affine(np.diag([1, 1, 2.0, 1])), modality=""))


def test_a_damaged_file_is_a_miss_and_goes(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, 10_000)
    for damage in (lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:], lambda b: b"", lambda b: b"x" * 500):
        cache.keep("k", *answer())
        path = tmp_path / "k"
        path.write_bytes(damage(path.read_bytes()))
        assert cache.load("k") is None and not path.exists()


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    shape = (10, 10, 10)
    cache = PredictionCache(tmp_path, 5000)
    for number, key in enumerate("abc"):
        cache.keep(key, *answer(number, shape))
        os.utime(tmp_path / key, ns=(number + 1, number + 1))
    assert cache.load("a") is not None  # used just now
    cache.keep("d", *answer(9, shape))
    left = {path.name for path in tmp_path.iterdir()}
    assert "a" in left and "d" in left and "b" not in left
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5000


def test_off_and_too_large(tmp_path: Path) -> None:
    off = PredictionCache(tmp_path, 0)
    off.keep("k", *answer())
    assert off.load("k") is None and list(tmp_path.iterdir()) == []
    small = PredictionCache(tmp_path, 100)
    small.keep("k", *answer())
    assert list(tmp_path.iterdir()) == []
