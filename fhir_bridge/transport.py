"""HTTP to a FHIR server, and what its answers mean.

Hardening 6.3 and 6.4: the base URL comes from configuration; https except on loopback; no redirects, no proxies of the
environment, answers capped at 10 MB.  Every answer becomes a `Reply`, a `PeerTrouble` (try again) or a `Refused` (never
try again by itself).  Error texts of the server are not passed on: they quote what was sent.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from dicom_node.refusals import PeerTrouble, RefusalCode, Refused
from fhir_bridge.bundle import token

MAX_ANSWER_BYTES = 10_000_000
MAX_RETRY_AFTER_S = 3600.0
MEDIA_TYPE = "application/fhir+json"
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_ISSUE_CODE = re.compile(r"^[a-z-]{1,40}$")
_ISSUE_PLACE = re.compile(r"^[A-Za-z0-9_.\[\]]{1,120}$")


class UnsafeAddress(ValueError):
    """The configured address is not one that reports may be sent to; names no secret."""


class OutcomeUnknown(PeerTrouble):
    """The server may or may not have done what was asked: look before asking again."""


@dataclass(frozen=True)
class Reply:
    """An answer: status, JSON body (empty when there is none), headers in lower case."""

    status: int
    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def check_address(base_url: str, insecure_ok_because: str = "") -> str:
    """The base URL without a trailing slash.

    Raises
    ------
    UnsafeAddress
        For another scheme than https (http on loopback, or with a written reason), credentials, query or fragment.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnsafeAddress("a FHIR server's address is https://host[:port]/path")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UnsafeAddress("a FHIR server's address has no credentials, query or fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname) and not insecure_ok_because:
        raise UnsafeAddress("plain http is for loopback only: use https, or write down why not (insecure_ok_because)")
    return base_url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """A bearer token from a file that only its owner may read; read anew each time, so that it can be rotated.

    Raises
    ------
    Refused
        `unauthenticated` when the file is missing, empty or readable by others.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Refused(RefusalCode.UNAUTHENTICATED, "a token file of mode 0600 or 0400", "one that others may read")
        value = path.read_text(encoding="utf-8").strip()
    except OSError:
        raise Refused(RefusalCode.UNAUTHENTICATED, "a readable token file", "none") from None
    if not value or not value.isascii() or any(character.isspace() for character in value):
        raise Refused(RefusalCode.UNAUTHENTICATED, "one token in the token file", "something else")
    return value


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or a date), capped; None when it says nothing usable."""
    if value.strip().isdigit():
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def filtered(body: Mapping[str, Any]) -> str:
    """What an OperationOutcome says, in codes and places only: its texts may quote a patient's data."""
    said = []
    for issue in body.get("issue", [])[:5] if isinstance(body.get("issue"), list) else []:
        code = str(issue.get("code", ""))
        places = [str(place) for place in issue.get("expression", [])[:3]]
        words = [code] if _ISSUE_CODE.fullmatch(code) else []
        said.append(" at ".join(words + [place for place in places if _ISSUE_PLACE.fullmatch(place)]))
    return ", ".join(word for word in said if word)


class Transport:
    """One FHIR server."""

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
        self.base_url = check_address(base_url, insecure_ok_because)
        self._token_file = token_file
        self._clock = clock
        self._http = httpx.Client(
            timeout=timeout_s, follow_redirects=False, trust_env=False, verify=True if context is None else context
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        expected: frozenset[int] = frozenset(),
    ) -> Reply:
        """Ask once.  2xx and the statuses in `expected` come back as a `Reply`.

        Raises
        ------
        OutcomeUnknown
            Time-out, lost connection, or a temporary status: with `retry_after_s` where the server said so.
        Refused
            `peer-rejected` for every other status, `unauthenticated` when our token cannot be read.
        """
        reply = self._send(method, path, body, headers or {})
        if 200 <= reply.status < 300 or reply.status in expected:
            return reply
        if reply.status in TEMPORARY:
            wait = retry_after(reply.headers.get("retry-after", ""), self._clock())
            raise OutcomeUnknown(f"the FHIR server answered {reply.status}", retry_after_s=wait)
        said = filtered(reply.body)
        found = f"status {reply.status}{': ' + said if said else ''}"
        raise Refused(RefusalCode.PEER_REJECTED, expected="status 2xx from the FHIR server", found=found)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Reply:
        sent = {"Accept": MEDIA_TYPE, "Prefer": "handling=strict", **headers}
        if self._token_file is not None:
            sent["Authorization"] = f"Bearer {read_token(self._token_file)}"
        content = None
        if body is not None:
            sent["Content-Type"] = MEDIA_TYPE
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        url = f"{self.base_url}/{path}" if path else self.base_url + ("/" if urlsplit(self.base_url).path == "" else "")
        try:
            with self._http.stream(method, url, content=content, headers=sent) as answer:
                raw = _bounded(answer)
                status = answer.status_code
                found = {name.lower(): value for name, value in answer.headers.items()}
        except httpx.HTTPError as error:
            raise OutcomeUnknown(f"the FHIR server did not answer ({type(error).__name__})") from None
        return Reply(status, _parsed(raw), found)

    def read(self, reference: str) -> Mapping[str, Any] | None:
        """One resource by ``Type/id``; None when it is not (or no longer) there."""
        reply = self.request("GET", reference, expected=frozenset({404, 410}))
        return reply.body if reply.status == 200 else None

    def search(self, kind: str, system: str, value: str) -> list[Mapping[str, Any]]:
        """Every resource of a type with this identifier.

        Raises
        ------
        Refused
            `peer-rejected` when the answer holds a resource without the identifier: the server ignored the question.
        """
        reply = self.request("GET", f"{kind}?{token(system, value)}&_count=20")
        found = matches(reply.body, kind)
        if any(not has_identifier(resource, system, value) for resource in found):
            raise Refused(RefusalCode.PEER_REJECTED, "a search by identifier", "resources without that identifier")
        return found


def matches(searchset: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The resources of a searchset that are matches of the wanted type."""
    entries = searchset.get("entry", [])
    return [
        entry["resource"]
        for entry in entries
        if entry.get("resource", {}).get("resourceType") == kind
        and entry.get("search", {}).get("mode", "match") == "match"
    ]


def has_identifier(resource: Mapping[str, Any], system: str, value: str) -> bool:
    """Whether a resource carries this identifier, exactly."""
    return any(item.get("system") == system and item.get("value") == value for item in resource.get("identifier", []))


def _bounded(answer: httpx.Response) -> bytes:
    pieces, size = [], 0
    for piece in answer.iter_bytes():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise Refused(RefusalCode.PEER_REJECTED, f"an answer of at most {MAX_ANSWER_BYTES} bytes", "a longer one")
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
