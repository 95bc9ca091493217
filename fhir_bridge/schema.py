"""Nothing leaves that HL7's own R4 JSON schema does not accept (I17).

`r4.schema.json` is a reduced copy of it (public domain, CC0): the resources that we write, without descriptions.  The
schema knows structure, types and required code sets; reference targets and invariants are checked in our tests by two
further validators.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft6Validator

from dicom_node.refusals import RefusalCode, Refused


@cache
def _definitions() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(files("fhir_bridge").joinpath("r4.schema.json").read_text())
    return dict(loaded["definitions"])


@cache
def _validator(kind: str) -> Draft6Validator | None:
    definitions = _definitions()
    if kind not in definitions:
        return None
    return Draft6Validator({"$ref": f"#/definitions/{kind}", "definitions": definitions})


def faults(resource: Mapping[str, Any]) -> Iterator[str]:
    """Where a resource, or each resource of a Bundle, breaks the schema: paths only, never values."""
    if resource.get("resourceType") == "Bundle":
        for index, entry in enumerate(resource.get("entry", [])):
            yield from (f"entry[{index}].{fault}" for fault in faults(entry.get("resource", {})))
        entries = [{key: value for key, value in e.items() if key != "resource"} for e in resource.get("entry", [])]
        resource = {**resource, "entry": entries}
    kind = str(resource.get("resourceType"))
    validator = _validator(kind)
    if validator is None:
        yield "resourceType"
        return
    # The schema's pattern for base64Binary backtracks badly on a PDF; its content is made by base64 itself.
    for error in validator.iter_errors(_without_attachment_data(resource)):
        yield ".".join([kind, *(str(part) for part in error.absolute_path)])


def check(resource: Mapping[str, Any]) -> None:
    """Refuse a resource that is not valid R4.

    Raises
    ------
    Refused
        `result-check-failed`, naming the first place that is wrong.
    """
    for fault in faults(resource):
        raise Refused(RefusalCode.RESULT_CHECK_FAILED, expected="a valid FHIR R4 resource", found=f"fault at {fault}")


def _without_attachment_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        is_attachment = "contentType" in value and "data" in value
        return {k: "AAAA" if is_attachment and k == "data" else _without_attachment_data(v) for k, v in value.items()}
    return [_without_attachment_data(item) for item in value] if isinstance(value, list) else value
