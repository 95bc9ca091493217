"""What a row of `analyses` says about a photograph, as desk and worker both read it.

Nothing here opens an image, so the web process stays small.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Literal, cast
from zoneinfo import ZoneInfo

from dicom_node.body_sites import body_site
from dicom_node.photo import Occasion, Patient
from dicom_node.record.analyses import Row
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.settings import NodeSection
from dicom_node.stages.prediction_facts import local_time

PSEUDONYMS = "urn:ainode:pseudonym"
"""Issuer under which the node names those whom nobody has named: such an id means nothing anywhere else."""


def patient_of(row: Row) -> Patient:
    """Whose photograph it is: as it was confirmed, else under the pseudonym.

    Raises
    ------
    Refused
        ``patient-unidentified`` or ``validation`` for what no Patient ID can be.
    """
    told = row["patient"]
    if told is None:
        return Patient(str(row["pseudonym"]), PSEUDONYMS, is_pseudonym=True)
    return Patient(told["id"], told["issuer"], told["name"], told["birth_date"], told["sex"])


def occasion_of(row: Row, node: NodeSection) -> Occasion:
    """What its sender says about the taking of the photograph.

    Raises
    ------
    Refused
        ``validation``.
    """
    name = row["body_site"] or ""
    site = body_site(name) if name else None
    if name and site is None:
        raise Refused(RefusalCode.VALIDATION, "body site: a name of the table of body sites", "another word")
    return Occasion(
        local_time(node, row["created_at"]),
        order=row["order_id"] or "",
        body_site=site,
        laterality=row["laterality"] or "",
        declared=cast(Literal["dermoscopic", "plain", ""], row["declared"]["kind"]),
    )


def day_of(day: date, node: NodeSection) -> str:
    """When a day begins by the site's clock, as the record writes times."""
    zone = ZoneInfo(node.timezone) if node.timezone else None
    start = datetime.combine(day, time(), zone)
    if zone is None:
        start = datetime.fromisoformat(f"{start.isoformat()}{node.timezone_offset}")
    return start.astimezone(UTC).isoformat(timespec="microseconds")
