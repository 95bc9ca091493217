"""What people ask of the record: studies, one study's story, jobs, what is held.  Reads only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, or_, select

from ai_engine.findings import Observation, findings_from_json
from dicom_node import files
from dicom_node.record import analyses, circuits, pauses, predictions, removals, transfers
from dicom_node.record import deliveries as delivery_queries
from dicom_node.record import runs as run_queries
from dicom_node.record.tables import attempts, cases, revisions, runs, series, studies
from dicom_node.record.timeline import timeline
from dicom_node.words import CaseState, DeliveryState, RunState

_OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
_WORST = ("failed", "held", "refused", "waiting", "completed")


def list_studies(connection: Connection, limit: int = 50) -> list[dict[str, Any]]:
    """The newest studies, each with the state of its worst part and what its results say or would have said."""
    rows = connection.execute(select(studies).order_by(studies.c.last_activity_at.desc()).limit(limit)).mappings()
    return [summary(connection, dict(row)) for row in rows]


def find_study(connection: Connection, name: str) -> dict[str, Any] | None:
    """A study by its Study Instance UID or its opaque id."""
    found = connection.execute(
        select(studies).where(or_(studies.c.uid == name, studies.c.public_id == name)).limit(1)
    ).mappings()
    row = found.first()
    return None if row is None else dict(row)


def by_accession(connection: Connection, number: str) -> dict[str, Any] | None:
    """The newest study with this accession number."""
    if not number:
        return None
    query = select(studies).where(studies.c.identity["AccessionNumber"].as_string() == number)
    row = connection.execute(query.order_by(studies.c.last_activity_at.desc()).limit(1)).mappings().first()
    return None if row is None else dict(row)


def summary(connection: Connection, study: dict[str, Any]) -> dict[str, Any]:
    """One line about a study."""
    uid = study["uid"]
    study_runs = [dict(r) for r in connection.execute(select(runs).where(runs.c.study_uid == uid)).mappings()]
    study_cases = [dict(r) for r in connection.execute(select(cases).where(cases.c.study_uid == uid)).mappings()]
    sent = [row for run in study_runs for row in delivery_queries.of_run(connection, int(run["id"]))]
    away = {row["destination"] for row in (*circuits.rows(connection), *pauses.rows(connection))}
    return {
        "id": study["public_id"],
        "study_uid": uid,
        "state": _worst(connection, study, study_cases, study_runs, sent),
        "last_activity_at": study["last_activity_at"],
        "waits_for": sorted(
            {row["destination"] for row in sent if row["state"] in _OPEN and row["destination"] in away}
        ),
        "series": len(list(connection.execute(select(series.c.uid).where(series.c.study_uid == uid)))),
        "runs": [
            {
                "id": run["id"],
                "state": run["state"],
                "result_family": run["result_family"],
                "refusal": run["refusal"],
                "error": run["error"],
                "publish": next((c["publish"] for c in study_cases if c["id"] == run["case_id"]), None),
            }
            for run in study_runs
        ],
        "refusals": [c["refusal"] for c in _newest(study_cases) if c["refusal"] and c["state"] in _SAID]
        + [
            r.refusal
            for r in connection.execute(
                select(revisions.c.refusal).where(
                    revisions.c.study_uid == uid, revisions.c.state == "complete", revisions.c.refusal.is_not(None)
                )
            )
            if r.refusal
        ],
        "held": study["held"],
        "removed": removals.of_study(connection, uid),
    }


def _worst(
    connection: Connection,
    study: dict[str, Any],
    study_cases: list[dict[str, Any]],
    study_runs: list[dict[str, Any]],
    sent: list[Any],
) -> str:
    found = set()
    live = [r for r in study_runs if r["state"] != RunState.SUPERSEDED.value]
    newest = _newest(study_cases)
    own = connection.execute(select(series.c.held).where(series.c.study_uid == study["uid"])).scalars()
    if study["held"] or any(_waits(held) for held in own) or any(c["state"] == CaseState.HELD.value for c in newest):
        found.add("held")
    for row in sent:
        if row["state"] in (DeliveryState.HELD.value, DeliveryState.FAILED.value):
            found.add(row["state"])
        elif row["state"] in (DeliveryState.PENDING.value, DeliveryState.SENDING.value):
            found.add("waiting")
    for run in live:
        if run["state"] in (RunState.FAILED.value, RunState.REFUSED.value):
            found.add(run["state"])
        elif run["state"] in (RunState.QUEUED.value, RunState.RUNNING.value):
            found.add("waiting")
        elif run["state"] == RunState.BUILT.value:
            found.add("completed")
    if any(c["state"] == CaseState.REFUSED.value for c in newest):
        found.add("refused")
    if not found:
        found.add("waiting" if study["quiet_at"] is None else "completed")
    return next(state for state in _WORST if state in found)


_SAID = (CaseState.REFUSED.value, CaseState.HELD.value)


def _newest(study_cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last word of each result family."""
    return list({c["result_family"]: c for c in sorted(study_cases, key=lambda c: int(c["id"]))}.values())


def _waits(held: dict[str, Any] | None) -> bool:
    """Whether a hold waits for a person: one that was decided by rejecting stays, and waits no longer."""
    return bool(held) and not (held or {}).get("rejected")


def story(connection: Connection, study: dict[str, Any]) -> dict[str, Any]:
    """Everything about one study: series with roles and evidence, cases, runs, attempts, deliveries, timeline."""
    uid = study["uid"]

    def rows(table: Any, column: Any) -> list[dict[str, Any]]:
        return [
            dict(r)
            for r in connection.execute(select(table).where(column == uid).order_by(*table.primary_key)).mappings()
        ]

    study_runs = rows(runs, runs.c.study_uid)
    return {
        **summary(connection, study),
        "series_rows": rows(series, series.c.study_uid),
        "revisions": [
            {k: v for k, v in r.items() if k != "appearance"} for r in rows(revisions, revisions.c.study_uid)
        ],
        "cases": rows(cases, cases.c.study_uid),
        "run_rows": study_runs,
        "attempts": [
            dict(r)
            for run in study_runs
            for r in connection.execute(select(attempts).where(attempts.c.run_id == run["id"])).mappings()
        ],
        "artefacts": [dict(r) for run in study_runs for r in run_queries.artefacts_of(connection, int(run["id"]))],
        "deliveries": [dict(r) for run in study_runs for r in delivery_queries.of_run(connection, int(run["id"]))],
        "timeline": timeline(connection, uid),
    }


def held(connection: Connection) -> list[dict[str, Any]]:
    """Everything that waits for a person: studies, series, cases, deliveries, and transfers of requests by HTTP.

    Each has an id that `held` commands take.
    """
    found: list[dict[str, Any]] = []
    for row in connection.execute(select(studies).where(studies.c.held.is_not(None))).mappings():
        if row["held"]:
            found.append({"id": f"study-{row['public_id']}", "study_uid": row["uid"], "reason": row["held"]})
    for row in connection.execute(select(series).where(series.c.held.is_not(None))).mappings():
        if _waits(row["held"]):
            found.append({"id": f"series-{row['public_id']}", "study_uid": row["study_uid"], "reason": row["held"]})
    for row in connection.execute(select(cases).where(cases.c.state == CaseState.HELD.value)).mappings():
        found.append({"id": f"case-{row['id']}", "study_uid": row["study_uid"], "reason": row["refusal"]})
    for delivery in delivery_queries.in_state(connection, DeliveryState.HELD):
        found.append(
            {
                "id": f"delivery-{delivery['id']}",
                "study_uid": delivery["study_uid"],
                "destination": delivery["destination"],
                "object": delivery["kind"],
                "reason": delivery["reason"],
            }
        )
    for transfer in transfers.in_state(connection, transfers.HELD):
        found.append(
            {
                "id": f"transfer-{transfer.number}-{transfer.destination}",
                "request": transfer.row["public_id"],
                "study_uid": transfer.row["study_uid"],
                "destination": transfer.destination,
                "reason": transfer.reason,
            }
        )
    return found


def jobs(connection: Connection) -> list[dict[str, Any]]:
    """Destinations that are left alone; runs, deliveries, requests by HTTP and their transfers that are not finished.

    Failed ones come first in each kind.
    """
    order = {RunState.FAILED.value: 0, RunState.RUNNING.value: 1, RunState.QUEUED.value: 2}
    wanted = [dict(r) for r in connection.execute(select(runs).where(runs.c.state.in_(list(order)))).mappings()]
    rows: list[dict[str, Any]] = [
        {
            "id": f"destination-{r['destination']}",
            "state": "left-alone",
            "destination": r["destination"],
            "attempt": r["failures"],
            "next_try_at": r["probe_at"],
            "error": {"peer": r["reason"], "since": r["opened_at"]},
        }
        for r in circuits.rows(connection)
    ]
    rows += [
        {
            "id": f"destination-{r['destination']}",
            "state": "paused",
            "destination": r["destination"],
            "error": {"peer": r["reason"], "since": r["since"]},
        }
        for r in pauses.rows(connection)
    ]
    rows += [
        {
            "id": f"run-{r['id']}",
            "state": r["state"],
            "study_uid": r["study_uid"],
            "attempt": r["current_attempt"],
            "error": r["error"],
        }
        for r in sorted(wanted, key=lambda r: (order[r["state"]], r["id"]))
    ]
    for state in (DeliveryState.FAILED, DeliveryState.SENDING, DeliveryState.PENDING):
        rows += [
            {
                "id": f"delivery-{r['id']}",
                "state": r["state"],
                "study_uid": r["study_uid"],
                "destination": r["destination"],
                "object": r["kind"],
                "attempt": r["attempts"],
                "next_try_at": r["next_try_at"],
                "error": r["reason"],
            }
            for r in delivery_queries.in_state(connection, state)
        ]
    return rows + _requests(connection) + _transfers(connection) + _photographs(connection)


def _photographs(connection: Connection) -> list[dict[str, Any]]:
    """Photographs that people asked about and that no study is made of yet."""
    return [
        {
            "id": f"analysis-{row['id']}",
            "state": "failed" if row["state"] == analyses.FAILED else "queued",
            "study_uid": row["study_uid"],
            "error": analyses.told_error(row).get("reason"),
        }
        for row in analyses.stranded(connection)
    ]


def _requests(connection: Connection) -> list[dict[str, Any]]:
    return [
        {
            "id": f"request-{r['id']}",
            "state": r["state"],
            "request": r["public_id"],
            "study_uid": r["study_uid"],
            "attempt": r["current_attempt"],
            "error": r["error"],
        }
        for state in (RunState.FAILED, RunState.RUNNING, RunState.QUEUED)
        for r in predictions.in_state(connection, state)
    ]


def _transfers(connection: Connection) -> list[dict[str, Any]]:
    return [
        {
            "id": f"transfer-{one.number}-{one.destination}",
            "state": one.state,
            "request": one.row["public_id"],
            "study_uid": one.row["study_uid"],
            "destination": one.destination,
            "attempt": one.tries,
            "error": one.reason or None,
        }
        for state in (transfers.FAILED, transfers.PENDING)
        for one in transfers.in_state(connection, state)
    ]


def says(connection: Connection, artefact_folder: Path, run_id: int) -> str:
    """What a run's findings say in one line: "FLAIR abnormality 12.3 mL", that no region was above threshold, or of a
    photograph each number with its side of the threshold."""
    row = run_queries.artefact(connection, run_id, "findings")
    if row is None:
        return ""
    if row["removed_at"]:
        return f"deleted by retention on {row['removed_at'][:10]}"
    try:
        said = findings_from_json(json.loads(files.load(artefact_folder, *removals.place(row))))
    except (OSError, ValueError, KeyError, TypeError):
        return "its findings cannot be read: restore the artefacts from the backup"
    if said.observations:
        return ", ".join(_observed(observation) for observation in said.observations)
    present = [region for region in said.regions if region.present]
    if not present:
        return "no region above threshold"
    volumes = [(region.name, region.measure("volume")) for region in present]
    return ", ".join(f"{name} {volume.value:.1f} mL" if volume else name for name, volume in volumes)


def _observed(observation: Observation) -> str:
    first = observation.measurements[0]
    digits = 1 if first.value < 9.95 else 0
    value = f"{first.value:.{digits}f} %" if first.unit.value == "%" else f"{first.value:.2f}"
    side = "" if observation.category is None else f" ({observation.category.meaning.lower()})"
    return f"{observation.name.meaning} {value}{side}"
