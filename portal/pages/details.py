"""What an event, an entry of the audit log or the reason of a job says besides its name: one line of words.

The rooms write such details as JSON for programs: short keys, codes, numbers.  Here keys and codes have the words of
``details.yaml`` and refusals theirs, and the node's own sentences are said in the reader's language.  What has no word
stays as it is: names of routes, models and destinations, and what a person wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dicom_node.refusals import RefusalCode
from dicom_node.refusals_es import spoken, told
from portal.pages.language import Translator

_CODES = frozenset(RefusalCode)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]*[+Z][\d:]*")
_BY_A_PERSON = "actor"
"""Where it stands, the reason beside it is a person's."""


def details(detail: Mapping[str, Any], words: Translator, *, person: bool = False) -> str:
    """The pairs of a detail in a line; what is empty is left out.

    Parameters
    ----------
    person
        Its reason was written by a person, and so was all of it that is text beside the reason: nothing is rephrased.
    """
    is_persons = person or _BY_A_PERSON in detail
    pairs = ((key, value) for key, value in detail.items() if value is not None and value not in ("", [], {}))
    return "; ".join(f"{_label(str(key), words)}: {_value(value, words, is_persons)}" for key, value in pairs)


def coded(value: Any, words: Translator) -> str:
    """A code, a sentence of the node, or a list of these, in words."""
    return _value(value, words, is_persons=False)


def deed(action: str, words: Translator) -> str:
    """What an action of the audit log is called (``audit.yaml``); of FHIR, whichever resource it was about."""
    if words.has(f"audit.{action}"):
        return words(f"audit.{action}")
    verb, _, kind = action.partition("-")
    return words(f"audit.{verb}", kind=kind) if verb in ("read", "search") else action


def _label(key: str, words: Translator) -> str:
    """What a key is called; of numbers by region or role the key is a code."""
    word = next((word for word in (f"details.{key}", f"details.code_{key}") if words.has(word)), "")
    return words(word) if word else key


def _value(value: Any, words: Translator, is_persons: bool) -> str:
    if isinstance(value, bool):
        return words("shell.yes" if value else "shell.no").lower()
    if isinstance(value, int | float):
        plain = f"{value:.6g}"
        return plain.replace(".", ",") if words.language == "es" else plain
    if isinstance(value, Mapping):
        if value.get("code") in _CODES:
            return _refused(value, words)
        return f"({details(value, words, person=is_persons)})"
    if isinstance(value, list | tuple):
        parts = [_value(one, words, is_persons) for one in value]
        return ("; " if any(" " in part for part in parts) else ", ").join(parts)
    return _text(str(value), words, is_persons)


def _text(text: str, words: Translator, is_persons: bool) -> str:
    if _MOMENT.fullmatch(text):
        return words.when(text, seconds=True)
    word = f"details.code_{text}"
    if words.has(word):
        return words(word)
    if text in _CODES:
        return told(RefusalCode(text), words.language)[0].rstrip(".")
    return text if is_persons else words.said(text)


def _refused(refusal: Mapping[str, Any], words: Translator) -> str:
    """A refusal with what it found, without its advice: that stands where the refusal is shown by itself."""
    why = spoken(refusal, words.language)
    parts = [why["message"].rstrip(".")]
    parts += [f"{words('details.' + key)}: {why[key]}" for key in ("expected", "found") if why[key]]
    return " · ".join(parts)
