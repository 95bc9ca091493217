"""In which language somebody is answered: Accept-Language (RFC 9110 12.5.4), of those that the words exist in."""

from __future__ import annotations

LANGUAGES = ("en", "es")
_MAX_PARTS = 32


def negotiated(header: str | None, default: str) -> str:
    """The best of our languages for what a caller accepts; the site's own where the caller says nothing that fits.

    Regions do not count: ``es-CL`` is answered in Spanish.
    """
    best, best_weight = default, 0.0
    for part in (header or "").split(",")[:_MAX_PARTS]:
        tag, *parameters = (piece.strip() for piece in part.split(";"))
        language = tag.partition("-")[0].lower()
        weight = _weight(parameters)
        if language in LANGUAGES and weight > best_weight:
            best, best_weight = language, weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
