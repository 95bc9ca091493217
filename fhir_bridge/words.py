"""The types that go into and come out of the bridge.

`ReportInput` is everything a report says; `Links` is what a FHIR server already holds about it.  Both are frozen and
plain, so that `fhir_bridge.bundle` can be pure: the same two values always give the same Bundle, byte for byte.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ai_engine.findings import Code, Findings
from dicom_node.sayings import said
from dicom_node.words import ObjectKind, ResultSet, RunIdentity

RUN_SYSTEM = "urn:ainode:run"
"""Identifier system of a run: its value is the run key, unique everywhere."""

CODES_SYSTEM = "urn:ainode:codes"
"""CodeSystem of the node's own few codes: ``ai-result`` and private DICOM schemes without a mapping."""

AI_CATEGORY = "ai-result"
"""Second category of every report, by which an EHR tells machine output from a person's report."""

RADIOLOGY = Code("RAD", "http://terminology.hl7.org/CodeSystem/v2-0074", "Radiology")
IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic imaging study")


@dataclass(frozen=True)
class Organisation:
    """Who runs the service: FHIR `performer`, because a Device cannot be one in R4."""

    name: str
    identifier_system: str = ""
    identifier_value: str = ""
    contact: str = ""
    """E-mail address or telephone number for questions about results."""


@dataclass(frozen=True)
class ReportOptions:
    """What a site may choose about its reports (standards: DiagnosticReport life cycle and element rules)."""

    identifier_system: str = ""
    """URI that we alone own, for result identifiers; empty means ``urn:uuid:<site namespace>``."""
    status: Literal["preliminary", "partial"] = "preliminary"
    """`partial` is true to the letter for unreviewed output; most EHRs only understand `preliminary`."""
    category: Code = RADIOLOGY
    code: Code = IMAGING_REPORT
    title: str = "AI result"
    """`code.text` of the report, e.g. "AI brain MR segmentation"."""
    language: str = "en"
    """Of everything written for people: conclusion, texts, notes.  Codes and their displays stay as they are."""
    research_use_only: bool = True
    test_data: bool = False
    """Adds the security label HTEST."""
    intended_use_uri: str = ""
    """Versioned URI of the intended-use statement, for Provenance.policy."""
    wado_root: str = ""
    """Base URL of the archive's DICOMweb, for ImagingStudy.endpoint; empty leaves the endpoint out."""
    time_zone: str = ""
    """Name of the site's zone, for images that say no offset; empty takes the run's own offset."""
    code_systems: Mapping[str, str] = field(default_factory=dict)
    """Further DICOM scheme designators and their URIs; overrides the built-in table."""


@dataclass(frozen=True)
class ObjectReference:
    """One DICOM object of the result set, by its ids."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str


@dataclass(frozen=True)
class UsedSeries:
    """A series that the model read."""

    series_uid: str
    modality: str
    role: str = ""
    number_of_instances: int = 0
    body_part: str = ""


@dataclass(frozen=True)
class ReportInput:
    """Everything a report says, and nothing about the server it goes to.

    Attributes
    ----------
    attributes
        Patient, study and acquisition attributes of the source images by DICOM keyword, JSON values: PatientID,
        IssuerOfPatientID, PatientName, PatientBirthDate, PatientSex, StudyInstanceUID, StudyDate, StudyTime,
        AccessionNumber, AcquisitionDate, AcquisitionTime, TimezoneOffsetFromUTC, PatientIdentityRemoved ...
        Absent and empty mean the same.
    issuer_systems
        Issuer of Patient ID -> FHIR identifier system.  The key ``""`` is the default for images without an issuer.
    accession_systems
        Issuer of Accession Number -> FHIR identifier system of orders, in the same way.
    """

    run: RunIdentity
    findings: Findings
    attributes: Mapping[str, Any]
    objects: tuple[ObjectReference, ...]
    pdf: bytes
    organisation: Organisation
    result_family: str
    """Route's result family: one report per study and family, whatever the model or revision."""
    series: tuple[UsedSeries, ...] = ()
    issuer_systems: Mapping[str, str] = field(default_factory=dict)
    accession_systems: Mapping[str, str] = field(default_factory=dict)
    options: ReportOptions = ReportOptions()
    tracking_uids: Mapping[str, str] = field(default_factory=dict)
    """Region key -> Tracking UID, as in SEG and SR."""
    device_uid: str = ""
    """Device UID as in the SR's device observer; empty derives one from site and model digest."""
    withdrawn: str = ""
    """Why the result is invalid, in words without patient data; makes the report `entered-in-error`."""

    def told(self, sentence: str) -> str:
        """A sentence of the node or of the model's package, in the language of the report."""
        language = self.options.language
        return said(sentence, language, self.findings.model.words.get(language))

    @property
    def identifier_system(self) -> str:
        """The URI under which our result identifiers stand."""
        return self.options.identifier_system or f"urn:uuid:{self.run.site_namespace}"

    @property
    def zone(self) -> str:
        """The zone of images that say no offset: a name, or an offset."""
        return self.options.time_zone or self.run.timezone_offset

    @property
    def result_id(self) -> str:
        """Stable id of this result: by site, study and family; the same for every revision and model version."""
        return str(uuid.uuid5(uuid.UUID(self.run.site_namespace), f"{self.run.study_uid}/{self.result_family}/report"))


@dataclass(frozen=True)
class Known:
    """A resource that a server already holds: where, in which version, and its content."""

    reference: str
    """``Type/id``."""
    version: str
    resource: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Links:
    """What a FHIR server already knows.  Empty for a node without a server.

    `report` and `observations` are ours and may be overwritten under their version; `replaces` is a report of ours
    that a person has since finalised or edited, so a new one is written beside it and points at it.
    """

    patient: str = ""
    """Literal reference ``Patient/id``; empty makes a logical reference by identifier."""
    service_request: str = ""
    report: Known | None = None
    observations: Mapping[str, Known] = field(default_factory=dict)
    """Identifier value -> what the server has under it."""
    stale: tuple[Known, ...] = ()
    """Observations of an earlier revision that this one no longer makes: they become `entered-in-error`."""
    replaces: str = ""
    replaced_observations: Mapping[str, str] = field(default_factory=dict)
    """``<region key>/<measure>`` -> reference of the person's Observation that the new one stands beside."""
    generation: int = 0
    """How many times a person's edit has made a new report necessary; part of the result id."""


@dataclass(frozen=True)
class Written:
    """One resource as the server confirmed it."""

    reference: str
    version: str


@dataclass(frozen=True)
class Confirmation:
    """What the server was seen to hold after publishing.

    Attributes
    ----------
    outcome
        ``created``, ``updated``, ``replaced`` (a new report beside one that a person had edited), ``withdrawn`` or
        ``unchanged`` (it was there already).
    """

    outcome: Literal["created", "updated", "replaced", "withdrawn", "unchanged"]
    report: Written | None
    """None only where there was nothing to withdraw."""
    resources: tuple[Written, ...] = ()


def references(result: ResultSet) -> tuple[ObjectReference, ...]:
    """The ids of a built result set, as `ReportInput.objects` wants them."""
    return tuple(
        ObjectReference(o.kind, o.sop_class_uid, o.sop_instance_uid, o.series_uid)
        for o in result.objects
        if o.kind is not ObjectKind.REPORT
    )
