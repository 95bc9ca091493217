"""Write: findings become SEG or heat map, SR, PDF; they are checked, kept, and put into the outbox (queue `cpu`).

All objects of a result are built, checked and hashed before the first is sent (I3).  The outbox rows are committed in
the transaction that declares the run *built*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Connection

from ai_engine.findings import Findings, findings_from_json
from dicom_node.durable import Put
from dicom_node.failpoints import reach
from dicom_node.record import deliveries, runs
from dicom_node.record.tables import cases
from dicom_node.record.tables import runs as run_table
from dicom_node.record.timeline import note
from dicom_node.refusals import Refused
from dicom_node.results import build, build_picture, build_rejection, check, check_picture
from dicom_node.routing.gate import Channel
from dicom_node.stages.context import FINDINGS, HEAT_MAP, MASK, Mask, Tools, identity_of, unpack_mask
from dicom_node.stages.destinations import first_destinations, is_report, wanted
from dicom_node.stages.exports import OVERLAY, PDF_PAGE, chosen, extra_files
from dicom_node.stages.infer import fail, refuse, start
from dicom_node.stages.producer import producer
from dicom_node.stages.publication import holds
from dicom_node.stages.read import load_or_build, photographs, run_photograph
from dicom_node.words import (
    ObjectKind,
    Picture,
    Publish,
    ResultObject,
    ResultSet,
    RunIdentity,
    RunState,
    SliceSource,
    Volume,
)

log = structlog.get_logger()


def write(tools: Tools, run_id: int) -> list[Put]:
    """Build and check the result set of one run, once; then one delivery job per destination."""
    started = start(tools, run_id, "write")
    if started is None:
        return deliver_puts(tools, run_id)
    attempt, case = started
    images, mask, findings, identity = inputs(tools, run_id)
    try:
        result = build_result(tools, identity, images, mask, findings)
    except Refused as refused:
        if refused.refusal.code == "result-check-failed":
            fail(tools, attempt, f"result check: expected {refused.refusal.expected}, found {refused.refusal.found}")
        else:
            return refuse(tools, attempt, refused)
        return []
    rejection = _rejection(tools, run_id, identity, _source(images), findings)
    built = (*result.objects, *([rejection] if rejection is not None else []))
    with tools.database.read() as connection:
        run = runs.run_row(connection, run_id)
    names = wanted(tools.settings, Publish(case["publish"]), case["destinations"])
    extra = extra_files(tools, names, run, case["revisions"], mask, findings, images)
    tools.keep_bytes(*(item.data for item in built), result.pdf, result.overlay_png, *extra.values())
    reach("K11")
    with tools.database.write() as connection:
        kept = _keep_all(tools, connection, attempt, result)
        kept = kept and all(tools.keep(connection, attempt, kind, data) for kind, data in extra.items())
        if kept and rejection is not None:
            kept = tools.keep(
                connection,
                attempt,
                ObjectKind.KO.value,
                rejection.data,
                sop_class_uid=rejection.sop_class_uid,
                sop_instance_uid=rejection.sop_instance_uid,
                series_uid=rejection.series_uid,
            )
        runs.end_attempt(connection, attempt, "done" if kept else "stale")
        if not kept:
            return []
        runs.move(connection, "run", run_id, RunState.BUILT)
        _fill_outbox(tools, connection, run_id, case)
        note(
            connection,
            "run.built",
            case["study_uid"],
            run_id=run_id,
            objects=[o.kind.value for o in result.objects] + (["ko"] if rejection else []),
            publish=case["publish"],
        )
    reach("K12")
    return deliver_puts(tools, run_id)


def deliver_puts(tools: Tools, run_id: int) -> list[Put]:
    """The delivery jobs that may start at once: destinations that wait for no other."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        if run["state"] != RunState.BUILT.value:
            return []
        case = runs.row(connection, cases, run["case_id"])
        rows = deliveries.of_run(connection, run_id)
    return [
        Put(
            f"out-{name}",
            "deliver",
            f"deliver/{run_id}/{name}/{run['current_attempt']}",
            (run_id, name, 0),
            case["priority"],
        )
        for name in first_destinations(tools.settings, {str(row["destination"]) for row in rows})
    ]


def build_result(
    tools: Tools, identity: RunIdentity, images: Volume | Picture, mask: Mask | None, findings: Findings
) -> ResultSet:
    """Build and check every object of a run.

    Parameters
    ----------
    mask
        Of a volume: labels on its grid.  Of a photograph: its heat map, None where the model has none.

    Raises
    ------
    Refused
        As `dicom_node.results.build` and `check`.
    """
    who, language = producer(tools), tools.settings.node.language
    if isinstance(images, Picture):
        result = build_picture(identity, images, mask, findings, who, language=language)
        check_picture(result, images, mask, findings)
        return result
    if mask is None:
        raise LookupError("a run on a volume has a mask")
    result = build(identity, images, mask, findings, who, language=language)
    check(result, images, mask, findings)
    return result


def _source(images: Volume | Picture) -> SliceSource:
    """Any stored image of what was read."""
    if isinstance(images, Picture):
        return SliceSource(images.sop_class_uid, images.sop_instance_uid, images.path)
    return images.slices[0]


def inputs(tools: Tools, run_id: int) -> tuple[Volume | Picture, Mask | None, Findings, RunIdentity]:
    """What the objects of a run are made from, out of cache, artefacts and records."""
    with tools.database.read() as connection:
        run = runs.row(connection, run_table, run_id)
        packed = tools.load(connection, run_id, MASK) or tools.load(connection, run_id, HEAT_MAP)
        said = tools.load(connection, run_id, FINDINGS)
    revision = int(run["identity"]["reference_revision"])
    if said is None or (packed is None and not photographs(tools, revision)):
        raise LookupError(f"run {run_id} has no mask or findings, and yet its objects are to be written")
    images = run_photograph(tools, run) or load_or_build(tools, revision)
    mask = None if packed is None else unpack_mask(packed)
    return images, mask, findings_from_json(json.loads(said)), identity_of(run)


def _rejection(
    tools: Tools, run_id: int, identity: RunIdentity, source: SliceSource, findings: Findings
) -> ResultObject | None:
    """The key object selection that rejects the superseded result set, as far as an archive has it or will have it."""
    if identity.predecessor is None:
        return None
    with tools.database.read() as connection:
        older = runs.run_row(connection, run_id)["predecessor_run"]
        out = set() if older is None else deliveries.objects_out(connection, int(older))
    old = [item for item in identity.predecessor["objects"] if item["sop_instance_uid"] in out]
    if not old:
        return None
    return build_rejection(identity, old, source, findings.model, producer(tools))


def _keep_all(tools: Tools, connection: Connection, attempt: runs.Attempt, result: ResultSet) -> bool:
    for item in result.objects:
        kept = tools.keep(
            connection,
            attempt,
            item.kind.value,
            item.data,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            series_uid=item.series_uid,
        )
        if not kept:
            return False
    return tools.keep(connection, attempt, PDF_PAGE, result.pdf) and tools.keep(
        connection, attempt, OVERLAY, result.overlay_png
    )


def _fill_outbox(tools: Tools, connection: Connection, run_id: int, case: Mapping[str, Any]) -> None:
    publish = Publish(case["publish"])
    kept = {row["kind"]: int(row["id"]) for row in runs.artefacts_of(connection, run_id)}
    names = wanted(tools.settings, publish, case["destinations"])
    attributes = runs.run_row(connection, run_id)["identity"]["attributes"]
    barred = [hold for hold in holds(tools, attributes, case["study_uid"]) if Channel.PACS in hold.closes]
    if barred and names:
        reasons = [hold.reason for hold in barred]
        note(connection, "publication.barred", case["study_uid"], run_id=run_id, reasons=reasons)
        names = []
    for name in names:
        those = [kept[FINDINGS]] if is_report(tools.settings, name) else chosen(tools.settings, name, kept)
        deliveries.add_deliveries(connection, run_id, name, those)
