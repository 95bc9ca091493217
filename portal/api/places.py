"""Where a request is found again, and how long it was worked on: the same for volumes and photographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from dicom_node.stages.prediction_words import FILES

Row = RowMapping | Mapping[str, Any]


def links(row: Row, here: str) -> dict[str, Any]:
    """Where a request can be followed, cancelled and fetched from, in the state that it is in."""
    found: dict[str, Any] = {"self": here, "events": f"{here}/events"}
    if row["state"] in ("queued", "running"):
        found["cancel"] = f"{here}/cancel"
    if row["state"] == "built":
        found["files"] = {name: f"{here}/files/{name}" for name in FILES if name in (row["files"] or {})}
    return found


def elapsed(row: Row) -> float:
    """Seconds of work, without the time in which the request waited for its turn."""
    seconds = row["seconds"]
    return round(sum(float(seconds.get(stage, 0.0)) for stage in ("read", "infer", "write")), 3)
