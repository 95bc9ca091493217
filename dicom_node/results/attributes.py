"""Patient and study attributes of the sources: which are copied, and what must agree (PS3.3 C.7.1.1, C.7.2.1).

Values are decoded with their own Specific Character Set and written as ISO_IR 192 later, so Japanese, Korean, Chinese
and Latin-1 names stay what they were.  Bytes above 127 without a character set are refused, never guessed.  A value
that does not fit its value representation is shortened (names, descriptions) or left out (keys, dates, codes: half a
key is another key); a Patient ID that does not fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pydicom.charset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import text
from dicom_node.results.quiet import quietly

PATIENT_IDENTITY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
)
"""Must agree over all sources of a result; a difference is `patient-conflict`."""

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
"""Written empty when the source has nothing."""

OPTIONAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
)

SEQUENCES = (
    "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
    "DeidentificationMethodCodeSequence",
)

COPIED = ("StudyInstanceUID", *TYPE_2, *OPTIONAL, *SEQUENCES)
"""Everything that results take over from the source study (standards table *copy, set, never copy*)."""

_ONE_OF = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_SHORTENED = frozenset({"StudyDescription", "DeidentificationMethod", "PatientName", "ReferringPhysicianName"})
_PN_GROUP_MAX = 64
_LIMITS = {"LO": 64, "SH": 16, "UT": 10240, "CS": 16, "UR": 1024, "UC": 1024}
_AGE_UNITS = "DWMY"
_GB2312_ESCAPE = "\x1b$)A"
"""pydicom leaves the escape of ISO 2022 IR 58 in the text: Python's codec, unlike its others, does not know it."""
_ASCII = ("", "ISO_IR 6", "ISO 2022 IR 6")
_DELIMITERS = re.compile(rb"[\\^=\t\n\f\r]")


def raw_bytes(header: Dataset, keyword: str) -> bytes | None:
    """The element's bytes as received; empty when absent, None when it has been decoded before."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in header:
        return b""
    element = header.get_item(tag)
    return (element.value or b"") if isinstance(element, RawDataElement) else None


def decoded(header: Dataset, keyword: str) -> str:
    """One text value, decoded; values of a multi-valued element joined by a backslash.

    Raises
    ------
    Refused
        `dicom-malformed` when bytes are outside the declared character set, or none is declared.
    """
    raw = raw_bytes(header, keyword)
    if raw == b"":
        return ""
    terms = _character_sets(header)
    if raw and any(byte > 127 for byte in raw) and not _covers(terms, raw):
        raise _undecodable(keyword, "bytes above 127 that no declared Specific Character Set covers")
    with quietly():
        try:
            value = header[keyword].value
        except (ValueError, LookupError, UnicodeError) as error:
            raise _undecodable(keyword, "bytes outside the declared Specific Character Set") from error
    joined = "\\".join(str(v) for v in value) if isinstance(value, MultiValue) else str(value or "")
    if "ISO 2022 IR 58" in terms:
        joined = joined.replace(_GB2312_ESCAPE, "")
    if "\ufffd" in joined:
        raise _undecodable(keyword, "bytes outside the declared Specific Character Set")
    return joined.strip()


def check_agreement(headers: Sequence[Dataset]) -> None:
    """Refuse unless all headers name the same patient and study.

    Raises
    ------
    Refused
        `patient-conflict`, naming the attributes that differ and never their values.
    """
    first = headers[0]
    expected_raw = _identity_bytes(first)
    expected = {keyword: normalised(first, keyword) for keyword in PATIENT_IDENTITY}
    differing: set[str] = set()
    for header in headers[1:]:
        if _identity_bytes(header) == expected_raw:
            continue
        differing |= {k for k in PATIENT_IDENTITY if normalised(header, k) != expected[k]}
    if differing:
        raise Refused(
            RefusalCode.PATIENT_CONFLICT,
            expected="equal patient and study attributes in all source images",
            found=f"different {', '.join(sorted(differing))}",
        )


def normalised(header: Dataset, keyword: str) -> str:
    """The value in the form in which two sources are compared: insignificant blanks and empty name parts removed."""
    value = decoded(header, keyword)
    if dictionary_VR(keyword) == "PN":
        return "=".join(group.strip(" ^") for group in value.split("=")).rstrip("=")
    return value.strip()


def clean_attributes(header: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """The copied attributes of a source, made to fit, and the keywords of those that had to be changed.

    Raises
    ------
    Refused
        `uid-invalid` for the Study Instance UID, `patient-unidentified` for a Patient ID that is no single value of
        at most 64 characters.
    """
    result, altered = Dataset(), []
    for keyword in ("StudyInstanceUID", *TYPE_2, *OPTIONAL):
        value = decoded(header, keyword)
        kept = _fitting(keyword, value)
        if kept != value and text.plain(value) != kept:
            altered.append(keyword)
        if kept or keyword in TYPE_2:
            setattr(result, keyword, kept)
    for keyword in SEQUENCES:
        items = _clean_items(header, keyword)
        if items:
            setattr(result, keyword, items)
    if result.get("PatientIdentityRemoved") == "YES":
        if not result.get("DeidentificationMethod") and not result.get("DeidentificationMethodCodeSequence"):
            del result.PatientIdentityRemoved  # type 1C companions are gone; half a statement is not valid
    elif "PatientIdentityRemoved" not in result:
        for keyword in ("DeidentificationMethod", "DeidentificationMethodCodeSequence"):
            if keyword in result:
                delattr(result, keyword)
    return result, tuple(altered)


def _identity_bytes(header: Dataset) -> tuple[bytes, ...]:
    """What must agree, as bytes, for a cheap first comparison."""
    found = []
    for keyword in ("SpecificCharacterSet", *PATIENT_IDENTITY):
        raw = raw_bytes(header, keyword)
        found.append(str(header[keyword].value).encode() if raw is None else raw.strip(b" \0"))
    return tuple(found)


def _character_sets(header: Dataset) -> list[str]:
    with quietly():
        declared = header.get("SpecificCharacterSet") or ""
    return [str(term) for term in (declared if isinstance(declared, MultiValue) else [declared])]


def _covers(terms: Sequence[str], raw: bytes) -> bool:
    """Whether bytes above 127 have a meaning: by the first character set, or after an escape (PS3.5 6.1.2.5)."""
    named = [term for term in terms if term not in _ASCII]
    if not named or not all(term in pydicom.charset.python_encoding for term in named):
        return False
    if terms[0] not in _ASCII:
        return True
    parts = _DELIMITERS.split(raw)  # each begins in the first character set again
    return all(byte < 128 for part in parts for byte in part.split(b"\x1b")[0])


def _undecodable(keyword: str, found: str) -> Refused:
    return Refused(
        RefusalCode.DICOM_MALFORMED,
        expected=f"{keyword} in a character set that the object declares",
        found=found,
    )


def _fitting(keyword: str, value: str) -> str:
    """The value as it may be written; empty when it cannot be."""
    if keyword == "StudyInstanceUID":
        if not text.is_uid(value):
            raise Refused(RefusalCode.UID_INVALID, "a valid Study Instance UID", "one that is not")
        return value
    if keyword == "PatientID" and ("\\" in value or len(value) > text.LO_MAX):
        raise Refused(
            RefusalCode.PATIENT_UNIDENTIFIED, "one Patient ID of at most 64 characters", "several, or a longer one"
        )
    vr = dictionary_VR(keyword)
    if vr == "PN":
        return _person_name(value)
    if keyword in _ONE_OF:
        return value if value in _ONE_OF[keyword] else ""
    checks: dict[str, Callable[[str], bool]] = {"DA": text.is_date, "TM": text.is_time, "AS": _is_age}
    if vr in checks:
        return value if checks[vr](value) else ""
    plain = text.plain(value)
    if len(plain) <= _LIMITS[vr]:
        return plain
    return text.cut(plain, _LIMITS[vr]) if keyword in _SHORTENED else ""


def _is_age(value: str) -> bool:
    return len(value) == 4 and value.isascii() and value[:3].isdigit() and value[3] in _AGE_UNITS


def _person_name(value: str) -> str:
    """At most three component groups of five components and 64 characters each (PS3.5 6.2.1)."""
    groups = []
    for group in value.split("\\")[0].split("=")[:3]:
        components = [text.plain(c) for c in group.split("^")][:5]
        groups.append("^".join(components)[:_PN_GROUP_MAX].rstrip(" ^"))
    return "=".join(groups).rstrip("=")


def _clean_items(header: Dataset, keyword: str) -> list[Dataset]:
    """The standard text elements of a sequence's items; private and over-long ones left out."""
    items = []
    with quietly():
        source = header.get(keyword) or []
        for item in source:
            kept = Dataset()
            for element in item:
                if element.tag.is_private or element.VR not in _LIMITS or element.VM != 1:
                    continue
                value = text.plain(element.value)
                if value and len(value) <= _LIMITS[element.VR]:
                    kept.add_new(element.tag, element.VR, value)
            if kept:
                items.append(kept)
    return items
