"""What case assembly is told of a study, and what it answers.

Frozen values without behaviour; `dicom_node.routing.cases` thinks over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_node.refusals import Refusal, RefusalCode
from dicom_node.routing.route import PRIORITY_NUMBER, Priority
from dicom_node.words import Publish, RoleGuess, SeriesFacts


class Verb(StrEnum):
    """What is to be done for one result family."""

    RUN = "run"
    WAIT = "wait"
    REFUSE = "refuse"
    HOLD = "hold"
    NOTHING = "nothing"


@dataclass(frozen=True)
class ClosedSeries:
    """A series with its newest closed revision."""

    facts: SeriesFacts
    role: RoleGuess
    revision_id: int
    held: RefusalCode | None = None
    """Why the series is held (uid-conflict, patient-conflict), if it is."""
    since: Mapping[str, int] = field(default_factory=dict)
    """Of several photographs: the first revision that holds each, by SOP Instance UID.  A later one changes nothing
    about it."""


@dataclass(frozen=True)
class PastCase:
    """A case that this study already has."""

    id: int
    route: str
    result_family: str
    revisions: Mapping[str, int]
    """Role -> revision id."""
    set_rank: int = 0
    is_superseded: bool = False
    """Whether a later case has taken its place; at most one case of a family is not."""
    refusal: Refusal | None = None
    """How the model refused its images, if it did."""


@dataclass(frozen=True)
class StudyState:
    """All that case assembly may know of a study."""

    study_uid: str
    closed: tuple[ClosedSeries, ...]
    gathering: frozenset[str] = frozenset()
    """Series Instance UIDs that have instances newer than their closed revision, or no closed revision yet."""
    is_quiet: bool = False
    """Whether the study's quiet period is over and nothing is gathering."""
    quiet_until: str | None = None
    """When the quiet period will be over, if known; for the timeline."""
    cases: tuple[PastCase, ...] = ()
    calling_ae: str | None = None
    """Of the sender whose priority counts; None: the ``CallingAETitle`` of the chosen series."""


@dataclass(frozen=True)
class NotChosen:
    """A series that was not given to the model, and why."""

    series_uid: str
    revision_id: int
    role: str
    reason: str


@dataclass(frozen=True)
class CaseSpec:
    """The case to run."""

    route: str
    result_family: str
    model: str
    set_rank: int
    roles: tuple[str, ...]
    revisions: Mapping[str, int]
    """Role -> revision id, in the order of the role set."""
    series: Mapping[str, str]
    """Role -> Series Instance UID."""
    publish: Publish
    destinations: tuple[str, ...]
    priority: Priority
    reasons: tuple[str, ...]
    others: tuple[NotChosen, ...]
    instance_uid: str = ""
    """The photograph that is read, where it is one; empty: whole series."""
    stands_in_for: tuple[tuple[str, RefusalCode], ...] = ()
    """Routes that gave way to this one, the nearest first, each with the code of why."""

    @property
    def priority_number(self) -> int:
        """For the queue: lower goes first."""
        return PRIORITY_NUMBER[self.priority]


@dataclass(frozen=True)
class Decision:
    """What is to be done for one result family of a study.

    Attributes
    ----------
    verb
        RUN: `case` is to be run, in place of case `supersedes` if that is not None; when `repeats` is not None the same
        choice was run before as that case and its stored result can stand again.  WAIT: `until` says what for.
        REFUSE: `refusal` is final until something new arrives; case `supersedes`, if any, no longer stands.
        HOLD: somebody has to decide.  NOTHING: no route applies, or the current case already is the choice.
    """

    verb: Verb
    result_family: str
    route: str | None = None
    case: CaseSpec | None = None
    supersedes: int | None = None
    repeats: int | None = None
    until: str | None = None
    refusal: Refusal | None = None
    reasons: tuple[str, ...] = ()
