"""The quality gate on drawn pictures: each reason for a no, the order of reasons, and what a sender declared."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from safetensors.numpy import save

from ai_engine.packages.quality import Limits
from ai_engine.quality import Rule, judge
from ai_engine.quality.drawn import DRAWINGS, TEXTURES, cloud, plain_photograph
from ai_engine.quality.fit import fit_kinds
from ai_engine.quality.judge import decide
from ai_engine.quality.measures import measure_picture
from ai_engine.quality.rule import BARE_SKIN, FEATURES, KIND_NAMES, PLAIN, UNRELATED, measured_row, read_kinds
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results.phrases import refusal_words

pytestmark = pytest.mark.unit

RULE = Rule(Limits(), ("dermoscopic",), None)
SKIN, BROWN = np.array((222, 178, 158), np.float32), np.array((120, 72, 52), np.float32)


def skin(seed: int = 1, side: int = 320) -> np.ndarray:
    """Skin through a dermatoscope: a little uneven, with pores and grain."""
    random = np.random.default_rng(seed)
    uneven = cloud(random, side, side, 0.7, 8)[..., None] - 0.5
    grain = random.normal(0, 5, (side, side, 1))
    fine = Image.fromarray(np.asarray(np.clip(SKIN + 14 * uneven + grain, 0, 255), np.uint8))
    return np.asarray(fine.filter(ImageFilter.GaussianBlur(0.7)))


def dermoscopy(seed: int = 1, side: int = 320, frame: bool = False) -> np.ndarray:
    """A drawn lesion in the middle of skin."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    edge = 0.22 + 0.12 * (cloud(random, side, side, 0.5, 4) - 0.5)
    inside = np.clip((edge - np.hypot(x, y)) / 0.02, 0, 1)[..., None]
    net = 40 * (cloud(random, side, side, 0.9, 32)[..., None] - 0.5)
    picture = skin(seed, side) * (1 - inside) + (BROWN + net) * inside
    if frame:
        picture = picture * (np.hypot(x, y) < 0.55)[..., None]
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(np.clip(picture.astype(np.float32) * factor, 0, 255), np.uint8)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def document() -> np.ndarray:
    page = Image.new("RGB", (480, 640), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for line in range(40):
        pen.text((30, 20 + 15 * line), "The lesion was excised with a margin of two millimetres. " * 2, fill=(0, 0, 0))
    return np.asarray(page)


def code_of(picture: np.ndarray, rule: Rule = RULE, declared: str = "") -> RefusalCode | None:
    return judge(picture, None, declared, rule).code


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frame", [False, True])
def test_a_lesion_on_skin_is_answered(seed, frame):
    verdict = judge(dermoscopy(seed, frame=frame), None, "", RULE)
    assert verdict.is_accepted, verdict
    verdict.require()
    assert verdict.to_json()["accepted"] is True and verdict.refusal is None


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (dermoscopy(side=160), RefusalCode.IMAGE_TOO_SMALL),
        (dermoscopy()[:100], RefusalCode.IMAGE_TOO_SMALL),
        (np.repeat(dermoscopy(), 3, axis=0), RefusalCode.IMAGE_TOO_SMALL),
        (scaled(dermoscopy(), 0.15), RefusalCode.IMAGE_EXPOSURE),
        (scaled(dermoscopy(), 4.0), RefusalCode.IMAGE_EXPOSURE),
        (np.full((320, 320, 3), 200, np.uint8), RefusalCode.NOT_SKIN),
        (np.zeros((320, 320, 3), np.uint8), RefusalCode.IMAGE_EXPOSURE),
        (blurred(dermoscopy(), 9), RefusalCode.IMAGE_TOO_BLURRED),
        (blurred(dermoscopy(), 20), RefusalCode.IMAGE_TOO_BLURRED),
        (skin(), RefusalCode.NO_LESION_IN_VIEW),
        (document(), RefusalCode.IMAGE_EXPOSURE),
        (scaled(document(), 0.85), RefusalCode.NOT_SKIN),
        (np.repeat(dermoscopy().mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8), RefusalCode.NOT_SKIN),
        (np.asarray(dermoscopy() * (0.45, 1.1, 0.45), np.uint8), RefusalCode.NOT_SKIN),
        (np.random.default_rng(1).integers(0, 256, (320, 320, 3)).astype(np.uint8), RefusalCode.NOT_SKIN),
        (DRAWINGS["chart"](np.random.default_rng(1)), RefusalCode.IMAGE_EXPOSURE),
    ],
    ids=[
        "small", "cut off", "strip", "dark", "burnt out", "one grey", "black", "blurred", "blurred away", "no lesion",
        "white page",
        "grey page", "grey picture", "green", "noise", "chart",
    ],
)  # fmt: skip
def test_each_reason_has_its_code(picture, code):
    assert code_of(picture) is code


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("shorter_side", 199.0, RefusalCode.IMAGE_TOO_SMALL),
        ("elongation", 2.3, RefusalCode.IMAGE_TOO_SMALL),
        ("view", 0.29, RefusalCode.IMAGE_EXPOSURE),
        ("brightness", 84.0, RefusalCode.IMAGE_EXPOSURE),
        ("brightness", 243.0, RefusalCode.IMAGE_EXPOSURE),
        ("glare", 0.51, RefusalCode.IMAGE_EXPOSURE),
        ("colour", 0.08, RefusalCode.NOT_SKIN),
        ("skin", 0.29, RefusalCode.NOT_SKIN),
        ("detail", 13.1, RefusalCode.NOT_SKIN),
        ("contrast", 19.0, RefusalCode.NO_LESION_IN_VIEW),
        ("lesion", 3.9, RefusalCode.NO_LESION_IN_VIEW),
        ("sharpness", -1.76, RefusalCode.IMAGE_TOO_BLURRED),
        ("detail", 0.44, RefusalCode.IMAGE_TOO_BLURRED),
        ("flatness", 0.31, RefusalCode.NOT_SKIN),
    ],
)
def test_each_limit_counts_alone(name, value, code):
    good = measure_picture(dermoscopy())
    assert decide(good, None, "", RULE).is_accepted
    assert decide(replace(good, **{name: value}), None, "", RULE).code is code


def test_the_frame_of_a_dermatoscope_is_not_in_view():
    plain, framed = measure_picture(dermoscopy(1)), measure_picture(dermoscopy(1, frame=True))
    assert plain.view == 1.0 and 0.7 < framed.view < 0.99
    assert framed.sharpness == pytest.approx(plain.sharpness, abs=0.5), "the frame's own edge hardly counts"
    assert framed.contrast == pytest.approx(plain.contrast, rel=0.2)


def test_a_refusal_says_what_to_do_in_both_languages_and_what_was_found():
    verdict = judge(blurred(dermoscopy(), 9), None, "", RULE)
    with pytest.raises(Refused) as refused:
        verdict.require()
    assert refused.value.refusal == verdict.refusal
    assert verdict.expected and verdict.found and verdict.expected != verdict.found
    assert "hold still" in refusal_words(verdict.code, "en")[1]
    assert "no se mueva" in refusal_words(verdict.code, "es")[1]
    with pytest.raises(ValueError, match="language"):
        refusal_words(verdict.code, "tlh")


def test_blur_is_told_by_sharpness_alone():
    found = [measure_picture(blurred(dermoscopy(3), radius)).sharpness for radius in (0, 1, 2, 4, 8)]
    assert found[0] > found[1] > found[2], found
    assert found[0] > Limits().sharpness > max(found[2:]), found


def test_a_large_picture_is_judged_as_the_network_sees_it():
    small = dermoscopy(2, 320)
    large = np.asarray(Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC))
    assert code_of(small) is None and code_of(large) is None


def test_what_is_declared_is_enough_where_nothing_looks_at_features():
    assert code_of(dermoscopy(), declared="dermoscopic") is None
    assert code_of(dermoscopy(), declared="plain") is RefusalCode.PICTURE_KIND_UNSUPPORTED
    assert code_of(dermoscopy(), Rule(Limits(), ("dermoscopic", "plain"), None), declared="plain") is None


# the model of kinds, on features that are drawn numbers


def drawn_features(kind: str, count: int, seed: int) -> np.ndarray:
    """Features of a kind: a direction of its own, and spread along a few."""
    random = np.random.default_rng(seed)
    shared = np.random.default_rng(0).normal(0, 1, (6, FEATURES))
    rows = 0.5 + 0.02 * random.normal(0, 1, (count, FEATURES)) + random.normal(0, 0.1, (count, 6)) @ shared
    if kind != "dermoscopic":
        rows += 0.15 * np.random.default_rng(KIND_NAMES.index(kind)).normal(0, 1, FEATURES)
    return np.asarray(rows, np.float32)


def with_measures(features: np.ndarray) -> np.ndarray:
    row = measured_row(measure_picture(dermoscopy()))
    noise = np.random.default_rng(1).normal(1, 0.05, (len(features), len(row)))
    return np.asarray(np.concatenate([features, row * noise], axis=1), np.float32)


@pytest.fixture(scope="module")
def rule() -> Rule:
    others = {name: with_measures(drawn_features(name, 40, 5)) for name in (PLAIN, BARE_SKIN, UNRELATED)}
    kinds, _ = fit_kinds(with_measures(drawn_features("dermoscopic", 300, 4)), others)
    return Rule(Limits(dermoscopic=0.0, strangeness=2.0), ("dermoscopic",), kinds)


def verdict_of(rule: Rule, kind: str, declared: str = "", seed: int = 77):
    return judge(dermoscopy(), drawn_features(kind, 1, seed)[0], declared, rule)


@pytest.mark.parametrize("seed", range(60, 66))
def test_kinds_are_told_by_features(rule, seed):
    assert verdict_of(rule, "dermoscopic", seed=seed).is_accepted
    assert verdict_of(rule, PLAIN, seed=seed).code is RefusalCode.PICTURE_KIND_UNSUPPORTED
    assert verdict_of(rule, BARE_SKIN, seed=seed).code is RefusalCode.NO_LESION_IN_VIEW
    assert verdict_of(rule, UNRELATED, seed=seed).code is RefusalCode.NOT_SKIN


@pytest.mark.parametrize(
    ("kind", "declared", "code"),
    [
        ("dermoscopic", "dermoscopic", None),
        ("dermoscopic", "plain", RefusalCode.PICTURE_KIND_CONTRADICTED),
        (PLAIN, "dermoscopic", RefusalCode.PICTURE_KIND_CONTRADICTED),
        (PLAIN, "plain", RefusalCode.PICTURE_KIND_UNSUPPORTED),
        (UNRELATED, "dermoscopic", RefusalCode.NOT_SKIN),
    ],
)
def test_a_declaration_is_compared(rule, kind, declared, code):
    assert verdict_of(rule, kind, declared).code is code


def test_a_package_that_accepts_plain_photographs_answers_them_and_still_asks_back(rule):
    wide = Rule(rule.limits, ("dermoscopic", "plain"), rule.kinds)
    assert verdict_of(wide, PLAIN, "plain").is_accepted
    assert verdict_of(wide, PLAIN).is_accepted
    assert verdict_of(wide, PLAIN, "dermoscopic").code is RefusalCode.PICTURE_KIND_CONTRADICTED
    assert verdict_of(wide, UNRELATED, "plain").code is RefusalCode.NOT_SKIN


def test_what_is_strange_is_refused_though_no_such_kind_was_fitted(rule):
    strange = drawn_features("dermoscopic", 1, 9)[0]
    strange[::3] += 0.4 * np.random.default_rng(2).normal(0, 1, len(strange[::3])).astype(np.float32)
    one_class, _ = fit_kinds(with_measures(drawn_features("dermoscopic", 300, 4)), {})
    known = Rule(rule.limits, rule.accepts, one_class)
    assert judge(dermoscopy(), drawn_features("dermoscopic", 1, 9)[0], "", known).is_accepted
    verdict = judge(dermoscopy(), strange, "", known)
    assert verdict.code is RefusalCode.NOT_SKIN and verdict.measures["strangeness"] > 2


def test_the_picture_comes_before_its_kind(rule):
    """Blur makes features strange: the sender is told to hold still, not that this is no skin."""
    verdict = judge(blurred(dermoscopy(), 9), drawn_features(UNRELATED, 1, 3)[0], "", rule)
    assert verdict.code is RefusalCode.IMAGE_TOO_BLURRED


def test_the_file_of_kinds_is_read_back_and_a_wrong_one_is_refused(rule):
    tensors = {name: np.ascontiguousarray(value) for name, value in vars(rule.kinds).items()}
    again = read_kinds(save(tensors))
    assert all(np.array_equal(value, getattr(again, name)) for name, value in tensors.items())
    broken = [
        b"no safetensors",
        save({**tensors, "more": tensors["bias"]}),
        save({**tensors, "bias": tensors["bias"][:3]}),
        save({**tensors, "usual": np.zeros(2, np.float32)}),
        save({**tensors, "middle": np.full_like(tensors["middle"], np.nan)}),
        save({n: v[..., :-1] if v.shape[-1] == tensors["middle"].size else v for n, v in tensors.items()}),
    ]
    for data in broken:
        with pytest.raises(Refused) as refused:
            read_kinds(data)
        assert refused.value.refusal.code is RefusalCode.MODEL_UNTRUSTED


def test_drawn_pictures_can_be_drawn_again():
    for makers in (TEXTURES, DRAWINGS):
        for make in makers.values():
            first, again = (make(np.random.default_rng(3)) for _ in range(2))
            assert np.array_equal(first, again) and first.shape[2] == 3 and first.dtype == np.uint8
    plain = [plain_photograph(np.random.default_rng(5), dermoscopy()) for _ in range(2)]
    assert np.array_equal(*plain) and min(plain[0].shape[:2]) >= 256


def test_the_gate_needs_no_torch():
    code = "import sys, ai_engine.quality; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
