"""Labelled cases from what people have: an nnU-Net folder, a tree of BraTS cases, or a CSV.

Values of a label map have no meaning of their own: the same 4 is enhancing tumour in one collection and absent from
another.  Every dataset here therefore comes with *names* for its values, and regions are matched by what the names mean
(`concept`), never by number.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_engine.faults import WrongInput
from ai_engine.geometry import Affine
from ai_engine.labelled_files import open_nifti, read_rows
from ai_engine.packages import Composite, Description, Label
from ai_engine.prediction import InputVolume

BRATS_NAMES: Mapping[int, str] = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour", 4: "enhancing tumour"}
"""Both conventions of BraTS: enhancing tumour is 4 until 2020 and 3 from 2023 on; no case has both."""

ROLE_SUFFIXES: Mapping[str, str] = {
    "t1": "t1", "t1n": "t1", "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c", "t2": "t2", "t2w": "t2",
    "flair": "flair", "t2f": "flair",
}  # fmt: skip
"""How BraTS and others end the names of files, and the sequence role that is meant."""

_IMAGE = (".nii", ".nii.gz", ".nii.bz2")
_CONCEPTS: Mapping[str, frozenset[str]] = {
    "necrotic core": frozenset(
        {"necrotic core", "necrosis", "necrotic", "ncr", "ncr net", "net", "non enhancing core",
         "non enhancing tumor core", "necrotic tumor core", "necrotic and non enhancing tumor core"}
    ),
    "edema": frozenset(
        {"edema", "ed", "peritumoral edema", "edema infiltrated tissue", "peritumoral edematous tissue", "snfh"}
    ),
    "enhancing tumor": frozenset({"enhancing tumor", "enhancing", "et", "gd enhancing tumor"}),
    "tumor core": frozenset({"tumor core", "tc"}),
    "whole tumor": frozenset(
        {"whole tumor", "wt", "tumor", "lesion", "flair abnormality", "flair signal abnormality", "abnormality"}
    ),
}  # fmt: skip


class DatasetError(WrongInput):
    """A dataset is not what it should be; the text says what was expected and found."""


@dataclass(frozen=True)
class LabelledCase:
    """One case: images by sequence role, and a label map on the grid of each.

    Attributes
    ----------
    spacing_mm
        X, Y, Z to declare for files that do not say their units.
    """

    name: str
    patient: str
    images: Mapping[str, Path]
    label: Path
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Dataset:
    """Cases, and what the values of their label maps mean."""

    kind: str
    names: Mapping[int, str]
    cases: tuple[LabelledCase, ...]


def open_dataset(path: Path, names: Mapping[int, str] | None = None) -> Dataset:
    """Recognise and list a dataset.

    Parameters
    ----------
    path
        A CSV file with the columns ``case,role,path,label`` (optional: ``patient``), one line per image, paths relative
        to it; an nnU-Net raw folder (``dataset.json``, ``imagesTr`` or ``imagesTs``, ``labelsTr`` or ``labelsTs``); or
        a folder with one folder per BraTS case (``*_seg.nii.gz`` and images that end in their sequence).
    names
        Value to name, where the dataset does not say it itself or says it otherwise.

    Raises
    ------
    DatasetError
        If it is none of these, or a file is missing.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        found = _from_csv(path, names)
    elif (path / "dataset.json").is_file():
        found = _from_nnunet(path, names)
    elif path.is_dir():
        found = _from_brats(path, names)
    else:
        raise DatasetError(f"a CSV file, an nnU-Net folder or a BraTS tree was expected, found: {path.name}")
    for case in found.cases:
        for file in (*case.images.values(), case.label):
            if not file.is_file():
                raise DatasetError(f"case {case.name}: a file is missing: {file.name}")
    return found


def concept(name: str) -> str:
    """What a region's name means, in one spelling; a name that is not in the table means itself."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower().replace("oedema", "edema").replace("tumour", "tumor")).strip()
    words = words.replace("peritumoural", "peritumoral").replace("oedematous", "edematous")
    return next((meaning for meaning, spellings in _CONCEPTS.items() if words in spellings), words)


def values_of(region: Label | Composite, description: Description, names: Mapping[int, str]) -> frozenset[int] | None:
    """The values of a dataset that make up a region of a package; None where the dataset does not know the region.

    A composite is the union of its parts, or the dataset's own name for the whole.
    """
    by_concept: dict[str, set[int]] = {}
    for value, name in names.items():
        by_concept.setdefault(concept(name), set()).add(value)
    for spelling in (region.key.replace("_", " "), region.name, region.abbreviation):
        if concept(spelling) in by_concept:
            return frozenset(by_concept[concept(spelling)])
    if concept(region.key.replace("_", " ")) == "whole tumor":
        return frozenset(names) or None  # the whole is everything that is labelled
    if isinstance(region, Composite):
        parts = [values_of(entry, description, names) for entry in description.labels if entry.label in region.labels]
        if all(part is not None for part in parts):
            return frozenset().union(*(part for part in parts if part is not None))
    return None


def read_image(path: Path, spacing_mm: tuple[float, float, float] | None = None) -> InputVolume:
    """A NIfTI file on its own grid, axes (slice, row, column), coordinates LPS in millimetres.

    Parameters
    ----------
    spacing_mm
        X, Y, Z to declare for a file that does not say its units.

    Raises
    ------
    DatasetError
        If the file has no three dimensions, or no units and none were declared.
    """
    array, affine = _read(path, spacing_mm)
    return InputVolume(np.ascontiguousarray(array, dtype=np.float32), affine, modality="MR")


def read_label(path: Path, image: InputVolume, names: Mapping[int, str]) -> npt.NDArray[np.int16]:
    """A label map, (slice, row, column), that lies on the grid of its image and has only values with a name.

    Raises
    ------
    DatasetError
        If the grid is another one, or a value has no name.
    """
    array, affine = _read(path, image.affine.spacing_mm[::-1])
    if array.shape != image.array.shape:
        raise DatasetError(f"{path.name}: shape {image.array.shape} expected as its image has, found {array.shape}")
    if _furthest_mm(affine, image.affine, array.shape) > min(image.affine.spacing_mm) / 2:
        raise DatasetError(f"{path.name}: the place of its image expected, found the same shape in another place")
    values = np.rint(array).astype(np.int16)
    strange = sorted({int(value) for value in np.unique(values)} - {0, *names})
    if strange:
        raise DatasetError(f"{path.name}: values {strange} have no name; known: {dict(names)}")
    return values


def _furthest_mm(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """How far apart two affines put a corner of an array."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm(corners @ (one.matrix - other.matrix).T, axis=1).max())


def _read(path: Path, spacing_mm: tuple[float, float, float] | None) -> tuple[npt.NDArray[np.float64], Affine]:
    image = open_nifti(path)
    if len(image.shape) != 3:
        raise DatasetError(f"{path.name}: three dimensions expected, found {len(image.shape)}")
    ras = np.array(image.affine, dtype=np.float64)
    if spacing_mm is not None:
        ras[:3, :3] *= np.asarray(spacing_mm) / np.linalg.norm(ras[:3, :3], axis=0)
    elif image.header.get_xyzt_units()[0] != "mm":
        raise DatasetError(f"{path.name} does not say its units: declare --spacing-mm X,Y,Z")
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras @ np.eye(4)[[2, 1, 0, 3]].T
    return np.asarray(image.dataobj, dtype=np.float64).transpose(2, 1, 0), Affine(matrix)


def _from_csv(path: Path, names: Mapping[int, str] | None) -> Dataset:
    if not names:
        raise DatasetError("a CSV does not say what label values mean: give --labels, e.g. 1=necrosis,2=oedema,4=ET")
    cases: dict[str, LabelledCase] = {}
    for row in read_rows(path, ("case", "role", "path", "label")):
        role = ROLE_SUFFIXES.get(row["role"].strip().lower(), row["role"].strip().lower())
        known = cases.get(row["case"])
        images = {**(known.images if known else {}), role: path.parent / row["path"]}
        patient = row.get("patient") or row["case"]
        cases[row["case"]] = LabelledCase(row["case"], patient, images, path.parent / row["label"])
    return Dataset("csv", names, tuple(cases.values()))


def _from_nnunet(folder: Path, names: Mapping[int, str] | None) -> Dataset:
    try:
        told = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        channels = {int(number): _role(str(name)) for number, name in told["channel_names"].items()}
        if names is None:
            values = dict(told["labels"])
            by_value = {value: str(name) for name, value in values.items() if isinstance(value, int) and value}
            names = {} if any(isinstance(value, list) for value in values.values()) else by_value
        ending = str(told.get("file_ending", ".nii.gz"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError("dataset.json: expected channel_names and labels as nnU-Net writes them") from None
    if not names:
        raise DatasetError(
            "dataset.json: a name for each label value expected, found none or regions of several values; say what the "
            "values mean with --labels, e.g. 1=oedema,2=necrosis,3=enhancing"
        )
    side = "Ts" if (folder / "labelsTs").is_dir() else "Tr"
    cases = []
    for label in sorted((folder / f"labels{side}").glob(f"*{ending}")):
        name = label.name.removesuffix(ending)
        images = {role: folder / f"images{side}" / f"{name}_{n:04d}{ending}" for n, role in channels.items()}
        cases.append(LabelledCase(name, name, images, label))
    if not cases:
        raise DatasetError(f"no label in labels{side} of {folder.name}")
    return Dataset("nnunet", names, tuple(cases))


def _from_brats(folder: Path, names: Mapping[int, str] | None) -> Dataset:
    cases = []
    for inner in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        labels = [file for file in _images(inner) if _stem(file).endswith(("_seg", "-seg"))]
        if len(labels) != 1:
            continue
        images = {}
        for file in _images(inner):
            suffix = re.split(r"[_-]", _stem(file))[-1].lower()
            if suffix in ROLE_SUFFIXES:
                images[ROLE_SUFFIXES[suffix]] = file
        cases.append(LabelledCase(inner.name, inner.name, images, labels[0]))
    if not cases:
        raise DatasetError(f"no folder of {folder.name} holds one *_seg file: a BraTS tree was expected")
    return Dataset("brats", names or BRATS_NAMES, tuple(cases))


def _role(name: str) -> str:
    return ROLE_SUFFIXES.get(name.strip().lower(), name.strip().lower())


def _images(folder: Path) -> Sequence[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(_IMAGE))


def _stem(file: Path) -> str:
    return file.name.split(".nii")[0]
