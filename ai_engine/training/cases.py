"""What there is to learn from: image/mask pairs, whose they are, and who is kept apart for the test.

A *case* is one picture with one mask; a *patient* may have several, in several collections. Every split is by patient.
Patients who appear in two collections always go to the training side, so that no copy of them is ever tested on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.faults import WrongInput
from ai_engine.labelled_files import read_rows
from ai_engine.training.nifti import read_axial


class TrainingDataError(WrongInput):
    """The folder or table of cases cannot be used; the message says what was expected and found."""


@dataclass(frozen=True)
class Case:
    """One picture and its mask.

    Attributes
    ----------
    name
        Unique within a training.
    patient
        Whose head it is; the unit of splitting.
    source
        The collection, for weights of sampling and for separate results.
    site
        Hospital or scanner within the collection; splits are stratified by it.
    image, mask
        NIfTI files (``.nii``, ``.nii.gz``, ``.nii.bz2``). Any value above 0 of the mask is the object.
    spacing_mm
        ``(slice, row, column)`` to be declared instead of what the file says, where the file does not know.
    """

    name: str
    patient: str
    source: str
    site: str
    image: Path
    mask: Path
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Split:
    """Names of cases: to learn from, to watch during training, and never seen before the final test."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A case read from disk, axial: ``(S, R, C)`` with slices upwards, rows to the back, columns to the left (LPS)."""

    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


def read_pair(case: Case) -> Pair:
    """Read image and mask and turn them to axial LPS order by permuting and flipping axes; nothing is resampled.

    Raises
    ------
    TrainingDataError
        If image and mask differ in size.
    """
    image, spacing = read_axial(case.image)
    mask, _ = read_axial(case.mask)
    if image.shape != mask.shape:
        raise TrainingDataError(f"{case.name}: image is {image.shape}, mask is {mask.shape}")
    return Pair(image, mask > 0, case.spacing_mm or spacing)


COLUMNS = ("case", "image", "mask")
"""Of a table of one's own."""


def read_table(table: Path) -> list[Case]:
    """Read a table of cases: columns ``case, image, mask`` and, if wished, ``patient, source, site, spacing_mm``.

    Paths are relative to the table; ``spacing_mm`` is ``slice;row;column`` and overrides the file's.

    Raises
    ------
    WrongInput
        If the table, a column or a file is missing or a case is named twice.
    """
    cases: list[Case] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(table, COLUMNS), start=2):
        missing = [column for column in COLUMNS if not row[column]]
        if missing:
            raise TrainingDataError(f"{table.name} line {number}: no value for {', '.join(missing)}")
        name = row["case"]
        if name in seen:
            raise TrainingDataError(f"{table.name} line {number}: case {name!r} is named twice")
        seen.add(name)
        image, mask = table.parent / row["image"], table.parent / row["mask"]
        for path in (image, mask):
            if not path.is_file():
                raise TrainingDataError(f"{table.name} line {number}: no file {path.name!r}")
        cases.append(
            Case(
                name,
                row.get("patient") or name,
                row.get("source") or "own",
                row.get("site") or "-",
                image,
                mask,
                _spacing(row.get("spacing_mm"), number),
            )
        )
    return cases


def _spacing(text: str | None, line: int) -> tuple[float, float, float] | None:
    if not text:
        return None
    try:
        step, row, column = (float(part) for part in text.split(";"))
    except ValueError:
        raise TrainingDataError(f"line {line}: spacing_mm must be 'slice;row;column', found {text!r}") from None
    return step, row, column


LGG_SPACING_MM = (5.0, 0.95, 0.95)
"""Declared for the lgg-flair pictures, whose files do not know their spacing."""


def lgg_flair_cases(folder: Path) -> list[Case]:
    """Cases of the collection *lgg-flair* (``cases.csv``, ``<case>_flair.nii.bz2``, ``<case>_mask.nii.gz``)."""
    return [
        Case(
            name=row["case"],
            patient="-".join(row["case"].split("_")[:3]),
            source="lgg-flair",
            site=row["institution"],
            image=folder / f"{row['case']}_flair.nii.bz2",
            mask=folder / f"{row['case']}_mask.nii.gz",
            spacing_mm=LGG_SPACING_MM,
        )
        for row in read_rows(folder / "cases.csv", ("case", "institution"))
    ]


def brats_cases(folder: Path) -> list[Case]:
    """FLAIR and whole-tumour masks of the skull-stripped collection *brats*."""
    return [
        Case(
            name=row["case"],
            patient=row["tcga_patient"] if row["tcga_patient"].startswith("TCGA") else row["case"],
            source="brats",
            site="-",
            image=folder / row["case"] / f"{row['case']}_flair.nii.bz2",
            mask=folder / row["case"] / f"{row['case']}_seg.nii.gz",
        )
        for row in read_rows(folder / "cases.csv", ("case", "tcga_patient"))
    ]


COLLECTIONS = {"lgg-flair": lgg_flair_cases, "brats": brats_cases}
"""Collections in their own layout, by the name of their folder."""


def find_cases(folder: Path) -> list[Case]:
    """Find the cases of a folder: the brain collections in their own layout, or a table for :func:`read_table`.

    Raises
    ------
    WrongInput
        If there are none, or it is the folder of one collection instead of the one that holds it.
    """
    found: list[Case] = []
    for name, reader in COLLECTIONS.items():
        if (folder / name / "cases.csv").is_file():
            found.extend(reader(folder / name))
    if found:
        return found
    try:
        return read_table(folder / "cases.csv")
    except WrongInput as refused:
        if folder.resolve().name in COLLECTIONS:
            told = f"{refused}; this is one collection: give the folder in which {folder.name!r} lies"
            raise WrongInput(told) from None
        raise


def split_patients(cases: Iterable[Case], *, test_share: float, validation_share: float, seed: int) -> Split:
    """Part the cases by patient, stratified by collection and site.

    From each stratum the nearest whole number of patients to ``share * patients`` is drawn. A patient with cases in two
    strata stays on the training side.
    """
    strata: dict[tuple[str, str], set[str]] = defaultdict(set)
    homes: dict[str, set[tuple[str, str]]] = defaultdict(set)
    by_patient: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        stratum = (case.source, case.site)
        strata[stratum].add(case.patient)
        homes[case.patient].add(stratum)
        by_patient[case.patient].append(case.name)
    random = np.random.default_rng(seed)
    sides: dict[str, str] = {}
    for stratum in sorted(strata):
        patients = strata[stratum]
        single = sorted(patient for patient in patients if len(homes[patient]) == 1)
        order = [single[index] for index in random.permutation(len(single))]
        tests, validations = round(test_share * len(patients)), round(validation_share * len(patients))
        sides.update(dict.fromkeys(order[:tests], "test"))
        sides.update(dict.fromkeys(order[tests : tests + validations], "validation"))
    names: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for patient, own in by_patient.items():
        names[sides.get(patient, "train")].extend(own)
    return Split(*(tuple(sorted(names[side])) for side in ("train", "validation", "test")))
