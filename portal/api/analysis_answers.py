"""What a caller reads of an analysis: an estimate with its threshold, in words, and never as a fact.

Nothing here says who asked: a specialist who reads a case of her site reads the doctor's words and not her name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.desks.analyses import AnalysisResult
from dicom_node.desks.analysis_results import PHOTO, Output
from dicom_node.record.analyses import Row
from dicom_node.refusals_es import spoken
from dicom_node.sayings import said
from portal.api.photo_answers import WORDS as PHOTO_WORDS

BASE = "/api/v1/analyses"

_STATES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "waiting": "The photograph is kept and waits for its turn, or is being worked on.",
        "completed": "The model has given its estimate. It is not reviewed and no diagnosis.",
        "failed": "The node made a fault on this analysis; nothing was found out about the picture.",
        "held": "A person has to decide before this analysis goes on.",
        "withdrawn": "This analysis was withdrawn: it has no result.",
        "removed": "This analysis was completed; its result has been deleted by the rules of retention.",
    },
    "es": {
        "waiting": "La fotografía está guardada y espera su turno, o se está trabajando en ella.",
        "completed": "El modelo ha dado su estimación. No está revisada y no es un diagnóstico.",
        "failed": "Hubo una falla en el nodo con este análisis; no se averiguó nada sobre la imagen.",
        "held": "Una persona tiene que decidir antes de que este análisis siga.",
        "withdrawn": "Este análisis se retiró: no tiene resultado.",
        "removed": "Este análisis se completó; su resultado se eliminó según las reglas de conservación.",
    },
}


def analysis_answer(row: Row, result: AnalysisResult, language: str, replaces: str | None = None) -> dict[str, Any]:
    """An analysis as its caller reads it.

    Parameters
    ----------
    replaces
        Public id of the one that it took the place of.
    """
    here, say = f"{BASE}/{row['public_id']}", PHOTO_WORDS[language]
    is_above = any(one.is_above for one in result.outputs)
    refusal = refusal_answer(result.refusal, language)
    state = "removed" if "result" in result.removed else result.state
    return {
        "id": row["public_id"],
        "state": result.state,
        "message": _STATES[language].get(state) or ("" if refusal is None else refusal["message"]),
        "created_at": row["created_at"],
        "analysed_at": result.analysed_at or None,
        "site": row["site"],
        "private": result.is_private,
        "patient": None if row["patient"] is None else _patient(row["patient"]),
        "pseudonym": row["pseudonym"],
        "order": row["order_id"] or "",
        "bodySite": row["body_site"] or "",
        "laterality": row["laterality"] or "",
        "description": row["description"],
        "kind": row["declared"]["kind"],
        "consent": row["consent"],
        "impression": row["impression"],
        "malignant": _number(result.malignant, language),
        "melanoma": _number(result.melanoma, language),
        "meaning": say["meaning_above" if is_above else "meaning_below"] if result.outputs else None,
        "contradicted": result.is_contradicted(row["impression"]),
        "disclaimer": say["disclaimer"],
        "limits": result.limits_in(language),
        "model": result.model or None,
        "quality": dict(result.quality) or None,
        "refusal": refusal,
        "error": said(result.error, language) or None,
        "withdrawn": _withdrawn(row),
        "removed": dict(result.removed) or None,
        "replaces": replaces,
        "links": {
            "self": here,
            "photo": f"{here}/photo" if PHOTO in result.files else None,
            "heat_map": f"{here}/files/heat_map.png" if "heat_map.png" in result.files else None,
            "pdf": f"{here}/files/report.pdf" if "report.pdf" in result.files else None,
        },
    }


def _patient(told: Mapping[str, str]) -> dict[str, str]:
    born = told["birth_date"]
    kept = {key: told[key] for key in ("id", "type", "system", "name", "sex", "confirmed")}
    return {**kept, "birth_date": f"{born[:4]}-{born[4:6]}-{born[6:]}" if born else ""}


def _withdrawn(row: Row) -> dict[str, str] | None:
    return {"at": row["withdrawn_at"], "reason": row["withdrawn_reason"]} if row["withdrawn_at"] else None


def refusal_answer(told: Mapping[str, Any] | None, language: str) -> dict[str, Any] | None:
    """Why there is no result, or not yet, and what to do."""
    return None if told is None else dict(spoken(told, language))


def _number(output: Output | None, language: str) -> dict[str, Any] | None:
    if output is None:
        return None
    threshold, say = output.threshold, PHOTO_WORDS[language]
    return {
        "name": said(output.name, language),
        "probability": _share(output.value) if output.is_probability else None,
        "score": None if output.is_probability else output.value,
        "threshold": _share(threshold) if output.is_probability and threshold is not None else None,
        "score_threshold": None if output.is_probability else threshold,
        "at_or_above_threshold": output.is_above,
        "text": say["above" if output.is_above else "below"],
    }


def _share(fraction: float) -> dict[str, float]:
    """A probability twice, each named, so that nobody takes 0.9 % for 90 %."""
    return {"percent": fraction * 100.0, "fraction": fraction}
