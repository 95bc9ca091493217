"""What may be deleted, and what never: one closed rule, without a database and without a clock.

A site says for how many days it keeps four classes of things (settings section `retention`; nothing said: for ever).
`kept_because` names everything that keeps a part of a study all the same, and only what it names keeps it.  Whoever
deletes asks it inside the transaction that writes the deletion down (`record.removals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What there is of a study that can be deleted."""

    IMAGES = "images"
    """The received objects, photographs among them, and the caches made of them."""
    RESULTS = "results"
    """Findings, masks, result objects, pages and overlays, and the resources of the node's own FHIR endpoint."""
    IDENTITY = "identity"
    """Who the patient is: identifiers, names, dates of birth, orders, and free words about her."""


class Kind(StrEnum):
    """A class of things with days of its own; the values are settings, ``retention.<value>_days``."""

    IMAGES = "images"
    """Images of studies with an identity: an archive has them too, or may."""
    PRIVATE = "private"
    """Photographs without identity, and what was read from them: they are nowhere else."""
    RESULTS = "results"
    """Results of studies with an identity."""
    IDENTITY = "identity"


PARTS: dict[Kind, tuple[Part, ...]] = {
    Kind.IMAGES: (Part.IMAGES,),
    Kind.PRIVATE: (Part.IMAGES, Part.RESULTS),
    Kind.RESULTS: (Part.RESULTS,),
    Kind.IDENTITY: (Part.IDENTITY,),
}

ERASE = "erase"
"""The rule of what an administrator has erased by hand."""


class Needed(StrEnum):
    """Why something stays though its days are over."""

    LEGAL_HOLD = "legal-hold"
    GATHERS = "gathers"
    """Something of the study is arriving, unread or undecided."""
    HELD = "held"
    """A person has to decide about it."""
    RUNNING = "running"
    """A run or a trial waits or works."""
    ON_ITS_WAY = "on-its-way"
    """A delivery is open, held or failed, or an original is still to be passed on."""
    RUN_FAILED = "run-failed"
    """There is no result, and somebody may want to try again."""
    UNCONFIRMED = "unconfirmed"
    """The result in force has not been seen at every destination."""
    NOT_ARCHIVED = "not-archived"
    """The archive refused an original: this is the only copy."""
    UNANSWERED = "unanswered"
    """No specialist has answered the case."""
    FILES_LEFT = "files-left"
    """Images or results are still here, and they say whose they are."""


IN_MOTION = frozenset({Needed.LEGAL_HOLD, Needed.GATHERS, Needed.HELD, Needed.RUNNING, Needed.ON_ITS_WAY})
"""Keeps everything, from everybody: nothing is torn from under what still works, or from under a hold."""

_WANTED = IN_MOTION | {Needed.RUN_FAILED, Needed.UNCONFIRMED, Needed.UNANSWERED}

KEEPS: dict[Kind, frozenset[Needed]] = {
    Kind.IMAGES: _WANTED | {Needed.NOT_ARCHIVED},
    Kind.PRIVATE: _WANTED,
    Kind.RESULTS: _WANTED,
    Kind.IDENTITY: _WANTED | {Needed.NOT_ARCHIVED, Needed.FILES_LEFT},
}
"""What keeps which class.  An administrator who erases by hand is kept from it by `IN_MOTION` alone."""


@dataclass(frozen=True)
class Facts:
    """What the record knows of a study.

    Attributes
    ----------
    last_at
        When something last happened to it, as the record writes times: the days count from here.
    there
        Which parts are still here.
    needed
        Everything for which it is needed; which of that counts, the rule says.
    """

    study_uid: str
    last_at: str
    is_private: bool
    there: frozenset[Part]
    needed: frozenset[Needed]


def applies(kind: Kind, facts: Facts) -> bool:
    """Whether there is something of this class."""
    if kind is Kind.IDENTITY:
        return Part.IDENTITY in facts.there
    return facts.is_private is (kind is Kind.PRIVATE) and not facts.there.isdisjoint(PARTS[kind])


def kept_because(kind: Kind, facts: Facts, *, keep_unanswered: bool) -> tuple[Needed, ...]:
    """Why this class of a study stays though its days are over; empty: it may go.

    Parameters
    ----------
    keep_unanswered
        Whether the site keeps cases that no specialist has answered.
    """
    ignored = frozenset() if keep_unanswered else {Needed.UNANSWERED}
    return _sorted(facts.needed & KEEPS[kind] - ignored)


def erasure_kept_because(facts: Facts) -> tuple[Needed, ...]:
    """What keeps a person's erasure from being done now; empty: it may be done."""
    return _sorted(facts.needed & IN_MOTION)


def _sorted(found: frozenset[Needed] | set[Needed]) -> tuple[Needed, ...]:
    return tuple(one for one in Needed if one in found)
