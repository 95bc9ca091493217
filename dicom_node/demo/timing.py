"""How long each stage took, from the node's own record of one study; for the demonstration and for the bench."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

OBJECTS = ("seg", "pdf", "sc", "sr", "ko")
"""Kinds of deliveries that are DICOM objects; the others are reports."""

Story = Mapping[str, Any]
"""What `ai-node study show --json` says of a study."""


def instant(text: str) -> datetime:
    """A time of the record."""
    return datetime.fromisoformat(text)


def marks(story: Story, series_uid: str) -> dict[str, datetime]:
    """The instants of the road for the newest result of a study.

    Returns
    -------
    dict
        ``complete`` (the series was judged complete), ``quiet`` (the study was, where the result waited for that),
        ``run`` (a case was assembled), ``infer``, ``inferred``, ``write``, ``built``, then
        ``confirmed:<destination>:<object>``; only those that have been passed.
    """
    found: dict[str, datetime] = {}
    closed = [r["closed_at"] for r in story["revisions"] if r["series_uid"] == series_uid]
    if closed:
        found["complete"] = instant(max(closed))
    rows = [r for r in story["run_rows"] if r["state"] != "superseded"]
    if not rows:
        return found
    run = max(rows, key=lambda row: int(row["id"]))
    found["run"] = instant(run["created_at"])
    quiet = [instant(event["at"]) for event in story["timeline"] if event["name"] == "study.quiet"]
    before = [at for at in quiet if found.get("complete", at) <= at <= found["run"]]
    if before:
        found["quiet"] = before[-1]
    for attempt in story["attempts"]:
        if attempt["run_id"] != run["id"]:
            continue
        names = {"infer": ("infer", "inferred"), "write": ("write", "built")}.get(attempt["stage"])
        if names is not None:
            found[names[0]] = instant(attempt["started_at"])
            if attempt["ended_at"]:
                found[names[1]] = instant(attempt["ended_at"])
    for delivery in story["deliveries"]:
        if delivery["run_id"] == run["id"] and delivery["confirmed_at"]:
            found[f"confirmed:{delivery['destination']}:{delivery['kind']}"] = instant(delivery["confirmed_at"])
    return found


def network_call_s(story: Story) -> float | None:
    """Seconds in the network alone, as the engine reported them with the findings; None before that."""
    for event in reversed(story["timeline"]):
        if event["name"] == "run.inferred":
            seconds = event["detail"].get("seconds", {})
            return float(seconds.get("network", seconds.get("predict", 0.0)))
    return None


def stages(story: Story, series_uid: str, last_response: datetime) -> list[tuple[str, float]]:
    """Stage by stage: name and seconds, from the sender's last C-STORE response to the readable report."""
    at = marks(story, series_uid)
    pacs = [when for name, when in at.items() if name.startswith("confirmed:") and name.endswith(OBJECTS)]
    report = [when for name, when in at.items() if name.startswith("confirmed:") and not name.endswith(OBJECTS)]
    line: list[tuple[str, datetime | None]] = [
        ("series complete (archive waits, forwards; node judges)", at.get("complete")),
        ("study quiet (a route that stands in for another waits for it)", at.get("quiet")),
        ("volume built, case assembled", at.get("infer")),
        ("model", at.get("inferred")),
        ("objects built and checked", at.get("built")),
        ("in the archive, looked for and compared", max(pacs, default=None)),
        ("DiagnosticReport readable", max(report, default=None)),
    ]
    result: list[tuple[str, float]] = []
    before = last_response
    for name, when in line:
        if when is None:
            continue
        result.append((name, (when - before).total_seconds()))
        before = max(before, when)
    return result
