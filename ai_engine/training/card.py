"""The card of a trained package: what was done and measured, in words and numbers, nothing promised beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_engine.training.recipe import Recipe


def metrics_of(evaluation: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """Entries for ``metrics`` of ``model.yaml`` from an ``evaluation.json``, the largest collection first."""
    return [
        {
            "name": "Dice, mean over patients",
            "value": round(mean["value"], 4),
            "ci95": [round(mean["low"], 4), round(mean["high"], 4)],
            "n": mean["n"],
            "region": label,
            "data": f"held-back patients of {source}",
        }
        for source, mean in sorted(evaluation["dice"].items(), key=lambda entry: -int(entry[1]["n"]))
    ]


def card_text(
    recipe: Recipe, version: str, evaluation: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]]
) -> str:
    """The text of ``CARD.md``."""
    steps = [entry for entry in history if "loss" in entry]
    parts = [
        f"# {recipe.name} {version}",
        f"{recipe.title}. **{recipe.intended_use}**",
        "## What it was trained on",
        recipe.training_data,
        f"Licence: {recipe.licence}.",
        "## How",
        "nnU-Net's plan format, preprocessing (in plane only, nothing between slices), patch loader and loss (Dice "
        "plus cross entropy); an EfficientNetV2-B0 U-Net; bf16 on the CPU; averaged weights of the training's end.",
    ]
    if steps:
        last = steps[-1]
        parts.append(f"{last['iteration']} iterations in {last['used_s'] / 60:.0f} minutes.")
    parts.append("## What was measured")
    parts.append(_measured(evaluation) if evaluation else "Nothing yet. Run `ai-node train check` and export again.")
    parts.append("## Limits")
    parts.append("\n".join(f"- {limit}" for limit in recipe.limits))
    return "\n\n".join(parts) + "\n"


def _measured(evaluation: Mapping[str, Any]) -> str:
    lines = ["On patients that training never saw:", ""]
    for source, mean in evaluation["dice"].items():
        lines.append(
            f"- {source}: mean Dice {mean['value']:.3f} "
            f"(95 % bootstrap interval {mean['low']:.3f} to {mean['high']:.3f}, {mean['n']} patients)"
        )
    lines += [
        "",
        "Every case, worst first:",
        "",
        "| case | Dice | precision | recall | truth ml | found ml |",
        "|" + "---|" * 6,
    ]
    for case in evaluation["cases"]:
        lines.append(
            f"| {case['case']} | {case['dice']:.3f} | {case['precision']:.2f} | {case['recall']:.2f} | "
            f"{case['truth_ml']:.0f} | {case['predicted_ml']:.0f} |"
        )
    for name, code in evaluation.get("refused", {}).items():
        lines += ["", f"{name} was refused: `{code}`."]
    for step in evaluation.get("declared_steps", ()):
        lines += [
            "",
            f"Declared slice step {step['step_mm']:g} mm instead: mean Dice {step['mean_dice']:.3f}, "
            f"greatest change of a case {step['greatest_change']:.3f}.",
        ]
    return "\n".join(lines)
