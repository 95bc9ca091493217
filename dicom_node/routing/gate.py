"""What keeps a result of a series from being published (standards sections 7.1 and 7.6, hardening section 4.3).

A gate speaks about where results may go, not about whether a model may read: the node still computes, and the timeline
says what was kept back and why.  Reasons are fixed words without values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from dicom_node.refusals import RefusalCode
from dicom_node.routing.clauses import values_of


class Channel(StrEnum):
    """Where results go."""

    PACS = "pacs"
    FHIR = "fhir"


class PublicationHold(NamedTuple):
    """One reason not to publish, as a refusal's code, what was expected and what was found (never a value)."""

    code: RefusalCode
    expected: str
    found: str

    @property
    def closes(self) -> frozenset[Channel]:
        """The channels that this reason closes."""
        return CLOSES[self.code]


CLOSES: dict[RefusalCode, frozenset[Channel]] = {
    RefusalCode.NOT_A_PATIENT: frozenset({Channel.PACS, Channel.FHIR}),
    RefusalCode.BURNED_IN_ANNOTATION: frozenset({Channel.FHIR}),
    RefusalCode.PATIENT_IDENTITY_REMOVED: frozenset({Channel.FHIR}),
    RefusalCode.PATIENT_UNIDENTIFIED: frozenset({Channel.FHIR}),
}
"""Which channels each reason closes; listed in docs/reference/routing.md."""

_PHANTOM = re.compile(
    r"\b(?:phantoms?|phantome?|fantoma?|fantome|fantomas|fantasma|quality assurance|daily ?qa|qa)\b", re.IGNORECASE
)
_PHANTOM_ATTRIBUTES = (
    "BodyPartExamined",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "PatientName",
    "PatientID",
)
_PLACEHOLDERS = frozenset(
    {
        "unknown",
        "none",
        "null",
        "na",
        "n/a",
        "anonymous",
        "anon",
        "anonymized",
        "anonymised",
        "patient",
        "test",
        "default",
        "noid",
        "no id",
        "unbekannt",
        "desconocido",
        "desconhecido",
        "inconnu",
        "emergency",
        "xxx",
        "?",
    }
)


def publication_gate(attributes: Mapping[str, Any], *, channel: Channel | None = None) -> list[PublicationHold]:
    """What keeps results of a series back.

    Parameters
    ----------
    attributes
        Values by keyword, as `SeriesFacts.attributes` or one instance's header has them.
    channel
        Only what closes this channel; None: everything.

    Returns
    -------
    list of PublicationHold
        Empty when nothing speaks against publication; the route's `publish` still decides.  Whether the issuer of
        the Patient ID is known is the FHIR bridge's question, not asked here.
    """
    found = [*_subject(attributes), *_privacy(attributes)]
    return [hold for hold in found if channel is None or channel in hold.closes]


def _subject(attributes: Mapping[str, Any]) -> Iterator[PublicationHold]:
    expected = "a patient"
    if _is_yes(attributes, "QualityControlSubject"):
        yield PublicationHold(RefusalCode.NOT_A_PATIENT, expected, "Quality Control Subject YES")
    elif any(_PHANTOM.search(_folded(attributes, keyword)) for keyword in _PHANTOM_ATTRIBUTES):
        yield PublicationHold(RefusalCode.NOT_A_PATIENT, expected, "words that name a phantom or a test")
    species = _folded(attributes, "PatientSpeciesDescription").casefold()
    if species and "homo sapiens" not in species and "human" not in species:
        yield PublicationHold(RefusalCode.NOT_A_PATIENT, expected, "another species")


def _privacy(attributes: Mapping[str, Any]) -> Iterator[PublicationHold]:
    if _is_yes(attributes, "BurnedInAnnotation"):
        yield PublicationHold(RefusalCode.BURNED_IN_ANNOTATION, "no text in the pictures", "Burned In Annotation YES")
    if _is_yes(attributes, "PatientIdentityRemoved"):
        code = RefusalCode.PATIENT_IDENTITY_REMOVED
        yield PublicationHold(code, "an identified patient", "Patient Identity Removed YES")
    patient_id = " ".join(str(v) for v in values_of(attributes.get("PatientID"))).strip()
    if not patient_id:
        yield PublicationHold(RefusalCode.PATIENT_UNIDENTIFIED, "a Patient ID", "none")
    elif is_placeholder(patient_id):
        yield PublicationHold(RefusalCode.PATIENT_UNIDENTIFIED, "a Patient ID", "a placeholder")


def is_placeholder(patient_id: str) -> bool:
    """Whether a Patient ID stands for nobody: one repeated character, or a word that says so."""
    text = patient_id.strip().casefold()
    letters = re.sub(r"[\W_]", "", text)
    return (
        text in _PLACEHOLDERS or not letters or len(set(letters)) == 1 or letters in {"123", "1234", "12345", "123456"}
    )


def _is_yes(attributes: Mapping[str, Any], keyword: str) -> bool:
    return any(str(v).strip().upper() == "YES" for v in values_of(attributes.get(keyword)))


def _folded(attributes: Mapping[str, Any], keyword: str) -> str:
    """Separators as spaces, so that a word stands alone."""
    text = " ".join(str(v) for v in values_of(attributes.get(keyword)))
    return re.sub(r"[\W_]+", " ", text)[:128]
