"""`ai-node evaluate`: figures in the file, on the page and in the card; one class everywhere is a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ai_engine.evaluation.page import BEGIN
from ai_engine.packages import load_package
from dicom_node.cli import app
from dicom_node.cli.common import Exit
from tests.fixtures_packages import make_tiny_package
from tests.support.api import head, nifti

pytestmark = pytest.mark.component


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases as BraTS keeps them: two with a lesion, the older and the newer number for it, and one without."""
    root = tmp_path_factory.mktemp("brats")
    z, y, x = np.mgrid[:24, :48, :40]
    spot = (z - 12) ** 2 + (y - 20) ** 2 + (x - 16) ** 2 < 25
    for name, value, lesion in (("case-1", 3, True), ("case-2", 4, True), ("case-3", 0, False)):
        (root / name).mkdir()
        nifti(head(seed=value + 1, lesion=lesion), root / name / f"{name}-t2f.nii.gz")
        nifti((spot * value).astype(np.uint8), root / name / f"{name}-seg.nii.gz")
    return root


def run(folder: Path, tree: Path, *options: str) -> Any:
    config = folder / "node.yaml"
    config.write_text(yaml.safe_dump({"engine": {"models": str(folder / "models"), "threads": 1}}), encoding="utf-8")
    words = ["--config", str(config), "evaluate", str(tree), "--model", "tiny-bright", "--out", str(folder / "out")]
    return CliRunner().invoke(app, [*words, *options])


def test_figures_are_written_where_people_and_programs_look(tmp_path: Path, tree: Path) -> None:
    package = make_tiny_package(tmp_path / "models")
    before = load_package(package).digest_sha256
    said = run(tmp_path, tree, "--card")
    assert said.exit_code == Exit.DONE, said.output
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    found = told["summary"]["flair_abnormality"]
    assert found["dice"]["mean"] > 0.9 and found["both_empty"] == 1 and found["patients"] == 3
    for measure in ("iou", "sensitivity", "specificity", "surface_dice", "volume_error_ml"):
        assert found[measure]["low"] <= found[measure]["mean"] <= found[measure]["high"]
    assert found["hd95_mm"]["n"] == found["volume_error_percent"]["n"] == 2, "there is no distance to nothing"
    assert (told["run_as"]["precision"], told["collapsed"]) == ("f32", False)
    assert told["class_shares"] == {"flair_abnormality": {"predicted": 1.0, "true": 1.0}}
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 5, "two plots, three cases"
    assert page.count("<table>") == page.count('<div class="scroll">\n<table>') == 3, "no table is wider than a phone"
    assert "both empty" in page and 'role="alert"' not in page
    assert BEGIN in (package / "CARD.md").read_text(encoding="utf-8")
    sealed = load_package(package)
    assert sealed.digest_sha256 != before and sealed.digest_sha256 in said.output, "whoever pinned it must know"


def test_a_model_that_says_one_thing_everywhere_fails(tmp_path: Path, tree: Path) -> None:
    make_tiny_package(tmp_path / "models", threshold=1000.0)
    said = run(tmp_path, tree)
    assert said.exit_code == Exit.FAULT and "collapsed" in said.output
    assert 'role="alert"' in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


def test_a_sequence_that_the_last_case_lacks_is_said_before_the_first_is_run(tmp_path: Path, tree: Path) -> None:
    make_tiny_package(tmp_path / "models", role="t1c")
    said = run(tmp_path, tree)
    assert said.exit_code == Exit.USAGE, said.output
    assert "t1c expected, found flair" in said.output and "Dice" not in said.output
