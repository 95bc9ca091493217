"""Bring a report to a FHIR server: once, to the right patient, over nothing that a person has touched.

Standards 4.3 to 4.5, hardening 6.3.  `publish` always reads before it writes, so calling it again after any failure is
safe: what is there already is recognised by the run's identifier.  One writer at a time per client; the road gives a
FHIR destination one queue, because conditional requests are not atomic on common servers.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from fhir_bridge import identity, resources, schema
from fhir_bridge.bundle import bundle
from fhir_bridge.lookup import Reader, place_of, reference_of
from fhir_bridge.transport import OutcomeUnknown, Reply, Transport, has_identifier, matches
from fhir_bridge.words import RUN_SYSTEM, Confirmation, Links, ReportInput, Written

MAX_TRIES = 3
CONFLICT = frozenset({409, 412})
_log = structlog.get_logger("fhir")
_Outcome = Literal["created", "updated", "replaced", "withdrawn"]


class _Changed(Exception):
    """The server holds another version than the one that was read: read again, decide again."""


class FhirClient:
    """Publishes reports to one FHIR R4 server.

    Parameters
    ----------
    base_url
        From configuration: https, or http on loopback.
    token_file
        File of mode 0600 with a bearer token, read before each request; None for a server on loopback without one.
    timeout_s
        For connecting and for each read and write.
    insecure_ok_because
        Written reason for plain http to another machine.
    context
        How the server is called by TLS: whom to believe, whose certificate to show; None: as the system says.

    Raises
    ------
    fhir_bridge.transport.UnsafeAddress
        If the address is not one that reports may be sent to.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token_file: Path | None = None,
        timeout_s: float = 30.0,
        insecure_ok_because: str = "",
        context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._server = Transport(
            base_url,
            token_file=token_file,
            timeout_s=timeout_s,
            insecure_ok_because=insecure_ok_because,
            context=context,
            clock=clock,
        )
        self._writer = threading.Lock()
        self._has_transactions: bool | None = None

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def __enter__(self) -> FhirClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> bool:
        """Look at the server once: does it speak R4, does it search by identifier, does it take transactions?

        Returns
        -------
        bool
            Whether it takes transactions; without them the resources are sent one by one.

        Raises
        ------
        PeerTrouble, Refused
            `peer-rejected` when it is no R4 server or ignores what is searched for.
        """
        if self._has_transactions is None:
            statement = self._server.request("GET", "metadata").body
            if not str(statement.get("fhirVersion", "")).startswith("4."):
                raise Refused(RefusalCode.PEER_REJECTED, "a FHIR R4 server", "another version, or none")
            # A server that ignores `identifier` would take every conditional create as "there already".
            for kind in ("Device", "ImagingStudy", "Observation", "DiagnosticReport"):
                self._server.search(kind, "urn:ainode:nobody", secrets.token_hex(16))
            spoken = [i.get("code") for rest in statement.get("rest", []) for i in rest.get("interaction", [])]
            self._has_transactions = "transaction" in spoken
        return self._has_transactions

    def publish(self, report: ReportInput) -> Confirmation:
        """Bring one report to the server, or see that it is there already.

        Raises
        ------
        Refused
            The report has to wait for a person: `issuer-unmapped`, `patient-unidentified`, `patient-not-found`,
            `patient-ambiguous`, `patient-contradicted`, `publication-barred`, `delivery-conflict` (a newer result is
            there, identifiers are not unique, or a withdrawal meets a person's report), `peer-rejected`,
            `result-check-failed`.
        PeerTrouble
            The server is down, slow or busy: call again later, after `retry_after_s` where it is given.
        """
        identity.check_publishable(report)
        with self._writer:
            self.check()
            patient = identity.find_patient(self._server, report)
            order = identity.find_order(self._server, report, patient)
            self._check_shared(report, patient)
            for _ in range(MAX_TRIES):
                links, done = Reader(self._server, report, patient, order).look()
                if done is not None:
                    return self._completed(report, links, done)
                try:
                    return self._write(report, links)
                except _Changed:
                    _log.info("fhir-version-changed")
            raise PeerTrouble("the report on the FHIR server keeps changing")

    def _check_shared(self, report: ReportInput, patient: str) -> None:
        """Device and ImagingStudy are shared: at most one of each, and the study of no other Patient."""
        shared = (("Device", resources.device_uid(report)), ("ImagingStudy", report.run.study_uid))
        for kind, uid in shared:
            found = self._server.search(kind, "urn:dicom:uid", f"urn:oid:{uid}")
            if len(found) > 1:
                raise Refused(RefusalCode.DELIVERY_CONFLICT, f"one {kind} by identifier", str(len(found)))
            for item in found:
                identity.check_subject(item, patient, kind)

    def _write(self, report: ReportInput, links: Links) -> Confirmation:
        transaction = bundle(report, links)
        schema.check(transaction)
        try:
            written = self._transact_or_split(transaction) if self.check() else self._one_by_one(transaction)
        except OutcomeUnknown:
            # The work may be done although the answer was lost: look first, ask again later.
            _, done = Reader(self._server, report, links.patient, links.service_request).look()
            if done is None or not self.check():
                raise
            return Confirmation(_outcome(report, links), done)
        return self._confirmed(report, links, written)

    def _transact_or_split(self, transaction: dict[str, Any]) -> list[Written]:
        """One transaction; where the server declines it as a whole, its entries in order.

        Servers cap transactions (Medplum takes eight entries with conditions).  A transaction that was refused wrote
        nothing, and each entry is idempotent, so an entry that is really wrong is refused again by name.
        """
        try:
            return self._transact(transaction)
        except Refused as refused:
            declined = refused.refusal.code is RefusalCode.PEER_REJECTED
            if not declined or not refused.refusal.found.startswith(("status 400", "status 413")):
                raise
            _log.info("fhir-transaction-declined")
            self._has_transactions = False
            return self._one_by_one(transaction)

    def _confirmed(self, report: ReportInput, links: Links, written: list[Written]) -> Confirmation:
        """See that the server shows the report, for this patient and of this run, before saying so."""
        result = resources.result_id(report, links)
        shown = self._server.search("DiagnosticReport", report.identifier_system, result)
        if (
            len(shown) != 1
            or not has_identifier(shown[0], RUN_SYSTEM, report.run.run_key)
            or not str(shown[0].get("subject", {}).get("reference", "")).endswith(links.patient)
        ):
            raise Refused(RefusalCode.DELIVERY_INCOMPLETE, "the report just written", "another one, or none")
        return Confirmation(_outcome(report, links), place_of(shown[0]), tuple(written))

    def _completed(self, report: ReportInput, links: Links, done: Written) -> Confirmation:
        """The report is there; where it was not one transaction its Provenance may still be missing."""
        if done.reference and not self._has_provenance(report, done):
            transaction = bundle(report, links)
            self._one_by_one(transaction, only_last_for=done)
        return Confirmation("unchanged", done if done.reference else None)

    def _has_provenance(self, report: ReportInput, done: Written) -> bool:
        found = matches(
            self._server.request("GET", f"Provenance?target={done.reference}&_count=200").body, "Provenance"
        )
        key = {"system": RUN_SYSTEM, "value": report.run.run_key}
        return any(
            entity.get("what", {}).get("identifier", {}).items() >= key.items()
            for provenance in found
            for entity in provenance.get("entity", [])
        )

    # -- one transaction ----------------------------------------------------------------------------------------------

    def _transact(self, transaction: Mapping[str, Any]) -> list[Written]:
        reply = self._server.request("POST", "", body=transaction, expected=CONFLICT)
        if reply.status in CONFLICT:
            raise _Changed
        answers = reply.body.get("entry", [])
        if len(answers) != len(transaction["entry"]):
            raise Refused(RefusalCode.DELIVERY_INCOMPLETE, f"{len(transaction['entry'])} answers", str(len(answers)))
        written = []
        for answer in answers:
            response = answer.get("response", {})
            status = str(response.get("status", ""))[:3]
            if status in ("409", "412"):
                raise _Changed
            if status not in ("200", "201"):
                raise Refused(RefusalCode.PEER_REJECTED, "status 200 or 201 for every entry", f"status {status[:3]}")
            location = reference_of(str(response.get("location", "")))
            written.append(Written(location, str(response.get("etag", "")).removeprefix("W/").strip('"')))
        return written

    # -- single requests, for servers without transactions ------------------------------------------------------------

    def _one_by_one(self, transaction: Mapping[str, Any], only_last_for: Written | None = None) -> list[Written]:
        known: dict[str, str] = {}
        written = []
        for entry in transaction["entry"]:
            is_last = entry["resource"]["resourceType"] == "Provenance"
            if only_last_for is not None and not is_last:
                known[entry["fullUrl"]] = self._there(entry)
                continue
            body = _relinked(entry["resource"], known)
            reference, version = self._put(entry["request"], body)
            known[entry["fullUrl"]] = reference
            written.append(Written(reference, version))
        return written

    def _there(self, entry: Mapping[str, Any]) -> str:
        """Reference of a resource of ours that the server holds already."""
        identifier = entry["resource"]["identifier"][0]
        found = self._server.search(entry["resource"]["resourceType"], identifier["system"], identifier["value"])
        if len(found) != 1:
            raise Refused(RefusalCode.DELIVERY_INCOMPLETE, "one resource of ours", str(len(found)))
        return place_of(found[0]).reference

    def _put(self, request: Mapping[str, str], body: Mapping[str, Any]) -> tuple[str, str]:
        headers = {"Prefer": "return=representation"}
        if "ifNoneExist" in request:
            headers["If-None-Exist"] = request["ifNoneExist"]
        if "ifMatch" in request:
            headers["If-Match"] = request["ifMatch"]
        reply = self._server.request(request["method"], request["url"], body=body, headers=headers, expected=CONFLICT)
        if reply.status in CONFLICT:
            raise _Changed
        return self._named(reply, body)

    def _named(self, reply: Reply, body: Mapping[str, Any]) -> tuple[str, str]:
        """Where a single request's resource is: from the body, the headers, or by asking."""
        if reply.body.get("id") and reply.body.get("resourceType") == body["resourceType"]:
            found = place_of(reply.body)
            return found.reference, found.version
        location = reference_of(reply.headers.get("location", "") or reply.headers.get("content-location", ""))
        if location:
            return location, reply.headers.get("etag", "").removeprefix("W/").strip('"')
        identifier = body["identifier"][0]
        shown = self._server.search(body["resourceType"], identifier["system"], identifier["value"])
        if len(shown) != 1:
            raise Refused(RefusalCode.DELIVERY_INCOMPLETE, "the resource just written", str(len(shown)))
        return place_of(shown[0]).reference, place_of(shown[0]).version


def _outcome(report: ReportInput, links: Links) -> _Outcome:
    if report.withdrawn:
        return "withdrawn"
    if links.report is not None:
        return "updated"
    return "replaced" if links.replaces else "created"


def _relinked(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: known.get(item, item) if key == "reference" and isinstance(item, str) else _relinked(item, known)
            for key, item in value.items()
        }
    return [_relinked(item, known) for item in value] if isinstance(value, list) else value
