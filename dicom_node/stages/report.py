"""Report: what a run said goes to FHIR, after the archive was seen to hold its objects.

The input of the report is built from artefacts and records, never recomputed, so a retry says the same (I14).
"""

from __future__ import annotations

import json
from typing import Any

import fhir_bridge
from ai_engine.findings import Findings, findings_from_json
from dicom_node.failpoints import reach
from dicom_node.record import analyses, reports, runs
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import tracking_key, tracking_uid
from dicom_node.routing.gate import Channel
from dicom_node.settings import FhirDestination
from dicom_node.stages.context import FINDINGS, Tools, identity_of
from dicom_node.stages.destinations import OWN_ENDPOINT
from dicom_node.stages.producer import producer
from dicom_node.stages.publication import default_issuer, holds
from dicom_node.stages.targets import context_for
from dicom_node.stages.withdraw import reason
from dicom_node.words import ObjectKind

PDF_PAGE = "pdf-page"


def report_input(tools: Tools, run_id: int, destination: str, *, withdrawn: bool = False) -> fhir_bridge.ReportInput:
    """Everything the report of one run says; of one that is withdrawn, that it is, and why.

    Raises
    ------
    Refused
        Where identity or consent does not allow a report outside the archive (standards 7.1).
    """
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        case = runs.row(connection, cases, run["case_id"])
        said = tools.load(connection, run_id, FINDINGS)
        pdf = tools.load(connection, run_id, PDF_PAGE)
        kept = runs.artefacts_of(connection, run_id)
        because = reason(tools, connection, run_id, tools.settings.node.language) if withdrawn else ""
        systems = {**analyses.issuer_system(connection, run["study_uid"]), **tools.settings.report.issuers}
    if said is None or pdf is None:
        raise LookupError(f"run {run_id} has no findings or no page, and yet its report is to be sent")
    attributes: dict[str, Any] = dict(run["identity"]["attributes"])
    if not attributes.get("IssuerOfPatientID"):
        attributes["IssuerOfPatientID"] = default_issuer(tools, attributes) or ""
    if not withdrawn:  # what was told once can always be taken back
        _check_gate(tools, attributes, run["study_uid"], case, destination)
    findings = findings_from_json(json.loads(said))
    identity = identity_of(run)
    picture_uid = str(run["identity"].get("photograph") or run["identity"]["series"][0]["series_uid"])
    settings = tools.settings
    kinds = {kind.value for kind in ObjectKind}
    return fhir_bridge.ReportInput(
        run=identity,
        findings=findings,
        attributes=attributes,
        objects=tuple(
            fhir_bridge.ObjectReference(
                ObjectKind(row["kind"]), row["sop_class_uid"], row["sop_instance_uid"], row["series_uid"]
            )
            for row in kept
            if row["kind"] in kinds and row["sop_instance_uid"]
        ),
        pdf=pdf,
        organisation=fhir_bridge.Organisation(
            name=settings.node.organisation or "dicom-ai-node", contact=settings.node.contact
        ),
        result_family=case["result_family"],
        series=tuple(fhir_bridge.UsedSeries(**series) for series in run["identity"]["series"]),
        issuer_systems=systems,
        accession_systems={"": settings.report.accession_system} if settings.report.accession_system else {},
        options=report_options(tools, findings),
        tracking_uids={
            region.key: tracking_uid(identity.site_namespace, identity.study_uid, region.key)
            for region in findings.regions
        }
        | {
            o.key: tracking_uid(identity.site_namespace, identity.study_uid, tracking_key(picture_uid, o.key))
            for o in findings.observations
        },
        device_uid=producer(tools).device_uid(findings.model.name, findings.model.version),
        withdrawn=because,
    )


def report_options(tools: Tools, findings: Findings) -> fhir_bridge.ReportOptions:
    """What this installation's settings say about every report."""
    settings = tools.settings
    return fhir_bridge.ReportOptions(
        identifier_system=settings.report.identifier_system,
        status=settings.report.status,
        title=findings.model.title,
        language=settings.node.language,
        research_use_only=settings.node.research_use_only,
        time_zone=settings.node.timezone,
    )


def _check_gate(tools: Tools, attributes: dict[str, Any], study_uid: str, case: Any, destination: str) -> None:
    """Hold what may not leave for a person's record (standards 7.1).

    The node's own endpoint names the patient by the identifier as received, so an unknown issuer holds nothing there.
    """
    for hold in holds(tools, attributes, study_uid):
        if Channel.FHIR not in hold.closes or (hold.code == "issuer-unknown" and destination == OWN_ENDPOINT):
            continue
        raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, "a patient whose record may receive the report", hold.reason)


def publish_own(tools: Tools, run_id: int, *, withdrawn: bool = False) -> dict[str, Any]:
    """Put the report into the node's own read-only endpoint; the same report twice changes nothing.

    Withdrawn: as `entered-in-error`, where the endpoint shows the report of this very run.
    """
    report = report_input(tools, run_id, OWN_ENDPOINT, withdrawn=withdrawn)
    with tools.database.write() as connection:
        study = report.run.study_uid
        previous = [row["resource"] for row in reports.of_study(connection, study)]
        if withdrawn and not any(fhir_bridge.is_of_run(old, report.run.run_key) for old in previous):
            return {"seen": "nothing", "resources": 0, "changed": 0}
        resources = fhir_bridge.resolve(fhir_bridge.bundle(report), previous)
        changed = reports.put_resources(connection, run_id, study, resources, fhir_bridge.tokens_of)
    return {"seen": "content", "resources": len(resources), "changed": changed}


def publish_to_server(tools: Tools, run_id: int, name: str, *, withdrawn: bool = False) -> dict[str, Any]:
    """Publish the report to a FHIR server, or take it back there, and say what it was seen to hold."""
    destination = tools.settings.destinations[name]
    if not isinstance(destination, FhirDestination):
        raise TypeError(f"destination {name!r} is no FHIR server")
    report = report_input(tools, run_id, name, withdrawn=withdrawn)
    with fhir_bridge.FhirClient(
        destination.url,
        token_file=destination.token_file,
        insecure_ok_because=destination.insecure_ok_because,
        timeout_s=destination.timeout_s,
        context=context_for(tools.settings, destination),
    ) as client:
        confirmation = client.publish(report)
    reach("K16")
    return {
        "seen": confirmation.outcome,
        "report": confirmation.report.reference if confirmation.report else "",
        "version": confirmation.report.version if confirmation.report else "",
    }
