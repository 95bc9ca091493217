"""A package that is built is gated: what was adopted is what was measured, and the report lives in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_packages import make_tiny_package

from ai_engine.evaluation import accuracy
from ai_engine.evaluation.accuracy import GateRequest
from ai_engine.packages import find_package, load_package, seal_package
from ai_engine.packages.accuracy import (
    REFERENCE,
    CaseDice,
    Cost,
    RegionOutcome,
    Report,
    Variant,
    Way,
    measured_files,
    report_of,
    way_of,
)
from ai_engine.packages.schema import parse_description
from ai_engine.prediction import EngineSettings
from ai_engine.training import tumour_folds
from ai_engine.training.tumour import BRAIN_TUMOUR, HISTORY_FILE
from ai_engine.training.tumour_package import DEFAULT, SHIPPED_STYLE, tumour_model_tree
from bench.levers import written

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = ("brain-flair", "brain-tumour", "brain-tumour-tf")
CHEAPER = Way(precision="bf16", mirror_axes=(1, 2), step=0.5)


def _report(folder: Path) -> Report:
    package = load_package(folder)
    outcome = RegionOutcome(
        dice=0.8, loss=0.0, loss_ci95=(0, 0), worst_loss=0, agreement=1, hd95_mm=None, hd95_change_mm=None,
        newly_missed=0,
    )  # fmt: skip
    case = CaseDice(case="a", dice={"r": 0.8}, agreement={"r": 1.0})
    plain = Way(precision="bf16", mirror_axes=(), step=0.5)
    ways = ((REFERENCE, SHIPPED_STYLE, 9.0, True), ("bf16", plain, 1.0, False),
            ("mirrored-bf16", DEFAULT, 4.0, True), ("mirror-12-bf16", CHEAPER, 2.0, True))  # fmt: skip
    return Report(
        files=measured_files(package.sha256, package.segmentation),
        evidence=("folds",),
        same_weights=False,
        machine="a machine",
        variants=tuple(
            Variant(
                name=name, way=way, precision=way.precision, backend="openvino", passed=passed,
                reasons=() if passed else ("r: lost",), cost=Cost(wall_s=1, cpu_s=seconds, passes=8, peak_mb=1),
                regions={"r": outcome}, cases=(case,),
            )
            for name, way, seconds, passed in ways
        ),
    )  # fmt: skip


def test_the_tumour_package_mirrors_all_until_its_gate_found_better() -> None:
    def settings(way: Way) -> Any:
        tree = tumour_model_tree(BRAIN_TUMOUR, "1.0.0", way=way)
        return parse_description(yaml.safe_dump(tree, sort_keys=False).encode()).inference

    full, adopted = settings(DEFAULT), settings(CHEAPER)
    assert (full.mirror_axes, full.trained_mirror_axes, full.precision.cpu) == ((0, 1, 2), None, "bf16")
    assert (adopted.mirror_axes, adopted.trained_mirror_axes) == ((1, 2), (0, 1, 2))


def test_the_end_of_a_training_gates_adopts_and_measures_in_that_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks and cases are stand-ins; the order of things, the settings and the sealed report are the real ones."""
    asked: list[GateRequest] = []
    evaluated: list[Way] = []

    def package(_recipe: Any, _state: Path, folder: Path, version: str, *, card: str, way: Way, **_: Any) -> Path:
        assert make_tiny_package(folder.parents[1], name=folder.parent.name, version=version) == folder
        (folder / "CARD.md").write_text(card, encoding="utf-8")
        seal_package(folder)
        packaged.append(way)
        return folder

    def gate(request: GateRequest, _say: Any) -> Report:
        asked.append(request)
        return _report(request.package)

    def evaluate(_recipe: Any, _data: Path, _work: Path, _say: Any, *, way: Way, threads: int) -> dict[str, Any]:
        evaluated.append(way)
        means = {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 1} for name in ("WT", "TC", "ET")}
        return {"run_as": {"backend": "openvino", "way": way.words()}, "sets": {"t1c": {"cases": [], "mean": means}}}

    packaged: list[Way] = []
    monkeypatch.setattr(tumour_folds, "package_tumour", package)
    monkeypatch.setattr(tumour_folds, "evaluate_folds", evaluate)
    monkeypatch.setattr(tumour_folds, "export_folds", lambda *_: ())
    monkeypatch.setattr(accuracy, "run_gate", gate)
    monkeypatch.setattr("ai_engine.evaluation.datasets.open_dataset", lambda _: None)
    history = {"used_s": 60, "folds": {}, "history": []}
    (tmp_path / HISTORY_FILE).write_text(json.dumps(history))
    folder = tumour_folds.finish_tumour(BRAIN_TUMOUR, tmp_path, tmp_path, "1.2.0", lambda _: None, with_folds=True)
    assert "mirrored-bf16" in asked[0].variants and asked[0].regions[0] == "whole_tumour"
    assert evaluated == [CHEAPER] and packaged == [DEFAULT, CHEAPER]
    sealed = load_package(folder)
    assert report_of(sealed) is not None
    card = sealed.files["CARD.md"].decode()
    assert "4x mirrored" in card and "Ways of running it, measured" in card


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_package_is_run_as_its_gate_passed_it(name: str) -> None:
    if not (REPOSITORY / "models" / name).exists():
        pytest.skip("the weights are no part of this checkout")
    package = load_package(find_package(REPOSITORY / "models", name), weights=False)
    report = report_of(package)
    assert report is not None
    own = report.find(way_of(package.segmentation, EngineSettings(device="cpu")))
    assert own is not None and own.passed
    assert all(variant.passed or variant.reasons for variant in report.variants)


def test_the_page_of_levers_says_what_the_packages_say() -> None:
    page = (REPOSITORY / "docs" / "explanation" / "levers.md").read_text(encoding="utf-8")
    if not (REPOSITORY / "models" / "brain-flair").exists():
        pytest.skip("the weights are no part of this checkout")
    assert all(f"<!-- levers {name} -->" in page for name in SHIPPED)
    assert written(page, REPOSITORY / "models") == page, "python -m bench.levers --write docs/explanation/levers.md"
