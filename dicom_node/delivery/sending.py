"""The one verb of the room: look, send, look again."""

from __future__ import annotations

import time
from collections.abc import Callable

from dicom_node.delivery import dimse
from dicom_node.delivery.checks import DicomWebEyes, Eyes, Look, Presence
from dicom_node.delivery.dicomweb import DicomWeb
from dicom_node.delivery.folder import look_at_folder, send_to_folder
from dicom_node.delivery.ftp import FtpPlace
from dicom_node.delivery.http import look_by_http, send_by_http
from dicom_node.delivery.outcomes import Outcome
from dicom_node.delivery.placing import TurnedDown, bring, turned_down
from dicom_node.delivery.sftp import SftpPlace
from dicom_node.delivery.types import (
    Confirmation,
    CStoreTarget,
    FileTarget,
    FolderTarget,
    FtpTarget,
    HttpTarget,
    OutgoingFile,
    OutgoingObject,
    StowTarget,
    Target,
)
from dicom_node.refusals import PeerTrouble, RefusalCode, Refused

CLAIMS_BEFORE_HELD = 3
"""So many attempts in which a destination said *stored* and showed nothing are enough: then a person must look."""

Transmit = Callable[[OutgoingObject], tuple[Outcome, str, float | None]]
"""Sends once; gives the class of the answer, the answer in numbers, and the seconds it asks us to wait."""


def send(outgoing: OutgoingObject | OutgoingFile, target: Target, *, attempt: int = 1) -> Confirmation:
    """Bring one object, or one file, to one destination, and see that it is there.

    Idempotent: an object that is there already, because an earlier attempt arrived and its answer was lost, is
    confirmed without being sent again; nothing at the destination is ever overwritten.

    Parameters
    ----------
    outgoing
        The stored bytes, sent as they are.  Archives take DICOM objects; file destinations take files, and an object
        as the file that `OutgoingObject.as_file` names.
    target
        Where to.
    attempt
        Number of this attempt, from 1, as counted in the records before the call.

    Returns
    -------
    Confirmation
        The object was found by its UIDs in its study, once, under its patient, and (where the destination can be
        read) its content was equal.

    Raises
    ------
    PeerTrouble
        Try again after `backoff(…)`, not before `retry_after_s`: the destination is down, slow, busy, refuses our
        credentials, or its answer was lost.
    Refused
        To be held for a person: `patient-changed` (nothing was sent if it was seen before sending),
        `delivery-conflict`, `delivery-incomplete`; `not-authorised` or `validation` for an address that is not allowed.
    """
    if isinstance(target, FileTarget):
        return _send_file(outgoing if isinstance(outgoing, OutgoingFile) else outgoing.as_file(), target, attempt)
    if isinstance(outgoing, OutgoingFile):
        raise TypeError("an archive takes DICOM objects, not files")
    if isinstance(target, StowTarget):
        with DicomWeb(target) as web:
            return _bring(outgoing, DicomWebEyes(web), _by_stow(web), target.settle_s, attempt)
    if target.verify is not None:
        with DicomWeb(target.verify) as web:
            return _bring(outgoing, DicomWebEyes(web), _by_c_store(target), target.settle_s, attempt)
    return _bring(outgoing, dimse.FindEyes(target), _by_c_store(target), target.settle_s, attempt)


def reach(target: FileTarget) -> str:
    """Go to a file destination and come back without sending anything: address, certificate or host key, credentials.

    Returns
    -------
    str
        What was found, in words.

    Raises
    ------
    PeerTrouble, Refused
        As `send`.
    """
    if isinstance(target, FolderTarget):
        return look_at_folder(target)
    if isinstance(target, HttpTarget):
        return look_by_http(target)
    try:
        with FtpPlace(target) if isinstance(target, FtpTarget) else SftpPlace(target) as place:
            return place.look()
    except TurnedDown as no:
        raise PeerTrouble(f"the destination turned us away: {no}") from None


def _send_file(outgoing: OutgoingFile, target: FileTarget, attempt: int) -> Confirmation:
    if isinstance(target, FolderTarget):
        return send_to_folder(outgoing, target)
    if isinstance(target, HttpTarget):
        return send_by_http(outgoing, target, attempt)
    try:
        with FtpPlace(target) if isinstance(target, FtpTarget) else SftpPlace(target) as place:
            return bring(outgoing, place, attempt)
    except TurnedDown as no:  # already at the door: the folder is not there, say
        raise turned_down(no, attempt) from None


def _bring(
    outgoing: OutgoingObject, eyes: Eyes, transmit: Transmit, settle_s: tuple[float, ...], attempt: int
) -> Confirmation:
    eyes.check_patient(outgoing)
    before = eyes.look(outgoing)
    if before.presence is Presence.THERE:
        return _confirmed(outgoing, before, was_already_there=True, answer="")
    outcome, answer, wait_s = transmit(outgoing)
    after = _look_patiently(outgoing, eyes, settle_s if outcome is Outcome.CLAIMED else ())
    if after.presence is Presence.THERE:
        eyes.check_patient(outgoing)
        return _confirmed(outgoing, after, was_already_there=False, answer=answer)
    if outcome is Outcome.PERMANENT or (outcome is Outcome.CLAIMED and attempt >= CLAIMS_BEFORE_HELD):
        raise Refused(RefusalCode.DELIVERY_INCOMPLETE, "the object at the destination", answer)
    raise PeerTrouble(
        f"the destination answered {answer} and does not have the object",
        retry_after_s=wait_s,
        is_down=outcome is not Outcome.CLAIMED,
    )


def _look_patiently(outgoing: OutgoingObject, eyes: Eyes, settle_s: tuple[float, ...]) -> Look:
    """Look; an archive that said *stored* may index a moment later, so look again after each pause."""
    look = eyes.look(outgoing)
    for pause_s in settle_s:
        if look.presence is Presence.THERE:
            break
        time.sleep(pause_s)
        look = eyes.look(outgoing)
    return look


def _confirmed(outgoing: OutgoingObject, look: Look, *, was_already_there: bool, answer: str) -> Confirmation:
    return Confirmation(
        sop_instance_uid=outgoing.sop_instance_uid,
        sha256=outgoing.sha256,
        seen=look.seen,
        was_already_there=was_already_there,
        answer=answer,
        coerced=look.coerced,
    )


def _by_stow(web: DicomWeb) -> Transmit:
    def transmit(outgoing: OutgoingObject) -> tuple[Outcome, str, float | None]:
        try:
            answer, wait_s = web.store(outgoing)
        except PeerTrouble as trouble:
            # no answer is no proof of absence: the caller looks before anything is sent again
            return Outcome.UNKNOWN, f"nothing ({trouble})", trouble.retry_after_s
        return answer.outcome, answer.words, wait_s

    return transmit


def _by_c_store(target: CStoreTarget) -> Transmit:
    def transmit(outgoing: OutgoingObject) -> tuple[Outcome, str, float | None]:
        try:
            status, outcome = dimse.store(target, outgoing)
        except PeerTrouble as trouble:
            return Outcome.UNKNOWN, f"nothing ({trouble})", trouble.retry_after_s
        return outcome, f"{status:04X}H", None

    return transmit
