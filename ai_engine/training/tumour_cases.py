"""What ``brain-tumour`` learns from: real tumours with parts, real tumours without, synthetic heads.

Three sources, all as ``(t1c, flair)`` on their own grid, z-scored inside the brain as nnU-Net does, zero outside:

- *brats*: both sequences, skull removed by its makers, labels necrotic core / oedema / enhancing by **name** (the two
  years of the challenge number them differently);
- *lgg-flair*: FLAIR only, one outline without parts; skull removed here, roughly, which is enough to learn from;
- *phantom*: synthetic brains with parts (:mod:`ai_engine.training.tumour_phantom`).

The folds are a rule, not a draw: within grade, in the order of their names, patients are dealt to the folds in turn.
People who are in two sources are learnt from in *brats* only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ai_engine.labelled_files import read_rows
from ai_engine.training.cases import LGG_SPACING_MM, TrainingDataError
from ai_engine.training.nifti import read_axial

OUTSIDE, HEALTHY, CORE, OEDEMA, ENHANCING, PARTLESS = -1, 0, 1, 2, 3, 4
"""Values of a training label map; PARTLESS is tumour whose parts nobody drew."""

REGIONS: Mapping[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
"""Whole tumour, tumour core, enhancing tumour."""

CONVENTIONS: Mapping[str, Mapping[int, int]] = {
    "1 2 4 (BraTS 2018)": {0: HEALTHY, 1: CORE, 2: OEDEMA, 4: ENHANCING},
    "1 2 3 (BraTS 2023)": {0: HEALTHY, 1: CORE, 2: OEDEMA, 3: ENHANCING},
}

FOLDS = 3

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class TumourCase:
    """Where one patient's pictures lie, and who it is."""

    name: str
    patient: str
    source: str
    files: Mapping[str, Path]
    labels: Path
    convention: str = ""
    grade: str = ""


@dataclass(frozen=True, eq=False)
class Study:
    """A patient read from disk, axial ``(S, R, C)`` as `ai_engine.training.cases.Pair`: ``(2, S, R, C)``, labels."""

    channels: Floats
    labels: Labels
    spacing_mm: tuple[float, float, float]


def tumour_cases(folder: Path) -> list[TumourCase]:
    """The cases of *brats* and *lgg-flair* below a folder; people in both come from *brats* alone.

    Raises
    ------
    WrongInput
        If the table of *brats* is missing, lacks a column or names an unknown label convention.
    """
    brats = [
        TumourCase(
            name=row["case"],
            patient=row["tcga_patient"] if row["tcga_patient"].startswith("TCGA") else row["case"],
            source="brats",
            files={
                role: folder / "brats" / row["case"] / f"{row['case']}_{suffix}.nii.bz2"
                for role, suffix in (("t1c", "t1ce"), ("flair", "flair"))
            },
            labels=folder / "brats" / row["case"] / f"{row['case']}_seg.nii.gz",
            convention=row["label_convention"],
            grade=row["grade"],
        )
        for row in read_rows(folder / "brats" / "cases.csv", ("case", "tcga_patient", "label_convention", "grade"))
    ]
    strange = {case.convention for case in brats} - set(CONVENTIONS)
    if strange:
        raise TrainingDataError(f"label convention {sorted(strange)[0]!r}; expected one of {', '.join(CONVENTIONS)}")
    twice = {case.patient for case in brats}
    table = folder / "lgg-flair" / "cases.csv"
    lgg = [
        TumourCase(
            name=row["case"],
            patient="-".join(row["case"].split("_")[:3]),
            source="lgg-flair",
            files={"flair": table.parent / f"{row['case']}_flair.nii.bz2"},
            labels=table.parent / f"{row['case']}_mask.nii.gz",
        )
        for row in (read_rows(table, ("case",)) if table.is_file() else [])
    ]
    return brats + [case for case in lgg if case.patient not in twice]


def fold_of(cases: list[TumourCase]) -> dict[str, int]:
    """Name of every *brats* case to the fold that tests it: by grade and name, dealt in turn."""
    order = sorted((case.grade, case.name) for case in cases if case.source == "brats")
    return {name: place % FOLDS for place, (_, name) in enumerate(order)}


def read_study(case: TumourCase) -> Study:
    """Read one patient; a sequence that is not there is zero everywhere.

    Raises
    ------
    TrainingDataError
        If the files differ in size or the labels hold a value that the convention does not know.
    """
    pictures = {role: read_axial(path) for role, path in case.files.items()}
    first, spacing = next(iter(pictures.values()))
    drawn, _ = read_axial(case.labels)
    if any(picture.shape != drawn.shape for picture, _ in pictures.values()):
        raise TrainingDataError(f"{case.name}: pictures and labels differ in size")
    channels = np.stack([pictures[role][0] if role in pictures else np.zeros_like(first) for role in ("t1c", "flair")])
    if case.source == "lgg-flair":
        labels = np.where(drawn > 0, PARTLESS, HEALTHY).astype(np.int8)
        channels *= rough_brain(first) | (drawn > 0)
        return Study(channels, labels, LGG_SPACING_MM)
    meaning = CONVENTIONS[case.convention]
    values = np.rint(drawn).astype(np.int16)
    strange = set(np.unique(values).tolist()) - set(meaning)
    if strange:
        raise TrainingDataError(f"{case.name}: label {sorted(strange)[0]} is not in convention {case.convention!r}")
    labels = np.zeros(values.shape, dtype=np.int8)
    for value, label in meaning.items():
        labels[values == value] = label
    return Study(channels, labels, spacing)


def rough_brain(flair: Floats) -> npt.NDArray[np.bool_]:
    """Where the brain is in a FLAIR with skull, good enough to learn from and no better.

    In-plane erosion cuts the bridges through the skull; from the middle slice, where the largest body is the brain,
    bodies are followed up and down as long as they lie mostly within the one before.
    """
    tissue = flair > 0.25 * np.percentile(flair, 98)
    usual = float(np.median(flair[tissue])) if tissue.any() else 1.0
    bright = ndimage.gaussian_filter(flair, (0, 1, 1)) > 0.55 * usual
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 4)
    eroded = np.stack([ndimage.binary_erosion(plane, disc) for plane in bright])
    brain = np.zeros_like(bright)
    middle = len(flair) * 3 // 5
    for path in (range(middle, len(flair)), range(middle - 1, -1, -1)):
        for index in path:
            parts, count = ndimage.label(eroded[index])
            sizes = np.bincount(parts.ravel(), minlength=count + 1)
            if index == middle:
                kept = [int(sizes[1:].argmax()) + 1] if count else []
            else:
                before = brain[index - 1 if index > middle else index + 1]
                shares = np.bincount(parts[before], minlength=count + 1) / np.maximum(sizes, 1)
                kept = [part for part in range(1, count + 1) if shares[part] > 0.6 and sizes[part] > 20]
            grown = ndimage.binary_dilation(np.isin(parts, kept), disc, iterations=1)
            grown = ndimage.binary_dilation(grown) & (flair[index] > 0.15 * usual)
            brain[index] = ndimage.binary_fill_holes(ndimage.binary_closing(grown, disc))
    return np.asarray(brain)


def normalise(study: Study, plans: Mapping[str, Any], description: Mapping[str, Any], configuration: str) -> Study:
    """Crop and normalise with nnU-Net's own preprocessor, without resampling: the loader resamples as it cuts.

    Labels become OUTSIDE where the picture is empty, as nnU-Net marks it.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    own = json.loads(json.dumps(plans))
    own["configurations"][configuration]["spacing"] = list(study.spacing_mm)
    manager = PlansManager(own)
    data, labels, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        study.channels.copy(),
        study.labels[None].astype(np.int8),
        {"spacing": list(study.spacing_mm)},
        manager,
        manager.get_configuration(configuration),
        json.loads(json.dumps(description)),
    )
    return Study(np.asarray(data, dtype=np.float32), np.asarray(labels[0], dtype=np.int8), study.spacing_mm)
