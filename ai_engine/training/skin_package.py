"""From averaged weights of a skin classifier to a sealed package: description, weights, stored self-test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ai_engine.backends import NetworkOptions
from ai_engine.packages import load_package, seal_package
from ai_engine.packages.classification import Calibration
from ai_engine.runners.classifier import HEAD_BIAS, HEAD_WEIGHT, ClassifierRunner
from ai_engine.training.package import SELF_TEST, WEIGHTS, compact_weights
from ai_engine.training.skin_trainer import HEADS, MEAN, STD
from ai_engine.training.spanish import with_words

LESION = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
CODES: Mapping[str, dict[str, str]] = {
    "malignant": {
        "value": "AI-MAL-PROB",
        "scheme": "99AINODE",
        "meaning": "Model-estimated probability of malignancy",
    },
    "melanoma": {
        "value": "AI-MEL-PROB",
        "scheme": "99AINODE",
        "meaning": "Model-estimated probability of melanoma",
    },
}
WITHIN: Mapping[str, str] = {"melanoma": "malignant"}
"""What implies what: a melanoma is malignant, so its probability is never said to be higher."""
MEANINGS: Mapping[str, str] = {
    "malignant": "How often pictures that the model answers so showed melanoma, basal cell carcinoma, actinic "
    "keratosis or Bowen disease in the data it was calibrated on.",
    "melanoma": "How often pictures that the model answers so showed melanoma in the data it was calibrated on.",
}


@dataclass(frozen=True)
class SkinWords:
    """What a package says about itself in words."""

    name: str = "own-skin-model"
    title: str = "Malignancy of a skin lesion (dermoscopy)"
    intended_use: str = (
        "For research and evaluation only. Not for clinical use; not a diagnosis. Decision support for a qualified "
        "reader, who stays responsible."
    )
    training_data: str = "Pictures of the site's own."
    licence: str = "As the pictures it was trained on allow; the site's own responsibility."
    limits: tuple[str, ...] = (
        "Trained and measured on pictures taken through a dermatoscope; photographs taken without one are refused.",
        "The pictures show almost only light skin (Fitzpatrick types I to III): for darker skin (IV to VI), palms, "
        "soles, nails and mucosa nothing can be said.",
        "Pictures were squeezed to 256 x 256 pixels and compressed: finer texture was never seen.",
        "A low probability does not exclude malignancy: some malignant lesions are missed at every threshold.",
        "It sees one picture: no history, no change over time, no touch, no other lesions of the patient.",
        "The probability of melanoma is never above that of malignancy: where its own output says more, it is lowered "
        "to it. Their thresholds were chosen apart, so one may lie at or above its threshold and the other below.",
    )
    meanings: Mapping[str, str] = field(default_factory=lambda: dict(MEANINGS))
    """What each output's number is about."""
    modalities: tuple[str, ...] = ("XC", "DMS", "OT")


@dataclass(frozen=True, eq=False)
class Decided:
    """What the validation decided about one output."""

    threshold: float
    calibration: Calibration
    operating_point: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class SkinPackage:
    """Everything that goes into a package besides its weights."""

    words: SkinWords
    version: str
    architecture: str
    size: int
    views: tuple[str, ...] = ("identity",)
    decided: Mapping[str, Decided] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    quality: Mapping[str, Any] = field(default_factory=lambda: {"accepts": ["dermoscopic"]})


def package_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a package, timm's names, from a training network's ``state_dict``; the helping head is left."""
    kept = {
        name.removeprefix("features."): value
        for name, value in state.items()
        if name.startswith("features.") and not name.endswith("num_batches_tracked")
    }
    return compact_weights({**kept, HEAD_WEIGHT: state["heads.weight"], HEAD_BIAS: state["heads.bias"]})


def skin_description(
    package: SkinPackage, weights: Sequence[str], self_test: Mapping[str, float] | None
) -> dict[str, Any]:
    """The tree of ``model.yaml``."""
    words = package.words
    outputs = []
    for key in HEADS:
        decided = package.decided.get(key, Decided(0.5, Calibration()))
        entry: dict[str, Any] = {
            "key": key,
            "code": dict(CODES[key]),
            "finding": dict(LESION),
            "threshold": decided.threshold,
            "calibration": decided.calibration.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "meaning": words.meanings[key],
            **({"within": WITHIN[key]} if key in WITHIN else {}),
        }
        if decided.operating_point is not None:
            entry["operating_point"] = dict(decided.operating_point)
        outputs.append(entry)
    tree: dict[str, Any] = {
        "schema_version": 1,
        "name": words.name,
        "version": package.version,
        "title": words.title,
        "task": "classification",
        "framework": f"torch {torch.__version__.partition('+')[0]}",
        "runner": "classifier",
        "inputs": [{"role": "dermoscopy", "modality": list(words.modalities)}],
        "network": {
            "architecture": package.architecture,
            "size": [package.size, package.size],
            "resize": "squash",
            "mean": list(MEAN),
            "std": list(STD),
            "views": list(package.views),
        },
        "outputs": outputs,
        "heat_map": {"layer": "features", "output": HEADS[0]},
        "quality": dict(package.quality),
        "weights": list(weights),
        "intended_use": words.intended_use,
        "limits": list(words.limits),
        "training_data": words.training_data,
        "licence": words.licence,
    }
    if self_test is not None:
        tree["self_test"] = {"file": SELF_TEST, "logits": {k: round(v, 4) for k, v in self_test.items()}}
    if package.metrics:
        tree["metrics"] = [dict(metric) for metric in package.metrics]
    return tree


def write_skin_package(
    root: Path,
    package: SkinPackage,
    states: Sequence[Mapping[str, Tensor]],
    card: str,
    self_test: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """Write ``root/<name>/<version>`` and seal it; its folder.

    Parameters
    ----------
    states
        ``state_dict`` of one training network, or of several whose logits are averaged.
    self_test
        A picture ``(rows, columns, 3)`` uint8; its logits are measured with the package itself and stored.
    """
    folder = root / package.words.name / package.version
    folder.mkdir(parents=True, exist_ok=True)
    names = [WEIGHTS] if len(states) == 1 else [f"weights-{index}.safetensors" for index in range(len(states))]
    for name, state in zip(names, states, strict=True):
        save_file(package_weights(state), folder / name)
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    _describe(folder, skin_description(package, names, None))
    if self_test is not None:
        runner = ClassifierRunner(load_package(folder), NetworkOptions(device="cpu", backend="torch", threads=1))
        logits = runner.run([self_test])[0].logits
        save_file({"pixels": torch.from_numpy(self_test.copy())}, folder / SELF_TEST)
        _describe(folder, skin_description(package, names, logits))
    return folder


def _describe(folder: Path, tree: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(with_words(tree), sort_keys=False, allow_unicode=True, width=110)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    seal_package(folder)
