"""Decided: what `assemble` has decided about a study is written, in the transaction in which it was decided.

A case with its run, the supersession of the run before it, and what is refused or held.  Every key is derived from what
was decided, so that deciding the same twice writes it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from dicom_node.durable import Put
from dicom_node.record import deliveries, digest, queueing, runs, studies, withdrawals
from dicom_node.record.revisions import load_revision
from dicom_node.record.tables import cases
from dicom_node.record.timeline import note
from dicom_node.refusals import Refusal
from dicom_node.routing import CaseSpec, Decision, Verb
from dicom_node.stages.context import ModelDescription, Tools
from dicom_node.stages.deliver import withdraw_reports
from dicom_node.stages.places import UNKNOWN, urgency_of
from dicom_node.stages.withdraw import OBJECTS, take_back, withdraw
from dicom_node.turns import ROUTINE, STAT, place
from dicom_node.words import CaseState, DeliveryState, Grade, Instance, RunIdentity, RunState

WRITER_SCHEMA = "1"
"""Version of what `results` writes; a change of the objects' form is a change of the run key."""

_GRADES = (Grade.PROMISED, Grade.TRANSFERRED, Grade.WEAK, Grade.CONTRADICTING)


def start_case(
    tools: Tools,
    connection: Connection,
    study_uid: str,
    decision: Decision,
    spec: CaseSpec,
    described: Mapping[str, ModelDescription],
) -> list[Put]:
    """Insert the case and its run; supersede the one before."""
    reasons = [*spec.reasons, *(f"not used: {o.role} series: {o.reason}" for o in spec.others)]
    # the newest case before it makes the key new when the same choice comes again after a refusal
    before = max((c["id"] for c in runs.cases_of(connection, study_uid)), default=0)
    photograph = [spec.instance_uid] if spec.instance_uid else []
    key = digest([study_uid, spec.route, dict(spec.revisions), *photograph, decision.supersedes, before])
    model = described[spec.model]
    priority = _place(tools, connection, study_uid, spec)
    case_id, is_new = runs.add_case(
        connection,
        study_uid=study_uid,
        route=spec.route,
        result_family=spec.result_family,
        model=f"{model.name}@{model.version}",
        rank=spec.set_rank,
        state=CaseState.READY.value,
        revisions=dict(spec.revisions),
        publish=spec.publish.value,
        destinations=list(spec.destinations),
        priority=priority,
        reasons=reasons,
        supersedes_case=decision.supersedes,
        case_key=key,
    )
    if not is_new:
        return []
    gone, predecessor = _supersede(tools, connection, study_uid, spec.result_family)
    run_id = _insert_run(tools, connection, study_uid, case_id, spec, model, predecessor, reasons)
    if run_id is None:
        note(connection, "case.same-run", study_uid, route=spec.route, family=spec.result_family)
        return []
    for older in (gone, None if predecessor is None else int(predecessor["run_id"])):
        if older is not None and older != run_id:
            runs.set_superseded_by(connection, older, run_id)
    note(
        connection,
        "case.ready",
        study_uid,
        run_id=run_id,
        route=spec.route,
        stands_in_for={route: code.value for route, code in spec.stands_in_for},
        model=f"{model.name}@{model.version}",
        roles={role: spec.series[role] for role in spec.roles},
        **({"photograph": spec.instance_uid} if spec.instance_uid else {}),
        reasons=reasons,
        supersedes=decision.supersedes,
        publish=spec.publish.value,
    )
    # the case's number makes the key new when a run that was superseded is taken up again
    return [Put("model", "infer", f"infer/{run_id}/case-{case_id}", (run_id,), priority)]


def _place(tools: Tools, connection: Connection, study_uid: str, spec: CaseSpec) -> int:
    """The study's turn, at the route's urgency, or at that of a more urgent sender of the chosen series."""
    titles = {studies.calling_ae(connection, uid) for uid in spec.series.values()}
    urgencies = [urgency_of(tools.settings, title) for title in titles if title]
    turn = studies.study_row(connection, study_uid)["turn"]
    if turn is None:
        turn = queueing.take_for_study(connection, study_uid, next((title for title in titles if title), UNKNOWN))
    return place(min([STAT if spec.priority == "stat" else ROUTINE, *urgencies]), int(turn))


def lift_holds(connection: Connection, study_uid: str, family: str) -> None:
    """What held this family holds it no longer: nobody has to decide about it any more."""
    for row in runs.cases_of(connection, study_uid):
        if row["result_family"] == family and row["state"] == CaseState.HELD.value:
            runs.move(connection, "case", int(row["id"]), CaseState.WAITING)
            note(connection, "case.hold-lifted", study_uid, family=family)


def _supersede(
    tools: Tools, connection: Connection, study_uid: str, family: str
) -> tuple[int | None, dict[str, Any] | None]:
    """Take the current run of the family out of force; its id, and what its successor replaces outside.

    A run of which nothing has left the node is forgotten without a trace outside; one that was published becomes the
    predecessor.  What is still open of its objects is sent before its successor's rejection names them; what waits for
    a person, and its report where nobody has it yet, goes nowhere any more.
    """
    found = runs.current_run(connection, study_uid, family) or runs.unreplaced_run(connection, study_uid, family)
    if found is None:
        return None, None
    run_id = int(found["id"])
    published = deliveries.was_published(connection, run_id)
    if found["state"] != RunState.SUPERSEDED.value:
        runs.move(connection, "run", run_id, RunState.SUPERSEDED)
        note(connection, "run.superseded", study_uid, run_id=run_id, published=published)
    if not published:
        deliveries.cancel_open(connection, run_id)
        older: dict[str, Any] | None = found["identity"]["predecessor"]
        return run_id, older  # what the forgotten run would have replaced is still to be replaced
    withdraw_reports(tools, connection, run_id)
    deliveries.set_all(connection, run_id, {DeliveryState.HELD, DeliveryState.FAILED}, DeliveryState.CANCELLED)
    kinds = {kind.value for kind in OBJECTS}
    objects = [
        {key: row[key] for key in ("kind", "sop_class_uid", "sop_instance_uid", "series_uid")}
        for row in runs.artefacts_of(connection, run_id)
        if row["kind"] in kinds
    ]
    return run_id, {
        "run_id": run_id,
        "revision_number": int(found["identity"]["results"]["revision_number"]),
        "objects": objects,
    }


def _insert_run(
    tools: Tools,
    connection: Connection,
    study_uid: str,
    case_id: int,
    spec: CaseSpec,
    model: ModelDescription,
    predecessor: dict[str, Any] | None,
    reasons: Sequence[str],
) -> int | None:
    """The run's id; None when the same run stands already for another result family."""
    of_series = {r: load_revision(connection, int(i)).instances for r, i in spec.revisions.items()}
    by_role = {r: tuple(i for i in all_ if spec.instance_uid in ("", i.uid)) for r, all_ in of_series.items()}
    revisions = {r: studies.revision_row(connection, int(i)) for r, i in spec.revisions.items()}
    reference = by_role[model.reference_role]
    attributes = {**reference[0].header, "CallingAETitle": studies.calling_ae(connection, reference[0].series_uid)}
    identity = RunIdentity(
        run_key="",
        site_namespace=tools.site_namespace,
        created="",
        study_uid=study_uid,
        revision_number=1 if predecessor is None else predecessor["revision_number"] + 1,
        predecessor=None if predecessor is None else {"objects": predecessor["objects"]},
        grade=max((Grade(r["grade"]) for r in revisions.values()), key=_GRADES.index),
        notes=tuple(reasons),
        timezone_offset=tools.settings.node.offset_of(attributes),
    )
    results = {key: value for key, value in asdict(identity).items() if key not in ("run_key", "created")}
    used = [i for group in by_role.values() for i in group]
    run_key = run_key_of(used, model, attributes, study_uid, predecessor, spec.stands_in_for)
    run_id, is_new = runs.add_run(
        connection,
        run_key=run_key,
        case_id=case_id,
        study_uid=study_uid,
        result_family=spec.result_family,
        identity={
            "results": results,
            "attributes": attributes,
            "predecessor": predecessor,
            "reference_revision": int(spec.revisions[model.reference_role]),
            "photograph": spec.instance_uid,
            "series": [
                {
                    "series_uid": spec.series[role],
                    "modality": str(by_role[role][0].header.get("Modality", "")),
                    "role": role,
                    "number_of_instances": len(of_series[role]),
                    "body_part": str(by_role[role][0].header.get("BodyPartExamined") or ""),
                }
                for role in spec.roles
            ],
        },
        model_digest=model.digest_sha256,
        settings_digest=model.settings_sha256,
        predecessor_run=None if predecessor is None else predecessor["run_id"],
    )
    if not is_new:
        if runs.run_row(connection, run_id)["state"] != RunState.SUPERSEDED.value:
            return None
        # the same choice again, before anything of it had left the node: its stored result stands
        fresh = {"error": None, "refusal": None, "cancel": False, "child_deaths": 0, "worker_deaths": 0}
        runs.move(connection, "run", run_id, RunState.QUEUED, superseded_by=None, case_id=case_id, **fresh)
    return run_id


def run_key_of(
    used: Sequence[Instance],
    model: ModelDescription,
    attributes: Mapping[str, Any],
    study_uid: str,
    predecessor: Mapping[str, Any] | None,
    stands_in_for: Sequence[tuple[str, str]] = (),
) -> str:
    """Everything that decides what a run's objects are (design section 4, *identity and determinism*).

    `stands_in_for`: routes that gave way and why, which the objects say; a key without any is what it always was.
    """
    sr = next((o["sop_instance_uid"] for o in (predecessor or {"objects": []})["objects"] if o["kind"] == "sr"), "")
    who = [attributes.get(k) or "" for k in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")]
    return digest(
        {
            "instances": sorted([i.uid, i.content_sha256] for i in used),
            "model": model.digest_sha256,
            "settings": digest([model.settings_sha256, WRITER_SCHEMA]),
            "identity": digest([*who, study_uid]),
            "predecessor": sr,
        }
        | ({"stands_in_for": [list(pair) for pair in stands_in_for]} if stands_in_for else {})
    )


def give_up(tools: Tools, connection: Connection, study_uid: str, family: str) -> list[Put]:
    """No route stands in for the one whose model refused the images: what its run was to replace is taken back."""
    refused = runs.current_run(connection, study_uid, family)
    if refused is None or refused["state"] != RunState.REFUSED.value:
        return []
    return withdraw(tools, connection, int(refused["id"]), refused["refusal"])


def say_no(
    tools: Tools, connection: Connection, study_uid: str, decision: Decision, refusal: Refusal | None
) -> list[Put]:
    """Write a refused or held case, once per reason; what a refusal takes back, here and outside."""
    if refusal is None:
        raise ValueError("a decision that refuses or holds says why")
    held = decision.verb is Verb.HOLD
    told = refusal.to_json()
    key = digest([study_uid, decision.result_family, decision.verb.value, told, decision.supersedes])
    case_id, is_new = runs.add_case(
        connection,
        study_uid=study_uid,
        route=decision.route or "",
        result_family=decision.result_family,
        model="",
        rank=-1,
        state=(CaseState.HELD if held else CaseState.REFUSED).value,
        revisions={},
        publish="nothing",
        destinations=[],
        priority=5,
        reasons=list(decision.reasons),
        refusal=told,
        supersedes_case=decision.supersedes,
        case_key=key,
    )
    if is_new:
        event = "case.held" if held else "case.refused"
        note(connection, event, study_uid, family=decision.result_family, refusal=told, reasons=list(decision.reasons))
    if runs.row(connection, cases, case_id)["state"] != CaseState.REFUSED.value:
        return []
    if held:  # and somebody has rejected what was held: the result before it stands no longer
        older = runs.current_run(connection, study_uid, decision.result_family)
        if older is not None and int(older["case_id"]) < case_id:
            withdrawals.set_supersedes(connection, case_id, int(older["case_id"]))
            return take_back(tools, connection, study_uid, decision.result_family, told)
        return []
    is_due = is_new and decision.supersedes is not None
    return take_back(tools, connection, study_uid, decision.result_family, told) if is_due else []
