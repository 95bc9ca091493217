"""What a caller reads of a photograph: the estimate with its threshold, in the caller's language, and never as a fact.

A picture that was refused has no number of any kind.  A number without calibration is a score and is called one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.refusals_es import spoken
from dicom_node.sayings import said
from dicom_node.stages.prediction_words import HEAT_MAP, REPORT_BUNDLE
from dicom_node.words import HOOK
from portal.api.places import elapsed, links

AT_OR_ABOVE = "AI-OP-ABOVE"

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "waiting": "The request waits for its turn.",
        "running": "The request is being worked on.",
        "completed": "The model has given its estimate. It is not reviewed and no diagnosis.",
        "failed": "The node made a fault on this request; nothing was found out about the picture.",
        "cancelled": "The request was cancelled.",
        "above": "At or above the operating threshold",
        "below": "Below the operating threshold",
        "meaning_above": "The model puts this picture at or above its threshold. A qualified person should see "
        "the lesion; the number does not say that it is malignant.",
        "meaning_below": "The model puts this picture below its threshold. This does NOT exclude malignancy: a lesion "
        "that changes, bleeds or worries should be seen by a qualified person, whatever this number says.",
        "disclaimer": "Decision support, not reviewed, not for clinical use: not a diagnosis, and no replacement for "
        "an examination or a biopsy. It knows nothing of history, touch, or other lesions.",
        "accepted": "The picture was good enough to be answered.",
    },
    "es": {
        "waiting": "La petición espera su turno.",
        "running": "Se está trabajando en la petición.",
        "completed": "El modelo ha dado su estimación. No está revisada y no es un diagnóstico.",
        "failed": "Hubo una falla en el nodo con esta petición; no se averiguó nada sobre la imagen.",
        "cancelled": "La petición se canceló.",
        "above": "En el umbral de operación o por encima",
        "below": "Por debajo del umbral de operación",
        "meaning_above": "El modelo sitúa esta imagen en su umbral o por encima. Un profesional calificado "
        "debería ver la lesión; el número no dice que sea maligna.",
        "meaning_below": "El modelo sitúa esta imagen por debajo de su umbral. Esto NO excluye malignidad: una lesión "
        "que cambia, sangra o preocupa debe verla un profesional calificado, diga lo que diga este número.",
        "disclaimer": "Apoyo a la decisión, sin revisar, no apto para uso clínico: no es un diagnóstico ni sustituye a "
        "un examen clínico o una biopsia. No sabe nada de antecedentes, palpación ni otras lesiones.",
        "accepted": "La imagen era suficiente para responder.",
    },
}

Row = RowMapping | Mapping[str, Any]


def photo_answer(row: Row, status: str, here: str, language: str) -> dict[str, Any]:
    """A request about a photograph as its caller reads it.

    Parameters
    ----------
    here
        Path of the request's result.
    """
    say = WORDS[language]
    told: dict[str, Any] = {
        "success": status == "completed",
        "status": status,
        "message": say.get(status, ""),
        "language": language,
        "model": row["model"],
        "id": row["public_id"],
        "elapsed_time": elapsed(row),
        "probability": None,
        "score": None,
        "threshold": None,
        "category": None,
        "meaning": None,
        "disclaimer": say["disclaimer"],
        "outputs": [],
        "quality": None,
        "heat_map": None,
        "pdf": None,
        "diagnostic_report": None,
        "warnings": [said(one, language) for one in row["warnings"]],
        "links": links(row, here),
        "callback": None,
    }
    told |= _ways(row)
    if status == "completed":
        told |= _completed(row, here, language)
    if row["refusal"]:
        why = spoken(row["refusal"], language)
        told["message"] = why["message"]
        told["refusal"] = {**row["refusal"], **why}
        told["quality"] = {"accepted": False, **{key: why[key] for key in ("code", "message", "advice")}}
    return told


def _completed(row: Row, here: str, language: str) -> dict[str, Any]:
    answer, files, say = row["answer"], row["files"] or {}, WORDS[language]
    own = answer.get("words", {}).get(language)
    outputs = [_output(one, language) for one in answer["outputs"]]
    first = outputs[0]
    is_above = first["category"] is not None and first["category"]["at_or_above_threshold"]
    report = answer.get("report")
    return {
        **{key: first[key] for key in ("probability", "score", "threshold", "category")},
        "meaning": say["meaning_above" if is_above else "meaning_below"],
        "outputs": outputs,
        "quality": {
            "accepted": True,
            "message": say["accepted"],
            "kind": answer["quality"].get("kind", ""),
            "measures": dict(answer["quality"].get("measures", {})),
        },
        "heat_map": _file(files, here, HEAT_MAP),
        "pdf": _file(files, here, "report.pdf"),
        "diagnostic_report": None if report is None else {**report, "url": _file(files, here, REPORT_BUNDLE)},
        "device": answer["device"],
        "precision": answer["precision"],
        "notes": [said(one, language, own) for one in answer["notes"]],
    }


def _output(told: Mapping[str, Any], language: str) -> dict[str, Any]:
    is_percent, say = bool(told["is_percent"]), WORDS[language]
    category = None
    if told["category"] is not None:
        is_above = told["category"] == AT_OR_ABOVE
        category = {
            "code": told["category"],
            "at_or_above_threshold": is_above,
            "text": say["above" if is_above else "below"],
        }
    return {
        "key": told["key"],
        "name": said(told["name"], language),
        "probability": _both(told["value"]) if is_percent else None,
        "score": None if is_percent else told["value"],
        "threshold": _both(told["threshold"]) if is_percent and told["threshold"] is not None else None,
        "score_threshold": None if is_percent else told["threshold"],
        "category": category,
    }


def _both(percent: float) -> dict[str, float]:
    """A probability twice, each named, so that nobody takes 0.9 % for 90 %."""
    return {"percent": percent, "fraction": percent / 100.0}


def _file(files: Mapping[str, str], here: str, name: str) -> str | None:
    return f"{here}/files/{name}" if name in files else None


def _ways(row: Row) -> dict[str, Any]:
    """How far call and transfers are; which process makes them is nobody's business."""
    name = row["options"].get("callback")
    found = {key: {k: v for k, v in one.items() if k != "worker"} for key, one in (row["transfers"] or {}).items()}
    called = found.pop(f"{HOOK}{name}", {"state": "waiting"})
    told: dict[str, Any] = {} if not name else {"callback": {"name": name, **called}}
    if found:
        told["transfers"] = found
    return told
