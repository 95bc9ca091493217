"""An analysis as the pages show it: names as people say them, numbers as places on a scale, words for codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from dicom_node.desks.analysis_results import COMPLETED, PHOTO, AnalysisResult, Output
from dicom_node.record.analyses import Row
from dicom_node.record.identity_removal import GONE
from dicom_node.refusals import WORDS, RefusalCode
from dicom_node.refusals_es import told as refusal_words
from portal.pages.language import Translator
from portal.pages.render import translator

_SCALE = (10.0, 290.0)
_ENDS = (0.005, 0.995)
_TICKS = (0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
WITHDRAWAL_REASONS = ("wrong-patient", "wrong-picture", "patient-wish", "other")


def person_name(name: str) -> str:
    """A name as people say it, of one as DICOM writes it: ``Soto Pérez^María`` (PS3.5 6.2.1) is *María Soto Pérez*."""
    family, given, middle, *_ = [*name.split("=")[0].split("^"), "", "", ""]
    return " ".join(" ".join((given, middle, family)).split())


def patient_of(told: Mapping[str, str] | None) -> dict[str, str]:
    """A patient of an analysis: as it is kept, and `shown` (name) and `born` (YYYY-MM-DD or empty)."""
    if told is None:
        return {"id": "", "shown": "", "born": "", "sex": ""}
    born = told["birth_date"]
    day = f"{born[:4]}-{born[4:6]}-{born[6:]}" if len(born) == 8 and born.isdigit() else ""
    return {**told, "shown": person_name(told["name"]), "born": day}


def nobody(row: Row) -> str:
    """The word for a patient whom the page cannot name: there never was an identity, or it is deleted."""
    return "analysis.identity_gone" if (row["patient"] or {}).get(GONE) else "analyse.without_identity"


def place_of(row: Row, words: Translator) -> str:
    """Where on the body, in words; empty where nobody said."""
    if not row["body_site"]:
        return ""
    name = words(f"bodysites.{row['body_site']}")
    return f"{name} ({words('analyse.laterality_' + row['laterality'])})" if row["laterality"] else name


def refusal_of(told: Mapping[str, Any] | None, words: Translator) -> tuple[str, str]:
    """What is wrong and what to do, in the reader's language; both empty where there is no refusal."""
    code = None if told is None else next((one for one in RefusalCode if one.value == told.get("code")), None)
    return ("", "") if code is None or code not in WORDS else refusal_words(code, words.language)


def reason_of(row: Row, words: Translator) -> str:
    """Why an analysis was withdrawn: the reason chosen on the page in words, and whatever was written."""
    key, colon, rest = str(row["withdrawn_reason"] or "").partition(":")
    if key not in (*WITHDRAWAL_REASONS, "identity-confirmed"):
        return f"{key}{colon}{rest}"
    return ". ".join(part for part in (words(f"analysis.reason_{key}"), rest.strip()) if part)


def shown(request: Request, row: Row, result: AnalysisResult, *, viewer: bool = False) -> dict[str, Any]:
    """What `analysis_state.html` and its neighbours need.

    Parameters
    ----------
    viewer
        Whether this node shows studies.
    """
    words = translator(request)
    message, advice = refusal_of(result.refusal, words)
    is_contradicted = result.is_contradicted(row["impression"])
    return {
        "row": row,
        "result": result,
        "patient": patient_of(row["patient"]),
        "place": place_of(row, words),
        "message": message or words("analysis.refused_hint"),
        "advice": advice,
        "reason": reason_of(row, words),
        "is_above": any(one.is_above for one in result.outputs),
        "contradiction": row["impression"] if is_contradicted else "",
        "outputs": [_output(one, words) for one in result.outputs],
        "ticks": [(position(share), words.percent(share)) for share in _TICKS],
        "has_photo": PHOTO in result.files,
        "has_heat_map": "heat_map.png" in result.files,
        "has_pdf": "report.pdf" in result.files,
        # what stays in the node is in no archive that a viewer reads
        "viewer": f"/view/{result.study_id}" if viewer and result.state == COMPLETED and not result.is_private else "",
    }


def position(share: float) -> float:
    """Place of a probability on a scale 300 wide, evenly spaced in log odds: low thresholds stay legible."""
    low, high = (math.log(end / (1 - end)) for end in _ENDS)
    kept = min(max(share, _ENDS[0]), _ENDS[1])
    along = (math.log(kept / (1 - kept)) - low) / (high - low)
    return round(_SCALE[0] + along * (_SCALE[1] - _SCALE[0]), 1)


def _output(one: Output, words: Translator) -> dict[str, Any]:
    key = f"analysis.output_{one.key}"
    is_drawn = one.is_probability and one.threshold is not None
    return {
        "name": words(key) if words.has(key) else one.name,
        "value": one.value,
        "threshold": one.threshold,
        "is_above": one.is_above,
        "is_probability": one.is_probability,
        "digits": _digits(one.value),
        "threshold_digits": _digits(one.threshold or 0.0),
        "mark": position(one.value) if is_drawn else None,
        "cut": position(one.threshold) if is_drawn and one.threshold is not None else None,
        "of_hundred": _of_hundred(one.value, words),
        "sentence": f"analysis.of_hundred_{one.key if words.has(f'analysis.of_hundred_{one.key}') else 'other'}",
    }


def _digits(share: float) -> int:
    """Decimals of a percentage: one where whole numbers would hide on which side of a low threshold it lies."""
    return 1 if share < 0.1 or share > 0.9 else 0


def _of_hundred(share: float, words: Translator) -> str:
    if share < 0.005:
        return words("analysis.of_hundred_few")
    if share > 0.995:
        return words("analysis.of_hundred_most")
    return words("analysis.of_hundred_about", count=round(share * 100))
