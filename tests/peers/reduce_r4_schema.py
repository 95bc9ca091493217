"""Reduce HL7's R4 JSON schema to the resources that we write: ``reduce_r4_schema.py FULL_SCHEMA > REDUCED``.

Descriptions go, and so does every definition that no resource of ours reaches.  Nothing else changes, which a test
checks against the full schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESOURCES = (
    "AuditEvent",
    "Bundle",
    "CapabilityStatement",
    "Device",
    "DiagnosticReport",
    "Endpoint",
    "ImagingStudy",
    "Observation",
    "OperationOutcome",
    "Provenance",
)
NOTE = (
    "Reduced from HL7's FHIR R4 (4.0.1) JSON schema, http://hl7.org/fhir/R4/fhir.schema.json.zip, which HL7 gives to "
    "the public domain (CC0, http://hl7.org/fhir/R4/license.html): only the definitions that our resources reach, "
    "without their descriptions."
)


def references(value: Any) -> Iterator[str]:
    """Names of the definitions that a piece of schema refers to."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item.rpartition("/")[2]
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def undescribed(value: Any) -> Any:
    """The same piece of schema without its prose; a *property* named description stays."""
    if isinstance(value, dict):
        return {k: undescribed(v) for k, v in value.items() if not (k == "description" and isinstance(v, str))}
    return [undescribed(item) for item in value] if isinstance(value, list) else value


def reduce(full: dict[str, Any]) -> dict[str, Any]:
    """The reduced schema."""
    definitions = full["definitions"]
    kept: dict[str, Any] = {"ResourceList": {"oneOf": [{"$ref": f"#/definitions/{name}"} for name in RESOURCES]}}
    waiting = list(RESOURCES)
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = undescribed(definitions[name])
            waiting.extend(references(definitions[name]))
    return {
        "$schema": full["$schema"],
        "$comment": NOTE,
        "definitions": {name: kept[name] for name in sorted(kept)},
    }


if __name__ == "__main__":
    json.dump(reduce(json.loads(Path(sys.argv[1]).read_text())), sys.stdout, separators=(",", ":"), sort_keys=True)
    sys.stdout.write("\n")
