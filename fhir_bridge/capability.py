"""The CapabilityStatement, written from the same table that the search reads, so that it cannot claim more."""

from __future__ import annotations

from typing import Any

from fhir_bridge.search import INCLUDE, PARAMETERS

DATE = "2026-11-22"
"""When the set of abilities last changed; a change to `PARAMETERS` moves it."""


def capability_statement(base_url: str, version: str) -> dict[str, Any]:
    """CapabilityStatement of this instance (FHIR R4 capabilitystatement.html), true to what is implemented."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": DATE,
        "kind": "instance",
        "software": {"name": "dicom-ai-node", "version": version},
        "implementation": {"description": "Published results of an AI node, read-only", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "documentation": (
                    "Unknown search parameters are refused with 400, never ignored. A search may also be sent as "
                    "POST [type]/_search, which keeps identifiers out of URLs. Pages expire after a while (410)."
                ),
                "security": {
                    "cors": False,
                    "description": "API key with the scope fhir:read, as a bearer token or in X-API-Key.",
                },
                "resource": [_resource(kind) for kind in PARAMETERS],
            }
        ],
    }


def _resource(kind: str) -> dict[str, Any]:
    parameters = [
        {
            "name": parameter.name,
            "type": parameter.type,
            **({"documentation": parameter.documentation} if parameter.documentation else {}),
        }
        for parameter in PARAMETERS[kind]
    ]
    body: dict[str, Any] = {
        "type": kind,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "versioned",
        "readHistory": False,
        "searchParam": [*parameters, {"name": "_lastUpdated", "type": "date"}],
    }
    if kind == "DiagnosticReport":
        body["searchInclude"] = [INCLUDE]
    return body
