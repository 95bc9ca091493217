"""Whether a page speaks one language: words of the other one in what is shown, read aloud or kept for a script.

Which words belong to one language alone is learnt from the dictionaries and sentences of both.  What people and devices
write (names, replies, reasons, headers) is in any language, and is taken away first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser

from dicom_node.refusals import WORDS
from dicom_node.refusals_es import SPANISH
from dicom_node.sayings import patterns
from portal.pages.language import dictionary

OTHER = {"en": "es", "es": "en"}
_SILENT = frozenset({"script", "style", "code", "svg"})
"""What they hold is no sentence: scripts, identifiers, drawings."""
_VOID = frozenset({"meta", "link", "input", "img", "br", "hr", "path", "rect", "circle"})
_READ = frozenset({"title", "alt", "aria-label", "placeholder", "label"})
_WORD = re.compile(r"\b[^\W\d_]{2,}\b")
_NAMES = frozenset({"ai-node", "out of resources"})
"""Commands, and words that stand in another system."""


@cache
def alone(language: str) -> frozenset[str]:
    """Words that this language has and the other has not."""
    return _vocabulary(language) - _vocabulary(OTHER[language])


def _vocabulary(language: str) -> frozenset[str]:
    told: list[str] = []
    for text in dictionary(language).values():
        told += [text] if isinstance(text, str) else text.values()
    refusals = WORDS if language == "en" else SPANISH
    told += [one for pair in refusals.values() for one in pair]
    told += patterns("es").keys() if language == "en" else patterns("es").values()
    return frozenset(word for text in told for word in _words(text))


def _words(text: str) -> Iterator[str]:
    """Words of sentences; not those of commands, keys and file names, which are the same in every language."""
    plain = re.sub(r"`[^`]*`|\{\w*\}|\b\w+(?:[._/@:-]\w+)+", " ", text)
    return (word.lower() for word in _WORD.findall(plain))


class _Reader(HTMLParser):
    """The texts of a page: between tags, and in attributes that people are shown or scripts show them."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._language = language
        self._open: list[tuple[str, bool]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        is_silent = self._is_silent or tag in _SILENT or given.get("lang", self._language) != self._language
        if not is_silent or tag == "svg":
            self.texts += [value for name, value in attrs if value and (name in _READ or _is_for_a_script(name, value))]
        if tag not in _VOID:
            self._open.append((tag, is_silent))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._is_silent and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def _is_silent(self) -> bool:
        return bool(self._open) and self._open[-1][1]


def _is_for_a_script(name: str, value: str) -> bool:
    """Words that a script will show; no token and no JSON."""
    return name.startswith("data-") and " " in value and value[0] not in "{["


def strangers(html: str, language: str, own: Iterable[str] = ()) -> list[str]:
    """Texts of a page with words that only the other language has, and these words.

    Parameters
    ----------
    own
        Texts that people or devices wrote.
    """
    reader = _Reader(language)
    reader.feed(html)
    written = sorted((one for one in (*own, *_NAMES) if one), key=len, reverse=True)
    found = []
    for text in reader.texts:
        plain = text
        for one in written:
            plain = plain.replace(one, " ")
        strange = sorted(set(_words(plain)) & alone(OTHER[language]))
        if strange:
            found.append(f"{text!r}: {', '.join(strange)}")
    return list(dict.fromkeys(found))
