"""From averaged weights to a sealed model package.

Convolutions are stored as float16, everything of batch normalisation as float32: running variances can be too small or
too large for float16. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ai_engine.packages import seal_package
from ai_engine.packages.store import GATE, INT8
from ai_engine.training.spanish import with_words

WEIGHTS = "weights.safetensors"
SELF_TEST = "self_test.safetensors"


def compact_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round what may be rounded: tensors of two and more dimensions become float16."""
    return {
        name: (value.half() if value.is_floating_point() and value.dim() > 1 else value).contiguous().clone()
        for name, value in weights.items()
    }


def run_time_plans(plans: Mapping[str, Any]) -> dict[str, Any]:
    """The plan without what only training needs."""
    result: dict[str, Any] = json.loads(json.dumps(plans))
    for configuration in result["configurations"].values():
        configuration["architecture"]["arch_kwargs"].pop("drop_path", None)
    return result


def forget_gate(folder: Path) -> None:
    """Take out what was measured with, or made from, the weights that were here before."""
    for name in (GATE, *INT8):
        (folder / name).unlink(missing_ok=True)


def export_package(
    folder: Path,
    *,
    weights: Mapping[str, Tensor],
    plans: Mapping[str, Any],
    description: Mapping[str, Any],
    model: Mapping[str, Any],
    card: str,
    self_test: Mapping[str, Tensor] | None = None,
) -> str:
    """Write a package and seal it.

    Parameters
    ----------
    folder
        ``.../<name>/<version>``; made if it is not there.
    plans, description
        nnU-Net's plan and ``dataset.json``.
    model
        The tree of ``model.yaml`` (``docs/reference/model-package.md``).
    card
        Text of ``CARD.md``.
    self_test
        Tensors of the stored case, if the model names one.

    Returns
    -------
    The model digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    forget_gate(folder)
    save_file(compact_weights(weights), folder / WEIGHTS)
    if self_test is not None:
        save_file({name: value.contiguous() for name, value in self_test.items()}, folder / SELF_TEST)
    for name, content in (("plans.json", run_time_plans(plans)), ("dataset.json", description)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = yaml.safe_dump(with_words(model), sort_keys=False, allow_unicode=True, width=110)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    return seal_package(folder)


def averaged_weights(state: Path) -> dict[str, Tensor]:
    """Read the averaged weights from a training's state file."""
    loaded = torch.load(state, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = loaded["ema"]
    return weights
