"""The whole evaluation of a package, as ``ai-node train check`` and ``python -m ai_engine.evaluation`` run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_engine.engine import Engine
from ai_engine.evaluation.metrics import bootstrap_mean, dice
from ai_engine.evaluation.run import Evaluated, as_json, as_volume, check_behaviour, check_steps, evaluate, means
from ai_engine.evaluation.sheet import Row, draw_sheet
from ai_engine.faults import WrongInput
from ai_engine.geometry import Affine
from ai_engine.labelled_files import open_nifti
from ai_engine.packages import load_package
from ai_engine.postprocess import postprocess
from ai_engine.prediction import EngineSettings, InputVolume
from ai_engine.training.cases import Case, find_cases, split_patients
from ai_engine.training.recipe import BRAIN_FLAIR

Say = Callable[[str], None]

THICK_SLICES = 60
"""Only stacks of at most so many slices are declared anew: a head of 150 slices cannot have a step of 7 mm."""

SIDES = ("test", "validation", "train", "all")

POSTPROCESSING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {}),
    ("components under 100 mm3 away", {"min_component_mm3": 100.0}),
    ("components under 300 mm3 away", {"min_component_mm3": 300.0}),
    ("components under 1000 mm3 away", {"min_component_mm3": 1000.0}),
    ("holes filled", {"fill_holes": True}),
    ("components under 300 mm3 away, holes filled", {"min_component_mm3": 300.0, "fill_holes": True}),
    ("largest component only", {"keep_largest": True}),
)


@dataclass(frozen=True)
class EvaluationRequest:
    """What to run.

    Attributes
    ----------
    package
        Folder of one package version.
    data
        Folder of cases (:func:`ai_engine.training.cases.find_cases`).
    out
        Where ``evaluation.json`` and the sheets go.
    side
        Which part of the shipped recipe's split, or ``all``.
    steps_mm
        Slice steps to declare instead; empty leaves the check out.
    behaviour
        NIfTI volumes to run in all variants.
    mirroring
        False switches the package's mirroring off.
    with_postprocessing_table
        Also measure each post-processing on its own.
    """

    package: Path
    data: Path
    out: Path
    side: str = "test"
    steps_mm: tuple[float, ...] = ()
    behaviour: tuple[Path, ...] = ()
    mirroring: bool | None = None
    precision: str = "package"
    threads: int = 0
    with_postprocessing_table: bool = False


def choose_cases(data: Path, side: str) -> list[Case]:
    """The cases of one side of the recipe's split, in the order of their names.

    Raises
    ------
    WrongInput
        If the side is unknown or empty.
    """
    cases = sorted(find_cases(data), key=lambda case: case.name)
    if side not in SIDES:
        raise WrongInput(f"side must be one of {', '.join(SIDES)}, found {side!r}")
    if side == "all":
        return cases
    recipe = BRAIN_FLAIR
    split = split_patients(
        cases, test_share=recipe.test_share, validation_share=recipe.validation_share, seed=recipe.split_seed
    )
    wanted = set(getattr(split, side))
    chosen = [case for case in cases if case.name in wanted]
    if not chosen:
        raise WrongInput(f"no case of {len(cases)} is on the side {side!r}")
    return chosen


def read_volume(path: Path) -> InputVolume:
    """Read a NIfTI volume with its own affine, RAS turned to LPS, axes to (slice, row, column)."""
    image = open_nifti(path)
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine @ np.eye(4)[[2, 1, 0, 3]].T
    array = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0))
    return InputVolume(array, Affine(matrix), modality="MR")


def run_evaluation(request: EvaluationRequest, say: Say) -> dict[str, Any]:
    """Evaluate, write ``evaluation.json``, ``cases.png`` and a sheet per behaviour volume; returns what was written."""
    request.out.mkdir(parents=True, exist_ok=True)
    settings = EngineSettings(
        device="cpu",
        mirroring=request.mirroring,
        threads=request.threads,
        precision=request.precision,  # type: ignore[arg-type]
    )
    cases = choose_cases(request.data, request.side)
    engine = Engine(load_package(request.package), settings)
    refused: dict[str, str] = {}
    done = evaluate(engine, cases, say, refused=refused)
    if not done:
        raise WrongInput(f"the package refused all {len(refused)} cases")
    for source, mean in means(done).items():
        say(f"{source}: mean Dice {mean}")
    for entry in sorted(done, key=lambda entry: entry.result.dice)[:3]:
        say(f"worst: {entry.result.case} {entry.result.dice:.3f}")
    thick = [entry for entry in done if entry.pair.image.shape[0] <= THICK_SLICES]
    steps = check_steps(engine, thick, request.steps_mm, say) if thick else []
    behaviour = {}
    for path in request.behaviour:
        name = path.name.split(".")[0]
        say(f"behaviour of {name}")
        behaviour[name], rows = check_behaviour(engine, read_volume(path), say)
        draw_sheet(request.out / f"behaviour-{name}.png", rows)
    written = as_json(engine, done, steps, behaviour)
    written["side"] = request.side
    written["refused"] = refused
    if request.with_postprocessing_table:
        written["postprocessing"] = postprocessing_table(engine, done, say)
    (request.out / "evaluation.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    draw_sheet(request.out / "cases.png", [_row(entry) for entry in sorted(done, key=lambda e: e.result.dice)])
    return written


def _row(entry: Evaluated) -> Row:
    return f"{entry.result.case}: Dice {entry.result.dice:.3f}", entry.pair.image, entry.pair.mask, entry.predicted


def postprocessing_table(engine: Engine, done: list[Evaluated], say: Say) -> list[dict[str, Any]]:
    """Mean Dice under each post-processing on its own; the package is expected to have none switched on."""
    table = []
    description = engine.package.segmentation
    label = description.labels[0]
    for name, rule in POSTPROCESSING:
        new = label.postprocessing.model_copy(update={**rule, "measured_effect": "being measured"})
        changed = description.model_copy(update={"labels": (label.model_copy(update={"postprocessing": new}),)})
        values = []
        for entry in done:
            mask, _ = postprocess(entry.predicted.astype(np.uint8), as_volume(entry.pair).affine, changed)
            values.append(dice(mask > 0, entry.pair.mask))
        mean = bootstrap_mean(values)
        say(f"{name:<46} mean Dice {mean.value:.4f}, worst {min(values):.3f}")
        table.append({"rule": name, "worst": min(values), **asdict(mean)})
    return table
