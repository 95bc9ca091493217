"""Why did nothing happen to this study?  One answer in a few codes, and everything that it rests on.

For the person on duty: from arrival to delivery, each step with what was found.  Reads only; shows no name, no picture
and no UID (`dicom_node.desks.veil`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from dicom_node.desks.veil import Veil
from dicom_node.record import receipts, studies, views
from dicom_node.record.revisions import load_revision
from dicom_node.routing import RouteBook
from dicom_node.routing.explanation import Explanation, explain
from dicom_node.routing.facts import facts
from dicom_node.routing.roles import assign_roles
from dicom_node.words import CaseState, DeliveryState, RoleGuess, RunState, SeriesFacts

_OPEN = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
_LIVE = (RunState.QUEUED.value, RunState.RUNNING.value)
_ENOUGH = ("study_held", "gathering", "unread", "case_refused", "case_held")
"""Where one of these stands, nobody asks yet what the rules say."""


@dataclass(frozen=True)
class Because:
    """One sentence of the answer.

    Attributes
    ----------
    code
        What the pages have words for: ``why_<code>``.
    kind
        ``ok``, ``info``, ``warning`` or ``danger``.
    values
        What the sentence is filled with.
    told
        A refusal (code, message, expected, found, advice) where there is one.
    item
        What can be released, rejected or retried, as the lists call it.
    """

    code: str
    kind: str = "info"
    values: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] | None = None
    item: str = ""


@dataclass(frozen=True)
class Why:
    """The whole answer about one study; every value may be shown to an operator."""

    study: Mapping[str, Any]
    because: tuple[Because, ...]
    arrivals: tuple[receipts.Receipt, ...]
    series: tuple[Mapping[str, Any], ...]
    routes: tuple[Mapping[str, Any], ...]
    decisions: tuple[Mapping[str, Any], ...]
    runs: tuple[Mapping[str, Any], ...]
    timeline: tuple[Mapping[str, Any], ...]


def why(connection: Connection, study: Mapping[str, Any], book: RouteBook) -> Why:
    """The story of a study, told as an answer.

    Parameters
    ----------
    study
        Its row.
    book
        The routes as they are now; what was decided earlier, by whichever routes there were, stands in the timeline.
    """
    uid = str(study["uid"])
    story = views.story(connection, dict(study))
    explanation = _explanation(connection, uid, story, book)
    numbers = {entry.series_uid: entry.number for entry in explanation.series} if explanation else {}
    labels = _labels(story["series_rows"], numbers)
    veil = Veil(study["identity"], labels)
    told = explanation.to_json() if explanation else {"series": [], "rules": [], "decisions": []}
    objects = receipts.objects_by_series(connection, uid)
    because = _because(story, objects, told["decisions"])
    return Why(
        study={key: story[key] for key in ("id", "state", "last_activity_at", "waits_for")}
        | {"first_seen_at": study["first_seen_at"], "site": study.get("site"), "cancelled": bool(study["cancelled"])},
        because=tuple(
            Because(b.code, b.kind, veil(b.values), veil(b.told) if b.told else None, b.item) for b in because
        ),
        arrivals=tuple(receipts.receipts(connection, uid)),
        series=tuple(veil(_series(row, labels, objects, story, told["series"])) for row in story["series_rows"]),
        routes=tuple(veil(_routes(book, told["rules"], labels))),
        decisions=tuple(veil(told["decisions"])),
        runs=tuple(veil(_run(row, story)) for row in story["run_rows"]),
        timeline=tuple(veil(_event(row, labels)) for row in story["timeline"]),
    )


# -- the answer


def _because(
    story: Mapping[str, Any], objects: Mapping[str, Mapping[str, int]], decisions: Sequence[Mapping[str, Any]]
) -> list[Because]:
    """The reasons in the order of the road; the first one that stops it comes first."""
    found = [*_held(story), *_arriving(story, objects)]
    live = [run for run in story["run_rows"] if run["state"] != RunState.SUPERSEDED.value]
    for case in _newest(story["cases"]):
        if case["state"] == CaseState.REFUSED.value and case["refusal"]:
            found.append(Because("case_refused", "warning", {"family": case["result_family"]}, case["refusal"]))
        elif case["state"] == CaseState.HELD.value:
            item = f"case-{case['id']}"
            found.append(Because("case_held", "warning", {"family": case["result_family"]}, case["refusal"], item))
    for run in live:
        found += _of_run(run, story)
    if not live and not any(b.code in _ENOUGH for b in found):
        found += _undecided(story, decisions)
    return found


def _held(story: Mapping[str, Any]) -> list[Because]:
    found = []
    if story["held"]:
        found.append(Because("study_held", "warning", {}, story["held"], f"study-{story['id']}"))
    for row in story["series_rows"]:
        if row["held"] and not row["held"].get("rejected"):
            found.append(Because("series_held", "warning", {}, row["held"], f"series-{row['public_id']}"))
        elif row["held"]:
            found.append(Because("series_rejected", "info", {}, row["held"]))
    return found


def _arriving(story: Mapping[str, Any], objects: Mapping[str, Mapping[str, int]]) -> list[Because]:
    found = []
    gathering = sum(bool(row["is_open"]) and not row["held"] for row in story["series_rows"])
    if gathering:
        found.append(Because("gathering", "info", {"count": gathering}))
    unread = sum(counts.get("unread", 0) for counts in objects.values())
    if unread:
        found.append(Because("unread", "info", {"count": unread}))
    for revision in story["revisions"]:
        if revision["state"] == "complete" and revision["refusal"]:
            found.append(Because("series_refused", "warning", {}, revision["refusal"]))
    return found


def _of_run(run: Mapping[str, Any], story: Mapping[str, Any]) -> list[Because]:
    values = {"family": run["result_family"], "attempt": run["current_attempt"]}
    item = f"run-{run['id']}"
    if run["state"] in _LIVE:
        return [Because(f"run_{run['state']}", "info", values, None, item)]
    if run["state"] == RunState.REFUSED.value:
        return [Because("run_refused", "warning", values, run["refusal"])]
    if run["state"] == RunState.FAILED.value:
        return [Because("run_failed", "danger", {**values, "error": run["error"] or ""}, None, item)]
    if run["state"] == RunState.CANCELLED.value:
        return [Because("run_cancelled", "info", values, None, item)]
    case: Mapping[str, Any] = next((c for c in story["cases"] if c["id"] == run["case_id"]), {})
    sent = [d for d in story["deliveries"] if d["run_id"] == run["id"]]
    values |= {"route": case.get("route", ""), "publish": case.get("publish", "")}
    barred = [e["detail"] for e in story["timeline"] if e["name"] == "publication.barred" and e["run_id"] == run["id"]]
    if barred:
        reasons = barred[-1].get("reasons") or []
        return [Because("publication_barred", "warning", {**values, "reasons": "; ".join(map(str, reasons))})]
    if not sent:
        return [Because("publishes_nothing", "info", values)]
    return _of_deliveries(sent, values, story["waits_for"])


def _of_deliveries(sent: Sequence[Mapping[str, Any]], values: Mapping[str, Any], away: Sequence[str]) -> list[Because]:
    found = []
    for name in sorted({str(row["destination"]) for row in sent}):
        rows = [row for row in sent if row["destination"] == name]
        told = {**values, "destination": name, "count": len(rows)}
        first = next((row for row in rows if row["state"] != DeliveryState.CONFIRMED.value), None)
        if first is None:
            found.append(Because("delivered", "ok", {**told, "at": max(str(r["confirmed_at"] or "") for r in rows)}))
            continue
        item, reason = f"delivery-{first['id']}", first["reason"] or {}
        refusal = reason if "code" in reason else None
        told |= {"tries": first["attempts"], "next_at": first["next_try_at"] or "",
                 "peer": str(reason.get("peer") or reason.get("fault") or "")}  # fmt: skip
        if first["state"] in _OPEN:
            code = (
                "delivery_left_alone" if name in away else "delivery_tried" if first["attempts"] else "delivery_waits"
            )
            found.append(Because(code, "warning" if first["attempts"] else "info", told, None, item))
        else:
            kind = "danger" if first["state"] == DeliveryState.FAILED.value else "warning"
            found.append(Because(f"delivery_{first['state']}", kind, told, refusal, item))
    return found


def _undecided(story: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> list[Because]:
    """No run and no refusal: it waits, or no rule wants it."""
    last = next((e for e in reversed(story["timeline"]) if e["name"].startswith("case.")), None)
    if last is not None and last["name"] == "case.waits":
        values = {"family": last["detail"].get("family", ""), "until": last["detail"].get("until") or ""}
        return [Because("case_waits", "info", {**values, "reasons": "; ".join(last["detail"].get("reasons", []))})]
    if not any(row["state"] == "complete" for row in story["revisions"]):
        return [Because("nothing_complete", "info")]
    wanted = [d for d in decisions if d["decision"] != "nothing"]
    if wanted:  # the rules of today would do something: they are other ones than those it was decided by
        return [Because("rules_changed", "info", {"families": ", ".join(str(d["result_family"]) for d in wanted)})]
    return [Because("no_rule", "warning")]


def _newest(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last word of each result family."""
    return list({case["result_family"]: case for case in sorted(cases, key=lambda c: int(c["id"]))}.values())


# -- what it rests on


def _explanation(
    connection: Connection, study_uid: str, story: Mapping[str, Any], book: RouteBook
) -> Explanation | None:
    """Every rule held against every closed series, with the roles that the record has."""
    known: list[SeriesFacts] = []
    for row in studies.closed_revisions(connection, study_uid):
        headers = [dict(i.header) for i in load_revision(connection, int(row["id"])).instances]
        known.append(facts(headers, calling_ae=studies.calling_ae(connection, row["series_uid"])))
    if not known:
        return None
    guessed = assign_roles(known, None)
    open_to = {e["series_uid"]: e["detail"] for e in story["timeline"] if e["name"] == "series.role"}
    for row in story["series_rows"]:
        if row["role"] and row["uid"] in guessed:  # as it was decided, with the pictures looked at
            doubt = tuple(open_to.get(row["uid"], {}).get("ambiguous_with", ()))
            reasons, confidence = tuple(row["role_reasons"] or ()), float(row["role_confidence"] or 0)
            contrast = guessed[row["uid"]].after_contrast
            guessed[row["uid"]] = RoleGuess(row["role"], confidence, reasons, doubt, contrast)
    return explain(book, known, guessed)


def _labels(rows: Sequence[Mapping[str, Any]], numbers: Mapping[str, str]) -> dict[str, str]:
    """What the page calls a series: by its number where that is its own, else by the node's."""
    given = [numbers.get(row["uid"], "") for row in rows]
    return {
        str(row["uid"]): number if number and given.count(number) == 1 else str(row["public_id"])[:6]
        for row, number in zip(rows, given, strict=True)
    }


def _series(
    row: Mapping[str, Any],
    labels: Mapping[str, str],
    objects: Mapping[str, Mapping[str, int]],
    story: Mapping[str, Any],
    explained: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    mine = [one for one in story["revisions"] if one["series_uid"] == row["uid"]]
    newest = max(mine, key=lambda one: int(one["number"]), default=None)
    told = next((one for one in explained if one["series_uid"] == row["uid"]), {})
    return {
        "label": labels[row["uid"]],
        "description": told.get("description", ""),
        "role": row["role"] or told.get("role", ""),
        "confidence": row["role_confidence"] or "",
        "reasons": row["role_reasons"] or told.get("reasons", []),
        "kinds": sorted(told.get("kinds", {})),
        "publication_holds": told.get("publication_holds", []),
        "objects": dict(objects.get(row["uid"], {})),
        "is_open": bool(row["is_open"]),
        "held": row["held"],
        "item": f"series-{row['public_id']}" if row["held"] and not row["held"].get("rejected") else "",
        "revision": None if newest is None else int(newest["number"]),
        "grade": "" if newest is None else newest["grade"],
        "evidence": {} if newest is None else newest["evidence"],
        "closed_at": None if newest is None else newest["closed_at"],
        "refusal": None if newest is None else newest["refusal"],
    }


def _routes(book: RouteBook, rules: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": route.name,
            "title": route.title,
            "enabled": route.enabled,
            "model": route.model,
            "family": route.result_family,
            "publish": route.publish.value,
            "role_sets": [list(names) for names in route.role_sets],
            "fallback_for": route.fallback_for,
            "series": [
                {
                    "label": labels.get(rule["series_uid"], ""),
                    "holds": rule["holds"],
                    "excluded": rule["excluded"],
                    "when": rule["when"],
                }
                for rule in rules
                if rule["route"] == route.name
            ],
        }
        for route in book.routes
    ]


def _run(row: Mapping[str, Any], story: Mapping[str, Any]) -> dict[str, Any]:
    case: Mapping[str, Any] = next((c for c in story["cases"] if c["id"] == row["case_id"]), {})
    kept = ("run_id", "number", "stage", "started_at", "ended_at", "outcome", "detail")
    return {
        "item": f"run-{row['id']}",
        "state": row["state"],
        "family": row["result_family"],
        "model": case.get("model", ""),
        "route": case.get("route", ""),
        "publish": case.get("publish", ""),
        "reasons": case.get("reasons", []),
        "created_at": row["created_at"],
        "refusal": row["refusal"],
        "error": row["error"],
        "attempts": [{k: a[k] for k in kept} for a in story["attempts"] if a["run_id"] == row["id"]],
        "deliveries": [_delivery(d) for d in story["deliveries"] if d["run_id"] == row["id"]],
    }


def _delivery(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("destination", "kind", "state", "attempts", "last_tried_at", "next_try_at", "confirmed_at", "reason")
    return {"item": f"delivery-{row['id']}", **{key: row[key] for key in kept},
            "seen": (row["confirmation"] or {}).get("seen", "")}  # fmt: skip


def _event(row: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "at": row["at"],
        "name": row["name"],
        "series": labels.get(str(row["series_uid"]), "") if row["series_uid"] else "",
        "detail": row["detail"],
    }
