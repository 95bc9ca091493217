"""The frozen types that travel along the road, and the states their rows go through.

bytes (`door`) -> `Instance` (`record`) -> `Revision` (`gather`) -> `Case` (`routing`) -> `Volume` (`volume`) ->
`ai_engine.findings.Findings` -> `ResultSet` (`results`) -> confirmed copies (`delivery`) -> report (`fhir_bridge`).

DICOM elements keep their keywords as attribute names in JSON; our own fields are snake_case with the unit at the end.
Ground floor: imports numpy, `ai_engine.geometry`, `ai_engine.findings` and `dicom_node.refusals` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ai_engine.findings import Code
from ai_engine.geometry import Affine
from dicom_node.refusals import PeerTrouble, Refusal, RefusalCode, Refused

__all__ = [
    "CASE_MOVES",
    "DELIVERY_MOVES",
    "PRODUCT",
    "REVISION_MOVES",
    "ROLE_ALIASES",
    "RUN_MOVES",
    "CaseState",
    "DeliveryState",
    "Grade",
    "Instance",
    "ObjectKind",
    "PeerTrouble",
    "Picture",
    "Publish",
    "Refusal",
    "RefusalCode",
    "Refused",
    "ResultObject",
    "ResultSet",
    "Revision",
    "RevisionState",
    "RoleGuess",
    "RunIdentity",
    "RunState",
    "SeriesFacts",
    "SliceSource",
    "Volume",
    "may_move",
]


PHOTOS_AE = "AINODE_PHOTOS"
"""Calling AE title under which the node brings photographs of its own desk to its own door."""

HOOK = "hook-"
"""Stands before a webhook's name wherever the node's peers stand in one list: queues, circuits, what is on its way."""

ROLE_ALIASES: Mapping[str, str] = {"t1ce": "t1c", "t1gd": "t1c"}
"""Other spellings of sequence roles that callers and data sets use."""


class Grade(StrEnum):
    """How good the evidence is that a series is complete (design: *series complete, by graded evidence*)."""

    PROMISED = "promised"
    TRANSFERRED = "transferred"
    WEAK = "weak"
    CONTRADICTING = "contradicting"


class Publish(StrEnum):
    """Where a route's results may go."""

    NOTHING = "nothing"
    PACS = "pacs"
    ALL = "all"


class ObjectKind(StrEnum):
    """The objects of one result set, in the order in which they are sent; `report` is the FHIR Bundle."""

    SEG = "seg"
    PDF = "pdf"
    SC = "sc"
    SR = "sr"
    KO = "ko"
    REPORT = "report"


class RevisionState(StrEnum):
    GATHERING = "gathering"
    COMPLETE = "complete"
    SUPERSEDED = "superseded"


class CaseState(StrEnum):
    WAITING = "waiting"
    READY = "ready"
    REFUSED = "refused"
    HELD = "held"


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    BUILT = "built"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    CONFIRMED = "confirmed"
    HELD = "held"
    FAILED = "failed"
    CANCELLED = "cancelled"


REVISION_MOVES: Mapping[RevisionState, frozenset[RevisionState]] = {
    RevisionState.GATHERING: frozenset({RevisionState.COMPLETE, RevisionState.SUPERSEDED}),
    RevisionState.COMPLETE: frozenset({RevisionState.SUPERSEDED}),
    RevisionState.SUPERSEDED: frozenset(),
}

CASE_MOVES: Mapping[CaseState, frozenset[CaseState]] = {
    CaseState.WAITING: frozenset({CaseState.READY, CaseState.REFUSED, CaseState.HELD}),
    CaseState.READY: frozenset({CaseState.HELD}),
    CaseState.REFUSED: frozenset({CaseState.WAITING}),
    CaseState.HELD: frozenset({CaseState.WAITING, CaseState.READY, CaseState.REFUSED}),
}

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset(
        {RunState.RUNNING, RunState.REFUSED, RunState.FAILED, RunState.CANCELLED, RunState.SUPERSEDED}
    ),
    RunState.RUNNING: frozenset(
        {
            RunState.RUNNING,
            RunState.BUILT,
            RunState.FAILED,
            RunState.REFUSED,
            RunState.CANCELLED,
            RunState.SUPERSEDED,
            RunState.QUEUED,
        }
    ),
    RunState.BUILT: frozenset({RunState.SUPERSEDED}),
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.SUPERSEDED}),
    RunState.REFUSED: frozenset({RunState.SUPERSEDED}),
    RunState.CANCELLED: frozenset({RunState.QUEUED, RunState.SUPERSEDED}),
    # only by the same choice again, when nothing of the run had left the node
    RunState.SUPERSEDED: frozenset({RunState.QUEUED}),
}

DELIVERY_MOVES: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.SENDING, DeliveryState.CANCELLED, DeliveryState.HELD}),
    DeliveryState.SENDING: frozenset(
        {
            DeliveryState.SENDING,
            DeliveryState.CONFIRMED,
            DeliveryState.PENDING,
            DeliveryState.HELD,
            DeliveryState.FAILED,
            DeliveryState.CANCELLED,
        }
    ),
    DeliveryState.CONFIRMED: frozenset(),
    DeliveryState.HELD: frozenset({DeliveryState.PENDING, DeliveryState.CANCELLED}),
    DeliveryState.FAILED: frozenset({DeliveryState.PENDING, DeliveryState.CANCELLED}),
    DeliveryState.CANCELLED: frozenset({DeliveryState.PENDING}),
}

PRODUCT = "dicom-ai-node"
"""Manufacturer's Model Name (0008,1090) of every object a node makes; by it results are known again, whatever
organisation stands as their manufacturer (I18).  `orthanc/forward.lua` has the same word."""

_MOVES: tuple[Mapping[Any, frozenset[Any]], ...] = (REVISION_MOVES, CASE_MOVES, RUN_MOVES, DELIVERY_MOVES)


def may_move(old: StrEnum, new: StrEnum) -> bool:
    """Whether the one table of legal transitions lets a row go from `old` to `new`."""
    if type(old) is not type(new):  # states of different kinds may be equal as text
        return False
    return any(new in moves.get(old, ()) for moves in _MOVES if type(next(iter(moves))) is type(old))


@dataclass(frozen=True)
class Instance:
    """One stored SOP instance: where its bytes are and what its header says."""

    uid: str
    series_uid: str
    study_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    """Relative to the data folder."""
    size_bytes: int
    content_sha256: str
    """Content digest (design section 4): by content, not by bytes."""
    header: Mapping[str, Any]
    """The attributes of `dicom_node.volume.header` by keyword, JSON values."""
    removed_at: str | None = None
    """Since when its file is deleted; None: it is kept."""


@dataclass(frozen=True)
class SeriesFacts:
    """What routing may know about a series: attributes by keyword, each as its first instance has it, and extras.

    Extras: ``NumberOfInstances``, ``NumberOfSlices``, ``SliceStepMm``, ``SpacingMm`` (row, column), ``Plane``
    (axial, coronal, sagittal or oblique), ``AcquisitionOrder`` (rank in time within the study) where known.
    """

    series_uid: str
    study_uid: str
    attributes: Mapping[str, Any]
    instance_uid: str = ""
    """The one photograph that these facts speak of; empty: a series as a whole."""
    photographs: tuple[SeriesFacts, ...] = ()
    """Of a series of several photographs: the facts of each, in the order of their UIDs."""


@dataclass(frozen=True)
class RoleGuess:
    """A sequence role with its confidence (0 to 1) and the reasons in plain words."""

    role: str
    confidence: float
    reasons: tuple[str, ...]
    ambiguous_with: tuple[str, ...] = ()
    """Other roles that the evidence leaves open; empty when decided."""
    after_contrast: bool | None = None
    """Whether the series was acquired after contrast was given; None where nothing in the study tells."""


@dataclass(frozen=True)
class Revision:
    """A frozen set of a series' instances, with the evidence that it is complete."""

    id: int
    series_uid: str
    study_uid: str
    number: int
    """1, 2, 3 ... within the series."""
    set_sha256: str
    """Digest over the sorted (SOP Instance UID, content digest) pairs."""
    grade: Grade
    evidence: Mapping[str, Any]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class SliceSource:
    """Which stored frame a slice of a volume came from."""

    sop_class_uid: str
    sop_instance_uid: str
    path: str
    """Of the stored file: absolute, or relative to the data folder as the caller gave it."""
    frame_number: int | None = None
    """1-based; None for single-frame objects."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An exact volume: modality values on a regular grid in patient space.

    Attributes
    ----------
    array
        (S, R, C) float32 after the modality transformation (rescale slope and intercept, MONOCHROME1 inverted).
        Slices ascend along the normal ``row cosines x column cosines``.
    valid
        (S, R, C) bool, False where the pixel is padding; None when there is no padding.
    affine
        (slice, row, column) to LPS millimetres.
    slices
        One source per slice, in array order.
    """

    array: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_] | None
    affine: Affine
    slices: tuple[SliceSource, ...]
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes by keyword from the first slice, for gates and reports."""
    notes: tuple[str, ...] = ()
    """What was handled on the way in, in words: one duplicate slice dropped, lossy source."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A photograph as it was archived: colours decoded from the DICOM object, never from what was uploaded.

    Attributes
    ----------
    pixels
        (rows, columns, 3) uint8, sRGB, upright as a viewer shows it.
    path
        Of the stored file: absolute, or relative to the data folder as the caller gave it.
    declared
        Kind of photograph as the object declares it; empty where it says nothing.
    body_site
        Anatomic region (0008,2218); None where the object names none.
    laterality
        Image Laterality (0020,0062): R, L, B, U or empty.
    """

    pixels: npt.NDArray[np.uint8]
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    modality: str
    path: str
    declared: Literal["dermoscopic", "plain", ""] = ""
    body_site: Code | None = None
    laterality: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes by keyword, for gates and reports."""
    notes: tuple[str, ...] = ()
    """What was handled on the way in, in words: colour profile converted, lossy source."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything that decides what a result set's objects say about themselves."""

    run_key: str
    """sha256, see design section 4."""
    site_namespace: str
    """UUID of this installation; all result UIDs derive from it."""
    created: str
    """Aware ISO 8601 time at which the run's row was inserted; the only clock results may show."""
    study_uid: str
    revision_number: int = 1
    predecessor: Mapping[str, Any] | None = None
    """The superseded result set: ``{"objects": [{"kind", "sop_class_uid", "sop_instance_uid", "series_uid"}]}``."""
    grade: Grade = Grade.WEAK
    notes: tuple[str, ...] = ()
    """Choices of case assembly and evidence, in words, for the report."""
    timezone_offset: str = "+00:00"


@dataclass(frozen=True)
class ResultObject:
    """One built object: its bytes are fixed for ever."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    data: bytes
    sha256: str


@dataclass(frozen=True)
class ResultSet:
    """All objects of one run in sending order, built and checked before the first is sent."""

    run_key: str
    study_uid: str
    objects: tuple[ResultObject, ...]
    pdf: bytes
    """The page itself, for the FHIR report's presentedForm."""
    overlay_png: bytes
