"""What LUNA's clients read, in the thesis's own words.

`result` is the calibrated probability of melanoma, from 0 to 1, and `isMelanoma` says that it is at or above the
threshold: both are legacy names, and neither is a diagnosis.  Malignancy has fields of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from dicom_node.desks.analysis_results import AnalysisResult
from dicom_node.permissions import Person, Role
from portal.api.analysis_answers import refusal_answer

Row = Mapping[Any, Any]

_DISCLAIMER = {
    "en": "Decision support for review by a qualified professional; not a diagnosis.",
    "es": "Apoyo a la decisión, para que lo revise un profesional calificado; no es un diagnóstico.",
}
_MESSAGES: Mapping[str, Mapping[str, str]] = {
    "waiting": {"en": "The analysis waits for its turn.", "es": "El análisis espera su turno."},
    "completed": {"en": "The photograph was analysed.", "es": "La fotografía fue analizada."},
    "refused": {"en": "The photograph was refused.", "es": "La fotografía fue rechazada."},
    "failed": {
        "en": "The node made a fault on this analysis; nothing was found out about the photograph.",
        "es": "El nodo cometió una falla en este análisis; no se averiguó nada sobre la fotografía.",
    },
    "held": {
        "en": "The analysis waits for a person's decision.",
        "es": "El análisis espera la decisión de una persona.",
    },
    "withdrawn": {"en": "The analysis was withdrawn.", "es": "El análisis fue retirado."},
}


def account(person: Person) -> dict[str, Any]:
    """Who somebody is; of roles LUNA knows two."""
    return {
        "id": person.public_id,
        "_id": person.public_id,
        "name": person.name,
        "username": person.name,
        "email": person.email,
        "roles": legacy_roles(person.roles),
        "language": person.language,
        "sites": list(person.sites),
    }


def legacy_roles(roles: frozenset[Role]) -> list[str]:
    """`admin` for an administrator, `user` for everything else that somebody is."""
    told = ["admin"] if Role.ADMINISTRATOR in roles else []
    return told + (["user"] if roles - {Role.ADMINISTRATOR} else [])


def analysis(
    row: Row, result: AnalysisResult, owner: str, image: bytes | None = None, language: str = "en"
) -> dict[str, Any]:
    """One analysis as the one who asked for it reads it.

    Parameters
    ----------
    owner
        Her public id: nobody else is shown this.
    image
        The photograph; None in lists, and where it is not to be had.
    """
    is_over = result.state == "completed"
    melanoma = result.melanoma if is_over else None
    malignant = result.malignant if is_over else None
    return {
        "id": row["public_id"],
        "_id": row["public_id"],
        "userId": owner,
        "image": None if image is None else base64.b64encode(image).decode(),
        "description": row["description"] or "",
        "creationDate": row["created_at"],
        "analysisDate": result.analysed_at if is_over else None,
        **_fields(melanoma, "result", "isMelanoma", "melanomaThreshold"),
        **_fields(malignant, "malignancy", "isMalignancyAboveThreshold", "malignancyThreshold"),
        "state": result.state,
        "message": message(result.state, language),
        "refusal": refusal_answer(result.refusal, language),
        "model": result.model or None,
        "patient": _patient(row["patient"]),
        "isPrivate": result.is_private,
        "disclaimer": _DISCLAIMER[language],
    }


def message(state: str, language: str) -> str:
    """What a state means."""
    return _MESSAGES[state][language]


def _patient(told: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Whose lesion it is, so that whoever asked can see whom the site's server means."""
    if told is None:
        return None
    return {
        "id": told["id"],
        "type": told["type"],
        "name": told["name"],
        "birthDate": told["birth_date"],
        "sex": told["sex"],
        "isConfirmed": bool(told["confirmed"]),
    }


def _fields(output: Any, value: str, is_above: str, threshold: str) -> dict[str, Any]:
    """Of one output; a score without calibration is no probability and is not told as one."""
    if output is None or not output.is_probability:
        return {value: None, is_above: None, threshold: None}
    return {value: output.value, is_above: output.is_above, threshold: output.threshold}
