"""Reading an archive for a person who picks a study: QIDO-RS (PS3.18 10.6) to find it, WADO-RS (10.4) to fetch it.

URLs, credentials and limits: `web`.  What an archive answers beyond what was asked for is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.delivery import multipart
from dicom_node.delivery.dicomweb import DicomWeb, match_text
from dicom_node.delivery.web import trouble

MOST = 100
KEYS = {"patient": "PatientID", "accession": "AccessionNumber"}
"""By what a study is looked for: exactly, so that nobody leafs through an archive."""

_JSON = "application/dicom+json"
# one parameter for each: a list with commas, which HTTP clients escape, is read by some archives and not by Orthanc
_STUDY_FIELDS = (
    "00100010", "00100020", "00100030", "00080020", "00080050", "00080080", "00081030", "00080061", "00201206",
    "00201208",
)  # fmt: skip
_SERIES_FIELDS = ("00080060", "0020000E", "00201209")
_NO_IMAGES = frozenset({"SR", "SEG", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "FID", "AU", "ECG"})


@dataclass(frozen=True)
class FoundStudy:
    """One study that an archive lists."""

    uid: str
    patient_name: str
    patient_id: str
    birth_date: str
    date: str
    accession: str
    description: str
    modalities: str
    series: str
    instances: str
    institution: str = ""
    """Institution Name (0008,0080), as far as the archive keeps one for a study."""


@dataclass(frozen=True)
class FoundSeries:
    """One series of a study, as far as it may hold images."""

    uid: str
    modality: str
    instances: int


class SearchableArchive(DicomWeb):
    """A connection to an archive for somebody who looks for a study.  Use as a context manager."""

    def find(self, by: str, value: str) -> list[FoundStudy]:
        """Studies with exactly this patient identifier or accession number, newest first, `MOST` at most.

        Parameters
        ----------
        by
            Of `KEYS`.
        value
            Without wildcards: those of QIDO-RS (``*``, ``?``) find nothing.

        Raises
        ------
        PeerTrouble
        """
        if not value or set(value) & set("*?\\"):
            return []
        asked = {KEYS[by]: value, "includefield": _STUDY_FIELDS, "limit": str(MOST)}
        found = [
            FoundStudy(
                uid=match_text(match, "0020000D"),
                patient_name=match_text(match, "00100010"),
                patient_id=match_text(match, "00100020"),
                birth_date=match_text(match, "00100030"),
                date=match_text(match, "00080020"),
                accession=match_text(match, "00080050"),
                description=match_text(match, "00081030"),
                modalities=match_text(match, "00080061"),
                series=match_text(match, "00201206"),
                instances=match_text(match, "00201208"),
                institution=match_text(match, "00080080"),
            )
            for match in self.matches("/studies", asked)
        ]
        # an archive that does not know the key, or folds its case, answers with others: keep what was asked for
        same = [one for one in found if (one.patient_id if by == "patient" else one.accession) == value]
        return sorted(same, key=lambda one: one.date, reverse=True)[:MOST]

    def series(self, study_uid: str) -> list[FoundSeries]:
        """The series of a study that may hold images.

        Raises
        ------
        PeerTrouble
        """
        rows = self.matches(f"/studies/{study_uid}/series", {"includefield": _SERIES_FIELDS})
        found = [
            FoundSeries(
                match_text(match, "0020000E"),
                match_text(match, "00080060"),
                int(text) if (text := match_text(match, "00201209")).isdigit() else 0,
            )
            for match in rows
        ]
        return [one for one in found if one.uid and one.modality not in _NO_IMAGES]

    def objects(self, study_uid: str, series_uid: str, cap_bytes: int) -> list[bytes]:
        """Every object of a series as a Part 10 file, as it is stored.

        Raises
        ------
        PeerTrouble
            If the answer is longer than `cap_bytes`, or anything but the objects.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        path = f"/studies/{study_uid}/series/{series_uid}"
        answer = self.request("GET", path, headers={"Accept": accept}, cap_bytes=cap_bytes)
        if answer.status in (404, 410):
            return []
        if answer.status != 200 or answer.body is None:
            raise trouble(f"answered HTTP {answer.status} when asked for a series, or with more than fits", answer)
        try:
            return multipart.split(answer.content_type, answer.body)
        except multipart.MultipartUnreadable:
            raise trouble("did not answer with the objects of a series when asked for them", answer) from None
