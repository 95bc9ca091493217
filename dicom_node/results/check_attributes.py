"""Self-test of attributes: the same patient and study in every object, and values that fit (PS3.5 table 6.2-1)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results.quiet import quietly
from dicom_node.sealing import at_rest
from dicom_node.words import ObjectKind

_SAME_EVERYWHERE = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
_MUST_EQUAL_SOURCE = ("PatientID", "StudyInstanceUID")
_EQUAL_OR_LEFT_OUT = ("IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber")
_LIMITS = {"SH": 16, "LO": 64, "CS": 16, "AE": 16, "ST": 1024, "LT": 10240, "UI": 64, "DS": 16, "IS": 12}
_PN_GROUP_LIMIT = 64
_CS = re.compile(r"[A-Z0-9 _]*")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def check_patient(objects: Mapping[ObjectKind, Dataset], path: str, study_uid: str, data_root: Path | None) -> None:
    """Refuse objects that disagree with each other or with their source (the file at `path`) on patient or study."""
    where = Path(path)
    with quietly(), at_rest.opened(where if data_root is None else data_root / where) as file:
        source = dcmread(file, stop_before_pixels=True)
        first = next(iter(objects.values()))
        for keyword in _SAME_EVERYWHERE:
            if len({str(o.get(keyword, "")) for o in objects.values()}) != 1:
                raise _failed(f"one {keyword} in all objects", "several")
        for keyword in _MUST_EQUAL_SOURCE:
            if _words(first.get(keyword, "")) != _words(source.get(keyword, "")):
                raise _failed(f"the source's {keyword}", "another")
        for keyword in _EQUAL_OR_LEFT_OUT:
            written = _words(first.get(keyword, ""))
            if written and written != _words(source.get(keyword, "")):
                raise _failed(f"the source's {keyword}", "another")
        if not _same_name(str(first.PatientName), str(source.get("PatientName", ""))):
            raise _failed("the source's PatientName", "another")
    if str(first.StudyInstanceUID) != study_uid:
        raise _failed("the study of the images", "another")


def check_limits(objects: Mapping[ObjectKind, Dataset]) -> None:
    """Refuse values longer than their representation allows, or with characters it does not."""
    for kind, document in objects.items():
        for element in document.iterall():
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            if element.VR in _LIMITS or element.VR == "PN":
                for value in values:
                    written = str(value) if element.VR == "PN" else str(getattr(value, "original_string", value))
                    if not _fits(element.VR, written):
                        raise _failed(f"{element.keyword} of {kind} within its limits", "a value that is not")


def _fits(vr: str, value: str) -> bool:
    if vr == "PN":
        groups = value.split("=")
        return len(groups) <= 3 and all(len(group) <= _PN_GROUP_LIMIT for group in groups)
    if len(value) > _LIMITS[vr] or _CONTROL.search(value):
        return False
    if vr == "CS":
        return _CS.fullmatch(value) is not None
    return vr != "UI" or not value or _UID.fullmatch(value) is not None


def _words(value: object) -> str:
    """Text for comparison: composed, without control and format characters (which never leave), blanks as one."""
    composed = unicodedata.normalize("NFC", str(value))
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in composed).split())


def _same_name(written: str, source: str) -> bool:
    """Equal group by group, empty parts aside; a group over 64 characters is compared as far as it may be written."""
    theirs, ours = ([_words(p.replace("^", " ")) for p in name.split("=")] for name in (source, written))
    theirs = theirs[:3] + [""] * (3 - len(theirs))
    ours = ours + [""] * (3 - len(ours))
    return all(a == b or (len(a) > 56 and bool(b) and a.startswith(b)) for a, b in zip(theirs, ours, strict=True))


def _failed(expected: str, found: str) -> Refused:
    return Refused(RefusalCode.RESULT_CHECK_FAILED, expected, found)
