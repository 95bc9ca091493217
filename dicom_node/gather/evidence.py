"""The rule: what is known about a series, how good it is, and how long to wait on it.  Pure.

Grades, best first (design section 4):

*promised*: somebody who is not fed by the same sender nor by us announced exactly what is here, and the geometry shows
no gap.  *transferred*: the archive that forwards holds exactly what is here, its association was released, no gap.
*weak*: nothing contradicts, nothing confirms.  *contradicting*: more was announced than is here, slices are missing by
their positions, or an instance cannot be read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dicom_node.words import Grade


@dataclass(frozen=True)
class Patience:
    """How long to wait, per grade; from the settings, or from the sender's own."""

    quiet_s: float
    cap_s: float


@dataclass(frozen=True)
class Evidence:
    """What is known about a series at one moment.

    Attributes
    ----------
    instances
        Readable instances here.
    refused
        Instances that arrived and cannot be read.
    announced
        Images in Acquisition (0020,1002), when every instance says the same.
    archive_count
        What the archive says it holds of this series, without our own results.
    is_archive_independent
        The archive is fed by somebody other than the sender and the node, so that its count is a promise.
    is_from_archive
        Every instance came from an archive that forwards.
    is_arriving
        An association that brought some of it is still open.
    is_released
        The last such association ended with a release.
    slices
        Positions of one regular stack, or None when the instances do not make one.
    geometry
        "regular", or the code for which the instances are no regular stack.
    has_gap
        Positions show that slices are missing.
    is_own_photograph
        The node itself has brought it: one photograph is one series, and there will be no more of it.
    """

    instances: int
    refused: int = 0
    announced: int | None = None
    archive_count: int | None = None
    is_archive_independent: bool = False
    is_from_archive: bool = False
    is_arriving: bool = False
    is_released: bool = False
    slices: int | None = None
    geometry: str = ""
    has_gap: bool = False
    is_own_photograph: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the revision's row, the timeline and the report; ``expected`` holds the counts that others gave."""
        counts = {"images_in_acquisition": self.announced, "archive": self.archive_count}
        return {**asdict(self), "expected": {name: n for name, n in counts.items() if n is not None}}


def grade(evidence: Evidence, patience: Patience) -> tuple[Grade, float]:
    """The grade of the evidence, and how many seconds without a new instance the series waits on it.

    Parameters
    ----------
    evidence
        As it stands now.
    patience
        Waiting times that hold for the series' sender.

    Returns
    -------
    (Grade, float)
        Seconds after the last instance; 0 closes at once.
    """
    here = evidence.instances
    is_whole = evidence.geometry == "regular" and evidence.refused == 0
    if evidence.refused or evidence.has_gap or (evidence.archive_count or 0) > here:
        return Grade.CONTRADICTING, patience.cap_s
    archive_agrees = evidence.archive_count == here
    if evidence.is_own_photograph and here == 1:
        return Grade.PROMISED, 0.0
    if is_whole and archive_agrees and evidence.is_archive_independent:
        return Grade.PROMISED, 0.0
    if is_whole and evidence.announced == evidence.slices and here in (1, evidence.slices):
        return Grade.PROMISED, 0.0  # one multi-frame object, or one object for each slice
    if archive_agrees and evidence.is_from_archive and evidence.is_released and not evidence.is_arriving:
        # a count of the archive that forwards says what was sent, whatever the acquisition had announced
        return Grade.TRANSFERRED, patience.quiet_s
    if evidence.announced is not None and evidence.announced > here:
        return Grade.CONTRADICTING, patience.cap_s
    return Grade.WEAK, patience.cap_s
