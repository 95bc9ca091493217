"""What a request about a photograph leaves behind: numbers, heat map, page; for a patient the objects and the report.

Names of files are ours and the same for every request (`prediction_words.FILES`).  Of a photograph of nobody there is
no object and no report: there is no record that either could be filed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

import fhir_bridge
from ai_engine.findings import Findings, Observation
from ai_engine.predict import InputFacts, picture_json
from dicom_node import files
from dicom_node.record import digest
from dicom_node.results import build_picture, check_picture, tracking_key, tracking_uid
from dicom_node.routing.cases import own_family
from dicom_node.stages.context import Mask, PhotoRoute, Tools
from dicom_node.stages.pictures import as_picture
from dicom_node.stages.prediction_words import HEAT_MAP, REPORT_BUNDLE
from dicom_node.stages.producer import producer
from dicom_node.stages.report import report_options
from dicom_node.words import ObjectKind, Picture, ResultSet, RunIdentity

_OBJECTS = {ObjectKind.SC: "sc.dcm", ObjectKind.PDF: "pdf.dcm", ObjectKind.SR: "sr.dcm"}
_PERCENT = "%"


@dataclass(frozen=True)
class WrittenPhoto:
    """The short answer, and what can be fetched: name -> path relative to the request's folder."""

    answer: dict[str, Any]
    files: dict[str, str]
    is_of_somebody: bool


def write_photo_files(
    tools: Tools,
    row: RowMapping,
    picture: Picture,
    heat_map: Mask | None,
    findings: Findings,
    quality: Mapping[str, Any],
    target: Path,
) -> WrittenPhoto:
    """Write everything of one request into a folder of this start.

    Raises
    ------
    Refused
        If the objects cannot be built, or are not what the model said (`result-check-failed`).
    """
    identity = RunIdentity(
        run_key=digest(["prediction", row["public_id"], findings.model.digest_sha256]),
        site_namespace=tools.site_namespace,
        created=row["created_at"],
        study_uid=picture.study_uid,
        notes=tuple(row["options"]["notes"]),
        timezone_offset=tools.settings.node.offset_of(picture.attributes),
    )
    language = str(row["options"]["language"])
    built = build_picture(identity, picture, heat_map, findings, producer(tools), language=language)
    check_picture(built, picture, heat_map, findings)
    answer = _answer(findings, quality)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    contents = {"result.json": _as_json(_result(row, picture, findings, quality)), "report.pdf": built.pdf}
    if heat_map is not None:
        contents[HEAT_MAP] = built.overlay_png
    is_of_somebody = row["options"]["photo"]["patient"] is not None
    if is_of_somebody:
        contents |= {_OBJECTS[item.kind]: item.data for item in built.objects}
        report = report_of(tools, row, identity, picture, findings, built)
        bundle = fhir_bridge.bundle(report)
        contents[REPORT_BUNDLE] = _as_json(bundle)
        answer["report"] = _reference(bundle)
    for name, data in contents.items():
        files.write_sealed(target / name, data)
    return WrittenPhoto(answer, {name: f"{target.name}/{name}" for name in contents}, is_of_somebody)


def report_of(
    tools: Tools, row: RowMapping, identity: RunIdentity, picture: Picture, findings: Findings, built: ResultSet
) -> fhir_bridge.ReportInput:
    """Everything that the FHIR report of one request says, under the id that the road's report of this photograph has.

    The caller has said whose system of identifiers the patient's is from: that system stands in the report.
    """
    settings, said = tools.settings, row["options"]["photo"]["patient"]
    route = tools.photo_routes.get(findings.model.name, PhotoRoute(findings.model.name))
    systems = {**settings.report.issuers, said["issuer"]: said["system"]}
    return fhir_bridge.ReportInput(
        run=identity,
        findings=findings,
        attributes=picture.attributes,
        objects=fhir_bridge.references(built),
        pdf=built.pdf,
        organisation=fhir_bridge.Organisation(
            name=settings.node.organisation or "dicom-ai-node", contact=settings.node.contact
        ),
        result_family=own_family(route.result_family, picture.sop_instance_uid),
        series=(fhir_bridge.UsedSeries(picture.series_uid, picture.modality, row["inputs"][0]["role"], 1),),
        issuer_systems=systems,
        accession_systems={"": settings.report.accession_system} if settings.report.accession_system else {},
        options=report_options(tools, findings),
        tracking_uids={
            one.key: tracking_uid(
                identity.site_namespace, identity.study_uid, tracking_key(picture.sop_instance_uid, one.key)
            )
            for one in findings.observations
        },
        device_uid=producer(tools).device_uid(findings.model.name, findings.model.version),
    )


def _reference(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """The report by its identifier, and by the id under which the node's own endpoint shows it once it is published."""
    entry = next(one for one in bundle["entry"] if one["resource"]["resourceType"] == "DiagnosticReport")
    identifier = entry["resource"]["identifier"][0]
    return {
        "reference": f"DiagnosticReport/{str(entry['fullUrl']).removeprefix('urn:uuid:')}",
        "identifier": {"system": identifier["system"], "value": identifier["value"]},
        "status": entry["resource"]["status"],
    }


def _answer(findings: Findings, quality: Mapping[str, Any]) -> dict[str, Any]:
    model = findings.model
    return {
        "outputs": [_output(observation) for observation in findings.observations],
        "quality": dict(quality),
        "device": model.device,
        "backend": model.backend,
        "precision": model.precision,
        "title": model.title,
        "settings": dict(model.settings),
        "notes": list(findings.notes),
        "words": {language: dict(known) for language, known in model.words.items()},
    }


def _output(observation: Observation) -> dict[str, Any]:
    """One output: its number as the package's calibration gives it, and on which side of the threshold it lies."""
    (measurement,) = observation.measurements
    return {
        "key": observation.key,
        "name": observation.name.meaning,
        "value": measurement.value,
        "threshold": observation.threshold,
        "is_percent": measurement.unit.value == _PERCENT,
        "category": None if observation.category is None else observation.category.value,
    }


def _result(row: RowMapping, picture: Picture, findings: Findings, quality: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of ``result.json``, as ``ai-node predict`` writes it."""
    facts = InputFacts("photo", tuple(row["options"]["notes"]))
    return {**picture_json(findings, row["seconds"], as_picture(picture), facts), "quality": dict(quality)}


def _as_json(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
