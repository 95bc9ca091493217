"""What a run measured as Observations: one per measurement, 0 mL and "not detected" for what is absent.

FHIR R4 Observation.  A volume is in mL, interpretation is given only with a documented operating point or for "no
region above threshold", and every Observation says in its notes how far it may be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ai_engine.findings import Code, Measurement, Observation, Region
from dicom_node.sayings import said
from dicom_node.words import Grade
from fhir_bridge import codes
from fhir_bridge.resources import (
    RESEARCH_ONLY,
    UNREVIEWED,
    Resource,
    meta,
    performer,
    result_id,
    study_reference,
    subject,
    with_order_and_time,
)
from fhir_bridge.words import Links, ReportInput

VOLUME = Code("118565006", "SCT", "Volume")
MILLILITRE = Code("cm3", "UCUM", "cubic centimeter")
SEGMENTED_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
OPERATING_POINT = Code("operating-point-category", "99AINODE", "Model operating-point category")
DERIVATION = Code("121401", "DCM", "Derivation")
NOT_DETECTED = Code("ND", "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", "Not detected")
IMAGING_CATEGORY = Code("imaging", "http://terminology.hl7.org/CodeSystem/observation-category", "Imaging")
OBSERVATION_REPLACES = "http://hl7.org/fhir/StructureDefinition/observation-replaces"
SUPERSEDED_VALUE = "Superseded: the current revision of the result does not make this measurement."

_GRADE_WORDS = {
    Grade.PROMISED: "promised by the sender",
    Grade.TRANSFERRED: "transfer seen complete",
    Grade.WEAK: "weak evidence; later images would make a new revision",
    Grade.CONTRADICTING: "contradicting evidence; images may be missing",
}


@dataclass(frozen=True)
class Statement:
    """One Observation to be: its identifier, its text, and the rest of its own content."""

    suffix: str
    """``<region key>/<measure>``, the tail of the identifier value."""
    content: Resource


def statements(report: ReportInput) -> list[Statement]:
    """Every Observation's own content: one per measurement; 0 mL and ND for each region that is absent."""
    found: list[Statement] = []
    for region in report.findings.regions:
        found.extend(_region_statements(report, region))
    for observation in report.findings.observations:
        found.extend(_image_statements(report, observation))
    return found or [_absent(report, "region", "Region above threshold", None)]


def _region_statements(report: ReportInput, region: Region) -> Iterator[Statement]:
    if not region.present:
        yield _absent(report, region.key, region.name, region)
        return
    for measurement in region.measurements:
        yield Statement(
            f"{region.key}/{measurement.key}",
            {
                "code": codes.concept(
                    measurement.name, _measure_text(report, region.name, measurement), report.options.code_systems
                ),
                "valueQuantity": codes.quantity(measurement.value, measurement.unit),
                **_region_context(report, region, measurement),
            },
        )


def _absent(report: ReportInput, key: str, name: str, region: Region | None) -> Statement:
    context = _region_context(report, region, None) if region else {}
    return Statement(
        f"{key}/volume",
        {
            "code": codes.concept(VOLUME, report.told(f"{name} volume (AI)")),
            "valueQuantity": codes.quantity(0, MILLILITRE),
            "interpretation": [codes.concept(NOT_DETECTED, report.told("no region above threshold"))],
            **context,
            "method": codes.concept(SEGMENTED_VOXELS),
            "note": _notes(report, region),
        },
    )


def _measure_text(report: ReportInput, subject_name: str, measurement: Measurement) -> str:
    quality = f" {measurement.derivation.meaning.lower()}" if measurement.derivation else ""
    return report.told(f"{subject_name} {measurement.name.meaning.lower()}{quality} (AI)")


def _region_context(report: ReportInput, region: Region, measurement: Measurement | None) -> Resource:
    systems = report.options.code_systems
    parts: list[Resource] = [
        {
            "code": codes.concept(FINDING),
            "valueCodeableConcept": codes.concept(region.type, report.told(region.name), systems),
        },
        {"code": codes.concept(TRACKING_IDENTIFIER), "valueString": region.key},
    ]
    if report.tracking_uids.get(region.key):
        parts.append({"code": codes.concept(TRACKING_UID), "valueString": report.tracking_uids[region.key]})
    body: Resource = {"bodySite": codes.concept(region.site, overrides=systems)}
    if measurement and measurement.method:
        body["method"] = codes.concept(measurement.method, overrides=systems)
    if measurement and measurement.derivation:
        value = codes.concept(measurement.derivation, overrides=systems)
        parts.append({"code": codes.concept(DERIVATION), "valueCodeableConcept": value})
    return {**body, "note": _notes(report, region), "component": parts}


def _image_statements(report: ReportInput, observation: Observation) -> Iterator[Statement]:
    systems = report.options.code_systems
    for measurement in observation.measurements:
        body: Resource = {
            "code": codes.concept(
                measurement.name, _measure_text(report, observation.name.meaning, measurement), systems
            ),
            "valueQuantity": codes.quantity(measurement.value, measurement.unit),
            "bodySite": codes.concept(observation.site, overrides=systems),
            "note": _notes(report, None),
            "component": [
                {
                    "code": codes.concept(FINDING),
                    "valueCodeableConcept": codes.concept(observation.finding, "", systems),
                },
                {"code": codes.concept(TRACKING_IDENTIFIER), "valueString": observation.key},
            ],
        }
        if report.tracking_uids.get(observation.key):
            uid = report.tracking_uids[observation.key]
            body["component"].append({"code": codes.concept(TRACKING_UID), "valueString": uid})
        if measurement.method:
            body["method"] = codes.concept(measurement.method, overrides=systems)
        if observation.category and observation.threshold is not None:
            category = codes.concept(observation.category, overrides=systems)
            body["interpretation"] = [category]
            body["component"].append(
                {"code": codes.concept(OPERATING_POINT, overrides=systems), "valueCodeableConcept": category}
            )
            low = codes.quantity(observation.threshold, measurement.unit)
            body["referenceRange"] = [{"low": low, "text": report.told("operating point")}]
        yield Statement(f"{observation.key}/{measurement.key}", body)


def _notes(report: ReportInput, region: Region | None) -> list[Resource]:
    lines = [UNREVIEWED]
    if report.options.research_use_only:
        lines.append(RESEARCH_ONLY)
    lines.append(f"Completeness of the source images: {_GRADE_WORDS[report.run.grade]}.")
    lines.extend((*report.findings.notes, *report.run.notes))
    lines.extend(region.removed if region else ())
    return [{"text": report.told(" ".join(line.split()))} for line in lines if line.strip()]


def observation(report: ReportInput, links: Links, statement: Statement, study_url: str, device_url: str) -> Resource:
    """One Observation around a statement's own content."""
    body: Resource = {
        "resourceType": "Observation",
        **meta(report),
        "language": report.options.language,
        "identifier": [{"system": report.identifier_system, "value": observation_value(report, links, statement)}],
        "partOf": [study_reference(report, study_url)],
        "status": "entered-in-error" if report.withdrawn else "preliminary",
        "category": [codes.concept(IMAGING_CATEGORY)],
        "subject": subject(report, links),
        "issued": codes.instant(report.run.created),
        "performer": performer(report),
        "device": {"reference": device_url},
        "derivedFrom": [study_reference(report, study_url)],
        **statement.content,
    }
    if statement.suffix in links.replaced_observations:
        replaced = {"reference": links.replaced_observations[statement.suffix]}
        body["extension"] = [{"url": OBSERVATION_REPLACES, "valueReference": replaced}]
    return with_order_and_time(body, report, links)


def observation_value(report: ReportInput, links: Links, statement: Statement) -> str:
    """Identifier value: ``<result id>/<region key>/<measure>``."""
    return f"{result_id(report, links)}/{statement.suffix}"


def stale(resource: Mapping[str, Any]) -> Resource:
    """An Observation of an earlier revision, taken back: nothing else about it changes (standards: life cycle)."""
    kept = {key: value for key, value in resource.items() if key not in ("status", "note", "text")}
    superseded = {"text": said(SUPERSEDED_VALUE, str(resource.get("language", "en")))}
    notes = [note for note in resource.get("note", []) if note != superseded]
    return {**kept, "status": "entered-in-error", "note": [*notes, superseded]}
