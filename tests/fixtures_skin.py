"""Drawn lesions with a table of labels, for tests of the training of classifiers.

Malignant ones are large and dark, benign ones small and light: a network learns that in seconds.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLUMNS = (
    "image_name",
    "patient_id",
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "benign_malignant",
    "target",
    "melanoma",
    "source",
    "lesion_id",
    "split",
    "quick",
    "archive",
)


def lesion(malignant: bool, seed: int, side: int = 64) -> Image.Image:
    """One drawn picture."""
    random = np.random.default_rng(seed)
    skin = np.array((225, 180, 160)) + random.normal(0, 6, (side, side, 3))
    image = Image.fromarray(np.clip(skin, 0, 255).astype(np.uint8))
    radius = side * (random.uniform(0.3, 0.4) if malignant else random.uniform(0.12, 0.18))
    middle = side / 2 + random.normal(0, side * 0.04, 2)
    colour = (60, 35, 45) if malignant else (165, 110, 85)
    box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return image


def make_skin_data(folder: Path, count: int = 24, *, in_tar: bool = True) -> Path:
    """Write ``labels.csv`` and its pictures, half of them in ``pictures.tar``; the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number in range(count):
            malignant, melanoma = number % 2 == 1, number % 4 == 1
            name = f"PIC_{number:04d}"
            stream = io.BytesIO()
            lesion(malignant, number).save(stream, "JPEG", quality=90)
            if in_tar and number < count // 2:
                member = tarfile.TarInfo(f"{name}.jpg")
                member.size = len(stream.getvalue())
                archive.addfile(member, io.BytesIO(stream.getvalue()))
            else:
                (folder / "loose").mkdir(exist_ok=True)
                (folder / "loose" / f"{name}.jpg").write_bytes(stream.getvalue())
            rows.append(_row(name, number, malignant, melanoma, count))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream_out:
        writer = csv.DictWriter(stream_out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def _row(name: str, number: int, malignant: bool, melanoma: bool, count: int) -> dict[str, object]:
    kind = "melanoma" if melanoma else "basal cell carcinoma" if malignant else "nevus"
    return {
        "image_name": name,
        "patient_id": f"P{number // 3}" if number % 5 else "",
        "sex": ("male", "female", "")[number % 3],
        "age_approx": 20 + 5 * (number % 12) if number % 7 else "",
        "anatom_site_general_challenge": ("torso", "head/neck", "")[number % 3],
        "diagnosis": kind,
        "benign_malignant": "malignant" if malignant else "benign",
        "target": int(malignant),
        "melanoma": int(melanoma),
        "source": "one" if number < 2 * count // 3 else "two",
        "lesion_id": f"L{number // 2}" if number % 4 == 0 else "",
        "split": "val" if number % 3 == 0 else "train",
        "quick": int(number % 2 == 0),
        "archive": "",
    }
