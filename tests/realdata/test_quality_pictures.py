"""The quality gate of the shipped skin-lesion on real pictures: dermoscopy passes, a cat, a brain and a page do not."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_engine.packages import find_package, load_package
from ai_engine.quality import Rule, judge, load_rule
from ai_engine.quality.assemble import library_picture, samples
from ai_engine.quality.fit import dermoscopy_pictures, open_runner
from dicom_node.refusals import RefusalCode

pytestmark = pytest.mark.realdata

MODELS = Path(os.environ.get("AI_NODE_TEST_MODELS", Path(__file__).resolve().parents[2] / "models"))


@pytest.fixture(scope="module")
def shipped() -> tuple[Rule, object]:
    folder = find_package(MODELS, "skin-lesion")
    rule = load_rule(load_package(folder))
    assert rule.kinds is not None, "the shipped package has a model of kinds"
    return rule, open_runner(folder)


def judged(shipped, pixels, declared=""):
    rule, runner = shipped
    return judge(pixels, runner.features(pixels), declared, rule)


def test_the_camera_files_are_answered(shipped, data_dir: Path):
    files = sorted((data_dir / "dermoscopy" / "originals").glob("*.jpg"))
    verdicts = {path.name: judged(shipped, np.asarray(Image.open(path).convert("RGB"))) for path in files}
    assert len(verdicts) == 9
    assert all(verdict.is_accepted for verdict in verdicts.values()), verdicts


def test_validation_pictures_are_answered(shipped, data_dir: Path):
    pictures, _ = dermoscopy_pictures(data_dir / "dermoscopy", "val", 24, seed=3)
    assert sum(judged(shipped, picture).is_accepted for picture in pictures) >= 22


def test_a_cat_is_refused(shipped):
    for declared in ("", "dermoscopic"):
        verdict = judged(shipped, library_picture("chelsea"), declared)
        assert verdict.code in (RefusalCode.NOT_SKIN, RefusalCode.PICTURE_KIND_CONTRADICTED,
                                RefusalCode.PICTURE_KIND_UNSUPPORTED), verdict  # fmt: skip


@pytest.mark.parametrize("kind", ["magnetic-resonance", "bare-skin", "textures", "drawings"])
def test_other_kinds_are_refused(shipped, data_dir: Path, kind):
    pictures = [sample.pixels for sample in islice(samples(kind, data_dir, 18), 12)]
    verdicts = [judged(shipped, picture) for picture in pictures]
    assert sum(not verdict.is_accepted for verdict in verdicts) >= 11, verdicts


def test_a_plain_photograph_that_was_declared_dermoscopic_is_not_answered(shipped, data_dir: Path):
    pictures = [sample.pixels for sample in islice(samples("plain-skin", data_dir, 16), 4)]
    assert sum(not judged(shipped, picture, "dermoscopic").is_accepted for picture in pictures) >= 3
