"""The sequence role of every series of a study: t1, t1c, t2, flair and the rest, with confidence and reasons.

Evidence, strongest first: what Image Type says outright, the physics of the acquisition, the words that people wrote,
and for contrast also tags, order in time and the pictures themselves (`dicom_node.routing.contrast`).  Roles belong to
the study: they are decided anew whenever a series closes, from all its series together, whatever their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dicom_node.routing.appearance import resemblance
from dicom_node.routing.attributes import PHOTOGRAPH
from dicom_node.routing.contrast import Belief, Compare, Pictures, bounds, decide_contrast, stated
from dicom_node.routing.facts import moment_s
from dicom_node.routing.idioms import special, texts
from dicom_node.routing.idioms import weighting as weighting_in_words
from dicom_node.routing.kinds import (
    DERMOSCOPIC_PHOTOGRAPHY,
    VL_PHOTOGRAPHIC,
    is_adc,
    is_colour_capture,
    is_reformat,
    kinds,
)
from dicom_node.routing.physics import Evidence, may_be_flair, weighting
from dicom_node.words import RoleGuess, SeriesFacts

STRUCTURAL = ("t1", "t2", "flair", "pd")

_IN_WORDS = 0.8
_FAINT = 0.4
"""Evidence below this names no role."""
_CLOSE = 0.25
"""A second role this near to the first leaves the choice open."""
_REFORMAT_FACTOR = 0.85
_ANYTHING = ("t1", "t1c", "t2", "flair")
"""What a silent series may be."""
_ALIKE = 0.9
"""Resemblance from which a silent series takes the weighting of a known one; the nearest other weighting had 0.79."""
_ALIKE_MARGIN = 0.1
_EXCLUDED_ROLE = (
    ("own-result", "own-result"),
    ("not-an-image", "other"),
    ("localizer", "localizer"),
    ("subtraction", "derived"),
    ("projection", "derived"),
    ("screenshot", "derived"),
    ("map", "derived"),
)


def assign_roles(series: Sequence[SeriesFacts], compare: Compare | None = None) -> dict[str, RoleGuess]:
    """Decide the role of every series of one study.

    Parameters
    ----------
    series
        Facts of all closed series of the study, in any order.
    compare
        Called with Series Instance UIDs whose pictures would help; returns what could be decoded.  None: decide from
        headers alone, and leave open what they do not tell.

    Returns
    -------
    dict
        Guess by Series Instance UID, the same whatever the order of `series`.

    Raises
    ------
    ValueError
        Series of more than one study, or one series twice.
    """
    if len({s.study_uid for s in series}) > 1 or len({s.series_uid for s in series}) != len(series):
        raise ValueError("roles are decided for the distinct series of one study")
    ordered = sorted(series, key=lambda s: s.series_uid)
    guesses = {s.series_uid: _of_one(s) for s in ordered}
    t1 = [s for s in ordered if guesses[s.series_uid].role == "t1"]
    pictures = Pictures(compare)
    beliefs = decide_contrast(t1, pictures)
    for s in t1:
        guesses[s.series_uid] = _with_contrast(guesses[s.series_uid], beliefs[s.series_uid])
    known = {s.series_uid: guesses[s.series_uid] for s in ordered}
    for s in ordered:
        if guesses[s.series_uid].ambiguous_with == _ANYTHING:
            guesses[s.series_uid] = _by_resemblance(s, known, guesses[s.series_uid], pictures)
    return _with_order(ordered, guesses, beliefs)


def _of_one(s: SeriesFacts) -> RoleGuess:
    """What one series is by itself; T1 stands for T1 before or after contrast."""
    found = kinds(s)
    if is_adc(s):
        return RoleGuess("adc", 0.95, ("Image Type says ADC",))
    if "own-result" not in found and (photographed := _photograph(s)) is not None:
        return photographed
    for kind, role in _EXCLUDED_ROLE:
        if kind in found:
            is_named_adc = kind == "map" and "ADC" in found[kind]
            return RoleGuess("adc" if is_named_adc else role, 0.95, (found[kind],))
    if str(s.attributes.get("Modality", "")).strip().upper() != "MR":
        return RoleGuess("other", 0.95, ("sequence roles are those of MR",))
    words, physics = _in_words(s), weighting(s)
    if any(w.role == "flair" for w in words) and any(p.role == "t2" for p in physics) and may_be_flair(s):
        physics = (Evidence("flair", 0.3, "T2-weighted; the inversion time is not given"),)
    return _weigh(s, (*words, *physics))


def _photograph(s: SeriesFacts) -> RoleGuess | None:
    """A photograph by its class; whether through a dermatoscope is what the object says, and the model's to see."""
    uid, modality = str(s.attributes.get("SOPClassUID", "")), str(s.attributes.get("Modality", "")).strip().upper()
    if uid == DERMOSCOPIC_PHOTOGRAPHY:
        return RoleGuess(PHOTOGRAPH, 0.95, ("a Dermoscopic Photography object",))
    if uid != VL_PHOTOGRAPHIC and not (is_colour_capture(s) and modality in ("XC", "DMS", "OT")):
        return None
    what = "a VL Photographic object" if uid == VL_PHOTOGRAPHIC else "a Secondary Capture in colour"
    declared = str(s.attributes.get("DeclaredPicture", ""))
    if declared == "dermoscopic" or modality == "DMS":
        return RoleGuess(PHOTOGRAPH, 0.9, (what, "declared as taken through a dermatoscope"))
    said = "declared as a plain photograph" if declared == "plain" else "nothing declares how it was taken"
    return RoleGuess(PHOTOGRAPH, 0.6, (what, f"{said}; the model's quality gate looks itself"))


def _in_words(s: SeriesFacts) -> tuple[Evidence, ...]:
    """The first text that names a sequence; the others repeat it or are technical."""
    for keyword, text in texts(s.attributes):
        named = special(text)
        if named is not None:
            return (Evidence(named[0], 0.9, f"{keyword} names {named[1]}"),)
        role = weighting_in_words(text)
        if role is not None:
            return (Evidence(role, _IN_WORDS, f"{keyword} names {role.upper()}"),)
    return ()


def _weigh(s: SeriesFacts, evidence: Sequence[Evidence]) -> RoleGuess:
    """Combine independent signs for each role; two roles with nearly equal support leave it open."""
    doubt: dict[str, float] = {}
    for sign in evidence:
        doubt[sign.role] = doubt.get(sign.role, 1.0) * (1.0 - sign.strength)
    ranked = sorted(((1.0 - d, role) for role, d in doubt.items()), reverse=True)
    if not ranked or ranked[0][0] < _FAINT:
        silent = ("neither words nor acquisition times say what this is",)
        return RoleGuess("other", 0.3, silent, ambiguous_with=_ANYTHING)
    best, role = ranked[0]
    rivals = tuple(sorted(r for strength, r in ranked[1:] if best - strength < _CLOSE))
    reasons: tuple[str, ...] = tuple(sign.reason for sign in evidence)
    if rivals:
        reasons += ("words and acquisition times contradict each other",)
    elif len(ranked) > 1:
        best *= 0.9
    if is_reformat(s):
        best *= _REFORMAT_FACTOR
        reasons += ("a reformat of another stack, by its Image Type",)
    return RoleGuess(role, round(best, 2), reasons, ambiguous_with=rivals)


def _by_resemblance(s: SeriesFacts, known: Mapping[str, RoleGuess], guess: RoleGuess, pictures: Pictures) -> RoleGuess:
    """A silent series that looks like a known one of the study, and like no other weighting, is of that weighting."""
    best: dict[str, float] = {}
    for uid, other in sorted(known.items()):
        weight = "t1" if other.role == "t1c" else other.role
        if weight not in STRUCTURAL or set(other.ambiguous_with) - {"t1", "t1c"}:
            continue
        images = pictures.get(s.series_uid, uid)
        alike = resemblance(images[0], images[1]) if images else None
        if alike is not None:
            best[weight] = max(alike, best.get(weight, -1.0))
    ranked = sorted(((alike, weight) for weight, alike in best.items()), reverse=True)
    if not ranked or ranked[0][0] < _ALIKE or (len(ranked) > 1 and ranked[0][0] - ranked[1][0] < _ALIKE_MARGIN):
        return guess
    role = ranked[0][1]
    reasons = (*guess.reasons, f"its picture is like that of a known {role.upper()} of the study")
    return RoleGuess(role, 0.6, reasons, ambiguous_with=("t1c",) if role == "t1" else ())


def _with_contrast(guess: RoleGuess, belief: Belief) -> RoleGuess:
    role = "t1c" if belief.odds > 0 else "t1"
    reasons = guess.reasons + tuple(belief.reasons)
    if belief.is_decided:
        return replace(guess, role=role, confidence=round(guess.confidence * belief.probability, 2), reasons=reasons)
    other = "t1" if role == "t1c" else "t1c"
    why = "the signs of contrast contradict each other" if belief.is_contradicted else "nothing tells before from after"
    if belief.odds != 0.0 and not belief.is_contradicted:
        why = "too little tells before from after contrast"
    return replace(
        guess,
        role=role,
        confidence=round(guess.confidence * belief.probability, 2),
        reasons=(*reasons, why if "contrast" in why else f"{why} contrast"),
        ambiguous_with=tuple(sorted({*guess.ambiguous_with, other})),
    )


def _with_order(
    ordered: Sequence[SeriesFacts], guesses: Mapping[str, RoleGuess], beliefs: Mapping[str, Belief]
) -> dict[str, RoleGuess]:
    """Note for every series whether it was acquired after contrast, where the T1 series or its own words tell."""
    t1 = [s for s in ordered if s.series_uid in beliefs]
    first_after, last_before = bounds(t1, beliefs)
    noted = {}
    for s in ordered:
        guess = guesses[s.series_uid]
        noted[s.series_uid] = replace(guess, after_contrast=_after(s, guess, first_after, last_before))
    return noted


def _after(s: SeriesFacts, guess: RoleGuess, first_after: float | None, last_before: float | None) -> bool | None:
    if guess.role in ("t1", "t1c"):
        is_open = {"t1", "t1c"} & set(guess.ambiguous_with)
        return None if is_open else guess.role == "t1c"
    moment = moment_s(s)
    if moment is not None and first_after is not None and moment >= first_after:
        return True
    if moment is not None and last_before is not None and moment <= last_before:
        return False
    said = sum(odds for odds, _ in stated(s))
    return None if said == 0 else said > 0
