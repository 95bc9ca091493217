"""What an operator's page must not show of a patient, taken out of texts that others wrote.

Routes may ask about series descriptions and protocol names, so an explanation shows them; and people type names into
them.  Every word of this study's own identity is replaced wherever it stands, and UIDs, which are an identity too, by
what the page calls the thing (S23).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "•••"
_IDENTIFYING = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "StudyID")
_SHORTEST = 3
"""A shorter piece of a name (a middle initial) would blacken half of every text."""


class Veil:
    """Hides one study's patient in JSON values.

    Parameters
    ----------
    identity
        As `studies.identity` has it: attributes by keyword.
    names
        What stands for a UID on the page, by UID; every other UID becomes `HIDDEN`.
    """

    def __init__(self, identity: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})
        words = sorted(_words(identity), key=len, reverse=True)
        hidden = "|".join(re.escape(word) for word in words)
        self._hidden = re.compile(rf"(?<!\w)(?:{hidden})(?!\w)", re.IGNORECASE) if hidden else None

    def text(self, value: str) -> str:
        """A text without the patient and without UIDs."""
        told = _UID.sub(lambda found: self._names.get(found.group(), HIDDEN), value)
        return told if self._hidden is None else self._hidden.sub(HIDDEN, told)

    def __call__(self, value: Any) -> Any:
        """The same JSON value, every text in it (keys too) veiled."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self(entry) for entry in value]
        return value


_UID = re.compile(r"(?<![\w.])[0-2](?:\.(?:0|[1-9][0-9]*)){5,}(?![\w])")
"""At least six components: no version number and no spacing looks like that."""


def _words(identity: Mapping[str, Any]) -> Iterable[str]:
    for keyword in _IDENTIFYING:
        told = str(identity.get(keyword) or "").strip()
        if len(told) >= _SHORTEST:
            yield told
        if keyword.endswith("Name"):
            yield from (word for word in re.split(r"[\^=\s,]+", told) if len(word) >= _SHORTEST)
        if keyword == "PatientBirthDate" and re.fullmatch(r"[0-9]{8}", told):
            yield f"{told[:4]}-{told[4:6]}-{told[6:]}"
