"""The words of the pages: a folder of YAML files per language, one file per part of the portal.

A key is ``<file>.<name>``, so that ``{{ t("clinic.send") }}`` is ``send`` of ``clinic.yaml``.  A value is one text with
``{placeholders}``, or two by number (``one``, ``other``; chosen by ``count``).  A key that is missing is a fault, and a
test finds it before a person does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, tzinfo
from functools import cache
from pathlib import Path

import yaml

from dicom_node.sayings import said

LANGUAGES: Mapping[str, str] = {"en": "English", "es": "Español"}
"""Language -> its name in itself."""

FOLDER = Path(__file__).parent / "dictionaries"

Text = str | Mapping[str, str]


@cache
def dictionary(language: str) -> Mapping[str, Text]:
    """Every word of one language, by its full key."""
    found: dict[str, Text] = {}
    for file in sorted((FOLDER / language).glob("*.yaml")):
        for key, text in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).items():
            found[f"{file.stem}.{key}"] = text
    return found


class Translator:
    """Says things in one language.

    Parameters
    ----------
    language
        Of `LANGUAGES`.
    zone
        In whose clock times are told.
    """

    def __init__(self, language: str, zone: tzinfo) -> None:
        self.language = language
        self._zone = zone
        self._words = dictionary(language)

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, its placeholders filled; raises KeyError for a key that is not there."""
        text = self._words[key]
        if not isinstance(text, str):
            text = text["one" if values.get("count") == 1 else "other"]
        return text.format(**values) if values else text

    def said(self, text: str, words: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """A sentence of the node (`dicom_node.sayings`), or of a model package that has `words`, in this language."""
        return said(text, self.language, (words or {}).get(self.language))

    def said_in(self, values: Mapping[str, object]) -> dict[str, object]:
        """Values for the places of a text: the sentences among them in this language."""
        return {key: self.said(value) if isinstance(value, str) else value for key, value in values.items()}

    def has(self, key: str) -> bool:
        """Whether there is such a key: for words that belong to codes of other rooms."""
        return key in self._words

    def when(self, moment: str | datetime | None, *, seconds: bool = False) -> str:
        """Date and time of an aware moment (or its ISO text) by the site's clock; empty for None."""
        if not moment:
            return ""
        local = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(self._zone)
        return f"{self.day(local.date())}, {local:%H:%M:%S}" if seconds else f"{self.day(local.date())}, {local:%H:%M}"

    def day(self, day: str | date | None) -> str:
        """A date (or ``YYYY-MM-DD``) with the month as a word, so that nobody swaps day and month; empty for None."""
        if not day:
            return ""
        told = date.fromisoformat(day) if isinstance(day, str) else day
        return f"{told.day} {self(f'shell.month_{told.month}')} {told.year}"

    def dicom_day(self, told: str) -> str:
        """A DICOM date (``YYYYMMDD``) likewise; a dash for what an archive has instead of one."""
        try:
            return self.day(f"{told[:4]}-{told[4:6]}-{told[6:8]}") if len(told) == 8 else "–"
        except ValueError:
            return "–"

    def number(self, value: float, digits: int = 0) -> str:
        """A number with the language's decimal mark."""
        plain = f"{value:.{digits}f}"
        return plain.replace(".", ",") if self.language == "es" else plain

    def percent(self, share: float, digits: int = 0) -> str:
        """A share between 0 and 1 in per cent: 0.734 is ``73 %``; what is not nothing is never told as 0 %."""
        smallest = 10.0**-digits
        if 0 < share * 100 < smallest / 2:
            return f"< {self.number(smallest, digits)} %"
        if share < 1 and round(share * 100, digits) >= 100:
            return f"> {self.number(100 - smallest, digits)} %"
        return f"{self.number(share * 100, digits)} %"
