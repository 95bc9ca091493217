"""What a caller reads of a request, in the words that the clients of the thesis's service know.

`pixeles` are voxels of the input's own grid, background included, so they add up to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import spoken
from portal.api.photo_answers import photo_answer
from portal.api.places import elapsed, links
from portal.problems import STATUS

STATES: Mapping[str, str] = {
    "queued": "waiting",
    "running": "running",
    "built": "completed",
    "failed": "failed",
    "refused": "refused",
    "cancelled": "cancelled",
}
"""State of a request -> what pages and programs read."""

MESSAGES: Mapping[str, str] = {
    "waiting": "The request waits for its turn.",
    "running": "The request is being worked on.",
    "completed": "The images were segmented. The result is not reviewed and not for clinical use.",
    "failed": "The node made a fault on this request; nothing was found out about the images.",
    "cancelled": "The request was cancelled.",
}

_SPANISH: Mapping[str, tuple[str, str, str]] = {
    "background": ("Fondo", "BG", "Todo lo que el modelo no ha marcado."),
    "necrotic_core": ("Núcleo necrótico", "NCR", "Necrosis y núcleo tumoral que no capta contraste."),
    "oedema": ("Edema peritumoral", "ED", "Edema y tejido infiltrado alrededor del tumor."),
    "enhancing_tumour": ("Tumor captante", "ET", "Tumor que capta contraste."),
    "flair_abnormality": ("Anomalía de señal en FLAIR", "FLAIR", "Señal anormal en la secuencia FLAIR."),
}
"""Key of a region -> nombre, sigla, descripcion.  A region that is not here keeps its package's own words."""

BASE = "/api/v1/results"


def region_name(key: str, name: str, language: str) -> str:
    """What a region is called in a language; its package's own word where there is no other."""
    return _SPANISH[key][0] if language == "es" and key in _SPANISH else name


Row = RowMapping | Mapping[str, Any]


def answer(row: Row, origin: str, language: str = "en") -> dict[str, Any]:
    """A request as its caller reads it.

    Parameters
    ----------
    row
        Of `predictions`.
    origin
        ``http://host:port`` under which the caller reached the node.
    language
        Of the words about a photograph: ``en`` or ``es``.
    """
    status = STATES[row["state"]]
    here = f"{BASE}/{row['public_id']}"
    if "photo" in row["options"]:
        return photo_answer(row, status, here, language) | {"waiting_time": _waited(row)}
    told: dict[str, Any] = {
        "success": status == "completed",
        "status": status,
        "message": MESSAGES.get(status, ""),
        "model": row["model"],
        "device": None,
        "elapsed_time": elapsed(row),
        "waiting_time": _waited(row),
        "unique_classes": [],
        "num_classes_detected": 0,
        "class_details": {},
        "model_info": {"output_shape": None, "num_classes": None, "total_params": None},
        "segmentation_path": None,
        "segmentation_file": None,
        "output_path": None,
        "id": row["public_id"],
        "warnings": list(row["warnings"]),
        "links": links(row, here),
    }
    if row["batch"]:
        told["batch"] = row["batch"]
        told["index"] = row["position"]
    if row["transfers"]:
        told["transfers"] = {name: _transfer(one) for name, one in row["transfers"].items()}
    if status == "completed":
        told |= _completed(row["answer"], here, origin, row["public_id"])
    if row["refusal"]:
        told["message"] = row["refusal"]["message"]
        told["refusal"] = dict(row["refusal"])
    return told


def _transfer(told: Mapping[str, Any]) -> dict[str, Any]:
    """How far a transfer is; which process makes it is nobody's business."""
    return {key: value for key, value in told.items() if key != "worker"}


def _completed(said: Mapping[str, Any], here: str, origin: str, public_id: str) -> dict[str, Any]:
    details = _class_details(said)
    present = [int(label) for label, entry in details.items() if entry["pixeles"]]
    mask = f"{here}/files/mask.nii.gz"
    return {
        "device": said["device"],
        "unique_classes": present,
        "num_classes_detected": len(present),
        "class_details": details,
        "model_info": {
            "output_shape": said["shape"],
            "num_classes": len(details),
            "total_params": said["parameters"],
        },
        "segmentation_path": mask,
        "segmentation_file": f"segmentation-{public_id}.nii.gz",
        "output_path": f"{origin}{mask}",
        "from_cache": said["from_cache"],
        "precision": said["precision"],
    }


def _class_details(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    labels = [entry for entry in said["classes"] if entry["label"] is not None]
    total = int(said["voxels"])
    background = total - sum(int(entry["voxels"]) for entry in labels)
    details = {"0": _detail("background", "", "", "#000000", background, total)}
    for entry in sorted(labels, key=lambda one: int(one["label"])):
        details[str(entry["label"])] = _detail(
            entry["key"], entry["name"], entry["abbreviation"], entry["color"], int(entry["voxels"]), total
        )
    return details


def _detail(key: str, name: str, abbreviation: str, color: str, voxels: int, total: int) -> dict[str, Any]:
    nombre, sigla, descripcion = _SPANISH.get(key, (name, abbreviation, name))
    return {
        "nombre": nombre,
        "sigla": sigla,
        "color": color,
        "descripcion": descripcion,
        "pixeles": voxels,
        "porcentaje": round(100.0 * voxels / total, 4),
    }


def _waited(row: Row) -> float | None:
    """Seconds of a finished request in which nobody worked on it; None while it goes on."""
    if row["finished_at"] is None:
        return None
    whole = datetime.fromisoformat(row["finished_at"]) - datetime.fromisoformat(row["created_at"])
    return round(max(0.0, whole.total_seconds() - elapsed(row)), 3)


def refusal_problem(told: Mapping[str, str], correlation: str = "", language: str = "en") -> tuple[int, dict[str, Any]]:
    """The problem (RFC 9457) of a request that was refused: fixed words, and what was expected and found.

    Returns
    -------
    status, body
    """
    code, say = RefusalCode(told["code"]), spoken(told, language)
    status = STATUS.get(code, 422)
    body: dict[str, Any] = {
        "type": f"urn:ainode:problem:{code.value}",
        "title": say["message"],
        "status": status,
        "detail": say["advice"],
        "success": False,
        "message": say["message"],
        "code": code.value,
        "expected": say["expected"],
        "found": say["found"],
    }
    if correlation:
        body["instance"] = f"urn:ainode:request:{correlation}"
    return status, body
