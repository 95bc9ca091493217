"""Before or after contrast: what tags, words, order in time and the pictures say about each T1 of a study.

Every sign adds or takes away belief (log odds that the series is *after* contrast).  Contrast stays in the body for the
rest of a study, so what is known of one series bounds the others in time.  A series without any sign stays open: a
single T1 is ambiguous, and nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dicom_node.routing.appearance import Appearance, Enhancement, compare_t1, follows_contrast
from dicom_node.routing.clauses import number_of, values_of
from dicom_node.routing.facts import moment_s
from dicom_node.routing.idioms import contrast, fold, texts, without_contrast
from dicom_node.routing.physics import acquisition
from dicom_node.words import SeriesFacts

Compare = Callable[[list[str]], Mapping[str, Appearance]]
"""Decodes the named series into small pictures; may leave out those it cannot read."""

DECIDED = 1.0
"""Log odds from which before or after counts as decided (probability 0.73)."""
KNOWN = 1.4
"""Log odds from which one series bounds the others in time (probability 0.80)."""

_TAGGED = "Contrast/Bolus Agent is given"
_TAG, _WORDS, _PAIR, _SEEN, _BOUND, _UNMARKED, _HINT = 3.0, 3.0, 1.5, 2.0, 2.5, 1.2, 0.4
_SAME_MOMENT_S = 2.0
_PAIR_APART_S = 30.0
_NO_AGENT = frozenset({"no", "none", "n", "non", "nein", "without", "no contrast", "nil", "0"})


@dataclass
class Belief:
    """Log odds that one series was acquired after contrast, with the signs in words."""

    odds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    strongest_for: float = 0.0
    strongest_against: float = 0.0

    def add(self, odds: float, reason: str) -> None:
        """Take one sign into account."""
        self.odds += odds
        self.reasons.append(reason)
        self.strongest_for = max(self.strongest_for, odds)
        self.strongest_against = min(self.strongest_against, odds)

    @property
    def is_contradicted(self) -> bool:
        """Strong signs on both sides."""
        return self.strongest_for >= _SEEN and self.strongest_against <= -_SEEN

    @property
    def is_decided(self) -> bool:
        return abs(self.odds) >= DECIDED and not self.is_contradicted

    @property
    def probability(self) -> float:
        """Of the more likely side."""
        return 1.0 / (1.0 + math.exp(-abs(self.odds)))


class Pictures:
    """Asks for each picture at most once."""

    def __init__(self, compare: Compare | None) -> None:
        self._compare = compare
        self._known: dict[str, Appearance | None] = {}

    def get(self, *uids: str) -> list[Appearance] | None:
        if self._compare is None:
            return None
        missing = sorted(uid for uid in uids if uid not in self._known)
        if missing:
            answer = self._compare(missing)
            self._known.update({uid: answer.get(uid) for uid in missing})
        found = [self._known[uid] for uid in uids]
        return None if any(picture is None for picture in found) else [p for p in found if p is not None]


def stated(series: SeriesFacts) -> tuple[tuple[float, str], ...]:
    """What a series says about itself: contrast tag and words; (log odds, reason) each."""
    found: list[tuple[float, str]] = []
    agent = " ".join(str(v).strip().casefold() for v in values_of(series.attributes.get("ContrastBolusAgent")))
    if agent in _NO_AGENT:
        found.append((-_SEEN, "Contrast/Bolus Agent says none"))
    elif agent or series.attributes.get("HasContrastBolusSequence") is True:
        found.append((_TAG, _TAGGED))
    for keyword, text in texts(series.attributes):
        said = contrast(text)
        if said is not None:
            found.append((_WORDS if said else -_WORDS, f"{keyword} says {'after' if said else 'before'} contrast"))
            break
    return tuple(found)


def decide_contrast(series: Sequence[SeriesFacts], pictures: Pictures) -> dict[str, Belief]:
    """Weigh all signs for the T1-weighted series of one study.

    Parameters
    ----------
    series
        The T1-weighted series, in any order.
    pictures
        Asked only for series that tags, words and bounds in time leave open or rest on order alone.

    Returns
    -------
    dict
        Belief by Series Instance UID.
    """
    ordered = sorted(series, key=lambda s: (_moment(s), s.series_uid))
    beliefs = {s.series_uid: Belief() for s in ordered}
    pairs = _equal_pairs(ordered)
    _add_stated(ordered, pairs, beliefs)
    _add_pairs(pairs, beliefs, pictures)
    _add_bounds(ordered, beliefs)
    _add_seen(ordered, beliefs, pictures)
    _add_bounds(ordered, beliefs)
    _add_unmarked(ordered, beliefs)
    _add_hints(ordered, beliefs)
    return beliefs


def _add_stated(
    ordered: Sequence[SeriesFacts], pairs: Sequence[Sequence[SeriesFacts]], beliefs: Mapping[str, Belief]
) -> None:
    """Tags and words; a tag on every T1 of a study with a repeated one hardly tells its members apart."""
    tagged = {s.series_uid for s in ordered if any(reason == _TAGGED for _, reason in stated(s))}
    repeated = {s.series_uid for group in pairs for s in group}
    for s in ordered:
        is_blanket = len(tagged) == len(ordered) and s.series_uid in repeated
        for odds, reason in stated(s):
            if reason == _TAGGED and is_blanket:
                beliefs[s.series_uid].add(_TAG / 3, f"{reason}, as on every T1 of the study")
            else:
                beliefs[s.series_uid].add(odds, reason)


def _add_pairs(pairs: Sequence[Sequence[SeriesFacts]], beliefs: Mapping[str, Belief], pictures: Pictures) -> None:
    """The same acquisition twice: before and after contrast, unless its members already say otherwise."""
    for group in pairs:
        first = group[0]
        for later in group[1:]:
            one, two = beliefs[first.series_uid], beliefs[later.series_uid]
            if one.odds >= KNOWN or two.odds <= -KNOWN:
                continue  # the earlier is after contrast, or the later before: repeated for another reason
            weight, seen = _PAIR, None
            if one.odds > -KNOWN and two.odds < KNOWN:  # order alone speaks: look
                images = pictures.get(first.series_uid, later.series_uid)
                seen = compare_t1(images[0], images[1]) if images else None
            if seen is Enhancement.NONE:
                weight = _PAIR / 3
            if one.odds > -KNOWN:
                one.add(-weight, "the same acquisition was repeated later: this is the earlier one")
            if two.odds < KNOWN:
                two.add(weight, "the same acquisition was made earlier: this is the later one")
            _add_verdict(seen, one, two)


def _add_verdict(seen: Enhancement | None, earlier: Belief, later: Belief) -> None:
    if seen is Enhancement.SECOND:
        earlier.add(-_SEEN, "compared with the later one, vessels and mucosa are dark")
        later.add(_SEEN, "compared with the earlier one, vessels and mucosa enhance")
    elif seen is Enhancement.FIRST:
        earlier.add(_SEEN, "compared with the later one, vessels and mucosa enhance")
        later.add(-_SEEN, "compared with the earlier one, vessels and mucosa are dark")
    elif seen is Enhancement.NONE:
        earlier.reasons.append("the pictures of both show no enhancement between them")
        later.reasons.append("the pictures of both show no enhancement between them")


def _add_bounds(ordered: Sequence[SeriesFacts], beliefs: Mapping[str, Belief]) -> None:
    """Later than a series known to be after contrast is after it; earlier than one known to be before is before it."""
    first_after, last_before = bounds(ordered, beliefs)
    for s in ordered:
        belief, moment = beliefs[s.series_uid], moment_s(s)
        if moment is None or abs(belief.odds) >= KNOWN:
            continue
        if first_after is not None and moment >= first_after - _SAME_MOMENT_S and belief.strongest_against > -_SEEN:
            belief.add(_BOUND, "acquired after a series that is known to follow contrast")
        elif last_before is not None and moment <= last_before + _SAME_MOMENT_S and belief.strongest_for < _SEEN:
            belief.add(-_BOUND, "acquired before a series that is known to precede contrast")


def bounds(ordered: Sequence[SeriesFacts], beliefs: Mapping[str, Belief]) -> tuple[float | None, float | None]:
    """Seconds of the first series known to be after contrast and of the last known to be before it."""
    after = [moment_s(s) for s in ordered if beliefs[s.series_uid].odds >= KNOWN]
    before = [moment_s(s) for s in ordered if beliefs[s.series_uid].odds <= -KNOWN]
    return (
        min((m for m in after if m is not None), default=None),
        max((m for m in before if m is not None), default=None),
    )


def _add_seen(ordered: Sequence[SeriesFacts], beliefs: Mapping[str, Belief], pictures: Pictures) -> None:
    """Series between the last known before and the first known after: look whether they enhance where others do."""
    known_before = [s for s in ordered if beliefs[s.series_uid].odds <= -KNOWN]
    known_after = [s for s in ordered if beliefs[s.series_uid].odds >= KNOWN]
    pair = next(((b, a) for b in reversed(known_before) for a in known_after if _is_equal(b, a)), None)
    if pair is None:
        return
    before, after = pair
    for s in ordered:
        belief = beliefs[s.series_uid]
        if abs(belief.odds) >= KNOWN:
            continue
        images = pictures.get(s.series_uid, before.series_uid, after.series_uid)
        seen = follows_contrast(*images) if images else None
        if seen is True:
            belief.add(_SEEN, "what enhances elsewhere in the study is bright here too")
        elif seen is False:
            belief.add(-_SEEN, "what enhances elsewhere in the study is not bright here")


def _add_unmarked(ordered: Sequence[SeriesFacts], beliefs: Mapping[str, Belief]) -> None:
    """Who marks contrast on the later series, and only there, would have marked it on an earlier one."""
    marks = {s.series_uid: sum(odds for odds, _ in stated(s)) for s in ordered}
    marked = [moment_s(s) for s in ordered if marks[s.series_uid] >= KNOWN]
    first_marked = min((m for m in marked if m is not None), default=None)
    if first_marked is None or min(marks.values()) < 0:
        return
    for s in ordered:
        belief, moment = beliefs[s.series_uid], moment_s(s)
        if moment is not None and moment < first_marked and belief.odds == 0.0 and not stated(s):
            belief.add(-_UNMARKED, "carries no mark of contrast, while a later T1 of the study does")


def _add_hints(ordered: Sequence[SeriesFacts], beliefs: Mapping[str, Belief]) -> None:
    """A second volume acquisition, now with fat suppression: usual after contrast, decides nothing alone."""
    for index, s in enumerate(ordered):
        belief, q = beliefs[s.series_uid], acquisition(s)
        if belief.is_decided or belief.odds != 0.0 or not (q.is_3d and q.is_fat_suppressed):
            continue
        if any((p := acquisition(e)).is_3d and not p.is_fat_suppressed for e in ordered[:index]):
            belief.add(_HINT, "a second volume acquisition, with fat suppression: usual after contrast, no proof")


def _equal_pairs(ordered: Sequence[SeriesFacts]) -> list[list[SeriesFacts]]:
    """Groups of two or more series that are equal in everything but time; one per moment of acquisition."""
    groups: list[list[SeriesFacts]] = []
    for s in ordered:
        if moment_s(s) is None:
            continue
        group = next((g for g in groups if _is_equal(g[0], s)), None)
        if group is None:
            groups.append([s])
        elif _moment(s) - _moment(group[-1]) >= _PAIR_APART_S:
            group.append(s)
    return [group for group in groups if len(group) > 1]


def _is_equal(one: SeriesFacts, two: SeriesFacts) -> bool:
    a, b, p, q = one.attributes, two.attributes, acquisition(one), acquisition(two)
    return (
        _description(one) == _description(two)
        and a.get("Plane") == b.get("Plane")
        and (p.sequence, p.is_3d, p.is_fat_suppressed) == (q.sequence, q.is_3d, q.is_fat_suppressed)
        and _is_close(p.echo_ms, q.echo_ms)
        and _is_close(p.repetition_ms, q.repetition_ms)
        and _is_close(p.inversion_ms, q.inversion_ms)
        and _is_close(number_of(a.get("SliceStepMm")), number_of(b.get("SliceStepMm")))
    )


def _description(s: SeriesFacts) -> str:
    return without_contrast(fold(str(s.attributes.get("SeriesDescription", ""))))


def _is_close(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return math.isclose(one, two, rel_tol=0.05)


def _moment(s: SeriesFacts) -> float:
    moment = moment_s(s)
    return math.inf if moment is None else moment
