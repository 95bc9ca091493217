"""What the node says about an input, in the reader's language: what was expected and found, notes of a result.

Inside the node, in its records and on the command line, these sentences are English; they are said in another language
where a person reads them.  ``<language>/*.yaml`` has each by its English pattern, in which ``{}`` stands for a number
or a standard term: the pattern is the key, what stands in its places the values.  `tests/unit/test_sayings.py` reads
the source and fails for a sentence that has no words in a language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
ENGLISH = "en"
LANGUAGES = (ENGLISH, "es")

_PLACE = "{}"
_AND_THEN = "; "
_WORDS: Mapping[str, tuple[str, str]] = {"es": ("o", "y")}
_DECIMAL = re.compile(r"(?<![\w.])(?<![A-Za-z]-)(-?\d+)\.(\d+)(?![\w.])")
_TERM = re.compile(r"(?=.*[A-Z0-9_@.])[\w.@+/°%?-]*[\w?%],?")
"""A word that no language changes: a keyword, an acronym, a number, a role with a figure, a file."""


def said(text: str, language: str, own: Mapping[str, str] | None = None) -> str:
    """A sentence of the node in a language; as it is where the language has no words for it.

    Parameters
    ----------
    own
        Words that go before ours: those of the model package that the sentence is about.
    """
    if language == ENGLISH or not text:
        return text
    return _said(text, language, own) if own else _ours(text, language)


def patterns(language: str) -> Mapping[str, str]:
    """English pattern -> the sentence in a language."""
    return _read(language)


def is_known(pattern: str, language: str) -> bool:
    """Whether the language has words for a sentence, or needs none: for terms and numbers alone."""
    return pattern in _read(language) or _is_terms(pattern.replace(_PLACE, "1"), language)


@cache
def _read(language: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted((FOLDER / language).glob("*.yaml")):
        found |= yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


@cache
def _compiled(language: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns with places, those that say most first, so that a general one never takes a particular text."""
    with_places = [(english, own) for english, own in _read(language).items() if _PLACE in english]
    with_places.sort(key=lambda pair: (-len(pair[0].replace(_PLACE, "")), pair[0]))
    return [(_pattern(english), own) for english, own in with_places]


def _pattern(english: str) -> re.Pattern[str]:
    return re.compile("(.+?)".join(re.escape(part) for part in english.split(_PLACE)), re.DOTALL)


@lru_cache(maxsize=2048)
def _ours(text: str, language: str) -> str:
    return _said(text, language, {})


def _said(text: str, language: str, own: Mapping[str, str]) -> str:
    whole = own.get(text) or _read(language).get(text)
    if whole is not None:
        return whole
    parts = _parts(text)
    for pattern, template in _compiled(language):
        match = pattern.fullmatch(text)
        # of several sentences each is said by itself, but for those that have a semicolon of their own
        if match is not None and (len(parts) == 1 or _AND_THEN in template):
            return template.format(*(_value(one, language, own) for one in match.groups()))
    if len(parts) > 1:
        return _AND_THEN.join(_said(part, language, own) for part in parts)
    return _terms(text, language) if _is_terms(text, language) else text


def _value(text: str, language: str, own: Mapping[str, str]) -> str:
    """What stands in a place: sentences of our own, a list of terms, a number."""
    known = _said(text, language, own)
    return known if known != text else _terms(text, language)


def _parts(text: str) -> list[str]:
    """Sentences in a row; what stands in brackets belongs to its own."""
    parts, depth, start = [], 0, 0
    for number, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0 and text.startswith(_AND_THEN, number):
            parts.append(text[start:number])
            start = number + len(_AND_THEN)
    return [*parts, text[start:]]


def _is_terms(text: str, language: str) -> bool:
    known = _read(language)
    return all(
        word in ("and", "or") or _TERM.fullmatch(word) or known.get(word.rstrip(",")) == word.rstrip(",")
        for word in text.split()
    )


def _terms(text: str, language: str) -> str:
    either, both = _WORDS[language]
    joined = text.replace(" or ", f" {either} ").replace(" and ", f" {both} ")
    return _DECIMAL.sub(r"\1,\2", joined)
