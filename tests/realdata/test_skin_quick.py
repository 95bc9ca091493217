"""`ai-node train skin` on the real pictures' ``quick`` subset: stopped, resumed, packaged, and it has learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ai_engine.packages import load_package
from ai_engine.training import skin
from ai_engine.training.skin_trainer import SkinRun
from dicom_node.cli import app

pytestmark = [pytest.mark.realdata, pytest.mark.long, pytest.mark.timeout(2400)]

FROZEN = 0.82
"""AUC above what ImageNet's features without any training give a plain regression on these 300 pictures (0.806)."""


class Stopped(BaseException):
    """Stands for a kill in the middle of a training."""


def test_quick_subset_learns_through_an_interruption(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(skin, "SAVE_EVERY_S", 10.0)
    honest, steps = SkinRun.step, 0

    def step(run: SkinRun, progress: float) -> float:
        nonlocal steps
        steps += 1
        if steps == 60:
            raise Stopped
        return honest(run, progress)

    monkeypatch.setattr(SkinRun, "step", step)
    table = data_dir / "dermoscopy" / "labels.csv"
    command = (
        f"train skin --data {table} --out {tmp_path / 'work'} --folds 0 --epochs 4 --quick --size 128 --threads 1 "
        "--name quick"
    ).split()
    cli = CliRunner()
    with pytest.raises(Stopped):
        cli.invoke(app, command, catch_exceptions=False)
    done = cli.invoke(app, [*command, "--resume"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    package = load_package(tmp_path / "work" / "package" / "quick" / "0.1.0")
    told = json.loads((tmp_path / "work" / "evaluation" / "evaluation.json").read_text())
    assert told["pictures"] == 300
    assert told["outputs"]["malignant"]["figures"]["auc"]["value"] > FROZEN
    assert package.classification.deciding.operating_point is not None
