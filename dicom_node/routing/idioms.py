"""What radiographers write into Series Description and Protocol Name, in five languages.

Text is folded first: lower case, accents removed, separators turned into spaces (``+`` and ``*`` are kept).  The
patterns are ours, not a route's, and meet at most `MAX_TEXT` characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from dicom_node.routing.clauses import MAX_TEXT, values_of

TEXT_ATTRIBUTES = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")

_AGENT = (
    r"(?:gd|gad|gado\w*|km|kontrast\w*|contrast\w*|civ|cm|mdc|iv|inj|injection|inyeccion|injecao|dotarem|gadovist|"
    r"gadavist|magnevist|prohance|multihance|clariscan)"
)
_LINK = r"(?: (?:de|do|da|del|el|la|le|l|i|iv|the))?"
_WITHOUT = re.compile(
    rf"\b(?:pre|vor|antes|avant|prior|sin|sans|ss|sem|ohne|without|w o|wo|no|non|not){_LINK} ?{_AGENT}\b"
    rf"|\b(?:pre{_AGENT}|nativ\w*|basal|before|wo|noncontrast\w*|precontrast\w*|precontraste|unenhanced|simple|s c)\b"
    r"|\bpre\b(?! ?(?:op\w*|sat\w*|frontal|central|scan|motor))"
)
_BOTH = re.compile(r"\bw (?:and )?w ?o\b|\b(?:with|pre) and (?:without|post)\b|\bbefore and after\b")
_WITH = re.compile(
    rf"\+ ?(?:c|ce|{_AGENT})\b|\bc ?\+|\b(?:post|pos|nach|despues|tras|apres|after|con|mit|avec|com|with|w){_LINK} ?"
    rf"{_AGENT}\b|\b(?:post{_AGENT}|pos{_AGENT}|gd|gad|gado\w*|km|t1\w{{0,4}}(?:ce|gd|gad|km)|t1c|ce|enhanced|c c|"
    r"dotarem|gadovist|gadavist|magnevist|prohance|multihance|clariscan)\b"
    r"|\b(?:post|pos)\b(?! ?(?:op\w*|erior\w*|fossa|proc\w*|cirug\w*|surg\w*|itron\w*|ition\w*))"
)

_SPECIAL: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "localizer",
        "localizer",
        re.compile(
            r"\b(?:\w*locali[sz]er|loc|scouts?|survey\w*|localizador|localisateur|lokalizer|reperage|"
            r"ubersicht|plan scan|topogram\w*|3 ?plane|three plane|smartbrain|aahead scout|aascout|piloto?)\b"
        ),
    ),
    ("derived", "subtraction", re.compile(r"\b(?:subtr\w*|sub|resta\w*|substr\w*|soustr\w*|differenz\w*)\b")),
    ("derived", "projection", re.compile(r"\b(?:mip|minip|mnip|vrt|vr|rendering|projection)\b")),
    (
        "derived",
        "map",
        re.compile(
            r"\b(?:cbf|cbv|rcbf|rcbv|relcbf|relcbv|mtt|ttp|tmax|ktrans|fa|colfa|tensor|t1 ?map|"
            r"t2 ?map|b0 ?map|b1 ?map|field ?map\w*|fieldmap\w*|phase ?map|quantitative)\b"
        ),
    ),
    ("derived", "screenshot", re.compile(r"\b(?:screen ?\w*|captures?|dose report|screenshot\w*|key ?images?)\b")),
    ("adc", "ADC", re.compile(r"\b(?:[de]?adc|apparent diffusion|cda)\w*\b")),
    ("dwi", "diffusion", re.compile(r"\b(?:dwi|dw|dti|diff\w*|difusion|difusao|\w*diff|trace\w*|isodwi|ivim)\b")),
    ("swi", "susceptibility", re.compile(r"\b(?:swi\w*|swan|swip|ven ?o? ?bold|suscept\w*)\b")),
    ("other", "perfusion", re.compile(r"\b(?:perf\w*|dsc|dce|p?c?asl|pwi|pbp)\b")),
    (
        "other",
        "angiography",
        re.compile(r"\b(?:tof\w*|mra|mrv|angio\w*|inhance|twist|tricks|venc|phase contrast|pca)\b"),
    ),
    (
        "other",
        "function, spectroscopy or calibration",
        re.compile(
            r"\b(?:bold|fmri|rsfmri|resting|spectro\w*|mrs|csi|svs|press|calib\w*|asset cal\w*|cal|ref scan|shim)\b"
        ),
    ),
    ("other", "short-TI inversion recovery", re.compile(r"\bstir\w*\b")),
    ("other", "steady state", re.compile(r"\b(?:ciss|fiesta|b ?ffe|trufi\w*|truefisp)\b")),
    (
        "t2star",
        "T2*",
        re.compile(r"t2 ?\*|\bt2 ?star\b|\bt2s\b|\bt2w? ?(?:ffe|gre|fl2d|medic|merge|hemo)\b|\bhemo\w*\b|\bfl2d t2\b"),
    ),
)
_T1 = re.compile(r"t1(?![0-9])|\b(?:mp2?rage\w*|bravo|f?spgr|vibe|tfl|lava|\w*tfe)\b")
_FLAIR = re.compile(r"flair|\bdark ?fluid\b|\bda fl\b|fluid attenuat\w*")
_T2 = re.compile(r"t2(?![0-9*])")
_PD = re.compile(r"\b(?:pdw?|dp|proton\w*|densidad protonica|pd ?\+ ?t2)\b|\bpd(?=t2)")


def fold(text: str) -> str:
    """Lower case without accents; separators become single spaces; ``+`` and ``*`` stay."""
    plain = unicodedata.normalize("NFKD", text[:MAX_TEXT]).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^a-z0-9+*]+", " ", plain).split())


def texts(attributes: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(keyword, folded text) of the attributes that people write by hand, most telling first, without repeats."""
    found: list[tuple[str, str]] = []
    for keyword in TEXT_ATTRIBUTES:
        folded = " ".join(fold(str(v)) for v in values_of(attributes.get(keyword)))
        if folded and all(folded != text for _, text in found):
            found.append((keyword, folded))
    return tuple(found)


def special(folded: str) -> tuple[str, str] | None:
    """(role, what) when the words name something that is not a plain structural sequence."""
    for role, what, pattern in _SPECIAL:
        if pattern.search(folded):
            return role, what
    return None


def weighting(folded: str) -> str | None:
    """t1, t2, flair or pd when the words name one weighting."""
    t1, flair = _T1.search(folded) is not None, _FLAIR.search(folded) is not None
    if t1:
        return "t1"  # T1 FLAIR is a T1
    if flair:
        return "flair"
    if _PD.search(folded):
        return None if _T2.search(folded) else "pd"
    return "t2" if _T2.search(folded) else None


def contrast(folded: str) -> bool | None:
    """True after contrast, False before, None when the words say neither or both."""
    if _BOTH.search(folded):
        return None
    without = _WITHOUT.search(folded) is not None
    with_agent = _WITH.search(_WITHOUT.sub(" ", folded)) is not None
    return None if without == with_agent else with_agent


def without_contrast(folded: str) -> str:
    """The text without its words about contrast: what is left is the same before and after."""
    return " ".join(_WITH.sub(" ", _WITHOUT.sub(" ", folded)).split())
