"""The same pixels under two patients: somebody sent a study under a wrong name, or a copy of it under another.

Both keep their own result set, made for the patient at hand; both timelines say so, and a person has to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Connection

from dicom_node.record import digest, predictions
from dicom_node.record.timeline import note

log = structlog.get_logger()

WARNING = "The same pixels are known under another patient: one of the two has a wrong name, or is a copy."
_WHO = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")


def note_twins(
    connection: Connection, pictures: Mapping[str, str], attributes: Mapping[str, Any], study_uid: str
) -> bool:
    """Write down which patient brought which pixels to a model, and warn in every timeline where two did.

    Parameters
    ----------
    pictures
        Role to `prediction_cache.pixels_digest`.
    attributes
        Of the patient at hand, by keyword; one without an identifier and a name is nobody and is not compared.

    Returns
    -------
    bool
        Whether another patient brought the same pixels before.
    """
    told = [str(attributes.get(keyword) or "") for keyword in _WHO]
    if not any(told[:3:2]):
        return False
    others: dict[str, list[str]] = {}
    for role, picture in pictures.items():
        for other in predictions.other_patients(connection, picture, digest(told), study_uid):
            others.setdefault(other, []).append(role)
    for other, roles in others.items():
        for one in (study_uid, other):
            note(connection, "pixels.other-patient", one, roles=sorted(roles), warning=WARNING)
            predictions.warn_study(connection, one, WARNING)
    if others:
        log.warning("pixels.other-patient", count=len(others))
    return bool(others)
