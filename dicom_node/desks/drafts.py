"""Drafts: what somebody dropped or picked, looked into before a model is asked, so that she sees what would be read.

Each NIfTI file is a part with the role that its name tells; the DICOM files of one series are a part with the role that
their headers tell, and why.  The person may change roles; what is then read is exactly what she saw.  A zip is taken
apart first.  A draft lies as a file beside the uploads it names, and is swept with them when nobody goes on with it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_node.files import write_sealed
from dicom_node.refusals import RefusalCode, Refused
from dicom_node.routing.facts import facts
from dicom_node.routing.kinds import kinds
from dicom_node.routing.roles import assign_roles
from dicom_node.sealing import at_rest
from dicom_node.spool import Spool, Upload
from dicom_node.stages.kinds import is_label_name, kind_of, role_of_name
from dicom_node.volume import read_header
from dicom_node.volume.archive import unpack
from dicom_node.words import RoleGuess, SeriesFacts

MAX_FILES = 5_000
FILES, ARCHIVE = "files", "archive"
"""Where a draft came from."""

_FOLDER = "drafts"
_NO_SEQUENCE = frozenset({"localizer", "derived", "own-result", "other"})


@dataclass(frozen=True)
class Part:
    """One image that could be read: a NIfTI file, or the DICOM files of one series.

    Attributes
    ----------
    label, detail
        What the page calls it: a file's name, or a series' description; modality and number of images.
    role
        What it is taken for; empty: to be left out unless the person says otherwise, also where there is a doubt.
    guess, confidence, reasons, doubt
        The likeliest, how surely, why, and what else it may be; of a NIfTI file only the name tells.
    files
        ``[sha256, size]`` of each upload.
    """

    kind: str
    label: str
    detail: str
    role: str
    guess: str
    confidence: float
    reasons: tuple[str, ...]
    doubt: tuple[str, ...]
    files: tuple[tuple[str, int], ...]

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """Its files in the spool."""
        return tuple(Upload(sha256, size) for sha256, size in self.files)


@dataclass(frozen=True)
class Draft:
    """What somebody is about to ask for.

    Attributes
    ----------
    patient
        Name, identifier and birth date as the images say them, for the person to recognise; empty for NIfTI.
    ignored
        How many files were no images.
    """

    id: str
    owner: str
    source: str
    patient: Mapping[str, str]
    study_uid: str
    parts: tuple[Part, ...]
    ignored: int


@dataclass(frozen=True)
class Told:
    """One file as it came in: what it was called, and where it is."""

    name: str
    upload: Upload


class Drafts:
    """Makes drafts and keeps them until somebody goes on.

    Parameters
    ----------
    spool
        Where uploads lie.
    max_bytes
        Of one archive after unpacking.
    """

    def __init__(self, spool: Spool, folder: Path, max_bytes: int) -> None:
        self._spool = spool
        self._folder = folder / _FOLDER
        self._max_bytes = max_bytes

    def make(self, owner: str, files: Sequence[Told], source: str = FILES) -> Draft:
        """Look into files, and keep what was found.

        Raises
        ------
        Refused
            ``input-empty``, ``not-dicom``, ``patient-conflict``, ``series-mixed``, ``validation`` (NIfTI beside DICOM),
            ``too-large``, and what a zip can be refused for.
        """
        opened, ignored = self._opened(files)
        nifti = [one for one in opened if kind_of(self._spool.path(one.upload.sha256)) == "nifti"]
        rest = [one for one in opened if one not in nifti]
        patient: Mapping[str, str] = {}
        study_uid = ""
        if nifti and any(kind_of(self._spool.path(one.upload.sha256)) == "dicom" for one in rest):
            raise Refused(RefusalCode.VALIDATION, "NIfTI or DICOM in one analysis", "a mixture")
        if nifti:
            pictures = [one for one in nifti if not is_label_name(one.name)]
            ignored += len(rest) + len(nifti) - len(pictures)
            parts = [_of_nifti(one) for one in pictures]
        else:
            parts, patient, study_uid, unread = self._of_dicom(rest)
            ignored += unread
        if not parts:
            raise Refused(RefusalCode.INPUT_EMPTY, "DICOM images or NIfTI files", "none")
        made = Draft(secrets.token_hex(16), owner, source, patient, study_uid, tuple(parts), ignored)
        self._keep(made)
        return made

    def of(self, owner: str, draft_id: str) -> Draft | None:
        """A draft of this person; None for a stranger's, for one that was swept, and for none."""
        if len(draft_id) != 32 or not set(draft_id) <= set("0123456789abcdef"):
            return None
        try:
            told = json.loads(at_rest.read(self._folder / draft_id))
        except FileNotFoundError:
            return None
        if told["owner"] != owner:
            return None
        parts = tuple(_part(entry) for entry in told.pop("parts"))
        there = all(self._spool.path(sha256).is_file() for part in parts for sha256, _ in part.files)
        return Draft(parts=parts, **told) if there else None

    def forget(self, draft: Draft) -> None:
        """Somebody went on with it; its uploads belong to the request now."""
        (self._folder / draft.id).unlink(missing_ok=True)

    # -- looking

    def _opened(self, files: Sequence[Told]) -> tuple[list[Told], int]:
        """Every file, those of zips one by one; and how many a zip held that are no images."""
        opened: list[Told] = []
        ignored = 0
        for one in files:
            if one.upload.size_bytes == 0:
                raise Refused(RefusalCode.INPUT_EMPTY, "files", "an empty one")
            path = self._spool.path(one.upload.sha256)
            if kind_of(path) != "zip":
                opened.append(one)
                continue
            with self._spool.scratch() as scratch:
                for found in unpack(path, scratch, max_total_bytes=self._max_bytes):
                    if kind_of(found.path) in ("dicom", "nifti"):
                        opened.append(Told(found.told_name, self._taken(found.path)))
                    else:
                        ignored += 1
        if len(opened) > MAX_FILES:
            raise Refused(RefusalCode.TOO_LARGE, f"at most {MAX_FILES} files", str(len(opened)))
        return opened, ignored

    def _taken(self, path: Path) -> Upload:
        part = self._spool.part()
        try:
            with at_rest.opened(path) as file:
                while piece := file.read(1 << 20):
                    part.write(piece)
        except BaseException:
            part.discard()
            raise
        path.unlink()
        return self._spool.keep(part)

    def _of_dicom(self, files: Sequence[Told]) -> tuple[list[Part], Mapping[str, str], str, int]:
        headers: dict[str, list[dict[str, Any]]] = {}
        uploads: dict[str, list[Upload]] = {}
        refusals: list[Refused] = []
        for one in files:
            try:
                header = read_header(self._spool.path(one.upload.sha256))
            except Refused as refused:
                refusals.append(refused)
                continue
            uid = str(header["SeriesInstanceUID"])
            headers.setdefault(uid, []).append(header)
            uploads.setdefault(uid, []).append(one.upload)
        if not headers:
            if len({refused.refusal.code for refused in refusals}) == 1:
                raise refusals[0]
            raise Refused(RefusalCode.NOT_DICOM, "DICOM images, or NIfTI files", "neither")
        everything = [header for found in headers.values() for header in found]
        patient = _one(everything, ("PatientID", "IssuerOfPatientID"), RefusalCode.PATIENT_CONFLICT, "one patient")
        _one(everything, ("StudyInstanceUID",), RefusalCode.SERIES_MIXED, "one study")
        known = [facts(found) for found in headers.values()]
        roles = assign_roles(known, None)
        parts = [_of_series(one, roles[one.series_uid], uploads[one.series_uid]) for one in known]
        parts.sort(key=lambda part: (not part.role, part.label))
        return _once_each(parts), patient, str(everything[0]["StudyInstanceUID"]), len(refusals)

    # -- keeping

    def _keep(self, draft: Draft) -> None:
        write_sealed(self._folder / draft.id, json.dumps(asdict(draft)).encode())


def _of_nifti(one: Told) -> Part:
    role = role_of_name(one.name)
    name = one.name.rpartition("/")[2][-64:]
    file = (one.upload.sha256, one.upload.size_bytes)
    return Part("nifti", name, "NIfTI", role, role, 1.0 if role else 0.0, (), (), (file,))


def _of_series(one: SeriesFacts, guess: RoleGuess, uploads: Sequence[Upload]) -> Part:
    told = one.attributes
    number = str(told.get("SeriesNumber") or "").strip()
    label = " ".join(str(told.get("SeriesDescription") or told.get("ProtocolName") or "").split())[:64]
    likely = "" if guess.role in _NO_SEQUENCE or kinds(one) else guess.role
    detail = f"{told.get('Modality', '')} · {told.get('NumberOfInstances', len(uploads))}"
    return Part(
        "dicom",
        f"{number} {label}".strip() or one.series_uid[-12:],
        detail,
        "" if guess.ambiguous_with else likely,  # where there is a doubt, the person decides
        likely,
        guess.confidence,
        guess.reasons,
        guess.ambiguous_with,
        tuple((upload.sha256, upload.size_bytes) for upload in uploads),
    )


def _once_each(parts: Sequence[Part]) -> list[Part]:
    """Of several series of one role the surest keeps it; the person may choose another."""
    best: dict[str, Part] = {}
    for part in parts:
        if part.role and (part.role not in best or part.confidence > best[part.role].confidence):
            best[part.role] = part
    return [part if not part.role or best[part.role] is part else _without_role(part) for part in parts]


def _without_role(part: Part) -> Part:
    return Part(**{**{name: getattr(part, name) for name in part.__dataclass_fields__}, "role": ""})


def _one(
    headers: Sequence[Mapping[str, Any]], keywords: Sequence[str], code: RefusalCode, expected: str
) -> Mapping[str, str]:
    """What all headers say alike.

    Raises
    ------
    Refused
        If they differ in one of the keywords.
    """
    if len({tuple(str(header.get(keyword) or "") for keyword in keywords) for header in headers}) > 1:
        raise Refused(code, expected, "several")
    first = headers[0]
    return {
        "name": " ".join(str(first.get("PatientName") or "").replace("^", " ").split()),
        "id": str(first.get("PatientID") or ""),
        "birth_date": str(first.get("PatientBirthDate") or ""),
        "sex": str(first.get("PatientSex") or ""),
        "study_date": str(first.get("StudyDate") or ""),
        "description": str(first.get("StudyDescription") or ""),
    }


def _part(entry: Mapping[str, Any]) -> Part:
    lists = {name: tuple(entry[name]) for name in ("reasons", "doubt")}
    return Part(**{**entry, **lists, "files": tuple((str(sha), int(size)) for sha, size in entry["files"])})
