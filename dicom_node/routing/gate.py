"""What keeps a result of a series from being published (standards sections 7.1 and 7.6, hardening section 4.3).

A gate speaks about where results may go, not about whether a model may read: the node still computes, and the timeline
says what was kept back and why.  Reasons are fixed words without values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.routing.clauses import values_of
from dicom_node.words import SeriesFacts


class Channel(StrEnum):
    """Where results go."""

    PACS = "pacs"
    FHIR = "fhir"


BOTH = frozenset({Channel.PACS, Channel.FHIR})
FHIR_ONLY = frozenset({Channel.FHIR})


@dataclass(frozen=True)
class PublicationHold:
    """One reason not to publish: a stable code, the closed channels, and words for people."""

    code: str
    closes: frozenset[Channel]
    reason: str


HOLDS: dict[str, tuple[frozenset[Channel], str]] = {
    "private-study": (BOTH, "the photograph was taken without an identity: it stays in the node"),
    "taken-back": (BOTH, "the photograph was taken back before its result was there: it stays in the node"),
    "identity-unconfirmed": (BOTH, "nobody has confirmed whose photograph this is: it stays in the node"),
    "quality-control-subject": (BOTH, "Quality Control Subject is YES: a test object, no patient"),
    "phantom": (BOTH, "the study names a phantom or a test of quality"),
    "animal": (BOTH, "the patient's species is not human"),
    "burned-in-annotation": (FHIR_ONLY, "the pictures have text burned in, which may name the patient"),
    "de-identified": (FHIR_ONLY, "Patient Identity Removed is YES: no person's record may receive it"),
    "patient-id-empty": (FHIR_ONLY, "Patient ID is empty"),
    "patient-id-placeholder": (FHIR_ONLY, "Patient ID is a placeholder"),
    "issuer-unknown": (FHIR_ONLY, "the issuer of the Patient ID is not given and the sender has no default issuer"),
}
"""Every code with the channels it closes and its words; listed in docs/reference/routing.md."""

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


def publication_gate(facts: SeriesFacts, *, default_issuer: str | None = None) -> list[PublicationHold]:
    """What keeps results of this series back.

    Parameters
    ----------
    default_issuer
        Issuer that the sender's configuration gives to Patient IDs without one.

    Returns
    -------
    list of PublicationHold
        Empty when nothing speaks against publication; the route's `publish` still decides.
    """
    a = facts.attributes
    codes = []
    if _is_yes(facts, "QualityControlSubject"):
        codes.append("quality-control-subject")
    if any(_PHANTOM.search(_folded(facts, keyword)) for keyword in _PHANTOM_ATTRIBUTES):
        codes.append("phantom")
    species = " ".join(str(v) for v in values_of(a.get("PatientSpeciesDescription"))).casefold()
    if species and "homo sapiens" not in species and "human" not in species:
        codes.append("animal")
    if _is_yes(facts, "BurnedInAnnotation"):
        codes.append("burned-in-annotation")
    if _is_yes(facts, "PatientIdentityRemoved"):
        codes.append("de-identified")
    codes += _identity(facts, default_issuer)
    return [PublicationHold(code, *HOLDS[code]) for code in codes]


def _identity(facts: SeriesFacts, default_issuer: str | None) -> list[str]:
    patient_id = " ".join(str(v) for v in values_of(facts.attributes.get("PatientID"))).strip()
    if not patient_id:
        return ["patient-id-empty"]
    if is_placeholder(patient_id):
        return ["patient-id-placeholder"]
    issuer = " ".join(str(v) for v in values_of(facts.attributes.get("IssuerOfPatientID"))).strip()
    return [] if issuer or default_issuer else ["issuer-unknown"]


def is_placeholder(patient_id: str) -> bool:
    """Whether a Patient ID stands for nobody: one repeated character, or a word that says so."""
    text = patient_id.strip().casefold()
    letters = re.sub(r"[\W_]", "", text)
    return (
        text in _PLACEHOLDERS or not letters or len(set(letters)) == 1 or letters in {"123", "1234", "12345", "123456"}
    )


def _is_yes(facts: SeriesFacts, keyword: str) -> bool:
    return any(str(v).strip().upper() == "YES" for v in values_of(facts.attributes.get(keyword)))


def _folded(facts: SeriesFacts, keyword: str) -> str:
    """Separators as spaces, so that a word stands alone."""
    text = " ".join(str(v) for v in values_of(facts.attributes.get(keyword)))
    return re.sub(r"[\W_]+", " ", text)[:128]
