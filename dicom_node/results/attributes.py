"""Patient and study attributes of the sources: which are copied, and what must agree (PS3.3 C.7.1.1, C.7.2.1).

Values are decoded with their own Specific Character Set and written as ISO_IR 192 later, so Japanese, Korean, Chinese
and Latin-1 names stay what they were.  Bytes above 127 without a character set are refused, never guessed.  A value
that does not fit its value representation is shortened (names, descriptions) or left out (keys, dates, codes: half a
key is another key); a Patient ID that does not fit is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import pydicom.charset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_node.refusals import RefusalCode, Refused
from dicom_node.results import text

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


def raw_bytes(header: Dataset, keyword: str) -> bytes:
    """The element's bytes as received, for cheap comparison; empty when absent."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in header:
        return b""
    element = header.get_item(tag)
    value = element.value if isinstance(element, RawDataElement) else str(header[tag].value).encode()
    return value if isinstance(value, bytes) else b""


def decoded(header: Dataset, keyword: str) -> str:
    """One text value, decoded; values of a multi-valued element joined by a backslash.

    Raises
    ------
    Refused
        `dicom-malformed` when bytes are outside the declared character set, or none is declared.
    """
    raw = raw_bytes(header, keyword)
    if not raw:
        return ""
    if any(byte > 127 for byte in raw) and not _declares_character_set(header):
        raise _undecodable(keyword, "bytes above 127 and no Specific Character Set")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the value
        try:
            value = header[keyword].value
        except (ValueError, LookupError, UnicodeError) as error:
            raise _undecodable(keyword, "bytes outside the declared Specific Character Set") from error
    joined = "\\".join(str(v) for v in value) if isinstance(value, MultiValue) else str(value or "")
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
    return tuple(raw_bytes(header, k).strip(b" \0") for k in ("SpecificCharacterSet", *PATIENT_IDENTITY))


def _declares_character_set(header: Dataset) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        declared = header.get("SpecificCharacterSet") or ""
    terms = list(declared) if isinstance(declared, MultiValue) else [declared]
    real = [str(t) for t in terms if t and str(t) not in ("ISO_IR 6", "ISO 2022 IR 6")]
    return bool(real) and all(term in pydicom.charset.python_encoding for term in real)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
