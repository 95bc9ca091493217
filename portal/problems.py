"""Errors as people and programs read them: RFC 9457, type ``urn:ainode:problem:<code>`` (S24).

The text is fixed per code.  Nothing of the request comes back but a correlation id, under which the log has more.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import told

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[RefusalCode, int] = {
    RefusalCode.TOO_BUSY: 429,
    RefusalCode.STORAGE_FULL: 503,
    RefusalCode.NOT_READY: 503,
    RefusalCode.NOT_AUTHORISED: 403,
    RefusalCode.UNAUTHENTICATED: 401,
    RefusalCode.SOP_CLASS_UNSUPPORTED: 415,
    RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED: 415,
    RefusalCode.UID_CONFLICT: 409,
    RefusalCode.TOO_LARGE: 413,
    RefusalCode.DECOMPRESSION_BOMB: 413,
    RefusalCode.ARCHIVE_BOMB: 413,
    RefusalCode.ARCHIVE_TOO_MANY_ENTRIES: 413,
    RefusalCode.IDEMPOTENCY_CONFLICT: 409,
    RefusalCode.NOT_AN_IMAGE: 415,
    RefusalCode.IMAGE_TYPE_UNSUPPORTED: 415,
    RefusalCode.IMAGE_TYPE_MISMATCH: 415,
    RefusalCode.IMAGE_TOO_LARGE: 413,
    RefusalCode.INPUT_EMPTY: 400,
    RefusalCode.VALIDATION: 400,
    RefusalCode.MODEL_UNTRUSTED: 503,
    RefusalCode.MODEL_HASH_MISMATCH: 503,
    RefusalCode.DELIVERY_CONFLICT: 409,
    RefusalCode.REMOVED: 410,
}
"""HTTP status by refusal code (hardening section 3); every other code is 422."""

_SPANISH: Mapping[str, str] = {
    "validation": "La petición no es válida.",
    "unauthenticated": "Quien llama no dijo quién es.",
    "not-authorised": "Quien llama no tiene permiso para esto.",
    "not-found": "Aquí no hay nada.",
    "method-not-allowed": "Esto no se puede hacer aquí.",
    "not-acceptable": "La respuesta no existe en la forma que se pidió.",
    "too-large": "La petición supera el límite.",
    "removed": told(RefusalCode.REMOVED, "es")[0],
    "media-type": "Este tipo de contenido no se lee aquí.",
    "too-busy": "Demasiado a la vez. Espere un poco e inténtelo de nuevo.",
    "misdirected": "El nodo no se conoce por este nombre.",
    "headers-too-large": "La petición tiene demasiados campos de cabecera, o demasiado largos.",
    "fault": "Hubo una falla en el nodo; está en el registro con el número de correlación.",
    "peer-trouble": "Un sistema detrás del nodo no respondió como se esperaba.",
    "peer-timeout": "Un sistema detrás del nodo no respondió a tiempo.",
}
"""Titles of `PLAIN` by their code."""

PLAIN: Mapping[int, tuple[str, str]] = {
    400: ("validation", "The request is not valid."),
    401: ("unauthenticated", "The caller did not say who it is."),
    403: ("not-authorised", "The caller may not do this."),
    404: ("not-found", "There is nothing here."),
    405: ("method-not-allowed", "This cannot be done here."),
    406: ("not-acceptable", "The answer is not available in the form asked for."),
    410: ("removed", "This was deleted by the rules of retention of this node."),
    413: ("too-large", "The request is larger than the limit."),
    415: ("media-type", "This type of content is not read here."),
    421: ("misdirected", "The node is not known by this name."),
    429: ("too-busy", "Too much at once. Wait a little and try again."),
    431: ("headers-too-large", "The request has too many or too long header fields."),
    500: ("fault", "The node made a fault; it is in the log under the correlation id."),
    502: ("peer-trouble", "A system behind the node did not answer as expected."),
    504: ("peer-timeout", "A system behind the node did not answer in time."),
}


def problem(status: int, code: str, title: str, advice: str = "", correlation: str = "") -> JSONResponse:
    """A problem as an answer."""
    body = {"type": f"urn:ainode:problem:{code}", "title": title, "status": status}
    if advice:
        body["detail"] = advice
    if correlation:
        body["instance"] = f"urn:ainode:request:{correlation}"
    headers = {"WWW-Authenticate": 'Bearer realm="dicom-ai-node"'} if status == 401 else None
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def refused(code: RefusalCode, correlation: str = "", language: str = "en") -> JSONResponse:
    """The problem of a refusal code, with its fixed words and advice."""
    title, advice = told(code, language)
    return problem(STATUS.get(code, 422), code.value, title, advice, correlation)


def plain(status: int, correlation: str = "", language: str = "en") -> JSONResponse:
    """The problem of a bare HTTP status."""
    code, title = PLAIN.get(status, PLAIN[500 if status >= 500 else 400])
    return problem(status, code, _SPANISH[code] if language == "es" else title, "", correlation)
