"""What ``ai-node train skin`` learns from: a table of labels and the pictures it names, in folders or tar files.

Two tables are read: that of the SIIM-ISIC 2020 challenge (``image_name, patient_id, sex, age_approx,
anatom_site_general_challenge, diagnosis, benign_malignant, target``) and the same with more columns (``melanoma``,
``source``, ``lesion_id``, ``split``, ``quick``, ``archive``).  Pictures are found by name below the folder of the
table: ``NAME.jpg``, ``.jpeg`` or ``.png``, or as members of the tar files that lie there.

Every picture is squeezed whole to one square, once, and kept as 8-bit numbers in one file that is mapped into memory.
Names of pictures never reach a network: they are public and labels can be looked up.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.labelled_files import read_rows
from ai_engine.training.cases import TrainingDataError

SIDE = 256
"""Rows and columns of a kept picture."""

SUFFIXES = (".jpg", ".jpeg", ".png")
NEEDED = ("image_name", "target")
UNKNOWN_SOURCE = "own"
MELANOMA, NEVUS, KERATOSIS, BASAL_CELL, ACTINIC, OTHER, UNNAMED = 0, 1, 2, 3, 4, 5, -1
DIAGNOSES = ("melanoma", "nevus", "keratosis", "basal cell carcinoma", "actinic keratosis", "other")
_KIND_OF: Mapping[str, int] = {
    "melanoma": MELANOMA,
    "nevus": NEVUS,
    "benign keratosis": KERATOSIS,
    "seborrheic keratosis": KERATOSIS,
    "lichenoid keratosis": KERATOSIS,
    "solar lentigo": KERATOSIS,
    "lentigo nos": KERATOSIS,
    "basal cell carcinoma": BASAL_CELL,
    "actinic keratosis or bowen disease": ACTINIC,
    "actinic keratosis": ACTINIC,
    "vascular lesion": OTHER,
    "dermatofibroma": OTHER,
}

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SkinCase:
    """One row of the table."""

    name: str
    patient: str
    lesion: str
    sex: str
    age: float | None
    site: str
    diagnosis: str
    malignant: bool
    melanoma: bool
    source: str
    split: str
    quick: bool
    archive: str

    @property
    def kind(self) -> int:
        """Index in `DIAGNOSES`, or UNNAMED."""
        return _KIND_OF.get(self.diagnosis.lower(), UNNAMED)


def skin_cases(table: Path) -> list[SkinCase]:
    """Read a table of labels.

    Raises
    ------
    TrainingDataError
        If the table is missing, lacks a column, names a picture twice or holds a target other than 0 or 1.
    """
    cases = [_case(row, number) for number, row in enumerate(read_rows(table, NEEDED), 2)]
    if len({case.name for case in cases}) != len(cases):
        raise TrainingDataError(f"{table.name}: a picture is named in more than one row")
    return cases


def _case(row: Mapping[str, str], number: int) -> SkinCase:
    def text(column: str) -> str:
        return (row.get(column) or "").strip()

    target = text("target")
    if target not in ("0", "1") or text("melanoma") not in ("", "0", "1"):
        raise TrainingDataError(f"line {number} of the table: expected 0 or 1 as target and melanoma")
    name = text("image_name")
    if not name or Path(name).name != name:
        raise TrainingDataError(f"line {number} of the table: expected the plain name of a picture")
    # the challenge's own table has one target, melanoma
    melanoma = text("melanoma") or ("1" if target == "1" and text("diagnosis").lower() in ("", "melanoma") else "0")
    return SkinCase(
        name=Path(name).stem if name.lower().endswith(SUFFIXES) else name,
        patient=text("patient_id"),
        lesion=text("lesion_id"),
        sex=text("sex").lower(),
        age=_number(text("age_approx"), number),
        site=text("anatom_site_general_challenge"),
        diagnosis=text("diagnosis"),
        malignant=target == "1",
        melanoma=melanoma == "1",
        source=text("source") or UNKNOWN_SOURCE,
        split=text("split"),
        quick=text("quick") == "1",
        archive=text("archive"),
    )


def _number(text: str, line: int) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise TrainingDataError(f"line {line} of the table: age_approx is not a number") from error


def load_pictures(cases: Sequence[SkinCase], folder: Path, store: Path, say: Callable[[str], None]) -> Pictures:
    """Pictures of the cases, ``(N, SIDE, SIDE, 3)`` 8-bit RGB, mapped from `store`; decoded on the first call.

    Raises
    ------
    TrainingDataError
        If a picture is not there or cannot be read.
    """
    store.mkdir(parents=True, exist_ok=True)
    names = "\n".join(case.name for case in cases)
    digest = hashlib.sha256(f"{SIDE}\n{names}".encode()).hexdigest()[:16]
    path = store / f"pictures-{digest}.npy"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        place = {case.name: index for index, case in enumerate(cases)}
        kept = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(cases), SIDE, SIDE, 3))
        seen: set[str] = set()
        for name, content in found_pictures(cases, folder):
            if name not in seen:
                kept[place[name]] = decoded(content, name)
                seen.add(name)
                if len(seen) % 2000 == 0:
                    say(f"pictures: {len(seen)} of {len(cases)} read")
        if len(seen) != len(cases):
            lost = len(cases) - len(seen)
            raise TrainingDataError(f"{lost} of {len(cases)} pictures of the table are neither in folders nor in tars")
        kept.flush()
        del kept
        os.replace(unfinished, path)
    pictures: Pictures = np.load(path, mmap_mode="r", allow_pickle=False)
    return pictures


def found_pictures(cases: Sequence[SkinCase], folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every picture of the cases that lies in a tar file or folder, in no particular order."""
    wanted = {case.name for case in cases}
    tars = sorted({case.archive for case in cases if case.archive}) or sorted(p.name for p in folder.glob("*.tar"))
    for tar in tars:
        if Path(tar).name != tar or not (folder / tar).is_file():
            continue
        with tarfile.open(folder / tar, "r:") as archive:
            for member in archive:
                path = Path(member.name)
                if member.isfile() and path.suffix.lower() in SUFFIXES and path.stem in wanted:
                    stream = archive.extractfile(member)
                    if stream is not None:
                        wanted.discard(path.stem)
                        yield path.stem, stream.read()
    for path in sorted(folder.rglob("*")) if wanted else ():
        if path.suffix.lower() in SUFFIXES and path.stem in wanted:
            wanted.discard(path.stem)
            yield path.stem, path.read_bytes()


def decoded(content: bytes, name: str, side: int = SIDE) -> Pictures:
    """One picture squeezed whole to ``(side, side, 3)``; nothing is cut away."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            whole = picture.convert("RGB")
            if whole.size != (side, side):
                whole = whole.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
            return np.asarray(whole)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingDataError(f"{name}: expected a JPEG or PNG picture that can be read") from error
