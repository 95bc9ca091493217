"""The three DICOMweb requests of delivery: QIDO-RS, WADO-RS and STOW-RS (PS3.18 sections 10.6, 10.4, 10.5).

URLs, credentials and limits: `web`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.delivery import multipart
from dicom_node.delivery.outcomes import StowAnswer, read_stow_answer
from dicom_node.delivery.types import OutgoingObject, text_of
from dicom_node.delivery.web import ANSWER_CAP_BYTES, Web, trouble

_JSON = "application/dicom+json"


@dataclass(frozen=True)
class Listed:
    """One match of a query, with what it says about where it belongs; absent attributes are empty."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    patient_id: str
    issuer_of_patient_id: str


class DicomWeb(Web):
    """A connection to one archive, for one delivery.  Use as a context manager."""

    def studies(self, study_uid: str) -> list[Listed]:
        """Every study the archive lists under this Study Instance UID (QIDO-RS); more than one is a split patient."""
        return self._query("/studies", {"StudyInstanceUID": study_uid, "includefield": "00100020,00100021"})

    def instances(self, sop_instance_uid: str) -> list[Listed]:
        """Every instance the archive lists under this SOP Instance UID, in whatever study and series."""
        return self._query(
            "/instances", {"SOPInstanceUID": sop_instance_uid, "includefield": "00100020,00100021,0020000D,0020000E"}
        )

    def retrieve(self, sent: OutgoingObject, transfer_syntax: str = "*") -> bytes | None:
        """The stored instance as a Part 10 object (WADO-RS); None when the archive says that it has it not.

        Parameters
        ----------
        sent
            Names study, series and instance; twice its size is the most that is read.
        transfer_syntax
            ``*`` for the bytes as stored.

        Raises
        ------
        PeerTrouble
            If the answer is anything but the one instance.
        """
        path = f"/studies/{sent.study_uid}/series/{sent.series_uid}/instances/{sent.sop_instance_uid}"
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={transfer_syntax}'
        cap = 2 * len(sent.data) + ANSWER_CAP_BYTES
        answer = self.request("GET", path, headers={"Accept": accept}, cap_bytes=cap)
        if answer.status in (404, 410):
            return None
        if answer.status != 200 or answer.body is None:
            raise trouble(f"answered HTTP {answer.status} when asked for the stored object", answer)
        try:
            parts = multipart.split(answer.content_type, answer.body)
        except multipart.MultipartUnreadable:
            raise trouble("did not answer with the stored object when asked for it", answer) from None
        if len(parts) != 1:
            raise trouble("answered with another number of objects than the one it was asked for", answer)
        return parts[0]

    def store(self, outgoing: OutgoingObject) -> tuple[StowAnswer, float | None]:
        """Send one object in one request to the URL of its study (STOW-RS).

        Returns
        -------
        (StowAnswer, float or None)
            What the answer says about our instance, and the seconds it asks us to wait.

        Raises
        ------
        PeerTrouble
            If no whole answer came: whether the object was stored is unknown.
        """
        content_type, body = multipart.build(outgoing.data)
        answer = self.request(
            "POST",
            f"/studies/{outgoing.study_uid}",
            headers={"Accept": _JSON, "Content-Type": content_type},
            content=body,
        )
        return read_stow_answer(answer.status, answer.json(), outgoing.sop_instance_uid), answer.retry_after_s

    def matches(self, path: str, params: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
        """What the archive lists for a query (QIDO-RS), as it says it.

        Raises
        ------
        PeerTrouble
            If the answer is no list of matches.
        """
        answer = self.request("GET", path, params=params, headers={"Accept": _JSON})
        if answer.status in (204, 404):
            return []
        body = answer.json()
        if answer.status != 200 or not isinstance(body, list) or not all(isinstance(match, dict) for match in body):
            raise trouble(f"answered a query with HTTP {answer.status} and no list of matches", answer)
        return body

    def _query(self, path: str, params: Mapping[str, str]) -> list[Listed]:
        uid = params.get("SOPInstanceUID")
        listed = [(match_text(match, "00080018"), _listed(match)) for match in self.matches(path, params)]
        # an archive that does not know the key answers with everything: keep what was asked for
        return [item for found, item in listed if uid is None or found == uid]


def _listed(match: dict[str, Any]) -> Listed:
    return Listed(
        study_uid=match_text(match, "0020000D"),
        series_uid=match_text(match, "0020000E"),
        sop_class_uid=match_text(match, "00080016"),
        patient_id=match_text(match, "00100020"),
        issuer_of_patient_id=match_text(match, "00100021"),
    )


def match_text(match: Mapping[str, Any], tag: str) -> str:
    """The values of an attribute of a match as one text, of a name its alphabetic form; empty where there is none."""
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    told = [one.get("Alphabetic") if isinstance(one, dict) else one for one in values or ()]
    return ", ".join(filter(None, map(text_of, told)))
