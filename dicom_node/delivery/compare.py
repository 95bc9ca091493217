"""Is what the archive holds what was sent?  By bytes first, then by content, because archives may write anew.

An archive may write a data set again in another order of lengths or transfer syntax, add elements of its own, and
coerce patient and study attributes to its own records (PS3.4 section B.4.1, *coercion*).  None of that makes it another
object.  Another Patient ID or issuer, another pixel, another measurement does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from dicom_node.delivery.types import OutgoingObject, dataset_offset, text_of
from dicom_node.refusals import Refused

_COERCIBLE = frozenset(
    {
        "SpecificCharacterSet",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "InstitutionName",
        "InstitutionAddress",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyTime",
        "StudyDescription",
        "StudyID",
        "PatientName",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientSex",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "EthnicGroup",
        "PatientComments",
        "TimezoneOffsetFromUTC",
    }
)
"""Attributes of the patient and the study that belong to the archive's own records."""

_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


class Likeness(StrEnum):
    EQUAL = "equal"
    OTHER_ENCODING = "other-encoding"
    """Stored in another transfer syntax: ask for it in the one that was sent, then compare again."""
    OTHER_CONTENT = "other-content"
    OTHER_PATIENT = "other-patient"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Comparison:
    likeness: Likeness
    coerced: tuple[str, ...] = ()


def compare(sent: OutgoingObject, found: bytes, *, same_syntax_asked: bool = False) -> Comparison:
    """Compare a retrieved Part 10 object with the one that was sent.

    Parameters
    ----------
    sent
        What we hold.
    found
        What WADO-RS gave, bytes of a peer: only the header elements and the raw pixel bytes are read, nothing is
        decompressed.
    same_syntax_asked
        True when `found` is the answer to a request for the sent transfer syntax; another encoding is then unreadable.
    """
    try:
        if found[dataset_offset(found) :] == sent.dataset:
            return Comparison(Likeness.EQUAL)
        theirs = dcmread(BytesIO(found))
        syntax = str(theirs.file_meta.TransferSyntaxUID)
        ours = dcmread(BytesIO(sent.data))
        if _identity(theirs) != _identity(ours):
            return Comparison(Likeness.OTHER_PATIENT)
        if syntax != sent.transfer_syntax_uid:
            return Comparison(Likeness.UNREADABLE if same_syntax_asked else Likeness.OTHER_ENCODING)
        different = [e for e in ours if not _is_same(e, theirs.get(e.tag)) and e.tag.element != 0]
    except (Refused, InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return Comparison(Likeness.UNREADABLE)
    except (NotImplementedError, OverflowError, MemoryError):
        return Comparison(Likeness.UNREADABLE)
    if any(e.keyword not in _COERCIBLE for e in different):
        return Comparison(Likeness.OTHER_CONTENT)
    return Comparison(Likeness.EQUAL, tuple(sorted(e.keyword for e in different)))


def _identity(dataset: Dataset) -> tuple[str, str]:
    return text_of(dataset.get("PatientID")), text_of(dataset.get("IssuerOfPatientID"))


def _is_same(ours: DataElement, theirs: DataElement | None) -> bool:
    return theirs is not None and _value(ours) == _value(theirs)


def _value(element: DataElement) -> Any:
    """A value that is equal for equal content, whatever VR an implicit encoding gave it."""
    if element.VR == "SQ":
        return [{e.tag: _value(e) for e in item if e.tag.element != 0} for item in element.value]
    if element.VR in _BINARY or isinstance(element.value, bytes):
        data = element.value or b""
        even = data + b"\0" * (len(data) % 2)
        return hashlib.sha256(even).digest()
    if element.value is None:
        return ""
    if isinstance(element.value, (list, tuple, MultiValue)):
        return [text_of(v) for v in element.value]
    return text_of(element.value)
