"""Withdraw: a published result that no longer stands is taken back outside (I19).

The study, its case or its successor was refused after the result had left the node.  Destinations that take DICOM
objects get a key object selection titled (113001, DCM, Rejected for Quality Reasons) that names every object of the
result which they were seen to hold (PS3.16 TID 2010); FHIR gets the report as `entered-in-error` (standards 4.5), and
never over a person's.  Nothing is deleted anywhere.

The decision is one transaction: the run is out of force, what was never tried of it is cancelled, and one delivery of
the notice stands behind its objects per destination.  An object of which it is not known whether it arrived is brought
to an end first; so the rejection names what is there, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ai_engine.findings import findings_from_json
from dicom_node import files
from dicom_node.durable import Put
from dicom_node.record import canonical_json, deliveries, digest, now, removals, runs, withdrawals
from dicom_node.record.revisions import load_revision
from dicom_node.record.tables import cases
from dicom_node.record.timeline import note
from dicom_node.refusals_es import spoken
from dicom_node.results import build_rejection
from dicom_node.stages.context import FINDINGS, Tools, identity_of
from dicom_node.stages.destinations import is_report
from dicom_node.stages.producer import producer
from dicom_node.words import DeliveryState, ObjectKind, RunState, SliceSource

OBJECTS = (ObjectKind.SEG, ObjectKind.PDF, ObjectKind.SC, ObjectKind.SR)
"""What a rejection names: a rejection itself is not rejected."""

Told = Mapping[str, Any]
"""A refusal as the records have it: `code` and `message` in fixed words."""


def take_back(tools: Tools, connection: Connection, study_uid: str, family: str, told: Told) -> list[Put]:
    """Take the result of a family out of force that no longer stands, here and outside; the jobs that see to it."""
    found = runs.current_run(connection, study_uid, family) or runs.unreplaced_run(connection, study_uid, family)
    if found is None:
        return []
    if found["state"] not in (RunState.SUPERSEDED.value, RunState.CANCELLED.value):
        runs.move(connection, "run", int(found["id"]), RunState.SUPERSEDED)
        published = deliveries.was_published(connection, int(found["id"]))
        note(connection, "run.superseded", study_uid, run_id=int(found["id"]), published=published)
    return withdraw(tools, connection, int(found["id"]), told)


def withdraw(tools: Tools, connection: Connection, run_id: int, told: Told) -> list[Put]:
    """Withdraw a run that is out of force, and what it was to replace where it never did; the jobs that tell so.

    Once per run; doing it again changes nothing.
    """
    puts: list[Put] = []
    number: int | None = run_id
    covered: set[str] = set()
    """Destinations at which a later run has taken the earlier ones' place: told of that one, they need no more."""
    while number is not None:
        run = runs.run_row(connection, number)
        if run["state"] == RunState.SUPERSEDED.value and not withdrawals.is_withdrawn(connection, number):
            puts += _withdraw_one(tools, connection, number, told, covered)
        covered |= _replaced_at(tools, connection, number)
        number = None if run["predecessor_run"] is None else int(run["predecessor_run"])
    return puts


def _withdraw_one(tools: Tools, connection: Connection, run_id: int, told: Told, covered: set[str]) -> list[Put]:
    rows = deliveries.of_run(connection, run_id)
    names = sorted({str(row["destination"]) for row in rows} - covered)
    tell: list[str] = []
    silent: list[str] = []
    for name in names:
        own = [row for row in rows if row["destination"] == name]
        _settle(tools, connection, own, is_for_report=is_report(tools.settings, name))
        if any(row["attempts"] for row in own):
            (tell if _takes_rejections(tools, name) else silent).append(name)
    if not tell and not silent:
        return []
    notice = {"at": now(), "code": str(told.get("code", "")), "message": str(told.get("message", ""))}
    sha256, path = files.keep(tools.artefact_folder, canonical_json(notice).encode())
    if not withdrawals.add_notice(connection, run_id, sha256, path, tell):
        return []
    run = runs.run_row(connection, run_id)
    note(connection, "run.withdrawn", run["study_uid"], run_id=run_id, refusal=notice["code"], destinations=tell,
         not_told=silent)  # fmt: skip
    priority = int(runs.row(connection, cases, run["case_id"])["priority"])
    return [Put(f"out-{n}", "deliver", f"deliver/{run_id}/{n}/withdrawn", (run_id, n, 0), priority) for n in tell]


def _settle(tools: Tools, connection: Connection, rows: Sequence[Any], *, is_for_report: bool) -> None:
    """Cancel what never left the node; let an object that may have left it be brought to an end once more.

    What is being sent at this moment is left to whoever sends it.  A report is never sent to be withdrawn: the server
    is asked whether it has one.
    """
    over = {DeliveryState.CONFIRMED.value, DeliveryState.SENDING.value}
    for row in rows:
        if row["state"] in over:
            continue
        if is_for_report or not row["attempts"]:
            runs.move(connection, "delivery", int(row["id"]), DeliveryState.CANCELLED)
        else:
            runs.move(connection, "delivery", int(row["id"]), DeliveryState.PENDING, reason=None, first_tried_at=None)


def _takes_rejections(tools: Tools, name: str) -> bool:
    """Whether a destination is told: every FHIR one, and those of the others that the site has not excepted."""
    destination = tools.settings.destinations.get(name)
    return destination is None or is_report(tools.settings, name) or destination.reject_superseded


def _replaced_at(tools: Tools, connection: Connection, run_id: int) -> set[str]:
    """Destinations at which a run has taken its predecessor's place: its rejection, or its report, went there."""
    return {
        str(row["destination"])
        for row in deliveries.of_run(connection, run_id)
        if (row["kind"] == ObjectKind.KO.value and row["attempts"])
        or (is_report(tools.settings, str(row["destination"])) and row["state"] == DeliveryState.CONFIRMED.value)
    }


# -- what is sent ------------------------------------------------------------------------------------------------------


def reason(tools: Tools, connection: Connection, run_id: int, language: str) -> str:
    """Why a run was withdrawn, in fixed words without anything of a patient."""
    return spoken(_notice(tools, connection, run_id), language)["message"]


def rejection(tools: Tools, run_id: int, name: str) -> tuple[bytes, str] | None:
    """The key object selection for one destination, built once and kept; None where it was seen to hold nothing.

    Returns
    -------
    tuple
        Its bytes and their sha256.  Destinations that hold the same objects get the same rejection.
    """
    with tools.database.read() as connection:
        there = _there(connection, run_id, name)
        if not there:
            return None
        kind = f"{withdrawals.NOTICE}:{'+'.join(row['kind'] for row in there)}"
        known = runs.artefact(connection, run_id, kind)
        run = runs.run_row(connection, run_id)
        notice = _notice(tools, connection, run_id)
        said = tools.load(connection, run_id, FINDINGS)
        held = load_revision(connection, int(run["identity"]["reference_revision"])).instances
        reference = next(one for one in held if run["identity"].get("photograph", "") in ("", one.uid))
    if known is not None:
        return files.load(tools.artefact_folder, *removals.place(known)), str(known["sha256"])
    if said is None:
        raise LookupError(f"run {run_id} has no findings, and yet its objects are to be rejected")
    # a key of its own: the run may have rejected its predecessor by an object of the same kind
    identity = replace(identity_of(run), run_key=digest([run["run_key"], kind]), created=str(notice["at"]))
    made = build_rejection(
        identity,
        there,
        SliceSource(reference.sop_class_uid, reference.uid, str(tools.stored(reference))),
        findings_from_json(json.loads(said)).model,
        producer(tools),
        because=f"{notice['message']} There is no current result.",
    )
    tools.keep_bytes(made.data)
    with tools.database.write() as connection:
        sha256, path = files.keep(tools.artefact_folder, made.data)
        withdrawals.add_built(
            connection,
            run_id,
            kind,
            sha256,
            path,
            sop_class_uid=made.sop_class_uid,
            sop_instance_uid=made.sop_instance_uid,
            series_uid=made.series_uid,
        )
    return made.data, made.sha256


def _there(connection: Connection, run_id: int, name: str) -> list[dict[str, str]]:
    """The objects of a run that a destination was seen to hold, in sending order."""
    kinds = {kind.value for kind in OBJECTS}
    return [
        {key: str(row[key]) for key in ("kind", "sop_class_uid", "sop_instance_uid", "series_uid")}
        for row in deliveries.of_run(connection, run_id, name)
        if row["kind"] in kinds and row["state"] == DeliveryState.CONFIRMED.value
    ]


def _notice(tools: Tools, connection: Connection, run_id: int) -> dict[str, Any]:
    data = tools.load(connection, run_id, withdrawals.NOTICE)
    if data is None:
        raise LookupError(f"run {run_id} was not withdrawn, and yet it is to be taken back")
    return dict(json.loads(data))
