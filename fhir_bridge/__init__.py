"""Findings in, FHIR R4 out: the report an EHR receives, and the endpoint it may read.

FHIR R4 (4.0.1).  `bundle` says what a run found as one transaction; `FhirClient.publish` brings it to a server without
ever creating a Patient or an order, and without writing over a report that a person has finished; `server.router` is
the node's own read-only endpoint over a `ReportStore`.

Ground floor only: no database, no DICOM files, no settings.
"""

from __future__ import annotations

from fhir_bridge.bundle import bundle, is_of_run, resolve
from fhir_bridge.client import FhirClient
from fhir_bridge.identity import check_publishable
from fhir_bridge.store import MemoryReportStore, ReportStore, StoredResource, count_in, select_from, tokens_of
from fhir_bridge.transport import UnsafeAddress
from fhir_bridge.words import (
    Confirmation,
    Known,
    Links,
    ObjectReference,
    Organisation,
    ReportInput,
    ReportOptions,
    UsedSeries,
    Written,
    references,
)

__all__ = [
    "Confirmation",
    "FhirClient",
    "Known",
    "Links",
    "MemoryReportStore",
    "ObjectReference",
    "Organisation",
    "ReportInput",
    "ReportOptions",
    "ReportStore",
    "StoredResource",
    "UnsafeAddress",
    "UsedSeries",
    "Written",
    "bundle",
    "check_publishable",
    "count_in",
    "is_of_run",
    "references",
    "resolve",
    "select_from",
    "tokens_of",
]
