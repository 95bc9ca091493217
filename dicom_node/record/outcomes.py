"""What became of a lesion: histology with its date, as it was told by page, table or API.

Rows are only added; the latest counts, and the ones before show that somebody corrected himself.  The diagnosis is one
word of a closed list (`dicom_node.diagnoses`): no free text, no patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select

from dicom_node.diagnoses import BENIGN, DIAGNOSES, MALIGNANT, MELANOMAS
from dicom_node.record import audit
from dicom_node.record.database import now
from dicom_node.record.tables import analyses, cases, outcomes, runs
from dicom_node.record.timeline import note
from dicom_node.words import RunState

Source = Literal["page", "csv", "api"]
_A_DAY = timedelta(days=1)
"""Dates are told in the clock of whoever tells them; the record's is UTC."""

REASONS: Mapping[str, str] = {
    "diagnosis-unknown": f"diagnosis: expected one of {', '.join(DIAGNOSES)}",
    "malignant-unclear": "malignant: expected true or false, or nothing",
    "contradiction": "malignant: the diagnosis says the opposite; correct one of the two",
    "date-unclear": "on_date: expected the date of the histology as YYYY-MM-DD",
    "date-in-future": "on_date: the date lies in the future",
    "date-before-photograph": "on_date: the histology is older than the photograph; it speaks of something else",
}
"""Why an outcome is not taken, by the key under which pages have it in each language."""


class OutcomeRefused(ValueError):
    """The outcome cannot be taken; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(REASONS[reason])


@dataclass(frozen=True)
class Outcome:
    """What histology said, and the day of its report (YYYY-MM-DD)."""

    diagnosis: str
    on_date: str

    @property
    def malignant(self) -> bool:
        return self.diagnosis in MALIGNANT

    @property
    def melanoma(self) -> bool:
        return self.diagnosis in MELANOMAS


def told(diagnosis: str, on_date: str, malignant: bool | None, asked_at: str) -> Outcome:
    """An outcome as somebody told it, if it can be true.

    Parameters
    ----------
    malignant
        What was said beside the diagnosis; None: nothing.
    asked_at
        When the photograph was sent, as the record writes it.

    Raises
    ------
    OutcomeRefused
    """
    if diagnosis not in (*MALIGNANT, *BENIGN):
        raise OutcomeRefused("diagnosis-unknown")
    made = Outcome(diagnosis, on_date)
    if malignant is not None and malignant != made.malignant:
        raise OutcomeRefused("contradiction")
    try:
        day = date.fromisoformat(on_date)
    except ValueError:
        raise OutcomeRefused("date-unclear") from None
    if day.isoformat() != on_date:
        raise OutcomeRefused("date-unclear")
    if day > datetime.now(UTC).date() + _A_DAY:
        raise OutcomeRefused("date-in-future")
    if day < datetime.fromisoformat(asked_at).date() - _A_DAY:
        raise OutcomeRefused("date-before-photograph")
    return made


def write(
    connection: Connection, analysis: Mapping[str, Any], outcome: Outcome, *, source: Source, actor: str, user_id: Any
) -> bool:
    """Add an outcome, audited; whether there was anything new in it.

    Parameters
    ----------
    analysis
        Row of `analyses`.
    user_id
        Of `users`; None where a key without an account tells it.
    """
    before = latest(connection, [analysis["id"]]).get(analysis["id"])
    if before is not None and (before["diagnosis"], before["on_date"]) == (outcome.diagnosis, outcome.on_date):
        return False
    connection.execute(
        insert(outcomes).values(
            analysis_id=analysis["id"],
            malignant=outcome.malignant,
            diagnosis=outcome.diagnosis,
            on_date=outcome.on_date,
            source=source,
            user_id=user_id,
            at=now(),
        )
    )
    note(connection, "outcome.written", analysis["study_uid"], source=source, corrects=before is not None)
    audit.append(
        connection, actor, "outcome-written", analysis["study_uid"], analysis=analysis["public_id"], source=source
    )
    return True


def latest(connection: Connection, analysis_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The outcome that counts of each of these analyses that has one."""
    newest = (
        select(func.max(outcomes.c.id))
        .where(outcomes.c.analysis_id.in_(list(analysis_ids)))
        .group_by(outcomes.c.analysis_id)
    )
    rows = connection.execute(select(outcomes).where(outcomes.c.id.in_(newest))).mappings()
    return {int(row["analysis_id"]): dict(row) for row in rows}


def without(connection: Connection, sites: Collection[str], limit: int) -> list[dict[str, Any]]:
    """Analyses of these sites of which nobody has told an outcome, oldest first; withdrawn ones left out."""
    query = select(analyses).where(
        analyses.c.site.in_(list(sites)),
        analyses.c.withdrawn_at.is_(None),
        analyses.c.id.not_in(select(outcomes.c.analysis_id)),
    )
    return [dict(row) for row in connection.execute(query.order_by(analyses.c.id).limit(limit)).mappings()]


@dataclass(frozen=True)
class Followed:
    """An analysis that a model answered, the run that did, and what came of the lesion."""

    analysis: Mapping[str, Any]
    run_id: int
    outcome: Outcome | None


def followed(connection: Connection, model: str, since: str) -> list[Followed]:
    """Every analysis since a day that this model answered, in any version; withdrawn ones left out.

    Parameters
    ----------
    since
        As the record writes times, or the beginning of such a text.
    """
    newest = (
        select(runs.c.study_uid, func.max(runs.c.id).label("run_id"))
        .join(cases, cases.c.id == runs.c.case_id)
        .where(cases.c.model.startswith(f"{model}@", autoescape=True), runs.c.state == RunState.BUILT.value)
        .group_by(runs.c.study_uid)
        .subquery()
    )
    query = (
        select(analyses, newest.c.run_id)
        .join(newest, newest.c.study_uid == analyses.c.study_uid)
        .where(analyses.c.created_at >= since, analyses.c.withdrawn_at.is_(None))
        .order_by(analyses.c.id)
    )
    rows = list(connection.execute(query).mappings())
    known = _latest_of_all(connection, since)
    return [Followed(dict(row), int(row["run_id"]), known.get(int(row["id"]))) for row in rows]


def _latest_of_all(connection: Connection, since: str) -> dict[int, Outcome]:
    """By analysis; one query however many there are."""
    query = (
        select(outcomes.c.analysis_id, outcomes.c.diagnosis, outcomes.c.on_date)
        .join(analyses, analyses.c.id == outcomes.c.analysis_id)
        .where(analyses.c.created_at >= since)
        .order_by(outcomes.c.id)
    )
    return {int(row.analysis_id): Outcome(row.diagnosis, row.on_date) for row in connection.execute(query)}
