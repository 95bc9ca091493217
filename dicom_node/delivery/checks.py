"""Looking: is the object at the destination, whole, once, and under the right patient and study?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dicom_node.delivery.compare import Likeness, compare
from dicom_node.delivery.dicomweb import DicomWeb, Listed
from dicom_node.delivery.types import OutgoingObject, Seen
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused


class Presence(StrEnum):
    ABSENT = "absent"
    THERE = "there"


@dataclass(frozen=True)
class Look:
    """What was seen at the destination."""

    presence: Presence
    seen: Seen = Seen.CONTENT
    coerced: tuple[str, ...] = ()


class Eyes(Protocol):
    """A way to look into an archive: DICOMweb or C-FIND."""

    def check_patient(self, outgoing: OutgoingObject) -> None:
        """Raise `Refused` (`patient-changed`) if the archive has the study twice, or under another patient."""

    def look(self, outgoing: OutgoingObject) -> Look:
        """Find the object by its UIDs and compare it, or raise `Refused` (`delivery-conflict`, `patient-changed`)."""


def check_identity(outgoing: OutgoingObject, studies: list[tuple[str, str]]) -> None:
    """The archive's (Patient ID, issuer) for our study against those written in the object (hardening: identity).

    Orthanc keys a study by Patient ID and Study Instance UID: a result with an old Patient ID makes a second study
    that nobody opens, and the answer is *success*.  An issuer that only one side knows is not a contradiction.

    Raises
    ------
    Refused
        `patient-changed`.
    """
    if len(studies) > 1:
        raise Refused(
            RefusalCode.PATIENT_CHANGED,
            "one study with this Study Instance UID",
            f"{len(studies)} studies at the destination",
        )
    for patient_id, issuer in studies:
        if patient_id != outgoing.patient_id:
            raise Refused(RefusalCode.PATIENT_CHANGED, "the Patient ID of the images as received", "another Patient ID")
        if issuer and outgoing.issuer_of_patient_id and issuer != outgoing.issuer_of_patient_id:
            raise Refused(
                RefusalCode.PATIENT_CHANGED, "the Issuer of Patient ID of the images as received", "another issuer"
            )


def check_place(outgoing: OutgoingObject, listed: list[Listed]) -> None:
    """Raise `Refused` (`delivery-conflict`) unless the object is listed once, in its study and series."""
    if len(listed) != 1:
        raise Refused(
            RefusalCode.DELIVERY_CONFLICT, "one object with its SOP Instance UID", f"{len(listed)} at the destination"
        )
    item = listed[0]
    wrong = [
        name
        for name, theirs, ours in (
            ("study", item.study_uid, outgoing.study_uid),
            ("series", item.series_uid, outgoing.series_uid),
            ("SOP Class", item.sop_class_uid, outgoing.sop_class_uid),
        )
        if theirs and theirs != ours
    ]
    if wrong:
        raise Refused(RefusalCode.DELIVERY_CONFLICT, "the object in its own study and series", f"another {wrong[0]}")


class DicomWebEyes:
    """Looks by QIDO-RS, reads back by WADO-RS."""

    def __init__(self, web: DicomWeb) -> None:
        self._web = web

    def check_patient(self, outgoing: OutgoingObject) -> None:
        found = [
            (study.patient_id, study.issuer_of_patient_id)
            for study in self._web.studies(outgoing.study_uid)
            if study.study_uid == outgoing.study_uid
        ]
        check_identity(outgoing, found)

    def look(self, outgoing: OutgoingObject) -> Look:
        listed = self._web.instances(outgoing.sop_instance_uid)
        if not listed:
            return Look(Presence.ABSENT)
        check_place(outgoing, listed)
        found = self._web.retrieve(outgoing)
        if found is None:
            raise PeerTrouble("the destination lists the object but does not give it back")
        result = compare(outgoing, found)
        if result.likeness is Likeness.OTHER_ENCODING:
            again = self._web.retrieve(outgoing, outgoing.transfer_syntax_uid)
            if again is None:
                raise PeerTrouble("the destination lists the object but does not give it back")
            result = compare(outgoing, again, same_syntax_asked=True)
        if result.likeness is Likeness.OTHER_PATIENT:
            raise Refused(RefusalCode.PATIENT_CHANGED, "the object under its own patient", "another patient")
        if result.likeness is not Likeness.EQUAL:
            raise Refused(RefusalCode.DELIVERY_CONFLICT, "the content that was sent", result.likeness.value)
        return Look(Presence.THERE, Seen.CONTENT, result.coerced)
