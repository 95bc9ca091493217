"""The accuracy gate: its rule, its report in the package, and what is refused because of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_packages import make_tiny_package

from ai_engine.engine import Engine
from ai_engine.evaluation.adoption import write_report
from ai_engine.evaluation.levers import LEVERS, fits, reference_axes_of, ways
from ai_engine.evaluation.variants import newly_missed
from ai_engine.packages import load_package, seal_package
from ai_engine.packages.accuracy import (
    REFERENCE,
    CaseDice,
    Cost,
    RegionOutcome,
    Report,
    Rule,
    Variant,
    Way,
    as_table,
    canonical,
    cheapest,
    judge,
    measured_files,
    put_into_card,
    refuse_unless_offered,
    report_of,
    way_of,
)
from ai_engine.packages.store import INT8 as INT8_FILES
from ai_engine.prediction import EngineSettings
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit

GOOD = RegionOutcome(
    dice=0.8, loss=0.001, loss_ci95=(-0.001, 0.003), worst_loss=0.01, agreement=0.99, hd95_mm=4.0,
    hd95_change_mm=0.1, newly_missed=0,
)  # fmt: skip
F32 = Way(precision="f32", mirror_axes=(), step=0.5)
BF16 = Way(precision="bf16", mirror_axes=(), step=0.5)
INT8 = Way(precision="int8", mirror_axes=(), step=0.5)


def _variant(name: str, way: Way, *, passed: bool) -> Variant:
    return Variant(
        name=name,
        way=way,
        precision=way.precision,
        backend="openvino",
        passed=passed,
        reasons=() if passed else ("whole_tumour: mean Dice loss 0.0100 over 0.005",),
        cost=Cost(wall_s=1, cpu_s=9 if name == REFERENCE else 2, passes=8, tflop=1.5, peak_mb=900),
        regions={"whole_tumour": GOOD},
        cases=(CaseDice(case="a", dice={"whole_tumour": 0.8}, agreement={"whole_tumour": 0.99}),),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_tiny_package(tmp_path)
    package = load_package(made)
    report = Report(
        files=measured_files(package.sha256, package.description),
        evidence=("this package's network on a",),
        same_weights=True,
        machine="a machine",
        variants=(
            _variant(REFERENCE, Way(precision="f32", mirror_axes=(0, 1), step=0.5), passed=True),
            _variant("f32", F32, passed=True),
            _variant("bf16", BF16, passed=False),
        ),
    )
    (made / "gate.json").write_bytes(canonical(report))
    seal_package(made)
    return made


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"loss": 0.0051}, "mean Dice loss"),
        ({"worst_loss": 0.051}, "a case lost"),
        ({"newly_missed": 1}, "newly missed"),
        ({"hd95_change_mm": 0.51}, "HD95"),
    ],
)
def test_every_clause_of_the_rule_can_fail_a_variant(change: Mapping[str, Any], word: str) -> None:
    assert judge({"r": GOOD}, {"r": "case"}, Rule(), 1.0, {}) == ()
    (reason,) = judge({"r": GOOD.model_copy(update=dict(change))}, {"r": "case"}, Rule(), 1.0, {})
    assert word in reason


def test_a_case_that_lost_much_passes_when_a_person_looked_at_it() -> None:
    worse = {"r": GOOD.model_copy(update={"worst_loss": 0.2})}
    assert judge(worse, {"r": "case"}, Rule(), 1.0, {"case": "a stray island went"}) == ()
    assert judge(worse, {"r": "case"}, Rule(), 1.0, {"other": "seen"}) != ()


def test_a_variant_that_failed_is_refused_by_name_and_one_that_passed_says_so(folder: Path) -> None:
    package = load_package(folder)
    f32 = EngineSettings(device="cpu", precision="f32", threads=1)
    assert refuse_unless_offered(package, f32) == "passed"
    with pytest.raises(Refused) as caught:
        Engine(package, replace(f32, precision="bf16"))
    told = caught.value.refusal
    assert told.code is RefusalCode.VARIANT_NOT_OFFERED
    assert "bf16, not mirrored, step 0.5: whole_tumour: mean Dice loss" in told.found
    assert "f32, not mirrored, step 0.5" in told.expected
    assert refuse_unless_offered(package, replace(f32, precision="bf16", measuring=True)) == "being measured"
    assert dict(Engine(package, f32).identity.settings)["gate"] == "passed"
    assert refuse_unless_offered(package, replace(f32, step=0.3)) == "not measured"


@pytest.mark.parametrize("change", [{"precision": "int8"}, {"window": "box"}])
def test_what_needs_the_gate_is_refused_without_one(folder: Path, change: dict[str, Any]) -> None:
    with_report = load_package(folder)
    (folder / "gate.json").unlink()
    seal_package(folder)
    for package in (with_report, load_package(folder)):
        with pytest.raises(Refused) as caught:
            refuse_unless_offered(package, replace(EngineSettings(device="cpu", precision="f32"), **change))
        assert caught.value.refusal.code is RefusalCode.VARIANT_NOT_OFFERED
    assert refuse_unless_offered(load_package(folder), EngineSettings(device="cpu", precision="f32")) == "no gate"


def test_a_report_of_other_weights_is_not_believed(folder: Path) -> None:
    tree = json.loads((folder / "gate.json").read_text())
    tree["files"]["weights.safetensors"] = "0" * 64
    (folder / "gate.json").write_text(json.dumps(tree))
    seal_package(folder)
    with pytest.raises(Refused) as caught:
        report_of(load_package(folder))
    assert caught.value.refusal.code is RefusalCode.MODEL_UNTRUSTED
    (folder / "gate.json").write_text('{"format": 1, "surprise": 2}')
    seal_package(folder)
    with pytest.raises(Refused):
        report_of(load_package(folder))


def test_settings_become_the_way_that_was_measured(folder: Path) -> None:
    description = load_package(folder).description
    default = EngineSettings(device="cpu")
    assert way_of(description, default) == F32
    assert way_of(description, replace(default, precision="bf16")) == BF16
    assert way_of(description, default, on_cuda=True).precision == "f16"
    assert way_of(description, replace(default, mirror_axes=(0,))).mirror_axes == (0,)
    assert way_of(description, replace(default, mirror_axes=(0,), mirroring=False)).mirror_axes == ()
    named = ways(description, (0, 1, 2), ("int8", "box-bf16"))
    assert list(named) == [REFERENCE, "box-bf16", "int8"]
    assert named["int8"] == INT8 and named["box-bf16"].window == "box"
    assert list(ways(description, (), ("f32", "bf16"))) == [REFERENCE, "bf16"]  # f32 is the reference itself then
    assert ways(description, (), ("mirrored-bf16",), 2)["mirrored-bf16"].mirror_axes == (0, 1)
    with pytest.raises(ValueError, match="student"):
        ways(description, (0,), ("student",))


def test_levers_are_named_by_what_they_change(folder: Path) -> None:
    package = load_package(folder)
    known = ways(package.segmentation, (0, 1, 2), LEVERS)
    assert set(known) == {REFERENCE, *LEVERS}
    assert known["mirror-02-bf16"].mirror_axes == (0, 2) and known["one-axis-bf16"].mirror_axes == (2,)
    combined = known["mirrored-step-1.0-bf16"]
    assert (combined.mirror_axes, combined.step, combined.precision) == ((0, 1, 2), 1.0, "bf16")
    assert known["tensorflow"].backend == "tensorflow"
    same = ways(package.segmentation, (1,), ("one-axis-bf16", "mirrored-bf16"))
    assert list(same) == [REFERENCE, "mirrored-bf16"]  # one way is measured once
    assert [name for name in ("mirror-12-bf16", "box-bf16", "mirrored-bf16") if fits(package, name)] == [
        "mirrored-bf16"
    ]
    for strange in ("mirror--bf16", "mirror-21-bf16", "bf8", "step-2-bf16"):
        with pytest.raises(ValueError, match="were expected"):
            ways(package.segmentation, (0,), (strange,))


def test_adopting_keeps_the_reference_and_answers_the_stored_case_anew(folder: Path) -> None:
    """What training mirrored stays known, so that the next gate does not compare the package with itself."""
    package = load_package(folder)
    report = report_of(package)
    assert report is not None and reference_axes_of(package) == (0, 1)
    written = write_report(folder, report, adopt=True)
    assert (written.adopted, written.runs) == (F32, True)
    package = load_package(folder)
    assert package.segmentation.inference.mirror_axes == ()
    assert package.segmentation.inference.trained_mirror_axes == (0, 1) == reference_axes_of(package)
    assert "Ways of running it" in package.files["CARD.md"].decode()
    assert package.digest_sha256 == written.digest


def test_an_8_bit_network_that_was_measured_may_be_left_out_and_is_then_not_offered(folder: Path) -> None:
    for name in INT8_FILES:
        (folder / name).write_bytes(b"eight bits")
    seal_package(folder)
    with_it = load_package(folder)
    measured = Report(
        files=measured_files(with_it.sha256, with_it.segmentation),
        evidence=("this package's network on a",),
        same_weights=True,
        machine="a machine",
        variants=(
            _variant(REFERENCE, Way(precision="f32", mirror_axes=(), step=0.5), passed=True),
            _variant("int8", INT8, passed=True).model_copy(
                update={"cost": Cost(wall_s=1, cpu_s=1, passes=8, peak_mb=9)}
            ),
        ),
    )
    assert cheapest(measured, with_int8=True).name == "int8" and cheapest(measured).name == REFERENCE
    write_report(folder, measured, adopt=True, keep_int8=False)
    without = load_package(folder)
    assert "int8.bin" not in without.files and report_of(without) == measured
    with pytest.raises(Refused) as caught:
        Engine(without, EngineSettings(device="cpu", precision="int8", threads=1))
    assert caught.value.refusal.code is RefusalCode.VARIANT_NOT_OFFERED
    assert "does not hold" in caught.value.refusal.found
    for name in INT8_FILES:
        (folder / name).write_bytes(b"eight other bits")
    seal_package(folder)
    with pytest.raises(Refused) as caught:
        report_of(load_package(folder))
    assert caught.value.refusal.code is RefusalCode.MODEL_UNTRUSTED


def test_a_larger_step_that_saved_no_window_is_not_adopted(folder: Path) -> None:
    report = report_of(load_package(folder))
    assert report is not None
    wide = _variant("step-1.0", F32.model_copy(update={"step": 1.0}), passed=True)

    def with_wide(passes: float) -> str:
        cost = wide.cost.model_copy(update={"cpu_s": 1.0, "passes": passes})
        variants = (*report.variants, wide.model_copy(update={"cost": cost}))
        return cheapest(report.model_copy(update={"variants": variants})).name

    assert (with_wide(8), with_wide(6)) == ("f32", "step-1.0")


def test_only_large_lesions_that_the_reference_finds_count_as_newly_missed() -> None:
    truth = np.zeros((20, 20, 40), bool)
    truth[2:8, 2:8, 2:8] = truth[2:8, 2:8, 20:26] = True  # two of 216 voxels
    truth[15, 15, 15] = True
    usual, found = truth.copy(), truth.copy()
    found[2:8, 2:8, 20:26] = found[15, 15, 15] = False
    spacing = (2.0, 2.0, 2.0)  # 8 mm3 a voxel: 1.7 ml and 0.008 ml
    assert newly_missed(found, usual, truth, spacing, 1.0) == 1
    assert newly_missed(found, usual, truth, (1.0, 1.0, 1.0), 1.0) == 0
    usual[2:8, 2:8, 20:26] = False
    assert newly_missed(found, usual, truth, spacing, 1.0) == 0


def test_the_table_puts_cost_and_dice_side_by_side(folder: Path) -> None:
    report = report_of(load_package(folder))
    assert report is not None
    lines = as_table(report).splitlines()
    assert len(lines) == 5
    assert "| bf16 | bf16, not mirrored, step 0.5 | openvino bf16 | 8 | 1.50 | 2.0 | 900 |" in lines[4]
    assert "**failed**" in lines[4] and "0.800, +0.0010 (-0.001 to +0.003)" in lines[4]
    card = put_into_card("# A model\n\nText.\n", report)
    assert "Offered: f32. Not offered: bf16 (whole_tumour: mean Dice loss" in card
    assert put_into_card(card + "\nMore.\n", report).count("## Ways of running it") == 1
    assert put_into_card(card + "\nMore.\n", report).endswith("More.\n")
