"""`ai-node train skin`, stopped and resumed, to a package that is calibrated, evaluated and recalibrated by a site."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ai_engine.packages import load_package
from ai_engine.packages.site import read_override
from ai_engine.training import skin
from ai_engine.training.skin_trainer import SkinRun
from dicom_node.cli import app
from tests.fixtures_skin import make_skin_data

pytestmark = pytest.mark.component


class Stopped(BaseException):
    """Stands for a kill in the middle of a step: nothing of ours catches it."""


def arguments(table: Path, work: Path) -> list[str]:
    return (
        f"train skin --data {table} --out {work} --folds 2 --epochs 2 --size 32 --batch 4 --threads 1 --name mini"
    ).split()


def every_malignant_one_a_melanoma(table: Path) -> Path:
    """So that both outputs can be learnt in twelve steps: drawn melanomas look like the other malignant ones."""
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "melanoma": row["target"]} for row in rows)
    return table


def test_train_interrupt_resume_package_evaluate_calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    table, work = every_malignant_one_a_melanoma(make_skin_data(tmp_path / "data", 48)), tmp_path / "work"
    monkeypatch.setattr(skin, "SAVE_EVERY_S", 0.0)
    honest, taken = SkinRun.step, []

    def step(run: SkinRun, progress: float) -> float:
        taken.append(run.iteration)
        if len(taken) == 9:
            raise Stopped
        return honest(run, progress)

    monkeypatch.setattr(SkinRun, "step", step)
    cli = CliRunner()
    with pytest.raises(Stopped):
        cli.invoke(app, arguments(table, work), catch_exceptions=False)
    assert cli.invoke(app, arguments(table, work)).exit_code == 2
    done = cli.invoke(app, [*arguments(table, work), "--resume"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    # 6 steps an epoch; the 9th was never taken before the kill, and none was taken twice after it
    assert taken == [*range(9), *range(8, 12), *range(12)]

    folder = work / "package" / "mini" / "0.1.0"
    description = load_package(folder).classification
    assert description.deciding.operating_point is not None
    assert description.deciding.operating_point.sensitivity >= 0.9
    assert description.deciding.calibration.method != "none"
    assert (folder / "weights.safetensors").stat().st_size < 20e6
    told = json.loads((work / "evaluation" / "evaluation.json").read_text())
    assert set(told["outputs"]) == {"malignant", "melanoma"}
    page = (work / "evaluation" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64") == 5
    assert "Learning curves" in page
    for name in ("roc.png", "reliability.png", "confusion.png", "misses.png", "curves.png"):
        assert (work / "evaluation" / name).read_bytes().startswith(b"\x89PNG")
    assert "misses.png" in load_package(folder).files

    out = tmp_path / "measured"
    evaluated = cli.invoke(app, ["evaluate", str(table), "--model", str(folder), "--out", str(out), "--json"])
    assert evaluated.exit_code in (0, 1), evaluated.output
    assert json.loads((out / "evaluation.json").read_text())["pictures"] == 48

    site = tmp_path / "site.json"
    calibrated = cli.invoke(
        app, ["calibrate", str(folder), "--data", str(table), "--population", "drawn lesions", "--out", str(site)]
    )
    assert calibrated.exit_code == 0, calibrated.output
    override, _ = read_override(site)
    assert override.digest_sha256 == load_package(folder).digest_sha256
    assert override.outputs["malignant"].operating_point.sensitivity >= 0.9

    before = load_package(folder)
    words = ["--words", "drawn lesions, again", "--part", "all", "--views", "8"]
    again = cli.invoke(app, ["train", "decide", "--package", str(folder), "--data", str(table), *words])
    assert again.exit_code == 0, again.output
    after = load_package(folder)
    assert after.digest_sha256 != before.digest_sha256 and after.digest_sha256 in again.stderr
    assert len(after.classification.network.views) == 8
    assert after.files["weights.safetensors"] == before.files["weights.safetensors"]
    malignant, melanoma = after.classification.outputs
    assert melanoma.within == "malignant"
    assert malignant.operating_point is not None and malignant.operating_point.data == "drawn lesions, again"
    card = (folder / "CARD.md").read_text()
    assert card.count("evaluation: begin") == 1 and "drawn lesions, again: 48 pictures" in card
    assert "## What it was trained on" in card
    verified = cli.invoke(
        app, ["models", "verify", "--run", "mini"], env={"AI_NODE__ENGINE__MODELS": str(work / "package")}
    )
    assert verified.exit_code == 0, verified.output
    lost = cli.invoke(
        app, ["train", "decide", "--package", str(folder), "--data", str(table), *words, "--source", "none"]
    )
    assert lost.exit_code == 2 and load_package(folder).digest_sha256 == after.digest_sha256
