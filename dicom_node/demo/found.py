"""What came back: result objects of a study as the archive gives them, and the segmentation against the truth.

Everything is fetched from outside, by DICOMweb of the archive and by the node's FHIR endpoint, as a viewer and an EHR
would; nothing is taken from the node's own files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread

from dicom_node.refusals import PeerTrouble

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORTS = (
    "1.2.840.10008.5.1.4.1.1.88.22",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.88.34",
)
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
KINDS: Mapping[str, str] = {
    SEGMENTATION: "SEG",
    ENCAPSULATED_PDF: "PDF",
    **dict.fromkeys(REPORTS, "SR"),
    "1.2.840.10008.5.1.4.1.1.7": "SC",
    "1.2.840.10008.5.1.4.1.1.88.59": "KO",
}


@dataclass(frozen=True, eq=False)
class FoundObject:
    """One result object as the archive keeps it."""

    kind: str
    dataset: Dataset
    data: bytes


class Archive:
    """Reads one archive by QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4)."""

    def __init__(self, dicomweb_url: str, username: str = "", password: str = "") -> None:
        auth = httpx.BasicAuth(username, password) if username else None
        self._http = httpx.Client(timeout=30.0, trust_env=False, auth=auth)
        self._root = dicomweb_url.rstrip("/")

    def close(self) -> None:
        self._http.close()

    def instances(self, study_uid: str) -> list[dict[str, Any]]:
        """QIDO-RS: all instances of a study, page after page."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self._get(
                f"/studies/{study_uid}/instances",
                "application/dicom+json",
                limit="500",
                offset=str(len(found)),
                includefield="00080016,0020000E",
            )
            page = json.loads(answer.content) if answer.status_code == 200 else []
            found += page
            if len(page) < 500:
                return found

    def results(self, study_uid: str) -> list[FoundObject]:
        """The result objects of a study, read whole."""
        found = []
        for match in self.instances(study_uid):
            kind = KINDS.get(_first(match, "00080016"))
            if kind is None:
                continue
            series, uid = _first(match, "0020000E"), _first(match, "00080018")
            path = f"/studies/{study_uid}/series/{series}/instances/{uid}"
            answer = self._get(path, 'multipart/related; type="application/dicom"; transfer-syntax=*')
            data = _only_part(answer)
            found.append(FoundObject(kind, dcmread(BytesIO(data)), data))
        return sorted(found, key=lambda item: list(KINDS.values()).index(item.kind))

    def _get(self, path: str, accept: str, **params: str) -> httpx.Response:
        try:
            answer = self._http.get(self._root + path, params=params, headers={"Accept": accept})
        except httpx.HTTPError as error:
            raise PeerTrouble(f"the archive did not answer ({type(error).__name__})") from None
        if answer.status_code not in (200, 204):
            raise PeerTrouble(f"the archive answered HTTP {answer.status_code}")
        return answer


def _first(match: Mapping[str, Any], tag: str) -> str:
    values = match.get(tag, {}).get("Value", [""])
    return str(values[0])


def _only_part(answer: httpx.Response) -> bytes:
    boundary = answer.headers["Content-Type"].partition("boundary=")[2].partition(";")[0].strip('"').encode()
    body = answer.content.partition(b"--" + boundary)[2].partition(b"\r\n\r\n")[2]
    return body.rpartition(b"\r\n--" + boundary)[0]


def mask_of(segmentation: Dataset, slice_uids: Sequence[str], shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """All segments of a SEG together, on the grid of its source series.

    Parameters
    ----------
    segmentation
        BINARY, one frame per segment and slice; each frame names its source instance (PS3.3 C.8.20.2).
    slice_uids
        SOP Instance UIDs of the source slices in array order.
    shape
        (S, R, C).

    Returns
    -------
    (S, R, C) bool.
    """
    frames = segmentation.pixel_array.reshape(-1, *shape[1:])
    index = {uid: number for number, uid in enumerate(slice_uids)}
    mask = np.zeros(shape, dtype=np.bool_)
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        mask[index[str(source.ReferencedSOPInstanceUID)]] |= frame.astype(bool)
    return mask


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Dice's coefficient; 1 when both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2.0 * int((first & second).sum()) / total


def save(objects: Sequence[FoundObject], folder: Path) -> dict[str, Path]:
    """Write what was found to files a person can open: ``seg.dcm``, ``sr.dcm``, ``report.pdf``."""
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for item in objects:
        if item.kind == "PDF":
            path = folder / "report.pdf"
            length = item.dataset.get("EncapsulatedDocumentLength") or len(item.dataset.EncapsulatedDocument)
            path.write_bytes(item.dataset.EncapsulatedDocument[: int(length)])
        else:
            path = folder / f"{item.kind.lower()}.dcm"
            path.write_bytes(item.data)
        written[item.kind] = path
    return written


def diagnostic_report(base_url: str, key: str, study_uid: str) -> dict[str, Any] | None:
    """The FHIR R4 DiagnosticReport of a study from the node's own endpoint, found through its ImagingStudy."""
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/fhir+json"}
    params = {"_count": "100"}
    try:
        answer = httpx.get(
            f"{base_url}/fhir/DiagnosticReport", params=params, headers=headers, timeout=20.0, trust_env=False
        )
    except httpx.HTTPError as error:
        raise PeerTrouble(f"the node's FHIR endpoint did not answer ({type(error).__name__})") from None
    if answer.status_code != 200:
        raise PeerTrouble(f"the node's FHIR endpoint answered HTTP {answer.status_code}")
    for entry in answer.json().get("entry", []):
        if study_uid in json.dumps(entry["resource"]):
            report: dict[str, Any] = entry["resource"]
            return report
    return None
