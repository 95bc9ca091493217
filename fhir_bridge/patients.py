"""Who has an identifier: one search of a FHIR server's Patients, read into what DICOM says of a patient.

FHIR R4 ``Patient?identifier=system|value``.  A patient that was replaced is followed to the one in its place, once; one
that is inactive is nobody.  Nothing is created, and nothing is chosen among several.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dicom_node.refusals import RefusalCode, Refused
from fhir_bridge.identity import living
from fhir_bridge.transport import Transport

State = Literal["found", "not-found", "several"]

_SEX = {"male": "M", "female": "F", "other": "O"}
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f\\^=]+")
_GROUP_MAX = 64


@dataclass(frozen=True)
class FoundPatient:
    """A patient as DICOM names one: family^given; YYYYMMDD; M, F, O; empty where the server does not say."""

    name: str
    birth_date: str
    sex: str


class Patients:
    """The Patients of one FHIR server.

    Parameters
    ----------
    base_url, token_file, timeout_s, insecure_ok_because, context
        As of `fhir_bridge.FhirClient`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token_file: Path | None = None,
        timeout_s: float = 5.0,
        insecure_ok_because: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._server = Transport(
            base_url,
            token_file=token_file,
            timeout_s=timeout_s,
            insecure_ok_because=insecure_ok_because,
            context=context,
        )

    def __enter__(self) -> Patients:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def find(self, system: str, value: str) -> tuple[State, FoundPatient | None]:
        """Who has this identifier.

        Raises
        ------
        PeerTrouble, Refused
            When the server does not answer, or not what was asked.
        """
        found = self._server.search("Patient", system, value)
        if len(found) > 1:
            return "several", None
        try:
            patient = living(self._server, found[0]) if found else None
        except Refused as refused:
            if refused.refusal.code is RefusalCode.PATIENT_AMBIGUOUS:
                return "several", None
            if refused.refusal.code is RefusalCode.PATIENT_NOT_FOUND:
                return "not-found", None
            raise
        return ("not-found", None) if patient is None else ("found", _read(patient))


def _read(patient: Mapping[str, Any]) -> FoundPatient:
    born = _DATE.fullmatch(str(patient.get("birthDate", "")))
    return FoundPatient(
        name=_name(patient.get("name", [])),
        birth_date="".join(born.groups()) if born else "",
        sex=_SEX.get(str(patient.get("gender", "")), ""),
    )


def _name(names: list[Mapping[str, Any]]) -> str:
    """The official name, else the first one that is not out of use."""
    usable = [name for name in names if name.get("use") not in ("old", "nickname", "anonymous", "maiden")]
    chosen = next((name for name in usable if name.get("use") == "official"), usable[0] if usable else {})
    family = _plain(str(chosen.get("family", "")))
    given = _plain(" ".join(str(one) for one in chosen.get("given", [])))
    return f"{family}^{given}".rstrip("^")[:_GROUP_MAX]


def _plain(text: str) -> str:
    return " ".join(_NOT_IN_A_NAME.sub(" ", text).split())
