"""Places: where the jobs of a study stand in the queues, by who brought it and how urgent that is."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from sqlalchemy import Connection

from dicom_node.durable import Put
from dicom_node.record import analyses, queueing, studies
from dicom_node.record.revisions import load_revision
from dicom_node.settings import Settings
from dicom_node.stages.analysis_places import QUEUE as PHOTOS
from dicom_node.turns import ROUTINE, STAT, place
from dicom_node.words import PHOTOS_AE

UNKNOWN = "unknown"


def read_put(settings: Settings, connection: Connection, revision_id: int) -> Put:
    """The job that reads a closed revision, at its study's place."""
    row = studies.revision_row(connection, revision_id)
    title = studies.calling_ae(connection, row["series_uid"]) or UNKNOWN
    header = load_revision(connection, revision_id).instances[0].header
    submitter = analyses.submitter_of(connection, str(row["study_uid"])) if title == PHOTOS_AE else None
    submitter = submitter or submitter_of(settings, title, header.get("StationName"))
    turn = queueing.take_for_study(connection, str(row["study_uid"]), submitter, besides=revision_id)
    at = place(urgency_of(settings, title), turn)
    return Put(_queue_of({title}), "read", f"read/{revision_id}", ("revision", revision_id), at)


def quiet_put(settings: Settings, connection: Connection, study_uid: str, number: int) -> Put:
    """The job that decides on a study whose quiet period is over."""
    study = studies.study_row(connection, study_uid)
    turn = queueing.take_for_study(connection, study_uid, study["submitter"] or UNKNOWN)
    titles = {
        studies.calling_ae(connection, row["uid"]) or UNKNOWN for row in studies.series_rows(connection, study_uid)
    }
    at = place(min((urgency_of(settings, title) for title in titles), default=ROUTINE), turn)
    return Put(_queue_of(titles), "read", f"quiet/{study_uid}/{number}", ("study", study_uid), at)


def _queue_of(titles: Set[str]) -> str:
    """Photographs that came in by the portal or the API have a queue of their own."""
    return PHOTOS if titles == {PHOTOS_AE} else "cpu"


def submitter_of(settings: Settings, title: str, station: Any) -> str:
    """Who brought a series: its sender, and where that is an archive that forwards for many, the station behind it."""
    sender = settings.sender(title)
    return f"{title}/{station}"[:64] if station and sender is not None and sender.is_archive else title


def urgency_of(settings: Settings, title: str) -> int:
    """How urgent what a sender brings is; a route may make it more urgent once it is known."""
    sender = settings.sender(title)
    return STAT if sender is not None and sender.priority == "stat" else ROUTINE
