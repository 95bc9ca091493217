"""Turning an nnU-Net results folder or a Keras ``.h5`` file into a package (design section 6).

The foreign checkpoint is opened in a child (`ai_engine.packages.import_child`); here only JSON, safetensors and sizes
are looked at.  What a results folder does not know (codes, limits, intended use) is not guessed: the draft leaves it
out, and sealing says by name what is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ai_engine.children import clean_environment
from ai_engine.faults import ModelFault
from ai_engine.packages.schema import DescriptionError, parse_tree
from ai_engine.packages.store import DESCRIPTION, seal_package

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
TIMEOUT_S = 1800
_ROLES = {
    "flair": "flair",
    "t1": "t1",
    "t1w": "t1",
    "t2": "t2",
    "t2w": "t2",
    "t1c": "t1c",
    "t1ce": "t1c",
    "t1gd": "t1c",
}
_COLOURS = ((255, 128, 0), (0, 158, 115), (0, 114, 178), (230, 70, 160), (240, 228, 66), (86, 180, 233))
_AXES_BY_READER = {"NibabelIOWithReorient": "SAR"}
"""Readers that turn every picture to one orientation; others keep the file's, which a results folder does not say."""

MUST_BE_GIVEN = (
    "title",
    "axes",
    "inputs[].role, modality, spacing_in_plane_mm, slice_step_mm, min_slices",
    "labels[].category, type, site",
    "intended_use",
    "limits",
    "training_data",
    "licence",
)


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes
    ----------
    folder
        Where the package is.
    digest_sha256
        Of the sealed package; empty when ``model.yaml`` still lacks something.
    missing
        What `seal_package` said is missing; empty when it is sealed.
    """

    folder: Path
    digest_sha256: str
    missing: str
    facts: Mapping[str, Any]


def import_nnunet(
    results: Path,
    root: Path,
    name: str,
    *,
    version: str = "1.0.0",
    folds: Sequence[str] = (),
    checkpoint: str = "",
    dtype: str = "float32",
    description: Path | None = None,
) -> Imported:
    """Convert a results folder (``plans.json``, ``dataset.json``, ``fold_*/checkpoint_*.pth``).

    Parameters
    ----------
    results
        The trainer's folder, e.g. ``nnUNetTrainer__nnUNetPlans__3d_fullres``.
    root
        The models folder; the package becomes ``root/name/version``.
    folds
        Names like ``fold_0``; empty takes all that hold a checkpoint.  Several are averaged at run time.
    checkpoint
        One of `CHECKPOINTS`; empty takes the first that is there.
    dtype
        ``float32`` or ``float16``.
    description
        A YAML file with the parts of ``model.yaml`` that a results folder does not know; its keys replace the draft's.

    Raises
    ------
    ModelFault
        If the folder is no results folder or names something that is not allowed.
    FileExistsError
        If this version exists already: versions never change.
    """
    target = root / name / version
    if target.exists():
        raise FileExistsError(f"{name} {version} is there already; give another --version")
    found = _folds(results, folds, checkpoint)
    extra = parse_tree(description.read_bytes()) if description is not None else {}
    (root / name).mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=root / name))
    try:
        facts = _convert(results, draft, found, dtype)
        for file in ("plans.json", "dataset.json"):
            shutil.copyfile(results / file, draft / file)
        values = {**_skeleton(name, version, facts, json.loads((draft / "dataset.json").read_bytes()), draft), **extra}
        return _finished(draft, target, values, _HEAD, facts)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def import_keras(
    file: Path,
    root: Path,
    name: str,
    *,
    version: str = "1.0.0",
    dtype: str = "float32",
    description: Path | None = None,
) -> Imported:
    """Convert a whole Keras model (``model.save("x.h5")``, Keras 2 or 3) without running anything from it.

    Parameters
    ----------
    file
        The ``.h5`` file.
    root, name, version, dtype, description
        As for `import_nnunet`; the parts that the file does not know include ``preparation`` (how pictures were
        normalised and cut in training).

    Raises
    ------
    ModelFault
        If the file is no such file or names something that is not allowed.
    FileExistsError
        If this version exists already.
    """
    target = root / name / version
    if target.exists():
        raise FileExistsError(f"{name} {version} is there already; give another --version")
    extra = parse_tree(description.read_bytes()) if description is not None else {}
    (root / name).mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=root / name))
    try:
        facts = _in_child(["keras", str(file.resolve()), str(draft), "", "", dtype], draft)
        values = {**_keras_skeleton(name, version, facts), **extra}
        return _finished(draft, target, values, _KERAS_HEAD, facts)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _finished(draft: Path, target: Path, values: Mapping[str, Any], head: str, facts: Mapping[str, Any]) -> Imported:
    """Write the description, seal if nothing is missing, and put the folder in its place."""
    (draft / DESCRIPTION).write_text(head + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
    digest, missing = "", ""
    try:
        digest = seal_package(draft)
    except DescriptionError as error:
        missing = str(error)
    draft.chmod(0o755)
    os.rename(draft, target)
    return Imported(target, digest, missing, facts)


def _keras_skeleton(name: str, version: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    multiple = facts["multiple"]
    patch = [side if side >= 8 else max(step, 128) for side, step in zip(facts["patch"], multiple, strict=True)]
    return {
        "schema_version": 1,
        "name": name,
        "version": version,
        "task": "segmentation",
        "framework": f"keras, {facts['parameters'] / 1e6:.2f} M parameters",
        "runner": "keras",
        "inputs": [{"modality": ["MR"]} for _ in range(facts["input_channels"])],
        "labels": [_label(value, f"Label {value}") for value in range(1, facts["classes"])],
        "measurements": ["volume", "long_axis", "short_axis", "diameter_3d"],
        "preparation": {"patch": patch},
        "inference": {
            "configuration": "keras",
            "step": 0.5,
            "mirror_axes": [],
            "precision": {"cpu": "f32", "cuda": "f32"},
        },
        "weights": facts["weights"],
    }


KERAS_MUST_BE_GIVEN = (
    *MUST_BE_GIVEN,
    "labels[].name, abbreviation",
    "preparation.normalisation (zscore_nonzero, zscore, minmax, none), spacing_mm, crop: as in training",
)
_KERAS_HEAD = (
    "# Draft from a Keras file. What it could not know must be added by hand:\n"
    + "".join(f"#   {line}\n" for line in KERAS_MUST_BE_GIVEN)
    + "# Reference: docs/reference/model-package.md. Then: ai-node models seal FOLDER\n"
)

_HEAD = (
    "# Draft from an nnU-Net results folder. What it could not know must be added by hand:\n"
    + "".join(f"#   {line}\n" for line in MUST_BE_GIVEN)
    + "# Reference: docs/reference/model-package.md. Then: ai-node models seal FOLDER\n"
)


def _folds(results: Path, wanted: Sequence[str], checkpoint: str) -> list[tuple[str, str]]:
    if not (results / "plans.json").is_file() or not (results / "dataset.json").is_file():
        raise ModelFault("a results folder with plans.json and dataset.json was expected")
    if checkpoint and checkpoint not in CHECKPOINTS:
        raise ModelFault(f"checkpoint: one of {', '.join(CHECKPOINTS)} was expected")
    here = sorted(entry.name for entry in results.iterdir() if re.match(r"^fold_(\d+|all)$", entry.name))
    if set(wanted) - set(here):
        raise ModelFault(f"folds: some of {', '.join(here) or 'none'} were expected")
    found = []
    for fold in wanted or here:
        files = [file for file in ((checkpoint,) if checkpoint else CHECKPOINTS) if (results / fold / file).is_file()]
        if files:
            found.append((fold, files[0]))
        elif wanted:
            raise ModelFault(f"{fold} holds none of {', '.join(CHECKPOINTS)}")
    if not found:
        raise ModelFault(f"fold_0 with one of {', '.join(CHECKPOINTS)} was expected; found none")
    if len({file for _, file in found}) > 1:
        raise ModelFault("the folds hold different checkpoints; choose one with --checkpoint")
    return found


def _convert(results: Path, draft: Path, found: Sequence[tuple[str, str]], dtype: str) -> Mapping[str, Any]:
    folds = ",".join(fold for fold, _ in found)
    return _in_child(["nnunet", str(results.resolve()), str(draft), folds, found[0][1], dtype], draft)


def _in_child(arguments: Sequence[str], draft: Path) -> Mapping[str, Any]:
    """Run the importing child and hear what it has to say."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ai_engine.packages.import_child", *arguments, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(1),
            cwd=draft,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFault("the file was not read within half an hour; the import was stopped") from error
    lines = done.stdout[-1_000_000:].splitlines()
    try:
        facts = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise ModelFault(f"the importing child ended with status {done.returncode} and no answer") from error
    if not isinstance(facts, dict) or "fault" in facts:
        raise ModelFault(str(facts.get("fault", "no answer"))[:600] if isinstance(facts, dict) else "no answer")
    return facts


def _skeleton(
    name: str, version: str, facts: Mapping[str, Any], dataset: Mapping[str, Any], draft: Path
) -> dict[str, Any]:
    plans = json.loads((draft / "plans.json").read_bytes())
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": version,
        "task": "segmentation",
        "framework": f"nnunetv2, {facts['trainer']}, {facts['parameters'] / 1e6:.1f} M parameters"[:64],
        "runner": "nnunet",
    }
    axes = _AXES_BY_READER.get(str(plans.get("image_reader_writer", "")))
    if axes is not None:
        values["axes"] = axes
    values["inputs"] = [
        _input(str(channel)) for channel in dataset.get("channel_names", dataset.get("modality", {})).values()
    ]
    values["labels"] = [_label(int(value), str(text)) for value, text in facts["labels"].items()]
    values["measurements"] = ["volume", "long_axis", "short_axis", "diameter_3d"]
    values["inference"] = {
        "configuration": facts["configuration"],
        "step": 0.5,
        "mirror_axes": facts["mirror_axes"],
        "precision": {"cpu": "f32", "cuda": "f16"},
    }
    values["weights"] = facts["weights"]
    return values


def _input(channel: str) -> dict[str, Any]:
    role = _ROLES.get(channel.lower().replace("-", "").replace("_", ""))
    if role is not None:
        return {"role": role, "modality": ["MR"]}
    return {"modality": ["CT"]} if channel.upper() == "CT" else {}


def _label(value: int, name: str) -> dict[str, Any]:
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return {
        "label": value,
        "key": key if re.match(r"^[a-z]", key) else f"label_{value}",
        "name": name,
        "abbreviation": name[:16],
        "color_rgb": list(_COLOURS[(value - 1) % len(_COLOURS)]),
    }
