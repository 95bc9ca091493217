"""Take out of the records who the patient of a study is: what a deletion of files leaves behind in the database.

What stays says nothing of a person: UIDs, digests, times, states, what the geometry of images was, the model's names,
sex and age, and histology, whose diagnosis is a code.  Free words that people wrote about the patient go too, because
they may name her.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.record.tables import analyses, instances, pixels_seen, reviews, runs, series, studies

IDENTIFYING = frozenset(
    {
        "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber",
        "ReferringPhysicianName", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName", "StationName",
        "InstitutionName", "RequestedProcedureID", "RequestedProcedureDescription", "PerformedProcedureStepDescription",
        "OperatorsName", "ImageComments", "PatientComments",
    }
)  # fmt: skip
"""Keywords that say who somebody is, or hold words that a person typed."""

GONE = "removed"
"""Stands in an analysis' patient where an identity was."""


def forget_identity(connection: Connection, study_uid: str, at: str) -> None:
    """Clear it in every table that has it, in the caller's transaction."""
    connection.execute(update(studies).where(studies.c.uid == study_uid).values(identity={}, identity_removed_at=at))
    for table, column in ((instances, instances.c.header), (series, series.c.facts)):
        rows = connection.execute(
            select(table.c.uid, column.label("told")).where(table.c.study_uid == study_uid, column.is_not(None))
        ).all()
        for row in rows:
            connection.execute(update(table).where(table.c.uid == row.uid).values({column: without(row.told)}))
    for run in connection.execute(select(runs.c.id, runs.c.identity).where(runs.c.study_uid == study_uid)).all():
        connection.execute(update(runs).where(runs.c.id == run.id).values(identity=without(run.identity)))
    connection.execute(pixels_seen.delete().where(pixels_seen.c.study_uid == study_uid))
    for asked in connection.execute(select(analyses).where(analyses.c.study_uid == study_uid)).mappings().all():
        forget_analysis(connection, int(asked["id"]), asked["patient"], at)


def forget_analysis(connection: Connection, number: int, patient: Mapping[str, str] | None, at: str) -> None:
    """Clear what an analysis and its answers say about the patient; how the identity had been confirmed stays."""
    blank = None
    if patient is not None:
        blank = {**dict.fromkeys(patient, ""), "confirmed": patient.get("confirmed", ""), GONE: at}
    values: dict[str, Any] = {"patient": blank, "order_id": None, "description": ""}
    connection.execute(update(analyses).where(analyses.c.id == number).values(**values))
    withdrawn = analyses.c.withdrawn_reason.is_not(None)
    connection.execute(update(analyses).where(analyses.c.id == number, withdrawn).values(withdrawn_reason=""))
    connection.execute(update(reviews).where(reviews.c.analysis_id == number).values(reply=""))


def without(told: Any) -> Any:
    """JSON without the identifying keywords, at any depth."""
    if isinstance(told, Mapping):
        return {key: without(value) for key, value in told.items() if key not in IDENTIFYING}
    if isinstance(told, list | tuple):
        return [without(value) for value in told]
    return told
