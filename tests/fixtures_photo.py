"""A drawn lesion, wrapped as the node wraps photographs, and findings about it."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_engine.findings import Code, Findings, Measurement, ModelIdentity, Observation
from dicom_node.body_sites import BodySite
from dicom_node.photo import Importer, Occasion, Patient, WrappedPhoto, wrap
from tests.fixtures_results import SITE

PERCENT = Code("%", "UCUM", "percent")
LESION = Code("52988006", "SCT", "Lesion")
CHEST = Code("74160004", "SCT", "Skin of chest")
ABOVE = Code("AI-OP-ABOVE", "99AINODE", "At or above operating threshold")
BELOW = Code("AI-OP-BELOW", "99AINODE", "Below operating threshold")
MODEL = ModelIdentity(
    name="skin-lesion",
    version="1.0.0",
    digest_sha256="cd" * 32,
    title="Malignancy of a skin lesion",
    framework="pytorch",
    backend="openvino",
    device="CPU",
    precision="f32",
    settings=(("size", "224x224"), ("views", "identity")),
    intended_use="Research and evaluation only: decision support for a qualified reader.",
)


def drawn_lesion(rows: int = 300, columns: int = 400, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(rows, columns, 3) uint8: skin with grain and a dark, uneven spot in its middle."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[0:rows, 0:columns]
    distance = np.hypot((row - rows / 2) / rows, (column - columns / 2) / columns) * (1 + 0.15 * np.sin(row / 17))
    inside = np.clip((0.22 - distance) * 25, 0, 1)[:, :, None]
    skin, spot = np.array((216.0, 168.0, 146.0)), np.array((94.0, 58.0, 48.0))
    colour = skin * (1 - inside) + spot * inside + random.normal(0, 6, (rows, columns, 3))
    return np.asarray(np.clip(colour, 0, 255), np.uint8)


def jpeg(pixels: npt.NDArray[np.uint8], quality: int = 92) -> bytes:
    """The picture as a camera would send it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def wrapped_lesion(folder: Path, *, body_site: BodySite | None = None, **occasion: Any) -> tuple[WrappedPhoto, Path]:
    """A drawn lesion as a DICOM object and the file it lies in."""
    wrapped = wrap(
        jpeg(drawn_lesion()),
        Patient(id="P-17", issuer="HOSPITAL", name="Doe^Jane", birth_date="19700101", sex="F"),
        Occasion(created="2026-11-22T10:00:00+01:00", body_site=body_site, declared="dermoscopic", **occasion),
        Importer(uuid.UUID(SITE), "0.1.0", "node-1"),
    )
    path = folder / f"{wrapped.sop_instance_uid}.dcm"
    path.write_bytes(wrapped.data)
    return wrapped, path


def lesion_findings(value: float = 62.5, threshold: float = 31.0) -> Findings:
    """What a model says about a lesion: two outputs, the first one decides."""
    names = {
        "malignant": Code("AI-MAL-PROB", "99AINODE", "Model-estimated probability of malignancy"),
        "melanoma": Code("AI-MEL-PROB", "99AINODE", "Model-estimated probability of melanoma"),
    }
    return Findings(
        model=MODEL,
        observations=tuple(
            Observation(
                key=key,
                name=name,
                finding=LESION,
                site=CHEST,
                measurements=(Measurement("probability", name, number, PERCENT, note="From one picture."),),
                category=ABOVE if number >= limit else BELOW,
                threshold=limit,
            )
            for (key, name), number, limit in zip(names.items(), (value, 12.25), (threshold, 40.0), strict=True)
        ),
        notes=("Not for clinical use.", "Age, sex and body site are not used by the model: it sees the picture alone."),
    )


def heat_in_the_middle(rows: int = 96, columns: int = 128) -> npt.NDArray[np.uint8]:
    """(rows, columns) uint8: strongest in the middle, zero far from it."""
    row, column = np.mgrid[0:rows, 0:columns]
    distance = np.hypot((row - rows / 2) / rows, (column - columns / 2) / columns)
    return np.asarray(np.clip((0.25 - distance) * 4, 0, 1) * 255, np.uint8)
