"""What a server holds about one result, and what of it may be written over (standards 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from dicom_node.refusals import RefusalCode, Refused
from fhir_bridge import identity, resources
from fhir_bridge.guard import is_ours
from fhir_bridge.observations import observation_value, statements
from fhir_bridge.transport import Transport, has_identifier
from fhir_bridge.words import RUN_SYSTEM, Known, Links, ReportInput, Written

MAX_GENERATIONS = 20
MAX_RESULTS = 500


class Reader:
    """Reads what the server holds about one result, and decides what may be written over."""

    def __init__(self, server: Transport, report: ReportInput, patient: str, order: str) -> None:
        self._server = server
        self._report = report
        self._patient = patient
        self._order = order

    def look(self) -> tuple[Links, Written | None]:
        """What to write over, or else (second value) where this very run is published already.

        A reference of "" in the second value says that there was nothing to withdraw.
        """
        replaces = ""
        replaced: dict[str, str] = {}
        for generation in range(MAX_GENERATIONS):
            links = Links(
                self._patient, self._order, generation=generation, replaces=replaces, replaced_observations=replaced
            )
            found = self._report_of(links)
            if self._report.withdrawn and found is None:
                return links, Written("", "")
            if found is not None and self._is_done(found):
                return links, place_of(found)
            observations = self._observations_of(links, found)
            is_free = all(is_ours(item) for item in observations.values()) and (found is None or is_ours(found))
            is_other_run = found is not None and not self._is_of_this_run(found)
            if is_free and not (self._report.withdrawn and is_other_run):
                return self._over(links, found, observations), None
            if self._report.withdrawn and not is_other_run:
                raise Refused(RefusalCode.DELIVERY_CONFLICT, "a report that only we have written", "a person's")
            replaces = place_of(found).reference if found is not None else replaces
            replaced = {value.partition("/")[2]: f"Observation/{item['id']}" for value, item in observations.items()}
        raise Refused(RefusalCode.DELIVERY_CONFLICT, f"at most {MAX_GENERATIONS} reports of one result", "more")

    def _report_of(self, links: Links) -> Mapping[str, Any] | None:
        value = resources.result_id(self._report, links)
        found = self._server.search("DiagnosticReport", self._report.identifier_system, value)
        if len(found) > 1:
            raise Refused(RefusalCode.DELIVERY_CONFLICT, "one report under our identifier", str(len(found)))
        if not found:
            return None
        identity.check_subject(found[0], self._patient, "report")
        return found[0]

    def _is_of_this_run(self, found: Mapping[str, Any]) -> bool:
        return has_identifier(found, RUN_SYSTEM, self._report.run.run_key)

    def _is_done(self, found: Mapping[str, Any]) -> bool:
        """Whether nothing is left to do for this run; refuses to step back behind a newer one."""
        if self._report.withdrawn:
            return self._is_of_this_run(found) and found.get("status") == "entered-in-error"
        if self._is_of_this_run(found):
            return True
        if _run_made(found) > _moment(self._report.run.created):
            raise Refused(RefusalCode.DELIVERY_CONFLICT, "no newer result", "a report of a later run")
        return False

    def _observations_of(self, links: Links, found: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
        """Our Observations of this generation on the server, by identifier value: those to be and those that were."""
        system, prefix = self._report.identifier_system, f"{resources.result_id(self._report, links)}/"
        observations: dict[str, Mapping[str, Any]] = {}
        for reference in (found or {}).get("result", [])[:MAX_RESULTS]:
            named = reference_of(str(reference.get("reference", "")))
            body = self._server.read(named) if named.startswith("Observation/") else None
            for item in (body or {}).get("identifier", []):
                if body is not None and item.get("system") == system and str(item["value"]).startswith(prefix):
                    observations[str(item["value"])] = body
        for statement in statements(self._report):
            value = observation_value(self._report, links, statement)
            if value not in observations:
                shown = self._server.search("Observation", system, value)
                if len(shown) > 1:
                    raise Refused(RefusalCode.DELIVERY_CONFLICT, "one Observation by identifier", str(len(shown)))
                if shown:
                    observations[value] = shown[0]
        return observations

    def _over(
        self, links: Links, found: Mapping[str, Any] | None, observations: Mapping[str, Mapping[str, Any]]
    ) -> Links:
        values = {observation_value(self._report, links, statement) for statement in statements(self._report)}
        known = {value: _known(item) for value, item in observations.items()}
        return Links(
            patient=links.patient,
            service_request=links.service_request,
            report=_known(found) if found is not None else None,
            observations={value: item for value, item in known.items() if value in values},
            stale=tuple(item for value, item in sorted(known.items()) if value not in values),
            replaces=links.replaces,
            replaced_observations=links.replaced_observations,
            generation=links.generation,
        )


def _run_made(found: Mapping[str, Any]) -> datetime:
    """When the run that a report is of was made; the beginning of time when it does not say."""
    starts = [
        str(item.get("period", {}).get("start", ""))
        for item in found.get("identifier", [])
        if item.get("system") == RUN_SYSTEM
    ]
    return max((_moment(start) for start in starts), default=_moment(""))


def _moment(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def place_of(resource: Mapping[str, Any]) -> Written:
    version = str(resource.get("meta", {}).get("versionId", ""))
    return Written(f"{resource['resourceType']}/{resource['id']}", version)


def _known(resource: Mapping[str, Any]) -> Known:
    there = place_of(resource)
    body = {key: value for key, value in resource.items() if key != "id"}
    body["meta"] = {k: v for k, v in body.get("meta", {}).items() if k in ("tag", "security", "profile")}
    return Known(there.reference, there.version, body)


def reference_of(location: str) -> str:
    """``Type/id`` out of a location such as ``https://host/base/Type/id/_history/2``."""
    parts = [part for part in urlsplit(location).path.split("/") if part]
    if "_history" in parts:
        parts = parts[: parts.index("_history")]
    return "/".join(parts[-2:]) if len(parts) >= 2 else ""
