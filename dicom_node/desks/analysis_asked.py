"""What somebody asks of the desk for analyses: one photograph, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import RowMapping

from dicom_node.desks.analysis_patients import PatientSaid
from dicom_node.permissions import Person
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.spool import Upload

CONSENTS = ("care", "care-and-improvement", "not-recorded")
IMPRESSIONS = ("", "benign", "unsure", "suspicious")
MAX_TEXT = 2000
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")

NO_UPLOAD = Upload("", 0)


@dataclass(frozen=True)
class Asked:
    """What somebody asks.

    Attributes
    ----------
    upload
        The photograph, kept in the desk's spool; left out where the desk knows which one is meant.
    claimed
        Media type that the sender names; empty where it names none.
    site
        One of hers; empty: her only one.
    patient
        None: without an identity.
    order
        Accession number, at most 16 characters.
    body_site, laterality
        A name of `dicom_node.body_sites`; L, R, B, U.
    declared
        ``dermoscopic``, ``plain``, or empty where nobody says.
    consent, impression
        One of `CONSENTS`, of `IMPRESSIONS`.
    client_id
        The sender's own name of this upload: sent twice under one, it is sent once.
    """

    who: Person
    upload: Upload = NO_UPLOAD
    claimed: str = ""
    site: str = ""
    patient: PatientSaid | None = None
    order: str = ""
    body_site: str = ""
    laterality: str = ""
    description: str = ""
    declared: str = ""
    consent: str = "not-recorded"
    impression: str = ""
    client_id: str | None = None


def asked_before(who: Person, row: RowMapping, upload: Upload) -> Asked:
    """What was asked of an analysis, to be asked again."""
    told: Mapping[str, str] | None = row["patient"]
    patient = None
    if told is not None:
        is_confirmed = bool(told["confirmed"])
        patient = PatientSaid(told["id"], told["type"], told["name"], told["birth_date"], told["sex"], is_confirmed)
    return Asked(
        who,
        upload,
        site=row["site"],
        patient=patient,
        order=row["order_id"] or "",
        body_site=row["body_site"] or "",
        laterality=row["laterality"] or "",
        description=row["description"],
        declared=row["declared"]["kind"],
        consent=row["consent"],
        impression=row["impression"],
    )


def check(asked: Asked) -> None:
    """What no later check sees: words of fixed lists, and free text.

    Raises
    ------
    Refused
        ``validation``.
    """
    for value, known, what in (
        (asked.consent, CONSENTS, "consent"),
        (asked.impression, IMPRESSIONS, "impression"),
    ):
        if value not in known:
            raise Refused(RefusalCode.VALIDATION, f"{what}: {', '.join(known)}", "another word")
    if asked.client_id is not None and not _CLIENT_ID.fullmatch(asked.client_id):
        raise Refused(RefusalCode.VALIDATION, "a name of the upload: 1 to 128 printable characters", "something else")
    check_words("a description", asked.description)


def check_words(what: str, text: str, *, is_needed: bool = False) -> None:
    """Free text of a person, bounded.

    Raises
    ------
    Refused
        ``validation``.
    """
    if len(text) > MAX_TEXT or _CONTROL.search(text) or (is_needed and not text.strip()):
        raise Refused(RefusalCode.VALIDATION, f"{what} of at most {MAX_TEXT} characters", "none, or something else")
