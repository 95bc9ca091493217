"""One result as one R4 transaction Bundle, and that Bundle as single resources.

FHIR R4 http.html 3.1.0.11 (transaction), 3.1.0.11.2 (references within a Bundle).  fullUrls are UUIDv5 of what a
resource is about, so two builds of one result are equal byte for byte and a retry can be compared with what was sent.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from fhir_bridge import resources
from fhir_bridge.guard import tagged
from fhir_bridge.observations import observation, observation_value, stale, statements
from fhir_bridge.resources import Resource
from fhir_bridge.words import RUN_SYSTEM, Known, Links, ReportInput

_URN = "urn:uuid:"


def bundle(report: ReportInput, links: Links | None = None) -> dict[str, Any]:
    """Build the transaction: Device, ImagingStudy, Observations, DiagnosticReport, Provenance.

    Device and ImagingStudy are created only where the server has none (`ifNoneExist`); Observations and the report
    are conditional updates by our own identifier, or updates of a known id under its version (`ifMatch`).  Patient
    and ServiceRequest are referenced, never written.  Pure: no clock, no randomness.

    Parameters
    ----------
    report
        What the run says.
    links
        What the server already holds; None for a node without a server.

    Raises
    ------
    Refused
        `patient-unidentified` when the images name no patient; `result-check-failed` for numbers that are not finite.
    """
    links = links or Links()
    device_url = _url(report, f"device/{resources.device_uid(report)}")
    study_url = _url(report, f"study/{report.run.study_uid}")
    system = report.identifier_system
    device = resources.device(report)
    study = resources.imaging_study(report, links)
    entries = [
        _create(device_url, device, _token("urn:dicom:uid", device["identifier"][0]["value"])),
        _create(study_url, study, _token("urn:dicom:uid", study["identifier"][0]["value"])),
    ]
    targets = []
    for statement in statements(report):
        value = observation_value(report, links, statement)
        full_url = _url(report, f"observation/{value}")
        body = tagged(observation(report, links, statement, study_url, device_url))
        entries.append(_update(full_url, body, _token(system, value), links.observations.get(value)))
        targets.append(full_url)
    report_value = resources.result_id(report, links)
    report_url = _url(report, f"report/{report_value}")
    body = tagged(resources.diagnostic_report(report, links, study_url, targets))
    entries.append(_update(report_url, body, _token(system, report_value), links.report))
    for known in links.stale:
        entries.append(_update(_url(report, f"stale/{known.reference}"), tagged(stale(known.resource)), "", known))
    changed = [report_url, *targets, *(known.reference for known in links.stale)]
    trail = resources.provenance(report, changed, study_url, device_url)
    # A withdrawal is a second accepted change of the same run, so it has a Provenance of its own.
    occasion = f"{report.run.run_key}/withdrawn" if report.withdrawn else report.run.run_key
    trail_url = _url(report, f"provenance/{report_value}/{occasion}")
    entries.append({"fullUrl": trail_url, "resource": trail, "request": {"method": "POST", "url": "Provenance"}})
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def resolve(transaction: Mapping[str, Any], previous: Iterable[Mapping[str, Any]] = ()) -> list[Resource]:
    """The single resources of a Bundle, with ids and with references between them made literal.

    For the node's own store: an id is the UUID of the entry's fullUrl, the same for every revision of the result.

    Parameters
    ----------
    transaction
        What `bundle` made.
    previous
        What the store holds about the study.  Observations of the *same result* among them that the new Bundle no
        longer makes come back as `entered-in-error`, so that no old number stays current; the rest is left alone.
    """
    ids = {
        str(entry["fullUrl"]): f"{entry['resource']['resourceType']}/{str(entry['fullUrl']).removeprefix(_URN)}"
        for entry in transaction["entry"]
    }
    resolved = []
    for entry in transaction["entry"]:
        body = _literal(copy.deepcopy(entry["resource"]), ids)
        resolved.append({"resourceType": body.pop("resourceType"), "id": entry["fullUrl"].removeprefix(_URN), **body})
    present = {item["id"] for item in resolved if item["resourceType"] == "Observation"}
    report = next(item for item in resolved if item["resourceType"] == "DiagnosticReport")
    for old in previous:
        if old["resourceType"] == "Observation" and old["id"] not in present and _is_of(old, report):
            resolved.append(tagged(stale({key: value for key, value in old.items() if key != "meta"})))
    return resolved


def is_of_run(resource: Mapping[str, Any], run_key: str) -> bool:
    """Whether a resource is the DiagnosticReport of this very run."""
    return resource["resourceType"] == "DiagnosticReport" and any(
        item.get("system") == RUN_SYSTEM and item.get("value") == run_key for item in resource.get("identifier", [])
    )


def _is_of(observation: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether an Observation's identifier is one of this report's result id."""
    ours = report["identifier"][0]
    return any(
        item.get("system") == ours["system"] and str(item.get("value", "")).startswith(f"{ours['value']}/")
        for item in observation.get("identifier", [])
    )


def token(system: str, value: str) -> str:
    """A search parameter ``identifier=system|value`` with FHIR's and the URL's escapes (R4 search.html 3.1.1.4)."""
    return _token(system, value)


def _token(system: str, value: str) -> str:
    return f"identifier={quote(escape_value(system), safe=':/.-_~')}|{quote(escape_value(value), safe=':/.-_~')}"


def escape_value(value: str) -> str:
    """FHIR's own escapes inside a search value: backslash, dollar, comma and bar."""
    for character in "\\$,|":
        value = value.replace(character, "\\" + character)
    return value


def _url(report: ReportInput, name: str) -> str:
    return f"{_URN}{uuid.uuid5(uuid.UUID(report.run.site_namespace), 'fhir/' + name)}"


def _create(full_url: str, body: Resource, search: str) -> Resource:
    request = {"method": "POST", "url": body["resourceType"], "ifNoneExist": search}
    return {"fullUrl": full_url, "resource": body, "request": request}


def _update(full_url: str, body: Resource, search: str, known: Known | None) -> Resource:
    kind = body["resourceType"]
    if known is None:
        return {"fullUrl": full_url, "resource": body, "request": {"method": "PUT", "url": f"{kind}?{search}"}}
    body = {"resourceType": kind, **body, "id": known.reference.rpartition("/")[2]}
    guard = {"ifMatch": f'W/"{known.version}"'} if known.version else {}
    request = {"method": "PUT", "url": known.reference, **guard}
    return {"fullUrl": full_url, "resource": body, "request": request}


def _literal(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: ids.get(item, item) if key == "reference" and isinstance(item, str) else _literal(item, ids)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_literal(item, ids) for item in value]
    return value
