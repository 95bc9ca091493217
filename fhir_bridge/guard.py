"""What may be written over: only what we wrote and nobody has touched since (standards 4.5).

Every report and Observation of ours carries a tag with a fingerprint of the fields that a person would edit.  It is
ours to overwrite while its status is one a machine gives, nobody stands as interpreter, and the fingerprint fits.
Anything else is a person's now: a new result id (the next *generation*) is used beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

TAG_SYSTEM = "urn:ainode:content"
_STATES = {
    "DiagnosticReport": frozenset({"registered", "partial", "preliminary"}),
    # One that we took back ourselves may be measured again by the next revision.
    "Observation": frozenset({"preliminary", "entered-in-error"}),
}


def _texts(concept: Any) -> Any:
    if not isinstance(concept, Mapping):
        return None
    return [concept.get("text"), sorted(str(item.get("code")) for item in concept.get("coding", []))]


def fingerprint(resource: Mapping[str, Any]) -> str:
    """sha256 over what a person would edit; nothing that a server rewrites (references, times, versions)."""
    value = resource.get("valueQuantity", {})
    number = value.get("value")
    seen = {
        "attachments": [form.get("hash") for form in resource.get("presentedForm", [])],
        "code": _texts(resource.get("code")),
        "conclusion": resource.get("conclusion"),
        "conclusionCode": [_texts(item) for item in resource.get("conclusionCode", [])],
        "interpretation": [_texts(item) for item in resource.get("interpretation", [])],
        "kind": resource.get("resourceType"),
        "notes": [note.get("text") for note in resource.get("note", [])],
        "status": resource.get("status"),
        "value": None if number is None else f"{float(number):.6g} {value.get('code')}",
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def tagged(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource with its fingerprint as a tag."""
    meta = dict(resource.get("meta", {}))
    kept = [tag for tag in meta.get("tag", []) if tag.get("system") != TAG_SYSTEM]
    meta["tag"] = [*kept, {"system": TAG_SYSTEM, "code": fingerprint(resource)}]
    kind = resource["resourceType"]
    rest = {key: value for key, value in resource.items() if key not in ("resourceType", "meta")}
    return {"resourceType": kind, "meta": meta, **rest}


def is_ours(resource: Mapping[str, Any]) -> bool:
    """Whether we wrote this report or Observation and nobody has touched it since."""
    states = _STATES[resource["resourceType"]]
    tags = resource.get("meta", {}).get("tag", [])
    mine = fingerprint(resource)
    return (
        resource.get("status") in states
        and not resource.get("resultsInterpreter")
        # Servers may keep the tags of earlier versions beside the new one: any of ours will do.
        and any(tag.get("system") == TAG_SYSTEM and tag.get("code") == mine for tag in tags)
    )
