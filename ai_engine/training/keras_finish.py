"""The end of a training of ``brain-tumour-tf``: package, accuracy gate, test on the patients kept apart, card.

The gate measures the cheaper ways of running on the same patients; the cheapest that loses nothing is adopted before
the test, and the report lives in the package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_engine.training.keras_data import ROLE_SETS
from ai_engine.training.keras_recipe import KerasRecipe, TumourSplit, split_of, write_package

Say = Callable[[str], None]
REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")
GATED = ("bf16", "one-axis-bf16", "step-1.0-bf16")
"""The ways of running that are measured when the package is built; more with ``ai-node models gate``."""


def finish_keras(recipe: KerasRecipe, data: Path, work: Path, version: str, say: Say) -> Path:
    """Write ``work/package/<name>/<version>``, measured on every role set; the package's folder.

    Raises
    ------
    DatasetError
        If the cases kept for the test are not there.
    """
    from ai_engine.evaluation.accuracy import Evidence, GateRequest, run_gate
    from ai_engine.evaluation.adoption import write_report
    from ai_engine.evaluation.datasets import open_dataset

    folder = work / "package" / recipe.name / version
    split = split_of(data)
    write_package(recipe, work, folder, version, card="", metrics=[])
    evidence = (Evidence(folder, split.test),)
    request = GateRequest(folder, open_dataset(data / "brats"), evidence, variants=GATED, regions=REGIONS)
    report = run_gate(request, say)
    write_report(folder, report, adopt=True)
    studies = measure(folder, data / "brats", split.test, say)
    (work / "evaluation.json").write_text(json.dumps(studies, indent=1) + "\n", encoding="utf-8")
    card = card_text(recipe, version, split, studies, json.loads((work / "keras-history.json").read_bytes()))
    write_package(recipe, work, folder, version, card=card, metrics=metrics_of(studies))
    write_report(folder, report, adopt=True)
    return folder


def measure(folder: Path, dataset: Path, names: tuple[str, ...], say: Say) -> dict[str, Any]:
    """Role set (joined by ``+``) to the study of `ai_engine.evaluation.study` on the named cases."""
    from dataclasses import replace

    from ai_engine.engine import Engine
    from ai_engine.evaluation.datasets import open_dataset
    from ai_engine.evaluation.study import evaluate_dataset
    from ai_engine.packages import load_package
    from ai_engine.prediction import EngineSettings

    engine = Engine(load_package(folder), EngineSettings(device="cpu"))
    found = open_dataset(dataset)
    chosen = replace(found, cases=tuple(case for case in found.cases if case.name in names))
    studies = {}
    for roles in ROLE_SETS:
        say(f"test with {', '.join(roles)}")
        studies["+".join(roles)] = evaluate_dataset(engine, chosen, say, roles=list(roles)).to_json()
    return studies


def metrics_of(studies: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries for ``metrics`` of ``model.yaml``: mean Dice per region and role set."""
    entries = []
    for roles, study in studies.items():
        for region in REGIONS:
            dice = study["summary"][region]["dice"]
            entries.append(
                {
                    "name": "Dice, mean over patients",
                    "value": round(dice["mean"], 4),
                    "ci95": [round(dice["low"], 4), round(dice["high"], 4)],
                    "n": dice["n"],
                    "region": region,
                    "roles": roles.split("+"),
                    "data": "the three patients of brats kept for the test",
                }
            )
    return entries


def card_text(
    recipe: KerasRecipe, version: str, split: TumourSplit, studies: dict[str, Any], history: dict[str, Any]
) -> str:
    """The text of ``CARD.md``."""
    steps = history["history"]
    last = steps[-1] if steps else {"iteration": 0, "used_s": 0.0}
    parts = [
        f"# {recipe.name} {version}",
        "Parts of a glioma (necrotic or non-enhancing core, oedema, enhancing tumour) from T1c, T1, T2 and FLAIR "
        "without skull. A 3D multi-scale U-Net in Keras, 5.65 M parameters, windows of 128 x 128 x 128 x 4, 4 classes. "
        "**Research and evaluation only, not for clinical use.**",
        "## How it was trained",
        f"TensorFlow on one thread of a shared CPU, mixed bf16, {last['iteration']} steps in {last['used_s'] / 60:.0f} "
        "minutes of processor time: patches of 64 cubed, two a step, for the first 60 %, then of 96 cubed, one a step; "
        "cross entropy plus soft Dice of whole tumour, core and enhancing tumour; averaged weights, statistics of the "
        "normalisation estimated anew. No pre-training. That is very short: nnU-Net's default is 250,000 steps.",
        "In a quarter of the patches only T1c was shown and in a tenth T1c and FLAIR, the others being zero, so these "
        "sets are allowed by contract.",
        f"One split by patient, fixed before training (fold 1 of brain-tumour's rule): learnt from "
        f"{', '.join(split.train)}; kept for the test {', '.join(split.test)}. The network that is shipped is the one "
        "that was tested. No other split was trained.",
        "## What was measured",
        "**n = 3.** Every case of the test, at the package's own settings:",
    ]
    for roles, study in studies.items():
        parts.append(f"### From {roles.replace('+', ', ')}")
        parts.append(_table(study))
    parts += [
        "## Limits",
        "Six patients to learn from and three to test on say little about others. BraTS's terms were not confirmed; "
        "the strictest known of the sources is CC BY-NC-SA: research only.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(study: dict[str, Any]) -> str:
    head = "| case | " + " | ".join(f"{region.replace('_', ' ')} Dice (HD95 mm)" for region in REGIONS) + " |"
    lines = [head, "|" + "---|" * (len(REGIONS) + 1)]
    for case in study["cases"]:
        cells = []
        for region in REGIONS:
            found = case["regions"].get(region)
            if found is None:
                cells.append("refused")
                continue
            length = "-" if found["hd95_mm"] is None else f"{found['hd95_mm']:.1f}"
            cells.append(f"{found['dice']:.3f} ({length})")
        lines.append(f"| {case['case']} | " + " | ".join(cells) + " |")
    means = [study["summary"][region]["dice"] for region in REGIONS]
    lines.append("| **mean** | " + " | ".join(f"{mean['mean']:.3f}" for mean in means) + " |")
    return "\n".join(lines)
