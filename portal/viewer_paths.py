"""What of the archive's DICOMweb a caller may ask for: paths of PS3.18, query keys, and the one study of a visitor.

Pure functions over text; nothing in a request names a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dicom_node.permissions import Person
from dicom_node.record.keys import KeyIdentity
from portal.tickets import ANY_STUDY, Visitor

BULK_ACCEPT = 'multipart/related; type="application/octet-stream"'
_UID = r"[0-9.]{1,64}"
DICOMWEB = re.compile(
    rf"^studies(?:/(?P<study>{_UID})(?:/(?:metadata|rendered|thumbnail|series|instances))?"
    rf"|/(?P<in_study>{_UID})/series/{_UID}(?:/(?:metadata|rendered|thumbnail|instances))?"
    rf"|/(?P<in_series>{_UID})/series/{_UID}/instances/{_UID}"
    r"(?:/(?:metadata|rendered|thumbnail|frames/[0-9,]{1,2000}(?:/(?:rendered|thumbnail))?"
    r"|bulk(?:data)?(?:/[A-Za-z0-9]{1,64}){1,12}))?)?$"
)
_QUERY_NAME = re.compile(r"^[A-Za-z0-9.]{1,64}$")
NO_STUDY = "0.0"
"""A search for it finds nothing: DICOM UIDs have no such component, so no archive holds it."""
STUDY_NAMES = frozenset({"studyinstanceuid", "0020000d"})


def allowed_study(path: str, visitor: KeyIdentity | Person) -> tuple[bool, str]:
    """Whether a caller may read a DICOMweb path, and the one study a search must be narrowed to (or "").

    Returns
    -------
    is_allowed, study
        `study` is set when the path is a search over studies and the caller may see only one.
    """
    match = DICOMWEB.fullmatch(path)
    if match is None or isinstance(visitor, Person):
        return False, ""
    named = match["study"] or match["in_study"] or match["in_series"]
    mine = visitor.study if isinstance(visitor, Visitor) else ANY_STUDY
    if mine == ANY_STUDY:
        return True, ""
    return (named == mine, "") if named else (True, mine)


def query_for(pairs: Iterable[tuple[str, str]], study: str, *, is_over_studies: bool = True) -> list[tuple[str, str]]:
    """The query passed on: known-shaped names only; a narrowed search asks for its study and nothing else's.

    Where the path itself names the study, that is the one who calls was held to: a query names no other.
    """
    kept = [(name, value) for name, value in pairs if _QUERY_NAME.fullmatch(name) and len(value) <= 1024]
    if not is_over_studies:
        return [(name, value) for name, value in kept if name.lower() not in STUDY_NAMES]
    if not study:
        return kept
    paging = ("limit", "offset", "includefield", "fuzzymatching")
    asked = {value for name, value in kept if name.lower() in STUDY_NAMES}
    narrowed = [(name, value) for name, value in kept if name.lower() in paging]
    return [("StudyInstanceUID", study if not asked or study in asked else NO_STUDY), *narrowed]


def accept_for(path: str, accept: str) -> str:
    """The Accept header passed on.

    Bulk data is asked for as octets: newer Orthanc refuses the ``application/pdf`` that OHIF asks for, older ones give
    octets whatever is asked.
    """
    return BULK_ACCEPT if "/bulk" in path else accept or "*/*"
