"""The audit log as programs read it: by time, by who, by what, by study, by patient; the newest first.

A patient is named by an identifier and its system, as in the node's reports: systems belong to issuers by
``report.issuers``.  Whose studies are meant is looked up here; no identifier of a patient is in an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dicom_node.record import Database, audit_search, studies
from dicom_node.record.audit_search import Wanted


@dataclass(frozen=True)
class Patient:
    """An identifier; without a system whatever its issuer."""

    value: str
    system: str | None = None


class AuditDesk:
    """Reads the log of this installation.

    Parameters
    ----------
    issuers
        Issuer of Patient ID -> FHIR identifier system.
    """

    def __init__(self, database: Database, issuers: Mapping[str, str]) -> None:
        self._database = database
        self._issuers = issuers

    def page(self, wanted: Wanted, patient: Patient | None, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries, older than one of them where `before` names it."""
        with self._database.read() as connection:
            if patient is not None:
                issuers = None
                if patient.system is not None:
                    issuers = [issuer for issuer, system in self._issuers.items() if system == patient.system]
                mine = studies.of_patient(connection, patient.value, issuers)
                wanted = replace(wanted, studies=tuple(mine))
            return audit_search.page(connection, wanted, before, limit)

    def entry(self, number: int) -> dict[str, Any] | None:
        """One entry."""
        with self._database.read() as connection:
            found = audit_search.page(connection, Wanted(), number + 1, 1)
        return found[0] if found and found[0]["id"] == number else None
