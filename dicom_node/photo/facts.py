"""What a sender says about a photograph: whose it is, of which part of the body, through which instrument.

Nothing here is guessed: what nobody says stays empty, and what cannot be written as it was said is refused, because
half an identifier is another identifier.  PS3.5 6.2 (value representations), PS3.3 C.7.1.1, C.7.2.1, 10.5.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Literal

from dicom_node.body_sites import BodySite
from dicom_node.refusals import RefusalCode, Refused

LO_MAX, SH_MAX, PN_GROUP_MAX = 64, 16, 64
SEXES = ("", "M", "F", "O")
LATERALITIES = ("", "R", "L", "B", "U")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


class PhotoClass(StrEnum):
    """SOP classes that a photograph is wrapped in, by the name of the setting."""

    VL_PHOTOGRAPHIC = "vl-photographic"
    DERMOSCOPIC = "dermoscopic"


@dataclass(frozen=True)
class Patient:
    """Whose photograph it is.

    Attributes
    ----------
    id, issuer
        Patient ID (0010,0020) and its Issuer (0010,0021); both are needed, because the one means nothing without the
        other.
    name
        (0010,0010) as DICOM writes it, family^given; empty when unknown.
    birth_date
        (0010,0030), YYYYMMDD; empty when unknown.
    sex
        (0010,0040), M, F or O; empty when unknown.
    is_pseudonym
        The id stands for somebody whom nobody named: the object says so (0012,0062).
    """

    id: str
    issuer: str
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    is_pseudonym: bool = False

    def __post_init__(self) -> None:
        for value, what in ((self.id, "a Patient ID"), (self.issuer, "the issuer of the Patient ID")):
            if not value.strip():
                raise Refused(RefusalCode.PATIENT_UNIDENTIFIED, what, "none")
            _check_text(value, what, LO_MAX)
        for group in self.name.split("="):
            _check_text(group, "a name", PN_GROUP_MAX)
        if self.name.count("=") > 2:
            raise _invalid("a name of at most three groups")
        if self.sex not in SEXES:
            raise _invalid("sex M, F, O or nothing")
        if self.birth_date:
            _check_date(self.birth_date)


@dataclass(frozen=True)
class ExistingStudy:
    """A study that the photograph joins, as the archive has it: all its objects must say the same of it.

    Attributes
    ----------
    date, time
        Study Date and Time (0008,0020), (0008,0030); empty where the archive has none.
    id
        Study ID (0020,0010).
    """

    uid: str
    date: str = ""
    time: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if len(self.uid) > 64 or not _UID.fullmatch(self.uid):
            raise Refused(RefusalCode.UID_INVALID, "a Study Instance UID", "something else")
        _check_text(self.id, "a Study ID", SH_MAX)
        if not re.fullmatch(r"(\d{8})?", self.date) or not re.fullmatch(r"(\d{6}(\.\d{1,6})?)?", self.time):
            raise _invalid("a study's date as YYYYMMDD and time as HHMMSS")


@dataclass(frozen=True)
class Occasion:
    """The study and the picture's place in it.

    Attributes
    ----------
    created
        Aware ISO 8601 time at which the photograph was handed over; the only clock in the object.  Photographs of one
        occasion share it, and with patient and order it makes their study.
    order
        Accession Number (0008,0050), at most 16 characters; empty without an order.
    body_site
        None where nobody says.
    laterality
        R, L, B (both) or U (unpaired); empty where nobody says.
    declared
        Kind of photograph: through a dermatoscope, by a camera alone, or not said.
    number
        1, 2, 3 ... within the study: Series Number.
    study
        One that exists already; None for a new one.
    """

    created: str
    order: str = ""
    body_site: BodySite | None = None
    laterality: str = ""
    declared: Literal["dermoscopic", "plain", ""] = ""
    number: int = 1
    study: ExistingStudy | None = None

    def __post_init__(self) -> None:
        if self.moment.utcoffset() is None:
            raise ValueError("expected a time with its offset from UTC")
        _check_text(self.order, "an order number", SH_MAX)
        if self.laterality not in LATERALITIES:
            raise _invalid("laterality R, L, B, U or nothing")
        if self.declared not in ("dermoscopic", "plain", ""):
            raise _invalid("dermoscopic, plain or nothing")
        if not 1 <= self.number <= 9000:
            raise _invalid("at most 9000 photographs of one occasion")

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.created)


@dataclass(frozen=True)
class Importer:
    """This installation, as the object's equipment module names it.

    Attributes
    ----------
    site_namespace
        From which every UID derives.
    version
        Of the node: Software Versions (0018,1020).
    serial
        Device Serial Number (0018,1000) of this installation.
    uid_root
        Root below which UIDs are made instead of ``2.25``.
    """

    site_namespace: uuid.UUID
    version: str
    serial: str
    uid_root: str | None = None


def _check_text(value: str, what: str, limit: int) -> None:
    if _CONTROL.search(value):
        raise _invalid(f"{what} without control characters and backslashes")
    if len(value) > limit:
        raise _invalid(f"{what} of at most {limit} characters")


def _check_date(value: str) -> None:
    try:
        born = datetime.strptime(value, "%Y%m%d").date()
    except ValueError:
        raise _invalid("a birth date as YYYYMMDD") from None
    if len(value) != 8 or born < date(1850, 1, 1):
        raise _invalid("a birth date as YYYYMMDD")


def _invalid(expected: str) -> Refused:
    return Refused(RefusalCode.VALIDATION, expected, "something else")
